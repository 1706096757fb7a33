"""Figures from a run's records, after the paper's Figure 1.

`draw` makes DIR/figures/*.png and *.pdf from DIR/results.json and
DIR/records.npz, without training anything. Every figure function takes these
two (`results`, a dict; `records`, a dict of arrays) and returns a Figure.

Colour stands for α, and black for the baseline α = 1; the style of a line
stands for the transform. A figure shows one learning rate and as many lines as
can be read: `draw` makes several sets where there are more. Members that
diverged are left out, and a group with no other member is named in the legend.
"""

from collections.abc import Callable, Collection, Iterator
import itertools
import math
import os
import pathlib
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

from experiments.one_shot import panels
from experiments.report import curves
from experiments.report import files
from experiments.report import statistics
from experiments.report import style
from experiments.report.curves import Records
from experiments.report.curves import Results


@style.paper()
def accuracy_vs_density(results: Results, records: Records) -> Figure:
  """Test accuracy against the share of weights kept (Figure 1a).

  Args:
    results: a run's results, with "rows" or their "summary".
    records: not used.

  Returns:
    A figure: a line of means and a band of ± one standard deviation for every
    (transform, alpha), sparser to the right.
  """
  del records
  figure = Figure(figsize=(6, 4.6), layout='constrained')
  more = panels.draw_accuracy(figure.add_subplot(), results)
  groups = set(curves.curves_of(results, 'test_accuracy'))
  runs = curves.runs_label(results)
  curves.shared_legend(figure, results, groups, more, runs)
  return figure


@style.paper()
def mask_overlap(results: Results, records: Records) -> Figure:
  """Overlap of the masks before and after training (Figure 1b).

  Args:
    results: a run's results; its "summary" or "rows" have mask overlaps.
    records: not used.

  Returns:
    A figure in the manner of `accuracy_vs_density`, with the overlap expected
    by chance.
  """
  del records
  figure = Figure(figsize=(6, 4.6), layout='constrained')
  more = panels.draw_overlap(figure.add_subplot(), results)
  groups = set(curves.curves_of(results, 'mask_overlap'))
  runs = curves.runs_label(results)
  curves.shared_legend(figure, results, groups, more, runs)
  return figure


@style.paper()
def weight_change(results: Results, records: Records) -> Figure:
  """Weights before and after training, kept and pruned (Figure 1c and d).

  Args:
    results: a run's results; "analysis" names the groups of the records.
    records: arrays "g{i}/initial", "g{i}/final" and "g{i}/kept".

  Returns:
    A figure with a panel for the baseline and one for α = 4, or else the
    largest α, on the same axes. Triangles at the edge stand for the few weights
    beyond it; the line is where training changes nothing. The margins have
    kernel density estimates, each scaled to the same height.
  """
  chosen = panels.change_groups(results, records)
  count = max(1, len(chosen))
  figure = Figure(figsize=(5.2 * count, 5.3), layout='constrained')
  grid = figure.add_gridspec(1, count)
  limits = panels.change_limits(chosen, records)
  for place, (index, group) in enumerate(chosen):
    title = panels.change_title(group, results.get('labels', {}))
    panels.draw_change(figure, grid[place], records, index, limits, title)
  return figure


@style.paper()
def figure1(results: Results, records: Records) -> Figure:
  """The paper's Figure 1: those of its panels a to d that there is data for.

  Args:
    results: a run's results, as the other figures take them.
    records: a run's arrays, as the other figures take them.

  Returns:
    A figure with up to four panels, two a row.

  References:
    Schwarz et al., Powerpropagation, 2021, Figure 1.
  """
  over_density = [
    (field, drawer, title)
    for field, drawer, title in (
      ('test_accuracy', panels.draw_accuracy, '(a) One-shot pruning'),
      ('mask_overlap', panels.draw_overlap, '(b) Masks before and after'),
    )
    if curves.curves_of(results, field)
  ]
  chosen = panels.change_groups(results, records)
  limits = panels.change_limits(chosen, records)
  rows = max(1, math.ceil((len(over_density) + len(chosen)) / 2))
  figure = Figure(figsize=(10.5, 0.6 + 4.7 * rows), layout='constrained')
  grid = figure.add_gridspec(rows, 2, wspace=0.06, hspace=0.06)
  places = itertools.product(range(rows), range(2))
  groups: set[curves.Group] = set()
  more: dict[str, Line2D] = {}
  for (field, drawer, title), place in zip(over_density, places, strict=False):
    extra = drawer(figure.add_subplot(grid[place]), results, title)
    groups |= set(curves.curves_of(results, field))
    more |= {str(line.get_label()): line for line in extra}
  for letter, (index, group), place in zip('cd', chosen, places, strict=False):
    title = panels.change_title(group, results.get('labels', {}))
    panels.draw_change(
      figure, grid[place], records, index, limits, f'({letter}) {title}'
    )
  if over_density:
    runs = curves.runs_label(results)
    curves.shared_legend(figure, results, groups, [*more.values()], runs)
  return figure


@style.paper()
def histograms(results: Results, records: Records) -> Figure:
  """Distribution of the trained weights, a panel a layer, a line an α.

  Args:
    results: a run's results; "layers" names the panels, "analysis" the groups.
    records: arrays "g{i}/layer{j}/counts" [bins], "g{i}/layer{j}/edges"
      [bins + 1].

  Returns:
    A figure of densities (area 1) on a logarithmic axis, at most three panels a
    row. What lies beyond a panel is collected in its outermost bins.
  """
  names = results.get('layers', [])
  looks = curves.looks_of(curves.all_groups(results))
  layers = [
    j for j in range(len(names)) if any(panels.layer_bars(results, records, j))
  ]
  columns = min(3, max(1, len(layers)))
  rows = max(1, math.ceil(len(layers) / columns))
  figure = Figure(
    figsize=(1 + 3.6 * columns, 1 + 3 * rows), layout='constrained'
  )
  drawn = set()
  for place, j in enumerate(layers):
    axes = figure.add_subplot(rows, columns, place + 1)
    for group, density, edges in panels.layer_bars(results, records, j):
      look = looks[group]
      axes.stairs(
        np.where(density > 0, density, np.nan),
        edges,
        baseline=None,
        color=look.colour,
        linestyle=look.line,
        linewidth=1.2,
      )
      drawn.add(group)
    style.decade_axis(axes)
    axes.set_title(names[j])
    if place % columns == 0:
      axes.set_ylabel('probability density')
  figure.supxlabel(
    'weight θ after training (the outermost bins hold all weights beyond)',
    fontsize='medium',
  )
  curves.shared_legend(figure, results, drawn)
  return figure


@style.paper()
def alpha_over_steps(results: Results, records: Records) -> Figure:
  """α, and the share of weights near zero, during training.

  Args:
    results: a run's results; "analysis" names the groups of the records.
    records: arrays "steps" [T], "g{i}/alpha_over_steps" [T] and
      "g{i}/near_zero_over_steps" [T].

  Returns:
    A figure with two panels. Runs with a fixed α are drawn beside adaptive ones
    for comparison.

  References:
    Jain, Raj and Asgaonkar, Powerpropagation, 2022, Figures 15 and 16.
  """
  figure = Figure(figsize=(9.5, 4), layout='constrained')
  left, right = figure.subplots(1, 2)
  looks, drawn = curves.looks_of(curves.all_groups(results)), set()
  for index, group in enumerate(curves.analysis_groups(results)):
    look = looks[group]
    for axes, name, scale in (
      (left, 'alpha_over_steps', 1),
      (right, 'near_zero_over_steps', 100),
    ):
      values = records.get(f'g{index}/{name}')
      if values is None or not np.all(np.isfinite(values)):
        continue
      axes.plot(
        records['steps'],
        scale * values,
        color=look.colour,
        linestyle=look.line,
        # The controller holds α between two decisions.
        drawstyle='steps-post' if axes is left else 'default',
      )
      drawn.add(group)
  left.set(title='(a) Power', xlabel='step', ylabel='α')
  right.set(title='(b) Sparsity', xlabel='step', ylabel='weights near zero (%)')
  right.set_ylim(bottom=0)
  curves.shared_legend(figure, results, drawn)
  return figure


def draw(workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Draws every figure that a run's records support.

  Files appear whole or not at all, and are the same bytes for the same records.
  A run with several learning rates gets a set of figures for each, their names
  ending in the rate.

  Args:
    workdir: a run's folder, with results.json and, for the figures of weights,
      records.npz.

  Returns:
    The files written, under workdir/figures.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: one of the two files cannot be read.
  """
  workdir = pathlib.Path(workdir)
  results, records = files.load(workdir)
  figures = (
    (f'{fn.__name__}{suffix}', fn(*part))
    for suffix, *part in parts(results, records)
    for fn in _supported(*part)
  )
  return style.save_all(figures, workdir)


def parts(
  results: Results, records: Records
) -> Iterator[tuple[str, Results, Records]]:
  """What one set of figures shows of a run: few enough lines to be read.

  Args:
    results: a run's results.
    records: a run's arrays.

  Yields:
    For each learning rate the ending of the files' names, results and records.
    A rate with more than `style.MOST` pairs of transform and α has a set for
    each transform, with the baseline; one with more α shows as many of them,
    and "left_out" counts the rest.
  """
  every = curves.all_groups(results)
  rates = sorted({group.learning_rate for group in every})
  for rate in rates:
    here = [group for group in every if group.learning_rate == rate]
    transforms = list(dict.fromkeys(group.transform for group in here))
    sets = {'': here}
    if len(here) > style.MOST and len(transforms) > 1:
      baseline = [group for group in here if group.alpha == 1][:1]
      sets = {
        f'_{name}': list(
          dict.fromkeys([*baseline, *(g for g in here if g.transform == name)])
        )
        for name in transforms
      }
    for suffix, groups in sets.items():
      shown = statistics.spread(groups, style.MOST)
      part, arrays = restricted(results, records, shown)
      if len(shown) < len(groups):
        part['left_out'] = len(groups) - len(shown)
      yield suffix + (f'_lr{rate:g}' if len(rates) > 1 else ''), part, arrays


def restricted(
  results: Results, records: Records, groups: Collection[curves.Group]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """What a run of these groups alone would have recorded.

  Args:
    results: a run's results.
    records: a run's arrays.
    groups: some of the run's; those that diverged may be among them.

  Returns:
    Results and records to hand to a figure.
  """
  part = dict(results)
  rates = {group.learning_rate for group in groups}
  for name in ('rows', 'summary', 'analysis'):
    if name in results:
      part[name] = [e for e in results[name] if curves.group_of(e) in groups]
  if 'diverged' in results:
    part['diverged'] = [
      e for e in results['diverged'] if e['learning_rate'] in rates
    ]
  places = [
    index
    for index, group in enumerate(curves.analysis_groups(results))
    if group in groups
  ]
  renamed = {f'g{old}': f'g{new}' for new, old in enumerate(places)}
  arrays = {}
  for key, array in records.items():
    prefix, slash, rest = key.partition('/')
    if not slash:
      arrays[key] = array
    elif prefix in renamed:
      arrays[f'{renamed[prefix]}/{rest}'] = array
  return part, arrays


def _supported(
  results: Results, records: Records
) -> Iterator[Callable[[Results, Records], Figure]]:
  accuracy = bool(curves.curves_of(results, 'test_accuracy'))
  overlap = bool(curves.curves_of(results, 'mask_overlap'))
  change = bool(panels.change_groups(results, records))
  if accuracy:
    yield accuracy_vs_density
  if overlap:
    yield mask_overlap
  if change:
    yield weight_change
  if accuracy and (overlap or change):
    yield figure1
  layers = range(len(results.get('layers', [])))
  if any(any(panels.layer_bars(results, records, j)) for j in layers):
    yield histograms
  powers = [
    records.get(f'g{index}/alpha_over_steps', np.zeros(1))
    for index in range(len(curves.analysis_groups(results)))
  ]
  # Without steps there is nothing to draw.
  if 'steps' in records and any(np.unique(p).size > 1 for p in powers):
    yield alpha_over_steps
