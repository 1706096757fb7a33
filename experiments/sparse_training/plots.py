"""Figures of a sparse-training run, after the paper's Figures 2 and 3.

`draw` makes DIR/figures/*.png and *.pdf from DIR/results.json, DIR/records.npz
and DIR/metrics.jsonl, without training anything. A figure function takes what
it draws: rows of results.json, arrays of records.npz or rows of metrics.jsonl.

Methods differ by colour and marker. Powerprop is filled, with a solid line, and
α = 1 is hollow, with a dashed line; both at the setting that is the best on
validation accuracy. In the figures of α, colour stands for α as in
`experiments.one_shot.plots`. Nets that diverged are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import math
import os
import pathlib
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
import numpy as np

from experiments.report import curves
from experiments.report import files
from experiments.report import statistics
from experiments.report import style
from experiments.report.curves import Group
from experiments.report.curves import Records
from experiments.report.naming import NO_LABELS
from experiments.report.statistics import Row
from experiments.sparse_training import analysis as sparse_analysis
from experiments.sparse_training import panels as sparse_panels
from experiments.sparse_training.analysis import title
from experiments.sparse_training.analysis import values
from experiments.sparse_training.panels import ACCURACY
from experiments.sparse_training.panels import place_title

_ACROSS = 4  # panels side by side
_BINS = 161


@style.paper()
def accuracy_vs_sparsity(
  rows: Sequence[Row], labels: Mapping[str, str] = NO_LABELS
) -> Figure:
  """Test accuracy of every method, without and with Powerprop (Figure 3).

  Args:
    rows: a run's rows, not all of them of dense nets.
    labels: what the config calls methods.

  Returns:
    A figure with a column of panels for each distribution: lines over the share
    of weights kept, with bands of ± one standard deviation, and as many rows of
    panels as it takes to tell the methods apart; or, where there is one
    sparsity only, a row for each method.
  """
  dense, sparse = sparse_panels.best_of(rows)
  distributions, sparsities, methods = (
    values(sparse, name) for name in ('distribution', 'sparsity', 'method')
  )
  runs_of = {'summary': [*dense, *sparse]}
  across = len(distributions)
  if len(sparsities) == 1:
    figure = Figure(
      figsize=(2 + 4.2 * across, 2.1 + 0.34 * len(methods)),
      layout='constrained',
    )
    grid = figure.subplots(1, across, squeeze=False, sharey=True)
    for axes, distribution in zip(grid[0], distributions, strict=True):
      part = [e for e in sparse if e['distribution'] == distribution]
      axes.set_title(place_title(distribution, sparsities[0], labels))
      sparse_panels.draw_rows(axes, [*dense, *part], labels)
    handles = sparse_panels.legend_handles([*dense, *sparse], {}, labels)
    style.legend_above(figure, handles, curves.runs_label(runs_of))
    return figure
  each = (style.MOST - len(dense)) // len(values(sparse, 'choice'))
  down = statistics.chunks(methods, each)
  figure = Figure(
    figsize=(2.4 + 4.2 * across, 0.4 + 3.7 * len(down)), layout='constrained'
  )
  grid = figure.subplots(
    len(down), across, squeeze=False, sharex=True, sharey=True
  )
  marks = curves.marks_of(methods)
  for line, some in zip(grid, down, strict=True):
    mine = [e for e in sparse if e['method'] in some]
    for axes, distribution in zip(line, distributions, strict=True):
      part = [e for e in mine if e['distribution'] == distribution]
      sparse_panels.draw_lines(axes, dense, part, marks)
      axes.set_title(title(distribution, labels))
    line[0].set_ylabel(ACCURACY)
    style.legend_beside(
      line[-1],
      sparse_panels.legend_handles([*dense, *mine], marks, labels, True),
      curves.runs_label(runs_of),
    )
  return figure


@style.paper()
def accuracy_vs_flops(
  rows: Sequence[Row], labels: Mapping[str, str] = NO_LABELS
) -> Figure:
  """What came out of the training, over what it cost.

  The cost is relative to dense training without the training multiplier.

  Args:
    rows: a run's rows, not all of them of dense nets.
    labels: what the config calls methods.

  Returns:
    A figure with a row of panels for each distribution and up to seven methods,
    the others' points being grey, and in it one for each of at most four
    sparsities. A line joins a method's α = 1 and Powerprop; bars are ± one
    standard deviation. The cost is on a logarithmic axis.
  """
  dense, sparse = sparse_panels.best_of(rows)
  methods = values(sparse, 'method')
  sparsities = statistics.spread(values(sparse, 'sparsity'), _ACROSS)
  down = list(
    itertools.product(
      values(sparse, 'distribution'), statistics.chunks(methods, style.MOST - 1)
    )
  )
  figure = Figure(
    figsize=(2.6 + 3.3 * len(sparsities), 0.6 + 3.4 * len(down)),
    layout='constrained',
  )
  grid = figure.subplots(len(down), len(sparsities), squeeze=False, sharex=True)
  marks = curves.marks_of(methods)
  for line, (distribution, some) in zip(grid, down, strict=True):
    for axes, sparsity in zip(line, sparsities, strict=True):
      where = (distribution, sparsity)
      here = [e for e in sparse if (e['distribution'], e['sparsity']) == where]
      sparse_panels.draw_costs(
        axes,
        [*dense, *(e for e in here if e['method'] in some)],
        marks,
        [e for e in here if e['method'] not in some],
      )
      axes.set_title(place_title(*where, labels))
    line[0].set_ylabel(ACCURACY)
    mine = [*dense, *(e for e in sparse if e['method'] in some)]
    handles = sparse_panels.legend_handles(mine, marks, labels)
    if len(some) < len(methods):
      handles.append(sparse_panels.context_handle())
    runs_of = {'summary': [*dense, *sparse]}
    style.legend_beside(line[-1], handles, curves.runs_label(runs_of))
  figure.supxlabel(
    'training FLOPs, relative to dense of multiplier 1', fontsize='medium'
  )
  ratios = [e['training_flops_ratio'] for e in [*dense, *sparse]]
  style.ratio_axis(grid[0, 0], ratios)
  return figure


@style.paper()
def one_shot(
  rows: Sequence[Row], labels: Mapping[str, str] = NO_LABELS
) -> Figure:
  """One-shot pruning at every α, and what it gains (Figure 2a and b).

  Args:
    rows: a run's rows, those of the method one_shot among them.
    labels: what the config calls transforms.

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
    figsize=(1 + 4.6 * len(distributions), (4.6, 7.2)[down - 1]),
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
    results = {'summary': here, 'labels': labels}
    curves.draw_curves(column[0], results, 'test_accuracy')
    column[0].set_title(title(distribution, labels))
    handles = curves.legend_handles(results, curves.all_groups(results))
    rates = {f'α = {e["alpha"]:g}': e['learning_rate'] for e in here}
    for handle in handles:
      name = str(handle.get_label()).replace('Baseline', 'α = 1')
      if several and name in rates:
        name += f', lr {rates[name]:g}'
      handle.set_label(name)
    column[-1].legend(
      handles=[*handles, *curves.coincidences(results, 'test_accuracy')],
      title=curves.runs_label(results),
      loc='upper center',
      bbox_to_anchor=(0.5, -0.2 if down == 1 else -0.35),
      ncols=3,
    )
    for axes in column[1:]:
      sparse_panels.draw_gains(axes, part, here)
      column[0].set_xlabel('')
  for axes, label in zip(
    grid[:, 0], (ACCURACY, 'ahead of α = 1 (points)'), strict=False
  ):
    axes.set_ylabel(label)
  return figure


@style.paper()
def learning_rate_sweep(
  rows: Sequence[Row], labels: Mapping[str, str] = NO_LABELS
) -> Figure:
  """Validation accuracy over the learning rate, a line an α.

  Args:
    rows: a run's rows.
    labels: what the config calls methods and transforms.

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
    for sparsity in statistics.spread(values(mine, 'sparsity'), 3):
      places.append([e for e in mine if e['sparsity'] == sparsity])
  across = min(_ACROSS, len(places))
  down = math.ceil(len(places) / across)
  figure = Figure(
    figsize=(0.6 + 3 * across, 1 + 2.5 * down), layout='constrained'
  )
  groups = curves.all_groups({'summary': summary})
  rates = values(summary, 'learning_rate')
  for i, here in enumerate(places):
    axes = figure.add_subplot(down, across, i + 1)
    sparse_panels.draw_rates(
      figure, axes, here, curves.looks_of(groups), chosen
    )
    axes.set_xscale('log')
    axes.set_xticks(rates, [f'{rate:g}' for rate in rates])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(rates[0] / 1.3, rates[-1] * 1.3)
    name = title(here[0]['method'], labels)
    if here[0]['method'] != 'dense':
      where = here[0]['distribution'], here[0]['sparsity']
      name += f', {place_title(*where, labels)}'
    axes.set_title(name.removesuffix(' sparsity'), fontsize=10)
    if i % across == 0:
      axes.set_ylabel('validation accuracy (%)')
    if i >= len(places) - across:
      axes.set_xlabel('learning rate')
  curves.shared_legend(
    figure,
    {'summary': summary, 'labels': labels},
    groups,
    sparse_panels.sweep_handles(),
    curves.runs_label({'summary': [e for e in summary if e['n']]}),
  )
  return figure


@style.paper()
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
  looks = curves.looks_of(list(samples))
  figure = Figure(figsize=(6, 4.2), layout='constrained')
  axes = figure.add_subplot()
  for group, sample in sorted(samples.items()):
    # To its own end: a bin that is filled in part would look like a cliff.
    limit = float(np.max(np.abs(sample))) or 1.0
    edges = statistics.histogram_edges([sample], limit, _BINS)
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
    xlabel='weight θ (each α to its own largest of these)',
    ylabel='probability density',
  )
  style.decade_axis(axes)
  style.legend_beside(axes, axes.get_legend_handles_labels()[0])
  return figure


@style.paper()
def density_over_steps(
  metrics: Sequence[Row], labels: Mapping[str, str] = NO_LABELS
) -> Figure:
  """Share of the weights in the forward pass during training.

  Args:
    metrics: rows of metrics.jsonl, some of them with a "density".
    labels: what the config calls methods.

  Returns:
    A figure with a panel for each distribution, at the largest sparsity; means
    over the members. Masks change at once and not in between: a value holds
    until the next that was logged. Methods with the same course share a line;
    later ones are thinner, so that what they cover is seen.
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
  marks = curves.marks_of(methods[0] for methods in shared.values())
  down = statistics.chunks(list(shared.items()), style.MOST)
  figure = Figure(
    figsize=(2.4 + 4.2 * len(distributions), 0.4 + 3.6 * len(down)),
    layout='constrained',
  )
  grid = figure.subplots(
    len(down), len(distributions), squeeze=False, sharex=True, sharey=True
  )
  for line, some in zip(grid, down, strict=True):
    handles = []
    for place, (courses, methods) in enumerate(some):
      colour, marker = marks[methods[0]]
      look: dict[str, Any] = {'color': colour, 'marker': marker}
      look |= {'drawstyle': 'steps-post', 'markersize': 5}
      look['lw'] = 1.2 + 2.4 * (1 - place / len(some))
      for axes, course in zip(line, courses, strict=True):
        axes.plot(*zip(*course, strict=True), **look)
      names = '\n'.join(title(method, labels) for method in methods)
      handles.append(Line2D([], [], label=names, **look))
    for axes, distribution in zip(line, distributions, strict=True):
      axes.set_title(place_title(distribution, sparsity, labels))
    together = any(len(methods) > 1 for _, methods in some)
    note = 'same course: one line' if together else ''
    style.legend_beside(line[-1], handles, note)
    line[0].set(ylabel='weights kept (%)', ylim=(0, 103))
  for axes in grid[-1]:
    axes.set_xlabel('step (a value holds until the next mark)')
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
    ValueError: one of the first two files cannot be read. Of metrics.jsonl,
      what can be read is drawn.
  """
  workdir = pathlib.Path(workdir)
  results, records = files.load(workdir)
  logged = (workdir / 'metrics.jsonl').is_file()
  metrics = files.read_metrics(workdir) if logged else []
  return style.save_all(_figures(results, records, metrics), workdir)


def _figures(
  results: Mapping[str, Any], records: Records, metrics: Sequence[Row]
) -> Iterator[tuple[str, Figure]]:
  rows, labels = results.get('rows', []), results.get('labels', {})
  whole = [row for row in rows if sparse_analysis.finite(row)]
  several = lambda rows, name: len(values(rows, name)) > 1
  if any(row['method'] != 'dense' for row in whole):
    yield 'accuracy_vs_sparsity', accuracy_vs_sparsity(rows, labels)
    if several(whole, 'training_flops_ratio'):
      yield 'accuracy_vs_flops', accuracy_vs_flops(rows, labels)
  pruned = [row for row in whole if row['method'] == 'one_shot']
  if several(pruned, 'alpha') and several(pruned, 'sparsity'):
    yield 'one_shot', one_shot(rows, labels)
  if several(whole, 'learning_rate'):
    yield 'learning_rate_sweep', learning_rate_sweep(rows, labels)
  if any(name.startswith('smallest/') for name in records):
    yield 'smallest_weights', smallest_weights(records)
  if any(row.get('density') is not None for row in metrics):
    yield 'density_over_steps', density_over_steps(metrics, labels)
