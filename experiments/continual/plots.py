"""Figures of a run on a sequence of tasks, after the paper's Figure 4.

`draw` makes DIR/figures/*.png and *.pdf from DIR/results.json and
DIR/records.npz, without training anything.

Of every method and α the setting that is the best on validation data is shown.
Colours and markers stand for methods; α has a style of line, and the larger it
is, the darker. Where there is one method, colours stand for α. Lines of α = 1
are dashed.
"""

from collections.abc import Iterator, Mapping, Sequence
import math
import os
import pathlib
import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

from experiments.continual import analysis as continual_analysis
from experiments.continual import panels as continual_panels
from experiments.continual import tasks as continual_tasks
from experiments.continual.analysis import title
from experiments.continual.panels import Group
from experiments.continual.panels import Key
from experiments.continual.panels import LineLook
from experiments.report import files
from experiments.report import published
from experiments.report import statistics
from experiments.report import style
from experiments.report.curves import Records
from experiments.report.naming import net_name
from experiments.report.naming import NO_LABELS

_LAYERS = 6  # panels of layers side by side, at most
_ACROSS = 4  # heat maps side by side
_SMALL = 20  # tasks of an accuracy matrix, at most

_RINGS = 'osD^v'  # around published numbers


@style.paper()
def average_accuracy(results: Mapping[str, Any], records: Records) -> Figure:
  """Accuracy on all tasks so far, over their number (Figure 4, left).

  Args:
    results: a run's record, with "rows"; where "dataset" is 'mnist' and
      "sequence" has 'permuted' in it, published numbers are shown as well.
    records: the run's arrays.

  Returns:
    A figure: a line and a band of ± one std for every method and α; or, where
    they are more than can be read, a row for each method of where they end.
  """
  groups = _shown(results)
  there: list[published.Average] = []
  mnist = results.get('dataset') == 'mnist'
  if mnist and results.get('sequence') == 'permuted':
    methods = {key[0] for key in groups}
    # The paper's figure is what this one is to be compared with.
    known = published.averages(methods)
    there = [
      line
      for line in published.PERMUTED_MNIST
      if line in known or line.source == published.FIGURE4
    ]
  return _lines(
    groups,
    {
      key: continual_panels.average_courses(group, records)
      for key, group in groups.items()
    },
    continual_panels.looks_of(list(groups)),
    'average test accuracy (%)',
    results.get('labels', {}),
    there,
  )


@style.paper()
def used_weights(
  groups: Mapping[Key, Group],
  looks: Mapping[Key, LineLook],
  labels: Mapping[str, str] = NO_LABELS,
) -> Figure:
  """Share of the weights in use, over the number of tasks (Figure 4, right).

  Args:
    groups: by setting, the members, all of whose rows have "used_weights".
    looks: how a run's lines are drawn.
    labels: what the config calls methods and transforms.

  Returns:
    A figure in the manner of `average_accuracy`.
  """
  courses = {
    key: continual_panels.used_courses(group) for key, group in groups.items()
  }
  return _lines(
    groups, courses, looks, 'weights in use (%)', labels, fewer=True
  )


@style.paper()
def masks(
  groups: Mapping[Key, Group],
  records: Records,
  layers: Mapping[str, int],
  labels: Mapping[str, str] = NO_LABELS,
  of: str = 'weights',
  numbers: Sequence[published.Usage] = (),
) -> Figure:
  """How the masks of a method fill the net, layer by layer.

  Args:
    groups: by setting, the members of one method.
    records: arrays "used_by_layer", "new_by_layer" and "reused_by_layer" of
      all of them.
    layers: by name, how many weights (or units) a layer has.
    labels: what the config calls methods and transforms.
    of: what the masks are of, 'weights' or 'units'.
    numbers: published shares in use, of as many layers.

  Returns:
    A figure with a column for each of at most six layers. On top, the share in
    use at every α; below, a row for each of at most four α: what each task
    takes, and what of it is new.
  """
  chosen = statistics.spread(range(len(layers)), _LAYERS)
  below = statistics.spread(list(groups), 4)
  down, across = 1 + len(below), len(chosen)
  figure = Figure(
    figsize=(2.2 + 2.4 * across, 0.8 + 1.9 * down), layout='constrained'
  )
  grid = figure.subplots(down, across, squeeze=False, sharex=True)
  looks = continual_panels.looks_of(list(groups))
  last = continual_analysis.longest(groups)
  used = {
    key: continual_panels.layer_mean(group, records, 'used_by_layer')
    for key, group in groups.items()
  }
  for column, layer in zip(grid.T, chosen, strict=True):
    name, size = list(layers.items())[layer]
    name = name.removesuffix('/w').split('/')[-1]
    column[0].set_title(f'{name}\n{size:,} {of}', fontsize=10)
    for key in groups:
      values = 100 * used[key][None, :, layer]
      continual_panels.draw_course(column[0], values, looks[key])
    stars = [
      continual_panels.draw_published(column[0], n.tasks, n.shares[layer])
      for n in numbers
      if n.tasks <= last
    ]
    column[0].set_ylim(bottom=0)
    for axes, key in zip(column[1:], below, strict=True):
      parts = [
        100 * continual_panels.layer_mean(groups[key], records, part)[:, layer]
        for part in ('new_by_layer', 'reused_by_layer')
      ]
      continual_panels.draw_parts(axes, *(p / size for p in parts))
    highest = max(axes.get_ylim()[1] for axes in column[1:])
    for axes in column[1:]:
      axes.set_ylim(0, highest)
    continual_panels.task_axis(column[0], last)
    column[-1].set_xlabel('task')
  grid[0, 0].set_ylabel('in use (%)')
  for axes, key in zip(grid[1:, 0], below, strict=True):
    axes.set_ylabel(f'taken by task (%)\nα = {key[2]:g}')
  (name,) = {title(key[0], labels) for key in groups}
  figure.suptitle(name, x=0.01, ha='left', fontsize='large')
  handles = [
    *continual_panels.handles_of(groups, looks, labels),
    *grid[1, 0].get_legend_handles_labels()[0],
  ]
  handles += stars[:1]
  runs = continual_panels.runs_label(groups).replace('mean ± std', 'mean')
  figure.legend(
    handles=handles, loc='outside right upper', title=runs, alignment='left'
  )
  return figure


@style.paper()
def accuracy_matrix(
  groups: Mapping[Key, Group],
  records: Records,
  labels: Mapping[str, str] = NO_LABELS,
) -> Figure:
  """Accuracy on every task after learning each, means over seeds.

  Args:
    groups: by setting, the members.
    records: the run's arrays.
    labels: what the config calls methods and transforms.

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
    labels,
    'grey: not measured',
  )


@style.paper()
def overlap(
  groups: Mapping[Key, Group],
  records: Records,
  labels: Mapping[str, str] = NO_LABELS,
) -> Figure:
  """How much of the weights of two tasks is of both, means over seeds.

  Args:
    groups: by setting, the members.
    records: arrays "overlap" of all of them.
    labels: what the config calls methods and transforms.

  Returns:
    A figure with a heat map for every method and α.
  """
  maps = {}
  for key, group in groups.items():
    found = [100 * records[f'{net_name(m[0])}/overlap'] for m in group]
    matrix = continual_panels.mean_matrix(found).astype(np.float64)
    np.fill_diagonal(matrix, np.nan)  # always 100, it would hide the rest
    maps[key] = matrix
  return _maps(
    maps,
    ('task', 'task', 'Jaccard overlap of masks (%)'),
    labels,
    'grey: a task with itself',
  )


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
  results, records = files.load(workdir)
  return style.save_all(_figures(results, records), workdir)


def _figures(
  results: Mapping[str, Any], records: Records
) -> Iterator[tuple[str, Figure]]:
  groups = _shown(results)
  if not groups:
    return
  labels = results.get('labels', {})
  yield 'average_accuracy', average_accuracy(results, records)
  finite = continual_analysis.finite
  masked = {
    key: group
    for key, group in groups.items()
    if all(finite(row['used_weights']) for m in group for row in m)
  }
  if masked:
    looks = continual_panels.looks_of(list(groups))
    yield 'used_weights', used_weights(masked, looks, labels)
  names = ('used_by_layer', 'new_by_layer', 'reused_by_layer')
  by_layer = _having(masked, records, *names)
  methods = list(dict.fromkeys(key[0] for key in by_layer))
  for method in methods:
    mine = {key: g for key, g in by_layer.items() if key[0] == method}
    # Older records have the layers of one method.
    layers = dict(zip(results['layers'], results['layer_sizes'], strict=True))
    known = results.get('masks', {}).get(method, {})
    layers = known.get('layers', layers)
    of = known.get('of', 'weights')
    numbers = published.usage(results, method, layers)
    figure = masks(mine, records, layers, labels, of, numbers)
    yield 'masks' if len(methods) == 1 else f'masks_{method}', figure
  units = {k for k, v in results.get('masks', {}).items() if v['of'] == 'units'}
  if units & {key[0] for key in groups} and len(groups) <= style.MOST:
    yield 'tasks', continual_tasks.figure(groups, labels)
  short = {
    key: group
    for key, group in _having(groups, records, 'accuracy').items()
    if 1 < max(map(len, group)) <= _SMALL
  }
  if short:
    yield 'accuracy_matrix', accuracy_matrix(short, records, labels)
  compared = {
    key: group
    for key, group in _having(groups, records, 'overlap').items()
    if min(map(len, group)) > 1
  }
  if compared:
    yield 'overlap', overlap(compared, records, labels)


def _shown(results: Mapping[str, Any]) -> dict[Key, Group]:
  margin = results.get('choose_margin', 0.0)
  return dict(continual_analysis.shown(results.get('rows', []), margin))


def _having(
  groups: Mapping[Key, Group], records: Records, *names: str
) -> dict[Key, Group]:
  """The groups all of whose members have these arrays."""
  return {
    key: group
    for key, group in groups.items()
    if all(f'{net_name(m[0])}/{n}' in records for m in group for n in names)
  }


def _lines(
  groups: Mapping[Key, Group],
  courses: Mapping[Key, np.ndarray],
  looks: Mapping[Key, LineLook],
  label: str,
  labels: Mapping[str, str],
  numbers: Sequence[published.Average] = (),
  fewer: bool = False,
) -> Figure:
  """A figure of one panel: courses over the tasks, or where they end.

  Args:
    groups: by setting, the members.
    courses: by setting, float64 [seeds, T], in percent.
    looks: how a run's lines are drawn.
    label: of the axis of what is measured.
    labels: of methods and transforms.
    numbers: published ones.
    fewer: whether the smallest number is the best.
  """
  courses = {key: values for key, values in courses.items() if values.size}
  last = continual_analysis.longest(groups)
  runs = continual_panels.runs_label(groups)
  together = style.coinciding(
    {key: values.mean(axis=0) for key, values in courses.items()}
  )
  if len(together) > style.MOST:
    rows = len({key[0] for key in courses})
    figure = Figure(figsize=(7.4, 1.2 + 0.3 * rows), layout='constrained')
    axes = figure.add_subplot()
    at_end = {n.method: n.number.accuracy for n in numbers if n.tasks == last}
    ends = {key: continual_panels.ends_of(c) for key, c in courses.items()}
    handles = continual_panels.draw_ends(axes, ends, labels, at_end, fewer)
    axes.set_xlabel(f'{label} after {last:,} tasks')
    if continual_panels.all_sure(ends):
      runs = runs.replace('± std', 'and 95% interval')
    style.legend_above(figure, handles, runs)
    return figure
  figure = Figure(figsize=(7.4, 4), layout='constrained')
  axes = figure.add_subplot()
  for names in together:
    continual_panels.draw_course(axes, courses[names[-1]], looks[names[-1]])
  handles = continual_panels.handles_of(courses, looks, labels, together)
  for place, line in enumerate(n for n in numbers if n.tasks <= last):
    handles.append(_mark(axes, line, place, labels))
  continual_panels.task_axis(axes, last)
  axes.set(xlabel='number of tasks', ylabel=label)
  methods = {title(key[0], labels) for key in courses}
  axes.set_title(methods.pop() if len(methods) == 1 else '')
  style.percent_limits(axes)
  if fewer:
    axes.set_ylim(bottom=0)
  style.legend_beside(axes, handles, runs)
  return figure


def _mark(
  axes: Axes, line: published.Average, place: int, labels: Mapping[str, str]
) -> Line2D:
  """A ring, or the like, where a published number is; what a legend says."""
  look: dict[str, Any] = {
    'marker': _RINGS[place % len(_RINGS)],
    'markersize': 8 + 2 * (place // len(_RINGS)),
    'fillstyle': 'none',
    'color': style.BASELINE,
    'linestyle': '',
  }
  axes.plot(line.tasks, line.number.accuracy, clip_on=False, zorder=4, **look)
  name = f'{title(line.method, labels)}, published'
  return Line2D([], [], label=name, **look)


def _maps(
  maps: Mapping[Key, np.ndarray],
  names: tuple[str, str, str],
  labels: Mapping[str, str],
  note: str,
) -> Figure:
  """Heat maps with colours of the same scale."""
  across = min(_ACROSS, len(maps))
  down = math.ceil(len(maps) / across)
  figure = Figure(
    figsize=(1.6 + 2.6 * across, 0.7 + 2.8 * down), layout='compressed'
  )
  values = np.concatenate([matrix.ravel() for matrix in maps.values()])
  limits = float(np.nanmin(values)), float(np.nanmax(values))
  # Numbers are read off a few maps; of many, colours are compared.
  text = max(map(len, maps.values())) <= 10 and len(maps) <= style.MOST
  every = []
  for i, (key, matrix) in enumerate(maps.items()):
    axes = figure.add_subplot(down, across, i + 1)
    every.append(axes)
    image = continual_panels.draw_map(axes, matrix, limits, text)
    name = continual_panels.label_of(key, maps, labels)
    method = title(key[0], labels)
    name = name if method in name else f'{method}, {name}'
    axes.set_title(textwrap.fill(name, 26), fontsize=10)
    if i % across == 0:
      axes.set_ylabel(names[1])
    if i >= len(maps) - across:
      axes.set_xlabel(names[0])
  figure.colorbar(
    image, ax=every, label=f'{names[2]}\n({note})', aspect=15 * down
  )
  return figure
