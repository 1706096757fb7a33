"""Figures of a sparse-training run, after the paper's Figures 2 and 3.

`draw` makes them from a run's folder. A figure function takes what it draws:
rows of results.json, arrays of records.npz or rows of metrics.jsonl.

Methods differ by colour and marker. Powerprop is filled, with a solid line, and
α = 1 is hollow, with a dashed line; both at the setting that is the best on
validation accuracy. In the figures of α, colour stands for α as in
`powerprop.plots`. Nets that diverged are left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import io
import itertools
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
import numpy as np

from powerprop import panels
from powerprop import runs
from powerprop import sparse_analysis
from powerprop.analysis import Row
from powerprop.panels import Group
from powerprop.panels import Records
from powerprop.sparse_analysis import CHOICES
from powerprop.sparse_analysis import title
from powerprop.sparse_analysis import values

# Okabe and Ito's palette and a grey; where they run out, markers tell.
_COLOURS = '#0072B2 #E69F00 #009E73 #D55E00 #CC79A7 #56B4E9 #777777'.split()
_MARKERS = 'os^DvPX<>phd'
_BLACK, _GREY = '#222222', '#777777'
_ACROSS = 4  # panels side by side
_ACCURACY = 'test accuracy (%)'


class Mark(NamedTuple):
  """Colour and marker of a method."""

  colour: str
  marker: str


# Where rows stand for methods, these stand for the choices.
_CHOICE_MARKS = {
  'baseline': Mark(_BLACK, 'o'),
  'powerprop': Mark(_COLOURS[0], 'o'),
}


def marks_of(methods: Iterable[str]) -> dict[str, Mark]:
  """How each of a run's methods is drawn; no two of up to 84 are alike."""
  sparse = [m for m in sparse_analysis.in_order(methods) if m != 'dense']
  marks = {
    method: Mark(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)])
    for i, method in enumerate(sparse)
  }
  return {'dense': Mark(_BLACK, '*')} | marks


@matplotlib.rc_context(panels.STYLE)
def accuracy_vs_sparsity(rows: Sequence[Row]) -> Figure:
  """Test accuracy of every method, without and with Powerprop (Figure 3).

  Args:
    rows: a run's rows, not all of them of dense nets.

  Returns:
    A figure with a panel for each distribution: lines over the share of weights
    kept, with bands of ± one standard deviation; or, where there is one
    sparsity only, a row for each method.
  """
  dense, sparse = _selected(rows)
  distributions, sparsities, methods = (
    values(sparse, name) for name in ('distribution', 'sparsity', 'method')
  )
  lines = len(sparsities) > 1
  least, each = (3.6, 0.12) if lines else (1.8, 0.34)
  figure = Figure(
    figsize=(2 + 4.2 * len(distributions), least + each * len(methods)),
    layout='constrained',
  )
  grid = figure.subplots(
    1, len(distributions), squeeze=False, sharex=not lines, sharey=True
  )
  marks = marks_of(methods)
  for axes, distribution in zip(grid[0], distributions, strict=True):
    part = [e for e in sparse if e['distribution'] == distribution]
    if lines:
      axes.set_title(title(distribution))
      _draw_lines(axes, dense, part, marks)
    else:
      axes.set_title(_place(distribution, sparsities[0]))
      _draw_rows(axes, [*dense, *part])
  if lines:
    grid[0, 0].set_ylabel(_ACCURACY)
  _legend(figure, [*dense, *sparse], marks if lines else {}, lines)
  return figure


@matplotlib.rc_context(panels.STYLE)
def accuracy_vs_flops(rows: Sequence[Row]) -> Figure:
  """What came out of the training, over what it cost.

  Args:
    rows: a run's rows, not all of them of dense nets.

  Returns:
    A figure with a row of panels for each distribution, and in it one for each
    of at most four sparsities. A line joins a method's α = 1 and Powerprop;
    bars are ± one standard deviation.
  """
  dense, sparse = _selected(rows)
  distributions = values(sparse, 'distribution')
  sparsities = sparse_analysis.spread(values(sparse, 'sparsity'), _ACROSS)
  down, across = len(distributions), len(sparsities)
  figure = Figure(
    figsize=(2.2 + 3.3 * across, 0.6 + 3.4 * down), layout='constrained'
  )
  grid = figure.subplots(down, across, squeeze=False, sharex=True)
  marks = marks_of(values(sparse, 'method'))
  for (i, j), axes in np.ndenumerate(grid):
    where = (distributions[i], sparsities[j])
    points = dense + [
      e for e in sparse if (e['distribution'], e['sparsity']) == where
    ]
    for method in values(points, 'method'):
      pair = [entry for entry in points if entry['method'] == method]
      x = [entry['training_flops_ratio'] for entry in pair]
      axes.plot(x, [_mean(e) for e in pair], color=marks[method].colour, lw=0.8)
      for place, entry in zip(x, pair, strict=True):
        style = _style(entry['choice'], marks[method])
        axes.errorbar(place, _mean(entry), _std(entry), **style)
    axes.set_title(_place(*where))
  for axes in grid[:, 0]:
    axes.set_ylabel(_ACCURACY)
  for axes in grid[-1]:
    axes.set_xlabel('training FLOPs, relative to dense')
  widest = max(e['training_flops_ratio'] for e in [*dense, *sparse])
  grid[0, 0].set_xlim(0, 1.06 * widest)
  _legend(figure, [*dense, *sparse], marks)
  return figure


@matplotlib.rc_context(panels.STYLE)
def one_shot(rows: Sequence[Row]) -> Figure:
  """One-shot pruning at every α, and what it gains (Figure 2a and b).

  Args:
    rows: a run's rows, those of the method one_shot among them.

  Returns:
    A figure with a column of panels for each distribution: test accuracy with ±
    one standard deviation and, where α = 1 was run, the difference to it with
    its 95% interval. Every α has one learning rate, which is the best for it on
    validation accuracy.
  """
  part = [row for row in rows if row['method'] == 'one_shot']
  entries = sparse_analysis.at_best_rate(sparse_analysis.summarise(part))
  distributions = values(entries, 'distribution')
  several = len(values(part, 'learning_rate')) > 1
  down = 1 + any(entry['alpha'] == 1 for entry in entries)
  figure = Figure(
    figsize=(1 + 4.6 * len(distributions), (4, 6.6)[down - 1]),
    layout='constrained',
  )
  grid = figure.subplots(
    down,
    len(distributions),
    squeeze=False,
    sharex=True,
    sharey='row',
    height_ratios=(3, 2)[:down],
  )
  for column, distribution in zip(grid.T, distributions, strict=True):
    here = [e for e in entries if e['distribution'] == distribution]
    results = {'summary': here}
    panels.draw_curves(column[0], results, 'test_accuracy')
    column[0].set_title(title(distribution))
    handles = panels.legend_handles(results, panels.all_groups(results))
    rates = {f'α = {e["alpha"]:g}': e['learning_rate'] for e in here}
    for handle in handles:
      name = str(handle.get_label()).replace('Baseline', 'α = 1')
      if several and name in rates:
        name += f', lr {rates[name]:g}'
      handle.set_label(name)
    column[0].legend(handles=handles, title=panels.runs_label(results))
    for axes in column[1:]:
      _draw_gains(axes, part, here)
      column[0].set_xlabel('')
  for axes, label in zip(
    grid[:, 0], (_ACCURACY, 'ahead of α = 1 (points)'), strict=False
  ):
    axes.set_ylabel(label)
  return figure


@matplotlib.rc_context(panels.STYLE)
def learning_rate_sweep(rows: Sequence[Row]) -> Figure:
  """Validation accuracy over the learning rate, a line an α.

  Args:
    rows: a run's rows.

  Returns:
    A figure with a panel for each method and distribution at up to three
    sparsities. A ring is around what `sparse_analysis.select` chooses, a cross
    where a seed diverged; bars are ± one standard deviation.
  """
  summary = sparse_analysis.summarise(rows)
  chosen = sparse_analysis.select(summary)
  places: list[list[Row]] = []
  for line in dict.fromkeys((e['method'], e['distribution']) for e in summary):
    mine = [e for e in summary if (e['method'], e['distribution']) == line]
    for sparsity in sparse_analysis.spread(values(mine, 'sparsity'), 3):
      places.append([e for e in mine if e['sparsity'] == sparsity])
  across = min(_ACROSS, len(places))
  down = math.ceil(len(places) / across)
  figure = Figure(
    figsize=(0.6 + 3 * across, 1 + 2.5 * down), layout='constrained'
  )
  groups = panels.all_groups({'summary': summary})
  rates = values(summary, 'learning_rate')
  for i, here in enumerate(places):
    axes = figure.add_subplot(down, across, i + 1)
    _draw_rates(axes, here, panels.looks_of(groups), chosen)
    axes.set_xscale('log')
    axes.set_xticks(rates, [f'{rate:g}' for rate in rates])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(rates[0] / 1.3, rates[-1] * 1.3)
    name = title(here[0]['method'])
    if name != 'dense':
      name += f', {_place(here[0]["distribution"], here[0]["sparsity"])}'
    axes.set_title(name.removesuffix(' sparsity'), fontsize=10)
    if i % across == 0:
      axes.set_ylabel('validation accuracy (%)')
    if i >= len(places) - across:
      axes.set_xlabel('learning rate')
  panels.shared_legend(figure, {'summary': summary}, groups)
  return figure


@matplotlib.rc_context(panels.STYLE)
def smallest_weights(records: Records) -> Figure:
  """Distribution of the smallest weights at every α (Figure 2c).

  Args:
    records: arrays "smallest/{alpha}" of weights θ.

  Returns:
    A figure of densities (area 1) on a logarithmic axis.
  """
  samples = {
    Group('powerprop', float(name.removeprefix('smallest/')), 0.0): array
    for name, array in records.items()
    if name.startswith('smallest/')
  }
  looks = panels.looks_of(list(samples))
  figure = Figure(figsize=(6, 4.2), layout='constrained')
  axes = figure.add_subplot()
  for group, sample in sorted(samples.items()):
    # To its own end: a bin that is filled in part would look like a cliff.
    limit = float(np.max(np.abs(sample))) or 1.0
    edges = np.linspace(-limit, limit, 102)
    density, _ = np.histogram(sample, edges, density=True)
    axes.stairs(
      np.where(density > 0, density, np.nan),
      edges,
      baseline=None,
      color=looks[group].colour,
      linewidth=1.4,
      label=f'α = {group.alpha:g}',
    )
  axes.set(
    title='The smallest weights of the dense nets',
    xlabel='weight θ',
    ylabel='probability density',
    yscale='log',
  )
  axes.legend()
  return figure


@matplotlib.rc_context(panels.STYLE)
def density_over_steps(metrics: Sequence[Row]) -> Figure:
  """Share of the weights in the forward pass during training.

  Args:
    metrics: rows of metrics.jsonl, some of them with a "density".

  Returns:
    A figure with a panel for each distribution, at the largest sparsity; means
    over the members. Methods with the same course share a line.
  """
  rows = [row for row in metrics if row.get('density') is not None]
  sparsity = values(rows, 'sparsity')[-1]
  rows = [row for row in rows if row['sparsity'] == sparsity]
  distributions = values(rows, 'distribution')
  shared: dict[Any, list[str]] = {}
  for method in values(rows, 'method'):
    mine = [row for row in rows if row['method'] == method]
    course = tuple(
      _course(row for row in mine if row['distribution'] == distribution)
      for distribution in distributions
    )
    shared.setdefault(course, []).append(method)
  marks = marks_of(methods[0] for methods in shared.values())
  figure = Figure(
    figsize=(2 + 4.2 * len(distributions), max(4, 0.8 + 0.25 * len(marks))),
    layout='constrained',
  )
  grid = figure.subplots(1, len(distributions), squeeze=False, sharey=True)
  handles = []
  for courses, methods in shared.items():
    colour, marker = marks[methods[0]]
    style: dict[str, Any] = {'color': colour, 'marker': marker}
    for axes, course in zip(grid[0], courses, strict=True):
      axes.plot(*zip(*course, strict=True), **style)
    names = '\n'.join(map(title, methods))
    handles.append(Line2D([], [], label=names, **style))
  for axes, distribution in zip(grid[0], distributions, strict=True):
    axes.set(title=_place(distribution, sparsity), xlabel='step')
  grid[0, 0].set(ylabel='weights kept (%)', ylim=(0, 103))
  figure.legend(handles=handles, loc='outside right upper')
  return figure


def draw(workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Draws every figure that a run's records support.

  Files appear whole or not at all, and are the same bytes for the same records.

  Args:
    workdir: a run's folder, with results.json and, for the figures that need
      them, records.npz and metrics.jsonl.

  Returns:
    The files written, under workdir/figures.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: a file cannot be read.
  """
  workdir = pathlib.Path(workdir)
  results = json.loads((workdir / 'results.json').read_text(encoding='utf-8'))
  records, metrics = {}, []
  if (workdir / 'records.npz').is_file():
    with np.load(workdir / 'records.npz') as archive:
      records = dict(archive)
  if (workdir / 'metrics.jsonl').is_file():
    metrics = runs.read_metrics(workdir)
  written = []
  for name, figure in _figures(results['rows'], records, metrics):
    for kind, stamp in (('png', 'Software'), ('pdf', 'CreationDate')):
      file = io.BytesIO()
      with matplotlib.rc_context(panels.STYLE):
        figure.savefig(file, format=kind, metadata={stamp: None})
      written.append(workdir / 'figures' / f'{name}.{kind}')
      runs.write_atomically(written[-1], file.getvalue())
  return written


def _figures(
  rows: Sequence[Row], records: Records, metrics: Sequence[Row]
) -> Iterator[tuple[str, Figure]]:
  whole = [row for row in rows if sparse_analysis.finite(row)]
  several = lambda rows, name: len(values(rows, name)) > 1
  if any(row['method'] != 'dense' for row in whole):
    yield 'accuracy_vs_sparsity', accuracy_vs_sparsity(rows)
    if several(whole, 'training_flops_ratio'):
      yield 'accuracy_vs_flops', accuracy_vs_flops(rows)
  pruned = [row for row in whole if row['method'] == 'one_shot']
  if several(pruned, 'alpha') and several(pruned, 'sparsity'):
    yield 'one_shot', one_shot(rows)
  if several(whole, 'learning_rate'):
    yield 'learning_rate_sweep', learning_rate_sweep(rows)
  if any(name.startswith('smallest/') for name in records):
    yield 'smallest_weights', smallest_weights(records)
  if any(row.get('density') is not None for row in metrics):
    yield 'density_over_steps', density_over_steps(metrics)


def _draw_lines(
  axes: Axes,
  dense: Sequence[Row],
  sparse: Sequence[Row],
  marks: Mapping[str, Mark],
) -> None:
  """A line for every method and choice, and level ones for dense nets."""
  for entry in dense:
    style = _style(entry['choice'], marks['dense'])
    axes.axhline(_mean(entry), color=_BLACK, linestyle=style['linestyle'], lw=1)
  for method, choice in itertools.product(values(sparse, 'method'), CHOICES):
    line = [e for e in sparse if (e['method'], e['choice']) == (method, choice)]
    density = [entry['density'] for entry in line]
    mean = np.array([_mean(entry) for entry in line])
    axes.plot(density, mean, **_style(choice, marks[method]))
    if all(entry['n'] > 1 for entry in line):
      std = np.array([_std(entry) for entry in line])
      colour = marks[method].colour
      axes.fill_between(
        density, mean - std, mean + std, color=colour, alpha=0.1, lw=0
      )
  panels.density_axis(axes, [entry['density'] for entry in sparse])


def _draw_rows(axes: Axes, entries: Sequence[Row]) -> None:
  """A row for every method, with the α that was chosen beside it."""
  methods = values(entries, 'method')
  for entry in entries:
    choice, row = entry['choice'], methods.index(entry['method'])
    axes.errorbar(
      _mean(entry),
      row + (0.13 if choice == 'baseline' else -0.13),
      xerr=_std(entry),
      **_style(choice, _CHOICE_MARKS[choice]),
    )
    if choice == 'powerprop':
      axes.annotate(
        f'α = {entry["alpha"]:g}',
        (1.02, row),
        xycoords=axes.get_yaxis_transform(),
        va='center',
        fontsize=9,
      )
  axes.set_yticks(range(len(methods)), [title(method) for method in methods])
  axes.set_ylim(len(methods) - 0.5, -0.5)
  axes.set_xlabel(_ACCURACY)


def _draw_gains(
  axes: Axes, rows: Sequence[Row], entries: Sequence[Row]
) -> None:
  """How far every α > 1 is ahead of α = 1, with 95% intervals."""
  looks = panels.looks_of(panels.all_groups({'summary': entries}))
  baseline = {e['sparsity']: e for e in entries if e['alpha'] == 1}
  lines: dict[Group, list[tuple[float, ...]]] = {}
  for entry in entries:
    if entry['alpha'] > 1 and entry['sparsity'] in baseline:
      gain = sparse_analysis.difference(
        rows, baseline[entry['sparsity']], entry
      )
      line = lines.setdefault(panels.group_of(entry), [])
      line.append((entry['density'], *(100 * x for x in gain[:3])))
  for group, line in lines.items():
    density, mean, low, high = np.array(line).T
    colour, style = looks[group]
    axes.plot(density, mean, color=colour, ls=style, marker='o', markersize=2.5)
    axes.fill_between(density, low, high, color=colour, alpha=0.18, lw=0)
  axes.axhline(0, color=_BLACK, lw=1)
  panels.density_axis(axes, [entry['density'] for entry in entries])


def _draw_rates(
  axes: Axes,
  entries: Sequence[Row],
  looks: Mapping[Group, panels.Look],
  chosen: Sequence[Row],
) -> None:
  """A line for every α and transform, over the learning rate."""
  lines: dict[tuple[Any, ...], list[Row]] = {}
  for entry in entries:
    if entry['n']:
      key = entry['transform'], entry['alpha']
      lines.setdefault(key, []).append(entry)
  for line in lines.values():
    colour, style = looks[panels.group_of(line[0])]
    axes.errorbar(
      values(line, 'learning_rate'),
      [100 * entry['validation_accuracy_mean'] for entry in line],
      [100 * entry['validation_accuracy_std'] for entry in line],
      color=colour,
      ls=style,
      marker='o',
      markersize=3.5,
    )
    for entry in line:
      point = entry['learning_rate'], 100 * entry['validation_accuracy_mean']
      if any(entry.items() <= best.items() for best in chosen):
        axes.plot(*point, 'o', markersize=10, color=colour, fillstyle='none')
      if entry['diverged']:
        axes.plot(*point, 'x', markersize=9, color=colour)


def _legend(
  figure: Figure,
  selected: Sequence[Row],
  marks: Mapping[str, Mark],
  lines: bool = False,
) -> None:
  """The methods that have marks, and the choices, right of all panels."""
  handles = [
    Line2D(
      [],
      [],
      label=title(method),
      color=colour,
      # Dense nets are level lines.
      marker='' if lines and method == 'dense' else marker,
    )
    for method, (colour, marker) in marks.items()
    if method in values(selected, 'method')
  ]
  for choice in values(selected, 'choice'):
    mark = Mark(_GREY, 'o') if marks else _CHOICE_MARKS[choice]
    style = _style(choice, mark)
    handles.append(Line2D([], [], label=CHOICES[choice], **style))
  for handle in handles:
    handle.set_linestyle(handle.get_linestyle() if lines else '')
  figure.legend(
    handles=handles,
    loc='outside right upper',
    title=panels.runs_label({'summary': selected}),
    alignment='left',
  )


def _style(choice: str, mark: Mark) -> dict[str, Any]:
  ahead = choice == 'powerprop'
  return {
    'color': mark.colour,
    'marker': mark.marker,
    'markersize': 8 if mark.marker == '*' else 5,
    'markerfacecolor': mark.colour if ahead else 'white',
    'linestyle': '-' if ahead else '--',
    'linewidth': 1.4,
  }


def _course(rows: Iterable[Row]) -> tuple[tuple[int, float], ...]:
  """(step, mean density in percent), rounded as float32 has no more digits."""
  by_step: dict[int, list[float]] = {}
  for row in rows:
    by_step.setdefault(row['step'], []).append(row['density'])
  return tuple(
    (step, round(100 * float(np.mean(by_step[step])), 3))
    for step in sorted(by_step)
  )


def _selected(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
  """What is the best on validation: of dense nets, and of the others."""
  selected = sparse_analysis.select(sparse_analysis.summarise(rows))
  dense: list[Row] = [e for e in selected if e['method'] == 'dense']
  return dense, [e for e in selected if e['method'] != 'dense']


def _place(distribution: str, sparsity: float) -> str:
  return f'{title(distribution)}, {100 * sparsity:.4g}% sparsity'


def _mean(entry: Row) -> float:
  return 100 * entry['test_accuracy_mean']


def _std(entry: Row) -> float:
  return 100 * entry['test_accuracy_std']
