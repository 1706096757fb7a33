"""What is chosen, what is printed, and what papers have published."""

import json
import math

import numpy as np
import pytest

from experiments.report import files
from experiments.report import published
from experiments.sparse_training import analysis as sparse_analysis
from experiments.sparse_training import tables as sparse_tables


def _row(alpha=1.0, rate=0.1, seed=0, validation=0.5, test=0.5, **others):
  return {
    'method': 'rigl',
    'distribution': 'erk',
    'sparsity': 0.9,
    'transform': 'powerprop',
    'alpha': alpha,
    'learning_rate': rate,
    'seed': seed,
    'density': 0.1,
    'validation_accuracy': validation,
    'test_accuracy': test,
    'test_nll': 1.0,
    'training_flops_ratio': 0.25,
    'inference_flops_ratio': 0.125,
  } | others


def _results(rows, dataset='digits', network='mlp'):
  return {'rows': rows, 'dataset': dataset, 'network': network, 'steps': 1000}


def _select(rows):
  return sparse_analysis.select(sparse_analysis.summarise(rows))


def _cells(text, *names):
  """The cells of the line that begins so, without the names.

  A wide table goes on in others, which begin with the same names.
  """
  lines = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in text.splitlines()
    if line.startswith('|')
  ]
  found = [c[len(names) :] for c in lines if tuple(c[: len(names)]) == names]
  assert found
  return [cell for cells in found for cell in cells]


def test_summary_of_seeds():
  rows = [_row(test=0.5), _row(seed=1, test=0.7, training_flops_ratio=0.75)]
  (entry,) = sparse_analysis.summarise(rows)
  assert entry['test_accuracy_mean'] == pytest.approx(0.6)
  assert entry['test_accuracy_std'] == pytest.approx(0.2 / math.sqrt(2))
  assert entry['training_flops_ratio'] == pytest.approx(0.5)
  assert (entry['n'], entry['diverged']) == (2, 0)


@pytest.mark.parametrize('nll', [math.nan, math.inf, None])
def test_summary_counts_and_leaves_out_what_diverged(nll):
  rows = [_row(test=0.75), _row(seed=1, test=0.1, test_nll=nll)]
  (entry,) = sparse_analysis.summarise(rows)
  assert (entry['n'], entry['diverged']) == (1, 1)
  assert (entry['test_accuracy_mean'], entry['test_accuracy_std']) == (0.75, 0)
  (entry,) = sparse_analysis.summarise(rows[1:])
  assert (entry['n'], entry['diverged']) == (0, 1)
  assert 'test_accuracy_mean' not in entry


def test_summary_tells_all_settings_apart_in_a_fixed_order():
  rows = [
    _row(method='mine'),
    _row(sparsity=0.95),
    _row(distribution='uniform'),
    _row(transform='chain_rule', alpha=2.0),
    _row(alpha=2.0),
    _row(rate=0.5),
    _row(method='dense', sparsity=0.0),
    _row(),
  ]
  summary = sparse_analysis.summarise(rows)
  assert len(summary) == len(rows)
  assert summary == sparse_analysis.summarise(rows[::-1])
  methods = [entry['method'] for entry in summary]
  assert methods == ['dense', *['rigl'] * 6, 'mine']


def test_selection_goes_by_mean_validation_accuracy_only():
  rows = [
    _row(1.0, 0.1, 0, validation=0.8, test=0.1),
    _row(1.0, 0.1, 1, validation=0.6, test=0.1),
    _row(1.0, 0.5, 0, validation=0.9, test=0.9),  # its mean is worse
    _row(1.0, 0.5, 1, validation=0.4, test=0.9),
    _row(2.0, 0.1, 0, validation=0.7, test=0.2),
    _row(3.0, 0.5, 0, validation=0.6, test=0.8),
  ]
  baseline, powerprop = _select(rows)
  assert (baseline['choice'], baseline['learning_rate']) == ('baseline', 0.1)
  assert (powerprop['choice'], powerprop['alpha']) == ('powerprop', 2.0)
  changed = [row | {'test_accuracy': 1 - row['test_accuracy']} for row in rows]
  again = [(e['alpha'], e['learning_rate']) for e in _select(changed)]
  assert again == [(1.0, 0.1), (2.0, 0.1)]


def test_selection_is_made_for_every_place_apart():
  rows = [
    _row(alpha, validation=score, **place)
    for place, better in (
      ({'sparsity': 0.9}, 2.0),
      ({'sparsity': 0.95}, 3.0),
      ({'distribution': 'uniform'}, 4.0),
      ({'method': 'set'}, 5.0),
    )
    for alpha, score in ((better, 0.9), (1.5, 0.8))
  ]
  assert sorted(e['alpha'] for e in _select(rows)) == [2.0, 3.0, 4.0, 5.0]


def test_a_setting_of_which_a_seed_diverged_is_the_last_resort():
  broken = [
    _row(2.0, seed=0, validation=0.9),
    _row(2.0, seed=1, test_nll=math.nan),
    _row(3.0, seed=0, validation=1.0, test_nll=math.nan),
    _row(3.0, seed=1, validation=1.0, test_nll=math.nan),
  ]
  (chosen,) = _select(broken)
  assert (chosen['alpha'], chosen['n'], chosen['diverged']) == (2.0, 1, 1)
  (chosen,) = _select([*broken, _row(4.0, validation=0.2)])
  assert chosen['alpha'] == 4.0
  assert _select(broken[2:]) == []


def test_of_equals_the_smallest_alpha_and_rate_is_chosen():
  rows = [_row(alpha, rate) for alpha in (3.0, 2.0) for rate in (0.5, 0.1)]
  (chosen,) = _select(rows)
  assert (chosen['alpha'], chosen['learning_rate']) == (2.0, 0.1)


def test_a_curve_has_one_rate_by_the_mean_over_sparsities():
  rows = [
    _row(2.0, rate, sparsity=sparsity, validation=score)
    for rate, scores in ((0.1, (0.9, 0.5)), (0.5, (0.8, 0.7)))
    for sparsity, score in zip((0.5, 0.9), scores, strict=True)
  ]
  curve = sparse_analysis.at_best_rate(sparse_analysis.summarise(rows))
  found = [(e['learning_rate'], e['sparsity']) for e in curve]
  assert found == [(0.5, 0.5), (0.5, 0.9)]
  rows[-1]['test_nll'] = math.nan
  curve = sparse_analysis.at_best_rate(sparse_analysis.summarise(rows))
  assert {e['learning_rate'] for e in curve} == {0.1}


def test_difference_pairs_seeds_and_skips_what_diverged():
  # The seeds differ by 0.4, the pairs by 0.01: paired, the interval is narrow.
  rows = [_row(1.0, seed=s, test=0.2 * s) for s in range(3)]
  rows += [_row(2.0, seed=s, test=0.2 * s + 0.01) for s in (2, 1, 0)]
  rows += [_row(1.0, seed=3, test=0.9, test_nll=math.nan)]
  rows += [_row(2.0, seed=3, test=0.1), _row(2.0, 0.5, seed=0, test=0.9)]
  found = sparse_analysis.difference(rows, rows[0], rows[3])
  assert found[2:] == (3, 3, 0)
  np.testing.assert_allclose(found[:2], (0.01, 0.0), atol=1e-12)


def test_difference_of_few_seeds():
  rows = [_row(1.0, test=0.5), _row(2.0, test=0.75), _row(2.0, 0.5, seed=1)]
  one = sparse_analysis.difference(rows, rows[0], rows[1])
  assert (one.mean, one.n) == (0.25, 1) and math.isnan(one.half)
  none = sparse_analysis.difference(rows, rows[0], rows[2])
  assert none.n == 0 and math.isnan(none.mean)


def _population(
  methods=('dense', 'rigl'), alphas=(1.0, 2.0), seeds=2, sparsities=(0.9,)
):
  return [
    _row(
      alpha,
      seed=seed,
      test=0.5 + 0.1 * alpha + 0.02 * seed,
      method=method,
      sparsity=0.0 if method == 'dense' else sparsity,
      density=1 if method == 'dense' else 1 - sparsity,
    )
    for method in methods
    for sparsity in (sparsities[:1] if method == 'dense' else sparsities)
    for alpha in alphas
    for seed in range(seeds)
  ]


def test_tables_of_a_small_run():
  text = sparse_tables.markdown(_results(_population()))
  assert 'digits, mlp, 1,000 steps. Test accuracy' in text
  assert 'mean ± std of 2 runs' in text and 'were chosen' not in text
  assert 'Dense: 61.00 ± 1.41 (α = 1), 71.00 ± 1.41 (α = 2).' in text
  main, detail, more, *_ = text.split('\n\n|')[1:]
  assert _cells('|' + main, 'method') == [
    'distribution',
    '90%, α = 1',
    '90%, Powerprop',
  ]
  expected = ['61.00 ± 1.41', '71.00 ± 1.41 (α = 2)']
  assert _cells('|' + main, 'RigL', 'ERK') == expected
  detail = f'|{detail}\n|' + more.split('\n\n')[0]
  assert _cells(detail, 'RigL', 'ERK', '90%') == [
    '+10.00 2/2',
    'α = 1, lr 0.1',
    'α = 2, lr 0.1',
    '10%',
    '0.25×',
    '0.125×',
  ]
  assert 'relative to dense training without the training multiplier' in text
  assert 'Diverged' not in text


def test_what_was_chosen_from_is_named():
  rows = [
    _row(alpha, rate) for alpha in (1.0, 1.5, 2.0) for rate in (0.1, 0.03)
  ]
  text = sparse_tables.markdown(_results(rows))
  assert 'α (of 1.5, 2) and learning rate (of 0.03, 0.1).' in text


def test_costs_that_differ_are_both_shown():
  rows = [_row(1.0), _row(2.0, training_flops_ratio=0.5)]
  text = sparse_tables.detail_table(rows, _select(rows))
  cells = _cells(text, 'RigL', 'ERK', '90%')
  assert cells[-2:] == ['0.25× / 0.5×', '0.125×']


@pytest.mark.parametrize(
  ('alphas', 'header'), [((1.0,), 'α = 1'), ((1.5, 2.0), 'Powerprop')]
)
def test_a_family_that_was_not_run_has_no_column(alphas, header):
  text = sparse_tables.markdown(_results(_population(('rigl',), alphas)))
  main, detail, *_ = text.split('\n\n|')[1:]
  assert _cells('|' + main, 'method', 'distribution') == [f'90%, {header}']
  assert 'ifference' not in text and '–' not in detail


def test_one_seed_has_no_deviation_and_no_interval():
  rows = _population(seeds=1)
  text = sparse_tables.markdown(_results(rows))
  assert 'one run each' in text
  run, *_ = text.split('Published')
  assert '±' not in run and '90%' in run
  detail = sparse_tables.detail_table(rows, _select(rows))
  assert _cells(detail, 'RigL', 'ERK', '90%')[0] == '+10.00 1/1'


def test_many_sparsities_are_split_into_tables():
  sparsities = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
  rows = _population(sparsities=sparsities)
  summary = sparse_analysis.summarise(rows)
  text = sparse_tables.accuracy_table(summary, _select(rows))
  assert len(text.split('\n\n')) > 1
  heads = _cells(text, 'method', 'distribution')
  assert len(heads) == 12
  assert heads[0] == '50%, α = 1' and heads[-1] == '95%, Powerprop'
  cells = _cells(text, 'RigL', 'ERK')
  assert cells == ['61.00 ± 1.41', '71.00 ± 1.41 (α = 2)'] * 6


def test_cells_without_numbers_say_why():
  rows = [
    *_population(('rigl', 'set')),
    *(row | {'test_nll': None} for row in _population(('snip',), (2.0,))),
    _row(method='snip', seed=5),
  ]
  lost = [row for row in rows if row['method'] == 'set' and row['alpha'] > 1]
  rows = [row for row in rows if row not in lost]
  text = sparse_tables.markdown(_results(rows))
  main, *_ = text.split('\n\n|')[1:]
  assert _cells('|' + main, 'SET', 'ERK')[1] == 'not run'
  assert _cells('|' + main, 'SNIP', 'ERK') == ['50.00 (n = 1)', 'diverged']
  expected = 'Diverged and left out: SNIP ERK 90% (α = 2, lr 0.1) seeds 0, 1.'
  assert expected in text


def test_diverged_nets_are_named_once_for_all_sparsities():
  rows = [
    _row(2.0, seed=3, method='one_shot', sparsity=s, test_nll=None)
    for s in (0.8, 0.9)
  ]
  rows.append(_row(3.0, method='dense', sparsity=0.0, test_nll=None))
  assert sparse_tables.diverged_line(rows) == (
    'Diverged and left out: one-shot ERK 80%, 90% (α = 2, lr 0.1) seed 3;'
    ' dense (α = 3, lr 0.1) seed 0.'
  )


def test_several_transforms_are_named():
  rows = [_row(1.0), _row(2.0), _row(2.0, transform='chain_rule', seed=1)]
  rows[2]['validation_accuracy'] = 0.9
  text = sparse_tables.detail_table(rows, _select(rows))
  cells = _cells(text, 'RigL', 'ERK', '90%')
  assert cells[:3] == [
    '–',  # no seed in common
    'α = 1, lr 0.1, Powerprop',
    'α = 2, lr 0.1, naive chain rule',
  ]


def test_an_unknown_method_is_the_last():
  rows = _population(('a_mine', 'rigl', 'one_shot'))
  summary = sparse_analysis.summarise(rows)
  text = sparse_tables.accuracy_table(summary, _select(rows))
  names = [line.split('|')[1].strip() for line in text.splitlines()[2:]]
  assert names == ['one-shot', 'RigL', 'a mine']


@pytest.mark.parametrize('rows', [[], _population(('dense',))])
def test_tables_without_sparse_nets(rows):
  text = sparse_tables.markdown(_results(rows))
  assert text.startswith('digits, mlp') and 'Published' not in text
  assert ('Dense: 61.00' in text) == bool(rows)


def test_tables_of_a_record_are_those_of_the_run():
  rows = _population()
  rows[0]['test_nll'] = math.nan
  results = _results(rows)
  saved = json.loads(files.to_json(results))
  assert sparse_tables.markdown(saved) == sparse_tables.markdown(results)


def _published(dataset, network, **kwargs):
  rows = _population(**kwargs)
  return sparse_tables.published_tables(_results(rows, dataset, network))


def test_published_numbers_name_their_setting():
  imagenet, table, cifar, _ = _published('cifar10', 'wide_resnet')
  assert 'ImageNet, ResNet-50' in imagenet
  assert 'in another setting: cifar10, wide_resnet, 1,000 steps' in imagenet
  assert 'CIFAR-10, WRN-22-2' in cifar and 'another setting' not in cifar
  _, _, cifar, _ = _published('cifar10', 'small_conv')
  assert 'another setting' in cifar
  cells = _cells(table, 'RigL', 'ERK', '5 × steps')
  assert cells == ['76.4 ± 0.05 [1.23×]', 'Powerpropagation']


def test_published_numbers_on_cifar10_are_of_the_protocols_distributions():
  lines = [x for x in published.ROWS if x.setting == published.CIFAR10]
  found = {line.method: line.distribution for line in lines}
  # The public code prunes every layer to one target; ERK is a flag of masks
  # that are drawn, and the paper's default (section 4.3).
  expected = {'iterative': 'uniform', 'static': 'erk', 'rigl': 'erk'}
  assert found == {'dense': ''} | expected
  _, _, _, table = _published('cifar10', 'x', methods=('iterative', 'rigl'))
  assert _cells(table, 'iterative', 'uniform')[1:] == ['93.3', 'RigL']


def test_published_numbers_are_those_of_the_runs_methods_and_sparsities():
  _, table = _published('x', 'y', methods=('top_kast',), sparsities=(0.95,))
  assert 'RigL' not in table and '80%' not in table
  cells = _cells(table, 'Top-KAST', 'uniform', '0% backward sparsity')
  assert cells[:2] == ['73.19 ± 0.02', '73.25 ± 0.02']
  assert 'steps' not in table  # extended training was not run at 95%
  assert _published('x', 'y', methods=('rigl',), sparsities=(0.97,)) == []
  assert _published('x', 'y', methods=('ac_dc',)) == []


def test_published_data_are_well_formed():
  keys = [
    (line.setting, line.method, line.distribution, line.note)
    for line in published.ROWS
  ]
  assert len(set(keys)) == len(keys)
  for line in published.ROWS:
    assert line.method in sparse_analysis.METHODS
    assert line.baseline or line.powerprop
    for sparsity, number in (line.baseline | line.powerprop).items():
      assert 0 <= sparsity < 1 and 50 < number.accuracy < 100
      assert not number.std > 0.5 and not number.training_flops_ratio > 3


def test_published_powerprop_is_ahead_wherever_both_are():
  # The paper's claim for Tables 1 and 2: a slip in copying would break it.
  gains = [
    line.powerprop[s].accuracy - line.baseline[s].accuracy
    for line in published.ROWS
    for s in line.baseline.keys() & line.powerprop.keys()
  ]
  assert len(gains) == 13 and min(gains) > 0


def test_layers_without_weights_are_named_once_for_a_setting():
  rows = [
    _row(seed=seed, emptied_layers=layers, distribution='global')
    for seed, layers in enumerate((['a/w', 'b/w'], ['a/w'], []))
  ]
  line = (
    'At most one weight is left, in some nets, of a/w (RigL global 90%); b/w'
    ' (RigL global 90%).'
  )
  assert line in sparse_tables.markdown(_results(rows)).split('\n\n')
  # Runs of before have no such key.
  assert 'At most' not in sparse_tables.markdown(_results([_row()]))
