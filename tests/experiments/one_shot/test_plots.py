"""Figures from made-up records: what is on them, and what must not break."""

import json
import math

import numpy as np
import pytest

from experiments.one_shot import plots
from experiments.report import __main__ as redraw
from experiments.report import statistics

_DENSITIES = np.geomspace(0.01, 1, 5).tolist()


def _run(
  transforms=('powerprop',), alphas=(1.0, 3.0, 4.0), rates=(0.1,), seeds=3
):
  """Results and records of a run, in miniature."""
  rng = np.random.default_rng(0)
  rows, entries = [], []
  records = {'steps': np.arange(0, 50, 10)}
  for transform in transforms:
    for alpha in alphas:
      for rate in rates:
        entry = {'transform': transform, 'alpha': alpha, 'learning_rate': rate}
        group = f'g{len(entries)}'
        entries.append(entry | {'n': seeds})
        for seed in range(seeds):
          for density in _DENSITIES:
            accuracy = 0.1 + 0.8 * density ** (1 / alpha) + 0.01 * rng.random()
            row = {'seed': seed, 'density': density, 'test_nll': 0.1}
            row |= {'test_accuracy': accuracy, 'chance_overlap': density}
            rows.append(entry | row | {'mask_overlap': density ** (1 / alpha)})
        initial = rng.normal(size=300, scale=0.1)
        final = initial * (1 + alpha * np.abs(initial))
        records[f'{group}/initial'], records[f'{group}/final'] = initial, final
        cut = np.quantile(np.abs(final), 0.9)
        records[f'{group}/kept'] = np.abs(final) > cut
        for layer in range(2):
          counts, edges = np.histogram(final, 11)
          records[f'{group}/layer{layer}/counts'] = counts
          records[f'{group}/layer{layer}/edges'] = edges
        power = np.full(5, alpha)
        if 'adaptive' in transform:
          power = power + [0, 0, 0.5, 0.5, 1]
        records[f'{group}/alpha_over_steps'] = power
        records[f'{group}/near_zero_over_steps'] = 0.1 * power
  results = {'rows': rows, 'analysis': entries, 'layers': ['first', 'second']}
  return _summarised(results), records


def _summarised(results):
  rows = results['rows']
  return results | {
    'summary': statistics.summarise(rows),
    'diverged': statistics.diverged(rows),
  }


def _lose(results, alpha, seeds):
  rows = []
  for row in results['rows']:
    lost = row['alpha'] == alpha and row['seed'] in seeds
    rows.append(row | {'test_nll': math.nan} if lost else row)
  return _summarised(results | {'rows': rows})


def _write(folder, results, records):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'results.json').write_text(json.dumps(results), encoding='utf-8')
  np.savez(folder / 'records.npz', **records)


def _legend(axes):
  """That of the panel, or of the figure that it is the first panel of."""
  return axes.get_legend() or axes.get_figure().legends[0]


def _labels(axes):
  return [text.get_text() for text in _legend(axes).get_texts()]


def test_accuracy_has_a_line_and_a_band_for_every_alpha():
  (axes,) = plots.accuracy_vs_density(*_run()).axes
  assert len(axes.lines) == len(axes.collections) == 3
  assert _labels(axes) == ['Baseline', 'α = 3', 'α = 4']
  assert _legend(axes).get_title().get_text() == 'mean ± std, 3 runs'
  left, right = axes.get_xlim()
  assert left > right and axes.get_xscale() == 'log'
  ticks = [label.get_text() for label in axes.get_xticklabels()]
  assert ticks == ['100%', '50%', '20%', '10%', '5%', '2%', '1%']


def test_accuracy_is_in_percent_and_dense_first():
  results, records = _run(alphas=(1.0,), seeds=1)
  (axes,) = plots.accuracy_vs_density(results, records).axes
  x, y = axes.lines[0].get_data()
  np.testing.assert_allclose(x, _DENSITIES[::-1])
  means = [entry['test_accuracy_mean'] for entry in results['summary']]
  np.testing.assert_allclose(y, 100 * np.array(means))


def test_one_seed_draws_no_band():
  (axes,) = plots.accuracy_vs_density(*_run(seeds=1)).axes
  assert not axes.collections
  assert _legend(axes).get_title().get_text() == 'one run each'


def test_transforms_differ_by_line_style_only():
  results, records = _run(('chain_rule', 'powerprop'), (1.0, 3.0))
  (axes,) = plots.accuracy_vs_density(results, records).axes
  styles = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
  assert [style for _, style in styles] == ['-', '-', '--', '--']
  assert styles[0][0] == styles[2][0] != styles[1][0] == styles[3][0]
  expected = ['Baseline', 'α = 3', 'Powerprop', 'naive chain rule']
  assert _labels(axes) == expected


def test_mask_overlap_shows_the_chance_level():
  figure = plots.mask_overlap(*_run())
  ((axes,), (legend,)) = figure.axes, figure.legends
  labels = [text.get_text() for text in legend.get_texts()]
  assert labels == ['Baseline', 'α = 3', 'α = 4', 'overlap by chance']
  assert legend.get_title().get_text() == 'mean ± std, 3 runs'
  x, y = axes.lines[-1].get_data()
  assert axes.lines[-1].get_linestyle() == ':'
  np.testing.assert_allclose(y, 100 * np.asarray(x))


def test_diverged_members_change_no_line():
  results, records = _run()
  (expected,) = plots.accuracy_vs_density(results, records).axes
  rows = results['rows']
  extra = rows[0] | {'seed': 9, 'test_accuracy': 0.098, 'test_nll': math.nan}
  worse = _summarised(results | {'rows': [*rows, extra]})
  (axes,) = plots.accuracy_vs_density(worse, records).axes
  for line, reference in zip(axes.lines, expected.lines, strict=True):
    np.testing.assert_array_equal(line.get_data(), reference.get_data())


def test_a_group_that_diverged_is_named_and_not_drawn():
  results, records = _run()
  results = _lose(results, 4.0, {0, 1, 2})
  (axes,) = plots.accuracy_vs_density(results, records).axes
  assert len(axes.lines) == 2
  assert _labels(axes) == ['Baseline', 'α = 3', 'α = 4: diverged']


def test_the_legend_says_how_many_runs_are_left():
  results, records = _run()
  (axes,) = plots.accuracy_vs_density(_lose(results, 4.0, {1}), records).axes
  assert _legend(axes).get_title().get_text() == 'mean ± std, 2 to 3 runs'


def test_weight_change_shows_baseline_and_alpha_4_on_the_same_axes():
  figure = plots.weight_change(*_run(alphas=(1.0, 3.0, 4.0, 5.0)))
  first, top, _, second, other_top, _ = figure.axes
  assert top.get_title('left') == 'Baseline (α = 1)'
  assert other_top.get_title('left') == 'Powerprop, α = 4'
  assert first.get_xlim() == second.get_xlim() == top.get_xlim()
  assert first.get_ylim() == second.get_ylim()
  assert _labels(first) == [
    'pruned (90%)',
    'kept (10%)',
    'unchanged',
    'at the margins: densities',
  ]


def test_weight_change_falls_back_to_the_largest_alpha():
  figure = plots.weight_change(*_run(alphas=(1.0, 2.0, 3.0)))
  assert figure.axes[4].get_title('left') == 'Powerprop, α = 3'


def test_weight_change_skips_weights_that_diverged():
  results, records = _run()
  records['g2/final'] = np.full(300, np.nan)
  figure = plots.weight_change(results, records)
  assert figure.axes[4].get_title('left') == 'Powerprop, α = 3'


def test_weights_beyond_the_axis_are_counted():
  results, records = _run(alphas=(1.0,))
  final = np.linspace(-0.1, 0.1, 2000)
  final[-2:] = 5.0
  records |= {'g0/final': final, 'g0/initial': np.linspace(-0.1, 0.1, 2000)}
  records['g0/kept'] = np.abs(final) > 0.09
  axes, *_ = plots.weight_change(results, records).axes
  assert axes.get_ylim()[1] < 0.2
  assert 'or ▼: 2 beyond, up to ±5.0' in _labels(axes)


@pytest.mark.parametrize(
  ('final', 'kept'),
  [
    (np.zeros(300), np.zeros(300, bool)),  # all alike, all pruned
    (np.r_[np.zeros(299), 1.0], np.arange(300) == 299),  # a single one kept
    (np.r_[np.full(270, 1e-12), np.ones(30)], np.arange(300) >= 270),
    (np.linspace(-1, 1, 300), np.ones(300, bool)),  # none pruned
  ],
)
@pytest.mark.filterwarnings('error')
def test_kernel_densities_of_degenerate_weights(tmp_path, final, kept):
  results, records = _run(alphas=(1.0,))
  records |= {'g0/final': final, 'g0/kept': kept}
  figure = plots.weight_change(results, records)
  for axes in figure.axes:
    for line in axes.lines:
      assert np.all(np.isfinite(line.get_data()))
  figure.savefig(tmp_path / 'figure.png')


def test_figure1_has_the_papers_four_panels():
  figure = plots.figure1(*_run())
  titles = [axes.get_title('left') for axes in figure.axes]
  assert [title[:3] for title in titles if title] == [
    '(a)',
    '(b)',
    '(c)',
    '(d)',
  ]


def test_histograms_have_a_panel_a_layer_and_area_one():
  figure = plots.histograms(*_run())
  assert [axes.get_title('left') for axes in figure.axes] == ['first', 'second']
  for axes in figure.axes:
    assert axes.get_yscale() == 'log'
    for patch in axes.patches:
      values, edges, _ = patch.get_data()
      area = np.nansum(values * np.diff(edges))
      assert area == pytest.approx(1)


def test_alpha_over_steps_draws_both_panels():
  figure = plots.alpha_over_steps(*_run(('adaptive_powerprop',), (1.25, 1.5)))
  left, right = figure.axes
  np.testing.assert_allclose(
    left.lines[0].get_ydata(), [1.25, 1.25, 1.75, 1.75, 2.25]
  )
  assert len(left.lines) == len(right.lines) == 2
  assert right.get_ylim()[0] == 0


def test_many_alphas_get_a_colour_each():
  (axes,) = plots.accuracy_vs_density(*_run(alphas=range(1, 10))).axes
  assert len({str(line.get_color()) for line in axes.lines}) == 9


def _names(paths):
  return {path.name for path in paths}


_FIXED = {'accuracy_vs_density', 'mask_overlap', 'weight_change', 'figure1'}
_FIXED |= {'histograms'}


@pytest.mark.filterwarnings('error')
def test_draw_writes_every_figure(tmp_path):
  _write(tmp_path, *_run(('powerprop', 'adaptive_powerprop')))
  paths = plots.draw(tmp_path)
  assert all(path.stat().st_size > 1000 for path in paths)
  assert {path.parent for path in paths} == {tmp_path / 'figures'}
  stems = _FIXED | {'alpha_over_steps'}
  expected = {f'{stem}.{kind}' for stem in stems for kind in ('png', 'pdf')}
  assert _names(paths) == expected
  assert _names((tmp_path / 'figures').iterdir()) == expected  # no leftovers


@pytest.mark.usefixtures('only_pictures')
def test_draw_gives_the_same_bytes_again(tmp_path):
  results, records = _run(alphas=(1.0,), seeds=1)
  _write(tmp_path, results | {'layers': []}, records)
  first = {path: path.read_bytes() for path in plots.draw(tmp_path)}
  assert {path: path.read_bytes() for path in plots.draw(tmp_path)} == first


@pytest.mark.usefixtures('sketched')
@pytest.mark.parametrize(
  'changes', [{'alphas': (1.0, 2.0), 'seeds': 1}, {'alphas': (3.0,)}]
)
def test_draw_small_runs(tmp_path, changes):
  _write(tmp_path, *_run(**changes))
  assert {path.stem for path in plots.draw(tmp_path)} == _FIXED


@pytest.mark.usefixtures('sketched')
def test_draw_without_records_draws_the_curves(tmp_path):
  _write(tmp_path, *_run())
  (tmp_path / 'records.npz').unlink()
  stems = {path.stem for path in plots.draw(tmp_path)}
  assert stems == {'accuracy_vs_density', 'mask_overlap', 'figure1'}


def test_draw_when_every_member_diverged(tmp_path):
  results, records = _run(alphas=(4.0,))
  for name in ('final', 'layer0/edges', 'layer1/edges'):
    records[f'g0/{name}'] = np.full_like(records[f'g0/{name}'], np.nan)
  _write(tmp_path, _lose(results, 4.0, {0, 1, 2}), records)
  assert plots.draw(tmp_path) == []
  assert redraw.main([str(tmp_path)]) == 1


def test_a_figure_without_its_data_says_so():
  with pytest.raises(ValueError, match='no mask_overlap to draw'):
    plots.mask_overlap({'rows': []}, {})


@pytest.mark.usefixtures('sketched')
def test_draw_separates_learning_rates(tmp_path):
  results, records = _run(alphas=(1.0, 4.0), rates=(0.1, 0.5), seeds=1)
  _write(tmp_path, results, {})
  stems = {path.stem for path in plots.draw(tmp_path)}
  assert {'figure1_lr0.1', 'figure1_lr0.5'} < stems
  assert len(stems) == 6
  _, (suffix, part, arrays) = plots.parts(results, records)
  assert suffix == '_lr0.5'
  assert [entry['alpha'] for entry in part['analysis']] == [1.0, 4.0]
  np.testing.assert_array_equal(arrays['g1/final'], records['g3/final'])
  assert 'g2/final' not in arrays


@pytest.mark.usefixtures('sketched')
def test_a_failed_save_leaves_the_old_figure(tmp_path, monkeypatch):
  results, records = _run(alphas=(1.0,), seeds=1)
  _write(tmp_path, results, {})
  path, *_ = plots.draw(tmp_path)
  before = path.read_bytes()

  def broken(self, target, **kwargs):
    del self, kwargs
    target.write_bytes(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(plots.Figure, 'savefig', broken)
  with pytest.raises(OSError, match='disk full'):
    plots.draw(tmp_path)
  assert path.read_bytes() == before
  assert not list(path.parent.glob('.*'))


@pytest.mark.usefixtures('sketched')
def test_main_redraws_and_lists_the_files(tmp_path, capsys):
  _write(tmp_path, *_run(alphas=(1.0,), seeds=1))
  assert redraw.main([str(tmp_path)]) == 0
  assert 'accuracy_vs_density.png' in capsys.readouterr().out


def test_main_reports_a_broken_archive(tmp_path, capsys):
  _write(tmp_path, *_run(alphas=(1.0,), seeds=1))
  (tmp_path / 'records.npz').write_bytes(b'PK\x03\x04 not a zip file')
  assert redraw.main([str(tmp_path)]) == 1
  assert 'records.npz cannot be read' in capsys.readouterr().err
