"""Analysis of weights and tables, against cases worked out by hand."""

import json
import math

import numpy as np
import pytest

from experiments.one_shot import analysis
from experiments.one_shot import tables
from experiments.report import markup
from experiments.report import statistics


def _row(alpha, seed, density, accuracy, **others):
  return {
    'transform': 'powerprop',
    'alpha': alpha,
    'learning_rate': 0.1,
    'seed': seed,
    'density': density,
    'test_accuracy': accuracy,
    'test_nll': 1.0,
    'mask_overlap': 0.5,
    'chance_overlap': density,
  } | others


def test_sign_change_counts_crossings_over_all_layers():
  initial = [np.array([1.0, -1.0]), np.array([[2.0], [-3.0]])]
  final = [np.array([-0.1, -5.0]), np.array([[2.0], [3.0]])]
  assert analysis.sign_change(initial, final) == 0.5


def test_sign_change_of_a_zero_is_no_change():
  initial, final = np.array([0.0, 1.0, -1.0]), np.array([-1.0, 0.0, -0.0])
  assert analysis.sign_change(initial, final) == 0.0


def test_sign_change_of_weights_whose_product_underflows():
  tiny = np.full(4, 1e-30, np.float32)
  assert analysis.sign_change(tiny, -tiny) == 1.0


def test_near_zero_is_an_open_interval_and_weighs_layers_by_size():
  theta = [np.array([0.0, 0.5, -0.5]), np.array([-0.4])]
  assert analysis.near_zero(theta, 0.5) == 0.5


def test_kurtosis_of_known_distributions():
  rng = np.random.default_rng(0)
  assert analysis.kurtosis(rng.normal(size=200_000)) == pytest.approx(
    0, abs=0.1
  )
  uniform = np.linspace(-1, 1, 100_001)
  assert analysis.kurtosis(uniform) == pytest.approx(-1.2, abs=1e-3)


def test_kurtosis_ignores_a_layers_scale_and_position():
  layer = np.random.default_rng(0).normal(size=1000)
  expected = analysis.kurtosis(layer)
  scaled = [layer, 1e3 * layer, 1e-30 * layer, layer + 1]
  assert analysis.kurtosis(scaled) == pytest.approx(expected)


def test_kurtosis_weighs_layers_by_size_and_counts_constants_as_zero():
  signs = np.array([-1.0, 1.0, -1.0, 1.0])  # excess kurtosis -2
  assert analysis.kurtosis([signs, np.zeros(12)]) == -0.5


def test_kurtosis_of_nan_is_nan():
  assert math.isnan(analysis.kurtosis(np.array([np.nan, 1.0])))


def test_kept_by_decile_ranks_within_each_layer():
  small, large = np.arange(20.0), 1e3 * np.arange(10.0)
  kept = [np.arange(20) >= 18, np.arange(10) == 0]
  share = analysis.kept_by_decile([-small, large.reshape(2, 5)], kept)
  np.testing.assert_allclose(share, [1 / 3] + 8 * [0] + [2 / 3])


def test_kept_by_decile_of_masks_of_ones_and_zeros():
  share = analysis.kept_by_decile(np.arange(10.0), np.ones(10, np.float32))
  np.testing.assert_array_equal(share, np.ones(10))


def test_kept_by_decile_without_weights_is_nan():
  share = analysis.kept_by_decile(np.arange(5.0), np.ones(5))
  assert np.count_nonzero(np.isnan(share)) == 5


def test_mask_overlap_pools_layers():
  before = [np.array([1, 0, 0, 0]), np.array([[1], [1]])]
  after = [np.array([0, 1, 0, 0]), np.array([[1], [1]])]
  assert analysis.mask_overlap(before, after) == pytest.approx(2 / 3)
  assert analysis.mask_overlap(after, after) == 1
  assert math.isnan(analysis.mask_overlap(np.zeros(3), np.zeros(3)))


def test_chance_overlap_is_what_random_masks_share():
  sizes, kept = [5000, 200], [500, 40]
  rng = np.random.default_rng(0)

  def masks():
    return [rng.permutation(n) < k for n, k in zip(sizes, kept, strict=True)]

  overlaps = [analysis.mask_overlap(masks(), masks()) for _ in range(200)]
  expected = analysis.chance_overlap(sizes, kept)
  assert expected == pytest.approx((500**2 / 5000 + 40**2 / 200) / 540)
  assert np.mean(overlaps) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
  ('accuracies', 'expected'),
  [
    ([0.9, 0.8, 0.7], 1.0),  # always ahead
    ([0.7, 0.6, 0.5], 0.1),  # crosses once
    ([0.9, 0.4, 0.5], 0.01),  # ahead when dense, behind, ahead
    ([0.9, 0.8, 0.2], None),  # a tie at the sparse end
    ([0.1, 0.1, 0.1], None),
  ],
)
def test_beats_baseline_below(accuracies, expected):
  densities, baseline = [1.0, 0.1, 0.01], [0.8, 0.5, 0.2]
  found = analysis.beats_baseline_below(densities, accuracies, baseline)
  assert found == expected
  reverse = [x[::-1] for x in (densities, accuracies, baseline)]
  assert analysis.beats_baseline_below(*reverse) == expected


def test_largest_margin_may_be_negative():
  margin = analysis.largest_margin([1.0, 0.1], [0.25, 0.5], [0.75, 0.75])
  assert margin == (0.1, -0.25)


def test_summarise_takes_mean_and_sample_deviation_over_seeds():
  rows = [_row(2.0, 0, 0.1, 0.5), _row(2.0, 1, 0.1, 0.7)]
  rows += [_row(2.0, 0, 1.0, 0.9), _row(2.0, 1, 1.0, 0.9), _row(1.0, 0, 1.0, 1)]
  first, second, third = statistics.summarise(rows)
  assert (first['alpha'], first['n']) == (1.0, 1)
  assert first['test_accuracy_std'] == 0.0
  assert (second['alpha'], second['density']) == (2.0, 1.0)  # dense first
  assert (third['density'], third['n']) == (0.1, 2)
  assert third['test_accuracy_mean'] == pytest.approx(0.6)
  assert third['test_accuracy_std'] == pytest.approx(0.2 / math.sqrt(2))
  assert third['chance_overlap'] == 0.1


def test_summarise_without_masks_has_no_overlap():
  row = _row(1.0, 0, 1.0, 0.9)
  del row['mask_overlap'], row['chance_overlap']
  (entry,) = statistics.summarise([row])
  assert 'mask_overlap_mean' not in entry
  assert 'chance_overlap' not in entry


@pytest.mark.parametrize('broken', [math.nan, None, math.inf])
def test_a_diverged_member_is_left_out_at_every_density(broken):
  rows = [_row(2.0, 0, d, 0.5) for d in (1.0, 0.1)]
  rows += [_row(2.0, 1, 1.0, 0.1, test_nll=broken), _row(2.0, 1, 0.1, 0.1)]
  rows += [_row(3.0, 0, 1.0, 0.1, test_nll=broken)]
  assert [m['seed'] for m in statistics.diverged(rows)] == [1, 0]
  summary = statistics.summarise(rows)
  assert [entry['n'] for entry in summary] == [1, 1]
  assert all(entry['test_accuracy_mean'] == 0.5 for entry in summary)
  json.dumps(summary, allow_nan=False)


def _results():
  densities = np.geomspace(0.01, 1, 20).tolist()
  rows = []
  for alpha, low in ((1.0, 0.2), (4.0, 0.5)):
    for seed in range(3):
      for density in densities:
        accuracy = 0.98 - (0.98 - low) * (1 - density) + 0.01 * seed * density
        rows.append(_row(alpha, seed, density, accuracy))
  rows.append(_row(4.0, 3, 1.0, 0.1, test_nll=math.nan))
  entry = {'transform': 'powerprop', 'learning_rate': 0.1, 'n': 3}
  numbers = {
    'sign_change_mean': 0.106,
    'sign_change_std': 0.001,
    'kurtosis_mean': 12.04,
    'kurtosis_std': 1.3,
    'near_zero_mean': None,
    'near_zero_std': None,
    'kept_by_decile_mean': [0.001 * i for i in range(1, 11)],
    'beats_baseline_below': 0.5,
  }
  return {
    'rows': rows,
    'summary': statistics.summarise(rows),
    'analysis': [entry | {'alpha': 1.0}, entry | {'alpha': 4.0} | numbers],
    'diverged': statistics.diverged(rows),
  }


def test_table_shows_a_readable_choice_of_densities():
  lines = tables.table(_results()).splitlines()
  cells = [[c.strip() for c in line.split('|')[1:-1]] for line in lines[:12]]
  assert cells[0] == ['weights kept', 'α = 1 (baseline)', 'α = 4']
  assert cells[2] == ['100%', '99.0 ± 1.0', '99.0 ± 1.0']
  assert [row[0] for row in cells[2:]][-1] == '1%'
  assert len(cells) == 12 and lines[12] == ''
  assert 'mean ± std of 3 runs' in lines[13]
  assert lines[-1].endswith(': α = 4, lr 0.1, seed 3.')


def test_table_of_single_runs_has_no_deviation():
  rows = [_row(a, 0, 1.0, 0.975) for a in (1.0, 2.0)]
  text = tables.table({'rows': rows})
  assert '±' not in text
  assert '97.5' in text


def test_table_tells_learning_rates_apart_and_marks_lost_members():
  rows = [_row(1.0, s, 1.0, 0.9, learning_rate=0.1) for s in range(2)]
  rows += [_row(1.0, 0, 1.0, 0.8, learning_rate=0.5)]
  text = tables.table({'rows': rows})
  assert 'Powerprop, learning rate 0.5:' in text
  assert '80.0 (n = 1)' in text


def test_analysis_table_shows_numbers_crossing_and_margin():
  text = tables.analysis_table(_results())
  rows = [line for line in text.splitlines() if 'α = 4 |' in line]
  cells = [c.strip() for row in rows for c in row.split('|')[2:-1]]
  expected = ['10.6 ± 0.1', '12.0 ± 1.3', '–', '0.1', '1.0', '50%']
  assert cells == [*expected, '+29.7 at 1%']


@pytest.mark.parametrize('align', ['left', 'right'])
def test_a_wide_table_goes_on_in_others_with_the_same_keys(align):
  headers = ['method', 'α', *(f'column {i}' for i in range(20))]
  body = [[name, '2', *(['0.5'] * 20)] for name in ('one', 'another')]
  text = markup.grid(body, headers, align, keys=2)
  parts = [part.splitlines() for part in text.split('\n\n')]
  assert len(parts) > 1
  cells = lambda line: [cell.strip() for cell in line.split('|')[1:-1]]
  for head, rule, *rest in parts:
    assert {len(line) for line in (head, rule, *rest)} == {len(head)}
    assert len(head) <= 100
    assert [cells(line)[:2] for line in rest] == [
      ['one', '2'],
      ['another', '2'],
    ]
  found = [name for part in parts for name in cells(part[0])[2:]]
  assert found == headers[2:]


def test_names_are_those_of_the_config():
  labels = {'powerprop': 'ours', 'chain_rule': 'theirs'}
  rows = [
    _row(alpha, 0, 1.0, 0.5, transform=name)
    for name in labels
    for alpha in (1.0, 2.0)
  ]
  lost = rows[-1] | {'seed': 1, 'test_nll': math.nan}
  results = {'rows': [*rows, lost], 'labels': labels}
  text = tables.table(results)
  assert 'Theirs, learning rate 0.1:' in text and 'chain' not in text
  assert 'α = 2, theirs, lr 0.1, seed 1' in text


def test_tables_of_an_empty_run_do_not_fail():
  assert 'Test accuracy' in tables.table({'rows': []})
  assert 'kurtosis' in tables.analysis_table({'rows': [], 'analysis': []})
