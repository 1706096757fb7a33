"""Figures of continual learning from made-up records: what is on them."""

import numpy as np
import pytest

from experiments.continual import analysis as continual_analysis
from experiments.continual import panels as continual_panels
from experiments.continual import plots as continual_plots
from tests import continual_tiny


def _run(methods, alphas=(1.0,), seeds=1, **kwargs):
  return continual_tiny.run(
    continual_tiny.member(method, alpha, seed=seed, **kwargs)
    for method in methods
    for alpha in alphas
    for seed in range(seeds)
  )


def _labels(legend):
  return [text.get_text() for text in legend.get_texts()]


def _drawn(figure):
  """The lines of the first panel that are a course, not a published point."""
  lines = figure.axes[0].lines
  return [line for line in lines if line.get_linestyle() != 'None']


def test_average_accuracy_has_a_line_and_a_band_for_every_method_and_alpha():
  results, records = _run(('ewc', 'packnet'), (1.0, 2.0), 3, tasks=11, every=5)
  figure = continual_plots.average_accuracy(results, records)
  (axes,) = figure.axes
  legend = axes.get_legend()
  expected = ['EWC, α = 1', 'EWC, α = 2', 'PackNet, α = 1', 'PackNet, α = 2']
  assert _labels(legend) == [*expected, 'EWC, published']
  assert legend.get_title().get_text() == 'mean ± std, 3 runs'
  assert len(axes.collections) == 4
  lines = _drawn(figure)
  assert [line.get_linestyle() for line in lines] == ['--', '-'] * 2
  assert len({line.get_color() for line in lines}) == 4
  # All tasks are measured after tasks 1, 6 and 11 only, but PackNet's stay.
  assert lines[0].get_xdata().tolist() == [1, 6, 11]
  assert lines[2].get_xdata().tolist() == list(range(1, 12))
  mean = results['summary'][0]['average_accuracy_mean']
  assert lines[0].get_ydata()[-1] == pytest.approx(100 * mean)
  # EWC's published number is at 10 tasks.
  (ring,) = [line for line in axes.lines if line not in lines]
  assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (10, 97.0)
  other = results | {'sequence': 'split'}
  (axes,) = continual_plots.average_accuracy(other, records).axes
  assert _labels(axes.get_legend()) == expected


def test_seeds_are_shown_as_far_as_all_of_them_go():
  members = [
    continual_tiny.member('packnet', seed=seed, tasks=tasks)
    for seed, tasks in ((0, 5), (1, 3))
  ]
  results, records = continual_tiny.run(members)
  groups = continual_analysis.shown(results['rows'])
  looks = continual_panels.looks_of(list(groups))
  for figure in (
    continual_plots.average_accuracy(results, records),
    continual_plots.used_weights(groups, looks),
  ):
    (line,) = _drawn(figure)
    assert line.get_xdata().tolist() == [1, 2, 3]
  used = [row['used_weights'] for row in members[0][0]]
  np.testing.assert_allclose(line.get_ydata(), 100 * np.array(used[:3]))


def test_masks_have_a_column_a_layer_and_stack_new_on_reused():
  results, records = _run(('packnet',), (1.0, 2.0), tasks=5)
  groups = continual_analysis.shown(results['rows'])
  figure = continual_plots.masks(
    groups, records, continual_tiny.MASKS['packnet']['layers']
  )
  assert len(figure.axes) == 3 * 3  # used; two α
  titles = [axes.get_title('left') for axes in figure.axes[:3]]
  assert titles[0] == 'linear_0\n64,000 weights'
  name = 'packnet/powerprop/alpha_1/coefficient_0/lr_0.1/seed_0'
  reused, new = (patch.get_data() for patch in figure.axes[4].patches)
  share = lambda part: 100 * records[f'{name}/{part}_by_layer'][:, 1] / 4000
  np.testing.assert_allclose(reused.values, share('reused'))
  np.testing.assert_allclose(new.values, share('reused') + share('new'))
  np.testing.assert_allclose(new.baseline, share('reused'))
  expected = ['α = 1', 'α = 2', 'reused', 'new']
  assert _labels(figure.legends[0]) == expected


def test_heat_maps_are_means_over_seeds():
  results, records = _run(('naive', 'packnet'), (2.0,), 2, tasks=3)
  groups = continual_analysis.shown(results['rows'])
  figure = continual_plots.accuracy_matrix(groups, records)
  titles = [axes.get_title('left') for axes in figure.axes[:2]]
  assert titles == ['fine-tuning', 'PackNet']
  naive = [a for n, a in records.items() if 'naive' in n and 'accuracy' in n]
  shown = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
  np.testing.assert_allclose(shown, 100 * np.mean(naive, axis=0), rtol=1e-6)
  assert len(figure.axes[0].texts) == 6  # what is above the diagonal is unknown
  masked = {key: g for key, g in groups.items() if key[0] == 'packnet'}
  figure = continual_plots.overlap(masked, records)
  shown = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
  assert np.isnan(np.diagonal(shown)).all()
  assert shown[2, 0] == pytest.approx(30 * np.exp(-0.2), rel=1e-5)


def _stems(paths):
  return {path.stem for path in paths}


def test_draw_writes_every_figure(tmp_path):
  continual_tiny.write(tmp_path, *_run(('naive', 'packnet'), tasks=3))
  paths = continual_plots.draw(tmp_path)
  assert _stems(paths) == {
    'average_accuracy',
    'used_weights',
    'masks',
    'accuracy_matrix',
    'overlap',
  }
  assert sorted(paths) == sorted((tmp_path / 'figures').iterdir())
  for path in paths:
    kind = {'.png': b'\x89PNG', '.pdf': b'%PDF'}[path.suffix]
    assert path.read_bytes().startswith(kind)


@pytest.mark.usefixtures('only_pictures')
def test_draw_gives_the_same_bytes_again(tmp_path):
  continual_tiny.write(tmp_path, *_run(('naive', 'packnet'), tasks=3))
  draw = continual_plots.draw
  first = {path: path.read_bytes() for path in draw(tmp_path)}
  assert {path: path.read_bytes() for path in draw(tmp_path)} == first


@pytest.mark.parametrize(
  ('methods', 'tasks', 'keep', 'expected'),
  [
    (('naive',), 1, '', {'average_accuracy'}),
    (('naive',), 21, '', {'average_accuracy'}),
    (('packnet',), 2, None, {'average_accuracy', 'used_weights'}),
    (
      ('packnet',),
      300,
      'a',
      {'average_accuracy', 'used_weights', 'masks', 'overlap'},
    ),
  ],
)
def test_what_is_missing_is_not_drawn(methods, tasks, keep, expected):
  results, records = _run(methods, tasks=tasks, every=10)
  records = {} if keep is None else records
  assert {n for n, _ in continual_plots._figures(results, records)} == expected


def test_units_have_their_own_layers_and_published_numbers_beside_them():
  results, records = _run(('packnet', 'clnp'), tasks=11)
  results |= {'masks': continual_tiny.MASKS}
  figures = dict(continual_plots._figures(results, records))
  figure = figures['masks_clnp']
  titles = [axes.get_title('left') for axes in figure.axes[:2]]
  assert titles == ['hidden_0\n2,000 units', 'hidden_1\n2,000 units']
  stars = [axes.lines[-1].get_xydata().tolist() for axes in figure.axes[:2]]
  assert stars == [[[10, 18]], [[10, 40]]]
  assert _labels(figure.legends[0])[-1] == 'published'
  assert '64,000 weights' in figures['masks_packnet'].axes[0].get_title('left')
  assert 'tasks' in figures
  # Elsewhere the paper has nothing to say.
  other = dict(continual_plots._figures(results | {'dataset': 'x'}, records))
  assert _labels(other['masks_clnp'].legends[0])[-1] == 'new'
  assert 'tasks' not in dict(
    continual_plots._figures(*_run(('packnet',), tasks=2))
  )


def test_two_methods_with_masks_have_a_figure_each():
  results, records = _run(('packnet', 'efficient_packnet'), tasks=2)
  names = [name for name, _ in continual_plots._figures(results, records)]
  assert names[2:4] == ['masks_packnet', 'masks_efficient_packnet']


def test_draw_where_there_is_nothing_to_draw(tmp_path):
  continual_tiny.write(tmp_path, *_run(('naive',), validation=None))
  assert continual_plots.draw(tmp_path) == []
