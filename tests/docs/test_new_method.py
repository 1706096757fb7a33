"""docs/new_method.md: its code runs, and does what the text says."""

import inspect
import pathlib
import re
import shlex
import sys
from typing import Any

from absl import flags
import jax.numpy as jnp
from ml_collections import config_flags
import numpy as np
import pytest

from experiments.engine import settings
from experiments.sparse_training import settings as sparse_settings
from powerprop import batches
from powerprop import methods
from powerprop import reparam
from powerprop.types import (
  Change,
  Continual,
  Method,
  Penalty,
  Rehearsal,
  Trial,
)
from tests import lifetime_tiny
from tests.powerprop.methods import test_methods

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'new_method.md'


@pytest.fixture(scope='module')
def page():
  """What the page's code blocks define, run in order as one module."""
  text = PAGE.read_text(encoding='utf-8')
  blocks = list(re.finditer(r'^```python\n(.*?)^```$', text, re.M | re.S))
  assert len(blocks) == 2
  names: dict[str, Any] = {}
  for block in blocks:
    # Blank lines before it give a traceback the page's own line numbers.
    line = text.count('\n', 0, block.start(1))
    exec(compile('\n' * line + block[1], PAGE, 'exec'), names)
  return names


@pytest.fixture
def installed(page, monkeypatch):
  """The example in its place, with the row that the page has you add."""
  text = PAGE.read_text(encoding='utf-8')
  (row,) = re.findall(r"`'mest': (\{.*?\})`", text)
  monkeypatch.setattr(methods, 'mest', page['mest'], raising=False)
  monkeypatch.setattr(batches, 'batch_indices', lifetime_tiny.in_turn)
  monkeypatch.setitem(test_methods._OPTIONS, 'mest', eval(row))


def test_example_learns_with_exactly_its_weights(page):
  assert page['accuracy'] > 0.8
  before, after = page['before'], page['after']
  for state in (before, after):
    kept = {n: int(np.sum(m)) for n, m in state.method.items()}
    assert kept == page['target'].kept
  moved = [
    np.any(m != after.method[n])
    for n, m in before.method.items()
    if np.any(~np.asarray(m))
  ]
  assert moved and all(moved)


def _invariants():
  """The tests that every row of the table in test_methods has."""

  def takes_rows(mark):
    rows = (test_methods._OPTIONS, test_methods._SPARSE)
    return mark.args[0] == 'name' and any(mark.args[1] is r for r in rows)

  return [
    test
    for test in vars(test_methods).values()
    if any(map(takes_rows, getattr(test, 'pytestmark', [])))
  ]


def test_a_row_has_as_many_invariants_as_the_page_lists():
  text = PAGE.read_text(encoding='utf-8')
  promised = text.partition('That row has')[2]
  assert len(_invariants()) == len(re.findall(r'^\* ', promised, re.M))


@pytest.mark.slow  # compiles the example under map and under vmap
@pytest.mark.parametrize('invariant', _invariants(), ids=lambda t: t.__name__)
def test_example_has_the_invariants_of_the_page(installed, invariant):
  names = inspect.signature(invariant).parameters
  for alpha in test_methods._ALPHAS if 'alpha' in names else (2.0,):
    values = {'name': 'mest', 'alpha': alpha}
    invariant(**{name: values[name] for name in names})


def test_the_table_misses_a_method_without_a_row(installed, monkeypatch):
  test_methods.test_the_table_has_every_method()
  monkeypatch.delitem(test_methods._OPTIONS, 'mest')
  with pytest.raises(AssertionError):
    test_methods.test_the_table_has_every_method()


def _changed(page, alpha, **options):
  """The example on a net of one layer: event, masks, and what comes out."""
  event, masks = test_methods._event(alpha)
  target = methods.make_target(event.phi, 0.5)
  method = page['mest'](methods.Brief(target, 100), fraction=0.5, **options)
  return event, masks, method.change.update(event, masks)


@pytest.mark.parametrize('alpha', [1.0, 2.0])
@pytest.mark.parametrize('weight', [0.0, 0.3, 100.0])
def test_example_drops_the_least_important(page, alpha, weight):
  event, masks, (_, _, after) = _changed(page, alpha, gradient_weight=weight)
  before, after = np.asarray(masks['a/w']), np.asarray(after['a/w'])
  theta = np.asarray(reparam.power(event.phi['a']['w'], alpha))
  importance = np.abs(theta) + weight * np.abs(event.dense['a']['w'])
  # Half of the active ones are certain to stay; of the others some may be grown
  # again at once.
  stay = before & (importance > np.sort(importance[before])[19])
  assert stay.sum() == 20 and after.sum() == before.sum() == 40
  assert after[stay].all()
  assert (before & ~after).sum() > 5


@pytest.mark.parametrize('alpha', [1.0, 2.0])
def test_example_grows_beside_zero_under_powerprop(page, alpha):
  _, masks, (phi, _, after) = _changed(page, alpha)
  new = np.asarray(after['a/w'] & ~masks['a/w'])
  values = np.asarray(phi['a']['w'])[new]
  assert len(values) > 5
  if alpha == 1:
    np.testing.assert_array_equal(values, 0)
  else:
    assert np.all(values != 0) and set(np.sign(values)) == {-1.0, 1.0}


def test_example_refuses_what_it_cannot_do(page):
  params = {'a': {'w': jnp.ones((8, 10))}}
  brief = methods.Brief(methods.make_target(params, 0.5), 100)
  with pytest.raises(ValueError, match='gradient_weight is -1 but must be'):
    page['mest'](brief, gradient_weight=-1)
  with pytest.raises(
    ValueError, match='past the end of training, whose last step is 99'
  ):
    page['mest'](brief, end=101)
  target = methods.make_target(params, 0.5, patterns={'a': '2:4'})
  with pytest.raises(ValueError, match='mest drops and grows single weights'):
    page['mest'](methods.Brief(target, 100))


# ml_collections 1.1.0 loads config files in a way that Python deprecates.
@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
def test_the_experiment_takes_the_example(installed, monkeypatch):
  """The page's command, as far as the methods that it would train."""
  text = PAGE.read_text(encoding='utf-8').replace('\\\n', ' ')
  (command,) = re.findall(r'^ *(python -m experiments\..*)$', text, re.M)
  _, _, module, *arguments = shlex.split(command)
  assert module == 'experiments.sparse_training'
  monkeypatch.setattr(sys, 'argv', [module, *arguments])
  values = flags.FlagValues()
  flags.DEFINE_string('workdir', None, '', flag_values=values)
  holder = config_flags.DEFINE_config_file('config', flag_values=values)
  assert values(sys.argv) == [module]
  checked = sparse_settings.check(holder.value)
  assert checked.method_kwargs['mest'] == {'every': 50}
  aims = sparse_settings.make_targets(checked, test_methods._shapes(), {})
  made = sparse_settings.make_methods(checked, aims)
  assert [variant.method for variant in made] == ['static', 'set', 'mest']
  kwargs = {'mest': {'gradient_weight': -1.0}}
  with pytest.raises(settings.ConfigError, match='method_kwargs.mest.*least 0'):
    sparse_settings.make_methods(checked._replace(method_kwargs=kwargs), aims)


def test_the_page_names_things_that_exist():
  text = PAGE.read_text(encoding='utf-8')
  root = PAGE.parents[1]
  for path in re.findall(r'`((?:powerprop|tests|docs)/[\w./]+)`', text):
    if path != 'powerprop/methods/sparse/mest.py':  # the one that you write
      assert (root / path).exists(), path
  # `masked.method` makes `weights` of the masks.
  assert _named('write') | {'weights', 'continual'} == {*Method._fields}
  assert _named('add') == {*Continual._fields}
  for made in (Change, Penalty, Rehearsal, Trial):
    (given,) = re.findall(rf'`{made.__name__}\(([\w, ]+)\)`', text)
    others = made._fields[len(given.split(', ')) :]
    assert (*given.split(', '), *others) == made._fields
    assert all(f'{name}=' in text for name in others)


def _named(header):
  """What the rows of a table of the page begin with."""
  text = PAGE.read_text(encoding='utf-8')
  (table,) = re.findall(
    rf'^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)', text, re.M
  )
  first = [row.split('|')[1] for row in table.splitlines()]
  return {name for cell in first for name in re.findall(r'`(\w+)`', cell)}
