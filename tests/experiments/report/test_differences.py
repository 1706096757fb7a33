"""Differences over paired seeds, and the tables of them."""

import math

import numpy as np
import pytest

from experiments.one_shot import tables
from experiments.report import differences


def _row(alpha, seed, density, accuracy, **others):
  return {
    'transform': 'powerprop',
    'alpha': alpha,
    'learning_rate': 0.1,
    'seed': seed,
    'density': density,
    'test_accuracy': accuracy,
    'test_nll': 1.0,
  } | others


def test_paired_difference_is_students():
  rng = np.random.default_rng(0)
  first = dict(enumerate(rng.normal(size=5)))
  second = {s: x + rng.normal(0.1, 0.1) for s, x in first.items()} | {9: 0.0}
  found = differences.paired(first, second)
  pairs = [second[s] - first[s] for s in range(5)]
  from scipy import stats  # takes a second

  expected = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
  assert found.mean - found.half == pytest.approx(expected.low)
  assert found.mean + found.half == pytest.approx(expected.high)
  assert (found.n, found.ahead) == (5, sum(p > 0 for p in pairs))
  assert found.behind == 5 - found.ahead


@pytest.mark.parametrize(
  ('pairs', 'ahead', 'behind', 'clear'),
  [
    ((0.2, 0.1, 0.4), 3, 0, False),  # three seeds that agree may not suffice
    ((0.2, 0.19, 0.21), 3, 0, True),
    ((-0.2, -0.19, -0.21), 0, 3, True),
    ((0.5, -0.1, 0.0), 1, 1, False),
    ((0.25, 0.25), 2, 0, False),  # equal by chance: no interval of two
    ((0.25,), 1, 0, False),
    ((), 0, 0, False),
  ],
)
def test_a_difference_is_one_if_its_interval_leaves_out_zero(
  pairs, ahead, behind, clear
):
  found = differences.paired(
    dict.fromkeys(range(len(pairs)), 0.0), dict(enumerate(pairs))
  )
  assert (found.n, found.ahead, found.behind) == (len(pairs), ahead, behind)
  assert found.clear == clear
  assert math.isnan(found.half) == (len(pairs) < 3)


def test_difference_table_pairs_seeds_of_the_same_setting():
  rows = [
    _row(alpha, seed, 1.0, 0.5 + 0.1 * seed + gain, learning_rate=rate)
    for rate, gains in {
      0.1: {1.0: 0.0, 2.0: 0.1, 3.0: 0.15},
      0.5: {1.0: 0.2, 2.0: 0.1},
      0.9: {2.0: 0.3},  # without α = 1
    }.items()
    for alpha, gain in gains.items()
    for seed in range(3)
  ]
  rows += [_row(2.0, 3, 1.0, 0.0), _row(1.0, 3, 1.0, 0.9, test_nll=math.nan)]
  rows += [_row(4.0, 0, 1.0, 0.75, transform='chain_rule')]
  text = tables.difference_table({'rows': rows})
  found = [
    [cell.strip() for cell in line.split('|')[1:-1]] or line
    for line in text.splitlines()
    if line.endswith(('0.1:', '0.5:', '0.9:')) or '100%' in line
  ]
  assert found == [
    'Naive chain rule, learning rate 0.1:',
    ['100%', '+25.0 1/1'],  # to α = 1 of the other transform
    'Powerprop, learning rate 0.1:',
    ['100%', '+10.0 ± 0.0* 3/3', '+15.0 ± 0.0* 3/3'],
    'Powerprop, learning rate 0.5:',
    ['100%', '-10.0 ± 0.0* 0/3'],
  ]


def test_differences_fit_a_hundred_columns():
  alphas = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0)
  rows = [
    _row(alpha, seed, density, 0.5 + alpha * seed % 1 / 2)
    for alpha in alphas
    for seed in range(3)
    for density in (1.0, 0.1)
  ]
  text = tables.difference_table({'rows': rows})
  lines = [line for line in text.splitlines() if line.startswith('|')]
  assert max(map(len, lines)) <= 100
  assert sum(line.count('±') for line in lines) == 2 * (len(alphas) - 1)


@pytest.mark.parametrize('alphas', [(), (1.0,), (2.0, 3.0)])
def test_a_run_with_nothing_to_compare_has_no_differences(alphas):
  results = {'rows': [_row(alpha, 0, 1.0, 0.5) for alpha in alphas]}
  assert tables.difference_table(results) == ''
  assert 'ifference' not in tables.markdown(results | {'analysis': []})
