"""Figures of sparse training from made-up records: what is on them."""

import json
import math

import numpy as np
import pytest

from experiments.report import curves
from experiments.report import files
from experiments.sparse_training import analysis as sparse_analysis
from experiments.sparse_training import plots as sparse_plots

_METHODS = ('dense', 'iterative', 'rigl')


def _rows(
  methods=_METHODS,
  sparsities=(0.8, 0.9),
  alphas=(1.0, 2.0),
  rates=(0.1,),
  seeds=2,
  distributions=('erk',),
):
  """A run in miniature: the larger α and the smaller rate are better."""
  rng = np.random.default_rng(0)
  return [
    {
      'method': method,
      'distribution': distribution,
      'sparsity': sparsity,
      'transform': 'powerprop',
      'alpha': alpha,
      'learning_rate': rate,
      'seed': seed,
      'density': 1 - sparsity,
      'validation_accuracy': 0.5 + 0.1 * alpha - 0.2 * sparsity - 0.1 * rate,
      'test_accuracy': 0.4 + 0.1 * alpha - 0.2 * sparsity + 0.01 * rng.random(),
      'test_nll': 1.0,
      'training_flops_ratio': {'dense': 1.0, 'one_shot': 1.0}.get(
        method, 1 - sparsity / 2
      ),
      'inference_flops_ratio': 1 - sparsity,
    }
    for method in methods
    for distribution in (
      distributions[:1] if method == 'dense' else distributions
    )
    for sparsity in ((0.0,) if method == 'dense' else sparsities)
    for alpha in alphas
    for rate in rates
    for seed in range(seeds)
  ]


def _lose(rows, **which):
  """The rows, those diverged in which all of these fields are so."""
  return [
    row | {'test_nll': math.nan} if which.items() <= row.items() else row
    for row in rows
  ]


def _metrics(rows):
  """Two steps of every sparse net; the first of `iterative` is dense."""
  out = []
  for row in rows:
    who = ('transform', 'alpha', 'learning_rate', 'seed')
    line = {k: row[k] for k in ('method', 'distribution', 'sparsity', *who)}
    if row['method'] == 'dense':
      out.append({k: row[k] for k in who} | {'step': 10, 'loss': 1.0})
      continue
    for step in (10, 20):
      early = row['method'] == 'iterative' and step == 10
      # Seeds may differ by rounding.
      share = (1.0 if early else row['density']) + 1e-8 * row['seed']
      out.append(line | {'step': step, 'density': share})
  return out


def _write(folder, rows, records=None, metrics=()):
  folder.mkdir(parents=True, exist_ok=True)
  results = {'rows': rows, 'plans': []}
  (folder / 'results.json').write_bytes(files.to_json(results))
  if records:
    np.savez(folder / 'records.npz', **records)
  text = ''.join(json.dumps(line) + '\n' for line in metrics)
  (folder / 'metrics.jsonl').write_text(text, encoding='utf-8')


def _labels(legend):
  return [text.get_text() for text in legend.get_texts()]


def _lines(axes):
  """The lines that have points: level lines and handles have none."""
  return [line for line in axes.lines if line.get_marker() != 'None']


def test_no_two_methods_look_alike():
  methods = [*sparse_analysis.METHODS, *(f'mine{i}' for i in range(40))]
  marks = curves.marks_of(methods)
  assert len(set(marks.values())) == len(methods)
  few = list(curves.marks_of(methods[:8]).values())
  assert len({mark.colour for mark in few}) == 8


def test_accuracy_has_a_line_for_every_method_and_choice():
  rows = _rows()
  (axes,) = sparse_plots.accuracy_vs_sparsity(rows).axes
  legend = axes.get_legend()
  lines = _lines(axes)
  assert [line.get_linestyle() for line in lines] == ['--', '-', '--', '-']
  assert len({line.get_color() for line in lines}) == 2
  assert len(axes.collections) == 4  # bands
  x, y = lines[1].get_data()
  np.testing.assert_allclose(x, [0.2, 0.1])
  means = [
    100 * np.mean([r['test_accuracy'] for r in rows if _is(r, sparsity)])
    for sparsity in (0.8, 0.9)
  ]
  np.testing.assert_allclose(y, means)
  expected = ['dense', 'iterative', 'RigL', 'α = 1', 'Powerprop']
  assert _labels(legend) == expected
  assert legend.get_title().get_text() == 'mean ± std, 2 runs'
  assert len(axes.lines) == 4 + 2  # dense nets are level lines


def _is(row, sparsity):
  return (row['method'], row['sparsity'], row['alpha']) == (
    'iterative',
    sparsity,
    2.0,
  )


def test_only_what_was_chosen_on_validation_is_drawn():
  rows = _rows(alphas=(1.0, 2.0), rates=(0.1, 0.5))
  worse = [r | {'test_accuracy': 0.99} for r in rows if _rate(r) == 0.5]
  better = [r for r in rows if _rate(r) == 0.1]
  (axes,) = sparse_plots.accuracy_vs_sparsity([*worse, *better]).axes
  assert max(line.get_ydata().max() for line in _lines(axes)) < 50


def _rate(row):
  return row['learning_rate']


def test_every_distribution_has_a_panel():
  rows = _rows(distributions=('uniform', 'erk'))
  for figure in (
    sparse_plots.accuracy_vs_sparsity(rows),
    sparse_plots.density_over_steps(_metrics(rows)),
  ):
    titles = [axes.get_title('left') for axes in figure.axes]
    assert [name.split(',')[0] for name in titles] == ['ERK', 'uniform']


def test_one_sparsity_has_a_row_for_every_method():
  figure = sparse_plots.accuracy_vs_sparsity(_rows(sparsities=(0.95,)))
  ((axes,), (legend,)) = figure.axes, figure.legends
  names = [label.get_text() for label in axes.get_yticklabels()]
  assert names == ['dense', 'iterative', 'RigL']
  assert axes.get_title('left') == 'ERK, 95% sparsity'
  assert [text.get_text() for text in axes.texts] == ['α = 2'] * 3
  assert _labels(legend) == ['α = 1', 'Powerprop, α at the right']
  heights = sorted(float(line.get_ydata()[0]) for line in _lines(axes))
  np.testing.assert_allclose(np.round(heights), [0, 0, 1, 1, 2, 2])


def test_one_seed_has_no_band():
  figure = sparse_plots.accuracy_vs_sparsity(_rows(seeds=1))
  assert not figure.axes[0].collections
  legend = figure.axes[0].get_legend()
  assert legend.get_title().get_text() == 'one run each'


def test_flops_have_a_panel_for_at_most_four_sparsities():
  rows = _rows(sparsities=(0.5, 0.6, 0.7, 0.8, 0.9, 0.95))
  figure = sparse_plots.accuracy_vs_flops(rows)
  titles = [axes.get_title('left') for axes in figure.axes]
  assert titles[0] == 'ERK, 50% sparsity' and titles[-1] == 'ERK, 95% sparsity'
  assert len(titles) == 4
  points = [line.get_xdata() for line in _lines(figure.axes[-1])]
  ratios = {float(x[0]) for x in points if len(x) == 1}
  assert ratios == {1.0, 1 - 0.95 / 2}
  # A dense net trained M times as long stands at M, and the label says why.
  assert 'multiplier 1' in figure.get_supxlabel()


def test_one_shot_shows_accuracy_and_gains_of_every_alpha():
  rows = _rows(('one_shot',), (0.5, 0.8, 0.9), (1.0, 2.0, 3.0), (0.1, 0.5))
  top, bottom = sparse_plots.one_shot(rows).axes
  assert len(_lines(top)) == 3 and len(_lines(bottom)) == 2
  expected = ['α = 1, lr 0.1', 'α = 2, lr 0.1', 'α = 3, lr 0.1']
  assert _labels(bottom.get_legend()) == expected
  for line, gain in zip(_lines(bottom), (10, 20), strict=True):
    np.testing.assert_allclose(line.get_ydata(), gain, atol=1)
  colours = [line.get_color() for line in _lines(bottom)]
  assert colours == [line.get_color() for line in _lines(top)][1:]


def test_one_shot_without_a_baseline_has_no_gains():
  rows = _rows(('one_shot',), alphas=(2.0, 3.0))
  (axes,) = sparse_plots.one_shot(rows).axes
  assert _labels(axes.get_legend()) == ['α = 2', 'α = 3']
  # Where only a part of the baseline diverged, the gains are of the rest.
  rows = _rows(('one_shot',), (0.8, 0.9), seeds=1)
  rows = _lose(rows, alpha=1.0, sparsity=0.9)
  _, bottom = sparse_plots.one_shot(rows).axes
  (line,) = _lines(bottom)
  np.testing.assert_allclose(line.get_xdata(), [0.2])


def test_sweep_rings_what_is_chosen_and_crosses_what_diverged():
  rows = _rows(('rigl',), (0.9,), (1.0, 2.0), (0.1, 0.5, 1.0))
  rows = _lose(rows, alpha=2.0, learning_rate=0.5, seed=1)
  (axes,) = sparse_plots.learning_rate_sweep(rows).axes
  rings = [line for line in axes.lines if line.get_fillstyle() == 'none']
  assert [float(ring.get_xdata()[0]) for ring in rings] == [0.1, 0.1]
  (cross,) = (line for line in axes.lines if line.get_marker() == 'x')
  assert float(cross.get_xdata()[0]) == 0.5
  ticks = [label.get_text() for label in axes.get_xticklabels()]
  assert ticks == ['0.1', '0.5', '1']


def test_sweep_has_a_panel_for_at_most_three_sparsities_of_a_method():
  rows = _rows(sparsities=(0.5, 0.7, 0.8, 0.9, 0.95), rates=(0.1, 0.5))
  figure = sparse_plots.learning_rate_sweep(rows)
  titles = [axes.get_title('left') for axes in figure.axes]
  assert titles[:2] == ['dense', 'iterative, ERK, 50%']
  assert len(titles) == 1 + 3 + 3


def test_smallest_weights_have_area_one():
  rng = np.random.default_rng(0)
  records = {
    f'smallest/{alpha}': np.sort(scale * rng.uniform(-1, 1, 1000))
    for alpha, scale in ((1, 0.1), (1.5, 0.01))
  } | {'other': np.zeros(3)}
  (axes,) = sparse_plots.smallest_weights(records).axes
  assert _labels(axes.get_legend()) == ['α = 1', 'α = 1.5']
  for patch in axes.patches:
    density, edges, _ = patch.get_data()
    assert np.nansum(density * np.diff(edges)) == pytest.approx(1)
  assert len(axes.patches) == 2


def test_density_over_steps_joins_methods_of_the_same_course():
  rows = _rows(('dense', 'iterative', 'static', 'rigl'), (0.8, 0.9))
  (axes,) = sparse_plots.density_over_steps(_metrics(rows)).axes
  legend = axes.get_legend()
  assert axes.get_title('left') == 'ERK, 90% sparsity'
  assert _labels(legend) == ['iterative', 'static\nRigL']
  courses = [line.get_ydata() for line in axes.lines]
  np.testing.assert_allclose(courses, [[100, 10], [10, 10]])
  # Masks change at once: between two marks the first one's value holds.
  assert {line.get_drawstyle() for line in axes.lines} == {'steps-post'}


def _stems(paths):
  return {path.stem for path in paths}


def test_draw_writes_every_figure(tmp_path):
  rows = _rows((*_METHODS, 'one_shot'), rates=(0.1, 0.5))
  rows = _lose(rows, method='rigl', alpha=2.0)
  _write(tmp_path, rows, {'smallest/1': np.arange(9.0)}, _metrics(rows))
  paths = sparse_plots.draw(tmp_path)
  assert _stems(paths) == {
    'accuracy_vs_sparsity',
    'accuracy_vs_flops',
    'one_shot',
    'learning_rate_sweep',
    'smallest_weights',
    'density_over_steps',
  }
  assert sorted(paths) == sorted((tmp_path / 'figures').iterdir())
  for path in paths:
    kind = {'.png': b'\x89PNG', '.pdf': b'%PDF'}[path.suffix]
    assert path.read_bytes().startswith(kind)


@pytest.mark.usefixtures('only_pictures')
def test_draw_gives_the_same_bytes_again(tmp_path):
  _write(tmp_path, _rows(seeds=1))
  first = {path: path.read_bytes() for path in sparse_plots.draw(tmp_path)}
  again = {path: path.read_bytes() for path in sparse_plots.draw(tmp_path)}
  assert first and again == first


@pytest.mark.usefixtures('sketched')
@pytest.mark.parametrize('alphas', [(1.0,), (2.0,)])
def test_draw_small_runs(tmp_path, alphas):
  _write(tmp_path, _rows(('rigl', 'set'), (0.9,), alphas, seeds=1))
  assert _stems(sparse_plots.draw(tmp_path)) == {'accuracy_vs_sparsity'}


@pytest.mark.parametrize(
  'rows', [[], _rows(('dense',)), _lose(_rows(('rigl',)), method='rigl')]
)
def test_draw_where_there_is_nothing_to_draw(tmp_path, rows):
  _write(tmp_path, rows)
  assert sparse_plots.draw(tmp_path) == []


def test_draw_without_results_says_so(tmp_path):
  with pytest.raises(FileNotFoundError, match='results.json'):
    sparse_plots.draw(tmp_path)


@pytest.mark.parametrize(
  ('name', 'content', 'says'),
  [
    ('results.json', '{', 'results.json cannot be read'),
    ('records.npz', 'PK', 'records.npz cannot be read'),
  ],
)
def test_draw_names_a_file_that_it_cannot_read(tmp_path, name, content, says):
  _write(tmp_path, _rows(('rigl',), (0.9,), seeds=1))
  (tmp_path / name).write_text(content, encoding='utf-8')
  with pytest.raises(ValueError, match=says):
    sparse_plots.draw(tmp_path)
  assert not (tmp_path / 'figures').exists()
