"""docs/continual_learning.md: what each method costs."""

import functools
import json
import pathlib
import re

import jax
import pytest

from experiments.continual import settings as continual_settings
from experiments.engine import estimates
from powerprop import methods
from tests import lifetime_tiny

_DOCS = pathlib.Path(__file__).parents[2] / 'docs'
_PAGE = _DOCS / 'continual_learning.md'
_RESULTS = _DOCS / 'results'


def _costs():
  """By method, its row of the table of costs."""
  text = _PAGE.read_text(encoding='utf-8')
  (part,) = re.findall(r'### Which method when\n(.*?)\n## ', text, re.S)
  rows = [line.split('|')[1:-1] for line in part.splitlines() if '| `' in line]
  return {name.strip(' `'): [x.strip() for x in row] for name, *row in rows}


def _bytes(name):
  """Of the state and of a task's record, for each parameter."""
  few = {'rates': (0.5,)} if name == 'efficient_packnet' else {}
  make = functools.partial(getattr(methods, name), **few)
  it = lifetime_tiny.setup(make, alpha=1.0)
  args = lifetime_tiny.hyper(), lifetime_tiny.source(0)
  state = jax.eval_shape(it.life.start, *args)
  _, record = jax.eval_shape(it.life.archive, state, *args)
  number = sum(x.size for x in jax.tree.leaves(it.tasks.shapes))
  return [estimates.size_of(tree) / number for tree in (state, record)]


def test_every_method_is_in_the_table():
  assert {*_costs()} == {*continual_settings.method_names()}


@pytest.mark.parametrize('name', continual_settings.method_names())
def test_what_a_method_holds_and_keeps(name):
  _, held, kept, *_ = _costs()[name]
  state, record = _bytes(name)
  plain, _ = _bytes('naive')
  if held == 'pictures':
    assert state > plain and record == 0
  else:  # masks are of weights alone, and there are counters
    assert state - plain == pytest.approx(float(held), abs=0.5)
  if held != 'pictures' and kept != 'a bit a unit':
    least = {'0': 0, '1/8': 1 / 8, '4': 4}[kept]
    assert record == pytest.approx(least, abs=0.02)


@functools.cache
def _ten_tasks():
  """The settings that were run in full, with α = 1 and 2."""
  paths = sorted(_RESULTS.glob('permuted_mnist_10_fair*/results.json'))
  return [e for p in paths for e in json.loads(p.read_bytes())['summary']]


@pytest.mark.parametrize('name', continual_settings.method_names())
def test_what_a_method_has_on_ten_tasks(name):
  shown = _costs()[name][3]
  ran = 'epn_retrained' if name == 'efficient_packnet' else name
  rows = [e for e in _ten_tasks() if (e['method'], e['alpha']) == (ran, 1)]
  if not rows:
    assert shown.startswith('not run')
    return
  best = max(rows, key=lambda row: row['validation_accuracy_mean'])
  assert shown.split()[0] == f'{100 * best["average_accuracy_mean"]:.1f}'
