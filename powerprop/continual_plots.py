"""Figures of a run on a sequence of tasks, after the paper's Figure 4.

  python -m powerprop.continual_plots DIR [DIR ...]

draws DIR/figures/*.png and *.pdf again from DIR/results.json and
DIR/records.npz, without training anything. The folder of any run will do: those
of other experiments go to `powerprop.sparse_plots` and `powerprop.plots`.

Of every method and α the setting that is the best on validation data is shown.
Colours and markers stand for methods; α has a style of line, and the larger it
is, the darker. Where there is one method, colours stand for α. Lines of α = 1
are dashed.
"""

from collections.abc import Iterator, Mapping, Sequence
import math
import os
import pathlib
import sys
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from powerprop import continual_analysis
from powerprop import continual_panels
from powerprop import panels
from powerprop import plots
from powerprop import published
from powerprop import sparse_analysis
from powerprop import sparse_plots
from powerprop.continual_analysis import member_name
from powerprop.continual_analysis import title
from powerprop.continual_panels import Group
from powerprop.continual_panels import Key
from powerprop.continual_panels import Look
from powerprop.panels import Records

_LAYERS = 6  # panels of layers side by side, at most
_ACROSS = 4  # heat maps side by side
_SMALL = 20  # tasks of an accuracy matrix, at most

_TASKS = 'number of tasks'


@matplotlib.rc_context(panels.STYLE)
def average_accuracy(results: Mapping[str, Any], records: Records) -> Figure:
  """Accuracy on all tasks so far, over their number (Figure 4, left).

  Args:
    results: a run's record, with "rows"; where "dataset" is 'mnist' and
      "sequence" has 'permuted' in it, published numbers are shown as well.
    records: the run's arrays.

  Returns:
    A figure: a line and a band of ± one std for every method and α.
  """
  groups = continual_analysis.shown(results['rows'])
  looks = continual_panels.looks_of(list(groups))
  figure, axes, last = _courses(groups, looks)
  for key, group in groups.items():
    values = continual_panels.average_courses(group, records)
    continual_panels.draw_course(axes, values, looks[key])
  mnist = results.get('dataset') == 'mnist'
  if mnist and 'permuted' in results.get('sequence', ''):
    methods = {key[0] for key in groups}
    for line in published.PERMUTED_MNIST:
      # The paper's figure is what this one is to be compared with.
      shown = line.method in methods or line.source == published.FIGURE4
      if line.tasks <= last and shown:
        _mark(axes, line, last)
  axes.set(xlabel=_TASKS, ylabel='average test accuracy (%)')
  return figure


@matplotlib.rc_context(panels.STYLE)
def used_weights(
  groups: Mapping[Key, Group], looks: Mapping[Key, Look]
) -> Figure:
  """Share of the weights in use, over the number of tasks (Figure 4, right).

  Args:
    groups: by setting, the members, all of whose rows have "used_weights".
    looks: how a run's lines are drawn.

  Returns:
    A figure: a line and a band of ± one std for every method and α.
  """
  figure, axes, _ = _courses(groups, looks)
  for key, group in groups.items():
    values = continual_panels.used_courses(group)
    continual_panels.draw_course(axes, values, looks[key])
  axes.set(xlabel=_TASKS, ylabel='weights in use (%)')
  axes.set_ylim(bottom=0)
  return figure


@matplotlib.rc_context(panels.STYLE)
def masks(
  groups: Mapping[Key, Group],
  records: Records,
  layers: Sequence[str],
  sizes: Sequence[int],
) -> Figure:
  """How the masks of a method fill the net, layer by layer.

  Args:
    groups: by setting, the members of one method.
    records: arrays "used_by_layer", "new_by_layer" and "reused_by_layer" of
      all of them.
    layers: names of the layers.
    sizes: their numbers of weights.

  Returns:
    A figure with a column for each of at most six layers. On top, the share in
    use at every α; below, a row for each of at most four α: what each task
    takes, and what of it is new.
  """
  chosen = sparse_analysis.spread(range(len(layers)), _LAYERS)
  below = sparse_analysis.spread(list(groups), 4)
  down, across = 1 + len(below), len(chosen)
  figure = Figure(
    figsize=(2.2 + 2.4 * across, 0.8 + 1.9 * down), layout='constrained'
  )
  grid = figure.subplots(down, across, squeeze=False, sharex=True)
  looks = continual_panels.looks_of(list(groups))
  last = _last(groups)
  used = {
    key: continual_panels.layer_mean(group, records, 'used_by_layer')
    for key, group in groups.items()
  }
  for column, layer in zip(grid.T, chosen, strict=True):
    name = layers[layer].removesuffix('/w').split('/')[-1]
    column[0].set_title(f'{name}\n{sizes[layer]:,} weights', fontsize=10)
    for key in groups:
      values = 100 * used[key][None, :, layer]
      continual_panels.draw_course(column[0], values, looks[key])
    column[0].set_ylim(bottom=0)
    for axes, key in zip(column[1:], below, strict=True):
      parts = [
        100 * continual_panels.layer_mean(groups[key], records, part)[:, layer]
        for part in ('new_by_layer', 'reused_by_layer')
      ]
      continual_panels.draw_parts(axes, *(p / sizes[layer] for p in parts))
    highest = max(axes.get_ylim()[1] for axes in column[1:])
    for axes in column[1:]:
      axes.set_ylim(0, highest)
    continual_panels.task_axis(column[0], last)
    column[-1].set_xlabel('task')
  grid[0, 0].set_ylabel('in use (%)')
  for axes, key in zip(grid[1:, 0], below, strict=True):
    axes.set_ylabel(f'taken by task (%)\nα = {key[2]:g}')
  (name,) = {title(key[0]) for key in groups}
  figure.suptitle(name, x=0.01, ha='left', fontsize='large')
  handles = [
    *continual_panels.handles_of(groups, looks),
    *grid[1, 0].get_legend_handles_labels()[0],
  ]
  runs = continual_panels.runs_label(groups).replace('mean ± std', 'mean')
  figure.legend(
    handles=handles, loc='outside right upper', title=runs, alignment='left'
  )
  return figure


@matplotlib.rc_context(panels.STYLE)
def accuracy_matrix(groups: Mapping[Key, Group], records: Records) -> Figure:
  """Accuracy on every task after learning each, means over seeds.

  Args:
    groups: by setting, the members.
    records: the run's arrays.

  Returns:
    A figure with a heat map for every method and α; grey: not measured.
  """
  return _maps(
    {
      key: continual_panels.mean_matrix(
        [100 * continual_analysis.matrix_of(m, records) for m in group]
      )
      for key, group in groups.items()
    },
    ('accuracy on task', 'after learning task', 'test accuracy (%)'),
  )


@matplotlib.rc_context(panels.STYLE)
def overlap(groups: Mapping[Key, Group], records: Records) -> Figure:
  """How much of the weights of two tasks is of both, means over seeds.

  Args:
    groups: by setting, the members.
    records: arrays "overlap" of all of them.

  Returns:
    A figure with a heat map for every method and α.
  """
  maps = {}
  for key, group in groups.items():
    found = [100 * records[f'{member_name(m[0])}/overlap'] for m in group]
    matrix = continual_panels.mean_matrix(found).astype(np.float64)
    np.fill_diagonal(matrix, np.nan)  # always 100, it would hide the rest
    maps[key] = matrix
  return _maps(maps, ('task', 'task', 'Jaccard overlap of masks (%)'))


def draw(workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Draws every figure that a run's records support.

  Files appear whole or not at all, and are the same bytes for the same records.

  Args:
    workdir: a run's folder, with results.json and, for the figures that need
      it, records.npz.

  Returns:
    The files written, under workdir/figures.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: a file cannot be read.
  """
  workdir = pathlib.Path(workdir)
  results, records = plots.load(workdir)
  written = []
  for name, figure in _figures(results, records):
    written += plots.save(figure, workdir / 'figures' / name)
  return written


def main(arguments: Sequence[str] | None = None) -> int:
  """Redraws the figures of the folders named on the command line."""
  return plots.redraw('powerprop.continual_plots', _draw_any, arguments)


def _draw_any(workdir: str) -> list[pathlib.Path]:
  """Draws a run of any experiment; sparse training has plans."""
  results, _ = plots.load(workdir)
  if results.get('experiment') == 'continual':
    return draw(workdir)
  return (
    sparse_plots.draw(workdir) if 'plans' in results else plots.draw(workdir)
  )


def _figures(
  results: Mapping[str, Any], records: Records
) -> Iterator[tuple[str, Figure]]:
  groups = continual_analysis.shown(results.get('rows', []))
  if not groups:
    return
  yield 'average_accuracy', average_accuracy(results, records)
  finite = continual_analysis.finite
  masked = {
    key: group
    for key, group in groups.items()
    if all(finite(row['used_weights']) for m in group for row in m)
  }
  if masked:
    looks = continual_panels.looks_of(list(groups))
    yield 'used_weights', used_weights(masked, looks)
  names = ('used_by_layer', 'new_by_layer', 'reused_by_layer')
  by_layer = _having(masked, records, *names)
  methods = list(dict.fromkeys(key[0] for key in by_layer))
  for method in methods:
    mine = {key: g for key, g in by_layer.items() if key[0] == method}
    figure = masks(mine, records, results['layers'], results['layer_sizes'])
    yield 'masks' if len(methods) == 1 else f'masks_{method}', figure
  short = {
    key: group
    for key, group in _having(groups, records, 'accuracy').items()
    if 1 < max(map(len, group)) <= _SMALL
  }
  if short:
    yield 'accuracy_matrix', accuracy_matrix(short, records)
  compared = {
    key: group
    for key, group in _having(groups, records, 'overlap').items()
    if min(map(len, group)) > 1
  }
  if compared:
    yield 'overlap', overlap(compared, records)


def _having(
  groups: Mapping[Key, Group], records: Records, *names: str
) -> dict[Key, Group]:
  """The groups all of whose members have these arrays."""
  return {
    key: group
    for key, group in groups.items()
    if all(f'{member_name(m[0])}/{n}' in records for m in group for n in names)
  }


def _last(groups: Mapping[Key, Group]) -> int:
  return max(len(member) for group in groups.values() for member in group)


def _courses(
  groups: Mapping[Key, Group], looks: Mapping[Key, Look]
) -> tuple[Figure, Axes, int]:
  """A figure of one panel over the number of tasks, with its legend."""
  height = max(4.0, 0.8 + 0.2 * len(groups))
  figure = Figure(figsize=(7.4, height), layout='constrained')
  axes, last = figure.add_subplot(), _last(groups)
  continual_panels.task_axis(axes, last)
  figure.legend(
    handles=continual_panels.handles_of(groups, looks),
    loc='outside right upper',
    title=continual_panels.runs_label(groups),
    alignment='left',
  )
  return figure, axes, last


def _mark(axes: Axes, line: published.Learned, last: int) -> None:
  """A ring where a published number is, and its method's name beside it."""
  left = line.tasks > last / 2
  axes.plot(
    line.tasks,
    line.number.accuracy,
    marker='o',
    markersize=8,
    fillstyle='none',
    color=panels.BASELINE,
    linestyle='',
    clip_on=False,
    zorder=4,
  )
  axes.annotate(
    f'{title(line.method)}, published',
    (line.tasks, line.number.accuracy),
    xytext=(-9 if left else 9, 0),
    textcoords='offset points',
    ha='right' if left else 'left',
    va='center',
    fontsize=8,
    bbox={'color': 'white', 'alpha': 0.7, 'pad': 0.5},
  )


def _maps(
  maps: Mapping[Key, np.ndarray], labels: tuple[str, str, str]
) -> Figure:
  """Heat maps with colours of the same scale."""
  across = min(_ACROSS, len(maps))
  down = math.ceil(len(maps) / across)
  figure = Figure(
    figsize=(1.6 + 2.6 * across, 0.7 + 2.7 * down), layout='compressed'
  )
  values = np.concatenate([matrix.ravel() for matrix in maps.values()])
  limits = float(np.nanmin(values)), float(np.nanmax(values))
  text = max(map(len, maps.values())) <= 10
  every = []
  for i, (key, matrix) in enumerate(maps.items()):
    axes = figure.add_subplot(down, across, i + 1)
    every.append(axes)
    image = continual_panels.draw_map(axes, matrix, limits, text)
    axes.set_title(continual_panels.label_of(key, maps), fontsize=10)
    if i % across == 0:
      axes.set_ylabel(labels[1])
    if i >= len(maps) - across:
      axes.set_xlabel(labels[0])
  figure.colorbar(image, ax=every, label=labels[2], aspect=15 * down)
  return figure


if __name__ == '__main__':
  sys.exit(main())
