"""What a config of each binary may hold, read from the settings' own source.

The meaning, the type and the default of a field are in the settings' classes.
They are parsed here, not imported: that would load JAX, and whatever is wrong
with a command line is to be said at once.
"""

import ast
from collections.abc import Iterable, Mapping
import difflib
import functools
import pathlib
import re
from typing import Any, NamedTuple


class Field(NamedTuple):
  """A field that a config may have.

  Attributes:
    name: of the field.
    kind: its annotation: 'int', 'float', 'str', 'bool', 'tuple' or 'dict'.
    meaning: a sentence.
    required: whether a config must have it.
    default: its value where a config leaves it out.
  """

  name: str
  kind: str
  meaning: str
  required: bool
  default: Any


class Binary(NamedTuple):
  """A binary; `settings.Settings` has the fields of all.

  Attributes:
    config: what it runs where no config is named.
    own: more of its settings, as module.class.
    without: fields of these that it does not take.
    only: where there are some, those that it takes.
  """

  config: str
  own: tuple[str, ...] = ()
  without: tuple[str, ...] = ()
  only: tuple[str, ...] = ()


_OF_POPULATIONS = (
  'average_examples',
  'accumulate',
  'data_devices',
  'compute_dtype',
  'pretrained',
)
BINARIES = {
  'one_shot': Binary('digits'),
  'sparse_training': Binary(
    'digits_sparse',
    ('sparse_training.settings.SparseSettings',),
    without=('output_density_factor', 'output_layer'),
  ),
  'continual': Binary(
    'digits_continual',
    ('continual.settings.ContinualSettings',),
    without=(
      'steps',
      'densities',
      'output_density_factor',
      'near_zero',
      *_OF_POPULATIONS,
    ),
  ),
  'stream': Binary(
    'stream_digits',
    (
      'continual.settings.ContinualSettings',
      'stream.settings.StreamSettings',
    ),
    without=(
      *('steps', 'densities', 'output_density_factor', 'near_zero'),
      *_OF_POPULATIONS,
      *('executor', 'chunk_steps'),
      *('learning_rate_schedule', 'scenario', 'method_training'),
      *('choose_learning_rate', 'run_protocol', 'search_tasks'),
      *('search_seeds', 'evaluate_every', 'forward_transfer', 'retries'),
      *('retry_factor', 'failure_accuracy', 'choose_margin', 'task_epochs'),
      'retrain_factor',
    ),
  ),
  'generative': Binary(
    'digits_generative',
    (
      'continual.settings.ContinualSettings',
      'generative.settings.GenerativeSettings',
    ),
    without=(
      *('steps', 'densities', 'output_density_factor', 'near_zero'),
      *_OF_POPULATIONS,
      *('network', 'network_kwargs', 'augment', 'label_smoothing'),
      *('output_layer', 'sequence', 'sequence_kwargs', 'scenario'),
      *('run_protocol', 'choose_margin', 'evaluate_every', 'task_epochs'),
      *('forward_transfer', 'failure_accuracy'),
    ),
  ),
  'plan': Binary(
    'plan_resnet50',
    ('sparse_training.plan.Net', 'sparse_training.settings.SparseSettings'),
    only=('network', 'network_kwargs', 'steps', 'densities'),
  ),
}


def of(binary: str) -> dict[str, Field]:
  """The fields of a binary's configs, by name.

  Args:
    binary: a name in `BINARIES`.

  Returns:
    Fields: those that binaries share, then its own.
  """
  it = BINARIES[binary]
  shared = [
    f
    for f in _of_class('engine.settings.Settings')
    if f.name in (it.only or (f.name,))
  ]
  own = [f for path in it.own for f in _of_class(path)]
  # `training` holds what is shared; it is no field of a config.
  without = ('training', *it.without)
  return {f.name: f for f in (*shared, *own) if f.name not in without}


def fitting(names: Iterable[str]) -> str | None:
  """The binary whose configs have exactly such fields; None if there is none.

  Args:
    names: of a config's fields.

  Returns:
    A name in `BINARIES`.
  """
  given = set(names)
  for binary in BINARIES:
    mine = of(binary)
    if {n for n, f in mine.items() if f.required} <= given <= set(mine):
      return binary
  return None


def nearest(name: str, names: Iterable[str]) -> str:
  """' (did you mean …?)', or '' where no name is near."""
  near = difflib.get_close_matches(name, list(names), n=1)
  return f' (did you mean {near[0]!r}?)' if near else ''


@functools.cache
def _of_class(path: str) -> list[Field]:
  *folders, module, name = path.split('.')
  experiments = pathlib.Path(__file__).resolve().parents[1]
  file = experiments.joinpath(*folders, f'{module}.py')
  source = file.read_text(encoding='utf-8')
  (found,) = (
    node
    for node in ast.parse(source).body
    if isinstance(node, ast.ClassDef) and node.name == name
  )
  meanings = _meanings(ast.get_docstring(found) or '')
  return [
    Field(
      node.target.id,
      ast.unparse(node.annotation).partition('[')[0],
      meanings.get(node.target.id, ''),
      node.value is None,
      None if node.value is None else ast.literal_eval(node.value),
    )
    for node in found.body
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
  ]


def _meanings(docstring: str) -> Mapping[str, str]:
  """What a docstring in Google's style says of each attribute."""
  section = docstring.partition('Attributes:\n')[2]
  entries = re.findall(
    r'^  (\w+): (.*(?:\n    .*)*)', section, flags=re.MULTILINE
  )
  return {name: ' '.join(text.split()) for name, text in entries}
