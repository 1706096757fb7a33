"""Figures of a sparse-training run, after the paper's Figures 2 and 3.

`draw` makes DIR/figures/*.png and *.pdf from DIR/results.json, DIR/records.npz
and DIR/metrics.jsonl, without training anything. A figure function takes what
it draws: rows of results.json, arrays of records.npz or rows of metrics.jsonl.

Methods differ by colour and marker. Powerprop is filled, with a solid line, and
α = 1 is hollow, with a dashed line; both at the setting that is the best on
validation accuracy. In the figures of α, colour stands for α as in
`powerprop.plots`. Nets that diverged are left out.
"""

from collections.abc import Iterator, Sequence
import math
import os
import pathlib
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
import numpy as np

from powerprop import panels
from powerprop import plots
from powerprop import runs
from powerprop import sparse_analysis
from powerprop import sparse_panels
from powerprop.analysis import Row
from powerprop.panels import Group
from powerprop.panels import Records
from powerprop.sparse_analysis import title
from powerprop.sparse_analysis import values
from powerprop.sparse_panels import ACCURACY
from powerprop.sparse_panels import place_title

_ACROSS = 4  # panels side by side


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
  dense, sparse = sparse_panels.best_of(rows)
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
  marks = sparse_panels.marks_of(methods)
  for axes, distribution in zip(grid[0], distributions, strict=True):
    part = [e for e in sparse if e['distribution'] == distribution]
    if lines:
      axes.set_title(title(distribution))
      sparse_panels.draw_lines(axes, dense, part, marks)
    else:
      axes.set_title(place_title(distribution, sparsities[0]))
      sparse_panels.draw_rows(axes, [*dense, *part])
  if lines:
    grid[0, 0].set_ylabel(ACCURACY)
  sparse_panels.draw_legend(
    figure, [*dense, *sparse], marks if lines else {}, lines
  )
  return figure


@matplotlib.rc_context(panels.STYLE)
def accuracy_vs_flops(rows: Sequence[Row]) -> Figure:
  """What came out of the training, over what it cost.

  The cost is relative to dense training without the training multiplier.

  Args:
    rows: a run's rows, not all of them of dense nets.

  Returns:
    A figure with a row of panels for each distribution, and in it one for each
    of at most four sparsities. A line joins a method's α = 1 and Powerprop;
    bars are ± one standard deviation.
  """
  dense, sparse = sparse_panels.best_of(rows)
  distributions = values(sparse, 'distribution')
  sparsities = sparse_analysis.spread(values(sparse, 'sparsity'), _ACROSS)
  down, across = len(distributions), len(sparsities)
  figure = Figure(
    figsize=(2.2 + 3.3 * across, 0.6 + 3.4 * down), layout='constrained'
  )
  grid = figure.subplots(down, across, squeeze=False, sharex=True)
  marks = sparse_panels.marks_of(values(sparse, 'method'))
  for (i, j), axes in np.ndenumerate(grid):
    where = (distributions[i], sparsities[j])
    points = dense + [
      e for e in sparse if (e['distribution'], e['sparsity']) == where
    ]
    sparse_panels.draw_costs(axes, points, marks)
    axes.set_title(place_title(*where))
  for axes in grid[:, 0]:
    axes.set_ylabel(ACCURACY)
  figure.supxlabel(
    'training FLOPs, relative to dense of multiplier 1', fontsize='medium'
  )
  widest = max(e['training_flops_ratio'] for e in [*dense, *sparse])
  grid[0, 0].set_xlim(0, 1.06 * widest)
  sparse_panels.draw_legend(figure, [*dense, *sparse], marks)
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
      sparse_panels.draw_gains(axes, part, here)
      column[0].set_xlabel('')
  for axes, label in zip(
    grid[:, 0], (ACCURACY, 'ahead of α = 1 (points)'), strict=False
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
    sparse_panels.draw_rates(axes, here, panels.looks_of(groups), chosen)
    axes.set_xscale('log')
    axes.set_xticks(rates, [f'{rate:g}' for rate in rates])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(rates[0] / 1.3, rates[-1] * 1.3)
    name = title(here[0]['method'])
    if name != 'dense':
      name += f', {place_title(here[0]["distribution"], here[0]["sparsity"])}'
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
      sparse_panels.course_of(
        row for row in mine if row['distribution'] == distribution
      )
      for distribution in distributions
    )
    shared.setdefault(course, []).append(method)
  marks = sparse_panels.marks_of(methods[0] for methods in shared.values())
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
    axes.set(title=place_title(distribution, sparsity), xlabel='step')
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
  results, records = plots.load(workdir)
  path = workdir / 'metrics.jsonl'
  try:
    metrics = runs.read_metrics(workdir) if path.is_file() else []
  except ValueError as error:
    raise ValueError(f'{path} cannot be read: {error}') from error
  written = []
  for name, figure in _figures(results.get('rows', []), records, metrics):
    written += plots.save(figure, workdir / 'figures' / name)
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
