"""What every figure keeps to, over the figures of all three experiments."""

import collections
import functools
import itertools
import re
import zlib

import matplotlib
from matplotlib import colors
from matplotlib.collections import PathCollection
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
import numpy as np
import pytest

from experiments.continual import plots as continual_plots
from experiments.one_shot import plots
from experiments.report import statistics
from experiments.report import style
from experiments.sparse_training import plots as sparse_plots
from tests import continual_tiny
from tests.experiments.one_shot import test_plots
from tests.experiments.sparse_training import test_plots as test_sparse_plots

_MANY = [f'method_{i}' for i in range(9)]


@functools.cache
def _one_shot():
  """A run whose means come near 100%, in which two curves coincide."""
  results, records = test_plots._run(
    ('powerprop', 'adaptive_powerprop'), (1.0, 4.0)
  )
  rows = [
    row | {'test_accuracy': 0.9 + 0.1 * (row['seed'] < 2)}
    if row['density'] == 1
    else row
    for row in results['rows']
  ]
  results = test_plots._summarised(results | {'rows': rows})
  return test_plots._lose(results, 4.0, {0}), records


@functools.cache
def _sparse(methods=('dense', *_MANY), sparsities=(0.8, 0.9)):
  rows = test_sparse_plots._rows(methods, sparsities, rates=(0.1, 0.5))
  rows = [
    row | {'test_accuracy': 0.5 + row['test_accuracy'] * (1 - row['seed'] / 2)}
    for row in rows
  ]
  return test_sparse_plots._lose(rows, method='method_3', alpha=2.0, seed=1)


@functools.cache
def _continual(methods, alphas):
  """Courses near 100%."""
  return continual_tiny.run(
    continual_tiny.member(method, alpha, seed=seed, tasks=4)
    for method in methods
    for alpha in alphas
    for seed in range(3)
  )


_FEW = (('ewc', 'packnet'), (1.0, 2.0))
_CROWD = (('naive', 'packnet'), (1.0, 1.5, 2.0, 3.0, 4.0))


@functools.cache
def _figures():
  """Every figure, by experiment and name, once for all tests."""
  figures = {
    f'one_shot/{fn.__name__}': fn(*_one_shot())
    for fn in plots._supported(*_one_shot())
  }
  metrics = test_sparse_plots._metrics(test_sparse_plots._rows())
  smallest = {'smallest/1': np.linspace(-1, 1, 999)}
  smallest['smallest/2'] = smallest['smallest/1'] ** 3
  rows = [
    *_sparse(),
    *test_sparse_plots._rows(('one_shot',), (0.8, 0.9)),
  ]
  for key, figure in sparse_plots._figures({'rows': rows}, smallest, metrics):
    figures[f'sparse/{key}'] = figure
  figures['sparse/rows'] = sparse_plots.accuracy_vs_sparsity(
    _sparse(sparsities=(0.9,))
  )
  for key, figure in continual_plots._figures(*_continual(*_FEW)):
    figures[f'continual/{key}'] = figure
  figures['continual/crowd'] = continual_plots.average_accuracy(
    *_continual(*_CROWD)
  )
  for figure in figures.values():
    figure.draw_without_rendering()  # the layout is made when it is drawn
  return figures


def _panels():
  return [
    (f'{name}[{i}]', axes)
    for name, figure in _figures().items()
    for i, axes in enumerate(figure.axes)
  ]


def _courses(axes):
  """The lines of a panel that say something: not level, not a frame's."""
  return [
    line
    for line in axes.lines
    if len(line.get_xdata()) > 1
    and line.get_linestyle() != 'None'
    and line.get_transform() != axes.get_yaxis_transform()
  ]


def test_every_figure_is_there():
  names = {name.split('/')[1] for name in _figures()}
  assert names == {
    *('accuracy_vs_density', 'mask_overlap', 'weight_change', 'figure1'),
    *('histograms', 'alpha_over_steps', 'accuracy_vs_sparsity'),
    *('accuracy_vs_flops', 'one_shot', 'learning_rate_sweep'),
    *('smallest_weights', 'density_over_steps', 'average_accuracy'),
    *('used_weights', 'masks', 'accuracy_matrix', 'overlap', 'crowd', 'rows'),
  }


def test_no_legend_and_no_text_covers_data():
  for name, figure in _figures().items():
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    for legend, axes in itertools.product(filter(None, legends), figure.axes):
      box, panel = legend.get_window_extent(), axes.get_window_extent()
      assert not box.overlaps(panel), (name, axes.get_title('left'))


def test_legends_are_inside_the_figure():
  for name, figure in _figures().items():
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    for legend in filter(None, legends):
      box, whole = legend.get_window_extent(), figure.bbox
      assert box.x0 >= -1 and box.x1 <= whole.x1 + 1, name
      assert box.y0 >= -1 and box.y1 <= whole.y1 + 1, name


def test_no_panel_has_more_lines_than_can_be_read():
  for name, axes in _panels():
    assert len(_courses(axes)) <= style.MOST, name


def test_lines_of_a_panel_differ():
  for name, axes in _panels():
    looks = collections.Counter(
      (colors.to_hex(line.get_color()), str(line.get_linestyle()))
      for line in _courses(axes)
      if line.get_linewidth() > 1
    )
    assert not looks or max(looks.values()) == 1, (name, looks)


def test_colours_are_told_apart():
  rgb = np.array([colors.to_rgb(c) for c in (*style.PALETTE, style.BASELINE)])
  distance = np.linalg.norm(rgb[:, None] - rgb, axis=-1)
  assert distance[~np.eye(len(rgb), dtype=bool)].min() > 0.2


def test_shares_and_their_bands_stay_between_0_and_100():
  seen = 0
  for name, axes in _panels():
    for which, label in (('y', axes.get_ylabel()), ('x', axes.get_xlabel())):
      if 'accuracy (%)' not in label and 'use (%)' not in label:
        continue
      column = {'x': 0, 'y': 1}[which]
      low, high = axes.get_ylim() if which == 'y' else axes.get_xlim()
      assert -2 <= low < high <= 102, name
      for band in axes.collections:
        if isinstance(band, PathCollection):
          continue
        seen += isinstance(band, PolyCollection)
        for path in band.get_paths():
          values = path.vertices[:, column]
          assert values.min() >= -1e-9 and values.max() <= 100 + 1e-9, name
          # Nor does the frame cut what is drawn.
          assert low <= values.min() and values.max() <= high, name
  assert seen > 10


def test_whiskers_end_where_a_share_does():
  down, up = style.whiskers([50.0, 99.0, 1.0, 100.5], [5.0, 3.0, 2.0, 1.0])
  np.testing.assert_allclose(down, [5, 3, 1, 1])
  np.testing.assert_allclose(up, [5, 1, 2, 0])


def test_costs_are_on_a_logarithmic_axis_with_plain_ticks():
  figure = _figures()['sparse/accuracy_vs_flops']
  for axes in figure.axes:
    assert axes.get_xscale() == 'log'
  labels = [t.get_text() for t in figure.axes[-1].get_xticklabels()]
  assert len(labels) >= 3 and all(float(label) > 0 for label in labels)


def test_a_crowd_is_ranked_by_where_it_ends():
  results, _ = _continual(*_CROWD)
  figure = _figures()['continual/crowd']
  (axes,) = figure.axes
  ranked = [label.get_text() for label in axes.get_yticklabels()]
  best = {}
  for entry in results['summary']:
    name = continual_plots.title(entry['method'])
    best[name] = max(best.get(name, 0), entry['average_accuracy_mean'])
  assert ranked == sorted(best, key=lambda name: -best[name])
  assert 'after 4 tasks' in axes.get_xlabel()
  labels = [text.get_text() for text in figure.legends[0].get_texts()]
  assert labels == [f'α = {alpha:g}' for alpha in _CROWD[1]]
  assert '95% interval' in figure.legends[0].get_title().get_text()


def test_curves_that_coincide_are_said_to():
  results, records = _continual(*_FEW)
  copy = [row | {'alpha': 3.0} for row in results['rows'] if row['alpha'] == 2]
  records = records | {
    name.replace('alpha_2', 'alpha_3'): array for name, array in records.items()
  }
  twice = results | {'rows': [*results['rows'], *copy]}
  (axes,) = continual_plots.average_accuracy(twice, records).axes
  labels = [text.get_text() for text in axes.get_legend().get_texts()]
  assert 'PackNet, α = 2\n= PackNet, α = 3' in labels
  assert len(_courses(axes)) == len(labels) == 4

  results, records = _one_shot()
  copy = [
    row | {'transform': 'chain_rule'}
    for row in results['rows']
    if row['alpha'] == 1 and row['transform'] == 'powerprop'
  ]
  twice = test_plots._summarised({'rows': [*results['rows'], *copy]})
  figure = plots.accuracy_vs_density(twice, records)
  labels = [text.get_text() for text in figure.legends[0].get_texts()]
  assert 'coincide: α = 1; α = 1, naive chain rule' in labels


def test_marks_are_explained():
  figure = _figures()['sparse/learning_rate_sweep']
  labels = [text.get_text() for text in figure.legends[0].get_texts()]
  assert {'chosen on validation', 'a seed diverged'} <= set(labels)
  histograms = _figures()['one_shot/histograms']
  assert 'outermost bins hold all weights beyond' in histograms.get_supxlabel()
  maps = _figures()['continual/accuracy_matrix']
  assert '(grey: not measured)' in maps.axes[-1].get_ylabel()


def test_many_settings_are_split_into_sets():
  results, records = test_plots._run(
    ('powerprop', 'chain_rule'), (1.0, 2.0, 3.0, 4.0, 5.0), seeds=1
  )
  sets = {name: part for name, part, _ in plots.parts(results, records)}
  assert list(sets) == ['_powerprop', '_chain_rule']
  for part in sets.values():
    assert {e['alpha'] for e in part['summary']} == {1.0, 2.0, 3.0, 4.0, 5.0}
  results, records = test_plots._run(alphas=np.arange(1.0, 13.0), seeds=1)
  ((_, part, arrays),) = plots.parts(results, records)
  alphas = [entry['alpha'] for entry in part['analysis']]
  assert len(alphas) == style.MOST and alphas[0] == 1 and alphas[-1] == 12
  assert part['left_out'] == 4
  np.testing.assert_array_equal(arrays['g7/final'], records['g11/final'])


def test_bins_are_fine_where_weights_are():
  rng = np.random.default_rng(0)
  weights = rng.normal(size=10_000) ** 3  # heavy tails
  edges = statistics.histogram_edges([weights], np.abs(weights).max(), 161)
  assert np.all(np.diff(edges) > 0) and len(edges) == 162
  counts, _ = np.histogram(weights, edges)
  assert counts.sum() == weights.size
  equal, _ = np.histogram(weights, 161)
  assert 2 * counts.max() < equal.max()


def _saved(folder):
  with style.paper():
    figure = Figure(figsize=(2, 1))
    axes = figure.add_subplot()
    axes.plot([1, 2], color=style.COLOURS[0])
    axes.set(title='α = 2, θ', ylabel='accuracy (%)')
  return [path.read_bytes() for path in style.save(figure, folder / 'it')]


def test_files_do_not_depend_on_the_users_settings(tmp_path):
  ours = _saved(tmp_path)
  theirs = {'text.usetex': True, 'pdf.fonttype': 3, 'font.size': 20.0}
  theirs |= {'axes.grid': False, 'savefig.dpi': 30, 'pdf.compression': 0}
  with matplotlib.rc_context(theirs):
    assert _saved(tmp_path) == ours


def test_files_do_not_say_when_and_by_what_they_were_made(tmp_path):
  png, pdf = _saved(tmp_path)
  assert b'Software' not in png and b'CreationDate' not in pdf


def test_pdfs_have_no_type_3_fonts(tmp_path):
  _, pdf = _saved(tmp_path)
  kinds = _fonts(pdf)
  assert kinds and kinds <= {'Type0', 'TrueType', 'CIDFontType2'}


def _fonts(pdf):
  """Kinds of fonts in a PDF, those of compressed parts too."""
  parts = [pdf]
  for stream in re.findall(rb'stream\r?\n(.*?)\r?\nendstream', pdf, re.S):
    try:
      parts.append(zlib.decompress(stream))
    except zlib.error:
      pass
  found = re.findall(
    rb'/Subtype\s*/(Type0|Type1|Type3|TrueType|CIDFontType2)', b'\n'.join(parts)
  )
  return {name.decode() for name in found}


def test_settings_of_the_user_are_left_as_they_were():
  with matplotlib.rc_context({'font.size': 17.0}):
    with style.paper():
      assert matplotlib.rcParams['font.size'] == 10
      assert matplotlib.rcParams['ps.fonttype'] == 42
    assert matplotlib.rcParams['font.size'] == 17


@pytest.mark.parametrize('name', sorted({'one_shot', 'sparse', 'continual'}))
def test_text_of_figures_has_no_raw_names(name):
  """A config's names, with underscores, are for configs."""
  for key, figure in _figures().items():
    if key.startswith(name):
      for text in figure.findobj(matplotlib.text.Text):
        if text.get_visible():
          assert not re.search('[a-z]_[a-z]', text.get_text()), key


def _texts(figure):
  return {text.get_text() for text in figure.findobj(matplotlib.text.Text)}


def test_labels_of_the_config_name_what_is_drawn():
  results, records = _one_shot()
  labels = {'powerprop': 'ours', 'adaptive_powerprop': 'ours, adaptive'}
  figure = plots.figure1(results | {'labels': labels}, records)
  assert set(labels.values()) <= _texts(figure)

  labels = {'method_1': 'RigL, regrow 0.25', 'erk': 'by layer'}
  results = {'rows': _sparse(sparsities=(0.9,)), 'labels': labels}
  metrics = test_sparse_plots._metrics(results['rows'])
  for name, figure in sparse_plots._figures(results, {}, metrics):
    texts = '\n'.join(_texts(figure))
    assert 'RigL, regrow 0.25' in texts and 'method 1' not in texts, name
    assert 'by layer' in texts and 'ERK' not in texts, name

  labels = {'packnet': 'PackNet, T = 4'}
  results, records = _continual(*_FEW)
  results = results | {'labels': labels}
  for name, figure in continual_plots._figures(results, records):
    texts = '\n'.join(_texts(figure))
    assert 'PackNet, T = 4' in texts, name
