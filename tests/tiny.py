"""A run of seconds, shared by the tests of runs, experiments and bad input."""

from collections.abc import Iterator
import contextlib
import functools
import os
import pathlib
from typing import Any

import ml_collections
import pytest

from configs import digits
from experiments.continual import cells as continual_cells
from experiments.engine import folder
from experiments.engine import settings
from experiments.engine import trainings
from experiments.one_shot import run as one_shot

ROOT = pathlib.Path(__file__).resolve().parent.parent


def config(**fields) -> ml_collections.ConfigDict:
  """configs/digits.py, made tiny; four chunks, each with a checkpoint."""
  out = digits.get_config()
  out.network_kwargs.hidden = (8,)
  out.alphas = (1.0, 2.0)
  out.seeds = 2
  out.steps = 40
  out.chunk_steps = 10
  out.densities = (1.0, 0.3, 0.1)
  out.executor = 'map'
  out.checkpoint_seconds = 0.0
  with out.ignore_type():
    for name, value in fields.items():
      out[name] = value
  return out


_PREPARED: dict[object, Any] = {}


@contextlib.contextmanager
def prepared_once(experiment) -> Iterator[None]:
  """What runs of the same settings prepare, and so trace, is made once.

  These are functions and arrays, which a run leaves as they are. The binary,
  and each fork of it, makes them anew.

  Args:
    experiment: the module with the `_prepare` of its runs.
  """
  prepare, estimate = experiment._prepare, experiment._estimate
  measurement = getattr(experiment, '_measurement', None)
  initial, make_cells = trainings.initial_states, continual_cells.make_cells

  def plain(s):
    """All that is prepared for: how often a run is saved is not."""
    if hasattr(s, 'training'):
      return s._replace(training=plain(s.training))
    return s._replace(checkpoint_seconds=0.0)

  def once(kind, make, s, *args, **kwargs):
    key = kind, repr(plain(s))
    if key not in _PREPARED:
      _PREPARED[key] = make(s, *args, **kwargs)
    return _PREPARED[key]

  def measure(recipe, *args):
    # One recipe for the settings, kept with the rest of what was prepared.
    if (key := ('_measurement', id(recipe))) not in _PREPARED:
      _PREPARED[key] = measurement(recipe, *args)
    return _PREPARED[key]

  def start(recipe, cells, train):
    # The cells are those of the settings, and so is what they start from. They
    # are kept, so that nothing else gets their number.
    if (key := id(cells)) not in _PREPARED:
      _PREPARED[key] = cells, initial(recipe, cells, train)
    return list(_PREPARED[key][1])

  def cells(plans, members, executor, tasks, lives=None):
    # Likewise the plans.
    lives = _PREPARED.setdefault(('lives', id(plans), executor), {})
    return make_cells(plans, members, executor, tasks, lives)

  with pytest.MonkeyPatch.context() as patch:
    for name, make in (('_prepare', prepare), ('_estimate', estimate)):
      patch.setattr(experiment, name, functools.partial(once, name, make))
    if measurement is not None:
      patch.setattr(experiment, '_measurement', measure)
    patch.setattr(trainings, 'initial_states', start)
    patch.setattr(continual_cells, 'make_cells', cells)
    yield


def run_of(
  experiment: Any,
  settings_lib: Any,
  c: ml_collections.ConfigDict,
  workdir: pathlib.Path,
) -> dict[str, Any]:
  """A run in this process, without its figures.

  Args:
    experiment: its module `run`.
    settings_lib: what checks its configs.
    c: a config.
    workdir: the run's folder.
  """
  checked = settings_lib.check(c)
  folder.open_folder(workdir, c.to_dict(), settings_lib.rules(checked))
  with prepared_once(experiment):
    return experiment.run(checked, workdir)


def run(workdir: pathlib.Path, **fields):
  """A run in this process, without its figures."""
  return run_of(one_shot, settings, config(**fields), workdir)


def flags(workdir: pathlib.Path, **fields) -> list[str]:
  """The same run, for the binary."""
  # The environment has the cache of the tests.
  out = [f'--workdir={workdir}', '--nocompilation_cache']
  for name, value in config(**fields).to_dict().items():
    if isinstance(value, dict):
      out += [f'--config.{name}.{k}={v}' for k, v in value.items()]
    else:
      out.append(f'--config.{name}={value}')
  return out


def environment(**variables: str) -> dict[str, str]:
  """For a process that shares the programs of these tests."""
  return os.environ | variables


def as_users(**variables: str) -> dict[str, str]:
  """For a process whose programs are compiled as they are outside of tests."""
  return environment(
    XLA_FLAGS=os.environ['USERS_XLA_FLAGS'],
    JAX_DISABLE_MOST_OPTIMIZATIONS='false',
    **variables,
  )
