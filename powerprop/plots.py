"""Figures from a run's records, after the paper's Figure 1.

  python -m powerprop.plots DIR [DIR ...]

draws DIR/figures/*.png and *.pdf again from DIR/results.json and
DIR/records.npz, without training anything. Every figure function takes these
two (`results`, a dict; `records`, a dict of arrays) and returns a Figure.

Colour stands for α, and black for the baseline α = 1; the style of a line
stands for the transform. A figure shows one learning rate: `draw` makes a set
of figures for each. Members that diverged are left out, and a group with no
other member is named in the legend.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import json
import math
import os
import pathlib
import sys
from typing import Any
import zipfile

import matplotlib
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
import numpy as np

from powerprop import panels
from powerprop.panels import Records
from powerprop.panels import Results


@matplotlib.rc_context(panels.STYLE)
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
  figure = Figure(figsize=(6, 4.2), layout='constrained')
  panels.draw_accuracy(figure.add_subplot(), results)
  return figure


@matplotlib.rc_context(panels.STYLE)
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
  chance = panels.draw_overlap(figure.add_subplot(), results)
  groups = set(panels.curves_of(results, 'mask_overlap'))
  panels.shared_legend(figure, results, groups, chance).set_title(
    panels.runs_label(results)
  )
  return figure


@matplotlib.rc_context(panels.STYLE)
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
  figure = Figure(figsize=(5.2 * count, 4.8), layout='constrained')
  grid = figure.add_gridspec(1, count)
  limits = panels.change_limits(chosen, records)
  for place, (index, group) in enumerate(chosen):
    title = panels.change_title(group)
    panels.draw_change(figure, grid[place], records, index, limits, title)
  return figure


@matplotlib.rc_context(panels.STYLE)
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
  drawers: list[Callable[[Figure, SubplotSpec], None]] = []
  if panels.curves_of(results, 'test_accuracy'):
    drawers.append(
      lambda figure, spec: panels.draw_accuracy(
        figure.add_subplot(spec), results, '(a) One-shot pruning'
      )
    )
  if panels.curves_of(results, 'mask_overlap'):
    drawers.append(
      lambda figure, spec: panels.draw_panel_b(figure, spec, results)
    )
  chosen = panels.change_groups(results, records)
  limits = panels.change_limits(chosen, records)
  for letter, (index, group) in zip('cd', chosen, strict=False):
    title = f'({letter}) {panels.change_title(group)}'

    def draw_change(
      figure: Figure, spec: SubplotSpec, index: int = index, title: str = title
    ) -> None:
      panels.draw_change(figure, spec, records, index, limits, title)

    drawers.append(draw_change)
  rows = max(1, math.ceil(len(drawers) / 2))
  figure = Figure(figsize=(10.5, 4.6 * rows), layout='constrained')
  grid = figure.add_gridspec(rows, 2, wspace=0.06, hspace=0.06)
  for place, drawer in enumerate(drawers):
    drawer(figure, grid[place // 2, place % 2])
  return figure


@matplotlib.rc_context(panels.STYLE)
def histograms(results: Results, records: Records) -> Figure:
  """Distribution of the trained weights, a panel a layer, a line an α.

  Args:
    results: a run's results; "layers" names the panels, "analysis" the groups.
    records: arrays "g{i}/layer{j}/counts" [bins], "g{i}/layer{j}/edges"
      [bins + 1].

  Returns:
    A figure of densities (area 1) on a logarithmic axis, at most three panels a
    row.
  """
  names = results.get('layers', [])
  looks = panels.looks_of(panels.all_groups(results))
  layers = [
    j for j in range(len(names)) if any(panels.layer_bars(results, records, j))
  ]
  columns = min(3, max(1, len(layers)))
  rows = max(1, math.ceil(len(layers) / columns))
  figure = Figure(
    figsize=(1 + 3.6 * columns, 0.7 + 3 * rows), layout='constrained'
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
    axes.set_yscale('log')
    axes.set_title(names[j])
    axes.set_xlabel('weight θ after training')
    if place % columns == 0:
      axes.set_ylabel('probability density')
  panels.shared_legend(figure, results, drawn)
  return figure


@matplotlib.rc_context(panels.STYLE)
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
  looks, drawn = panels.looks_of(panels.all_groups(results)), set()
  for index, group in enumerate(panels.analysis_groups(results)):
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
  panels.shared_legend(figure, results, drawn)
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
  results, records = load(workdir)
  folder = workdir / 'figures'
  rates = sorted({group.learning_rate for group in panels.all_groups(results)})
  written = []
  for rate in rates:
    suffix = f'_lr{rate:g}' if len(rates) > 1 else ''
    part = at_learning_rate(results, records, rate)
    for fn in _supported(*part):
      written += save(fn(*part), folder / f'{fn.__name__}{suffix}')
  return written


def at_learning_rate(
  results: Results, records: Records, rate: float
) -> tuple[Results, Records]:
  """What a run with this learning rate alone would have recorded.

  Args:
    results: a run's results.
    records: a run's arrays.
    rate: one of the run's learning rates.

  Returns:
    Results and records to hand to a figure.
  """
  part = dict(results)
  for name in ('rows', 'summary', 'analysis', 'diverged'):
    if name in results:
      part[name] = [e for e in results[name] if e['learning_rate'] == rate]
  places = [
    index
    for index, group in enumerate(panels.analysis_groups(results))
    if group.learning_rate == rate
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


def load(
  workdir: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Reads what a run has recorded.

  Args:
    workdir: a run's folder.

  Returns:
    results.json, and the arrays of records.npz, {} where there is no such file.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: one of the two files cannot be read.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise FileNotFoundError(f'There is no folder {workdir}.')
  path = workdir / 'results.json'
  if not path.is_file():
    raise FileNotFoundError(f'There is no results.json in {workdir}.')
  try:
    results = json.loads(path.read_text(encoding='utf-8'))
    if not isinstance(results, dict):
      raise ValueError("it does not hold a run's results")
    path = workdir / 'records.npz'
    if not path.is_file():
      return results, {}
    with path.open('rb') as file, np.load(file) as archive:
      return results, dict(archive)
  except (ValueError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f'{path} cannot be read: {error}') from error


def save(figure: Figure, stem: pathlib.Path) -> list[pathlib.Path]:
  """Writes a figure as PNG and PDF, each whole or not at all.

  Args:
    figure: the same figure gives the same bytes.
    stem: path of the files but for the extension; folders are made.

  Returns:
    The two files.
  """
  stem.parent.mkdir(parents=True, exist_ok=True)
  written = []
  for kind, stamp in (('png', 'Software'), ('pdf', 'CreationDate')):
    # Not with_suffix, which would cut the rate off a name like figure1_lr0.1.
    path = stem.with_name(f'{stem.name}.{kind}')
    partial = path.with_name(f'.{path.name}.partial')
    try:
      with matplotlib.rc_context(panels.STYLE):
        figure.savefig(partial, format=kind, metadata={stamp: None})
      os.replace(partial, path)
    finally:
      partial.unlink(missing_ok=True)
    written.append(path)
  return written


def redraw(
  module: str,
  draw_fn: Callable[[str], list[pathlib.Path]],
  arguments: Sequence[str] | None,
) -> int:
  """The command of a module that draws finished runs again.

  Args:
    module: its name, for the usage message.
    draw_fn: from a run's folder to the files written.
    arguments: of the command line; None for those of the process.

  Returns:
    The exit status: 0, or 1 at the first folder that could not be drawn.
  """
  parser = argparse.ArgumentParser(
    prog=f'python -m {module}',
    description='Redraws the figures of finished runs from their records.',
  )
  parser.add_argument('workdir', nargs='+', help="a run's folder")
  for workdir in parser.parse_args(arguments).workdir:
    try:
      paths = draw_fn(workdir)
    except (OSError, ValueError) as error:
      print(error, file=sys.stderr)
      return 1
    if not paths:
      print(f'{workdir} has no results to draw.', file=sys.stderr)
      return 1
    for path in paths:
      print(path)
  return 0


def main(arguments: Sequence[str] | None = None) -> int:
  """Redraws the figures of the folders named on the command line."""
  return redraw('powerprop.plots', draw, arguments)


def _supported(
  results: Results, records: Records
) -> Iterator[Callable[[Results, Records], Figure]]:
  accuracy = bool(panels.curves_of(results, 'test_accuracy'))
  overlap = bool(panels.curves_of(results, 'mask_overlap'))
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
    for index in range(len(panels.analysis_groups(results)))
  ]
  if 'steps' in records and any(np.ptp(power) > 0 for power in powers):
    yield alpha_over_steps


if __name__ == '__main__':
  sys.exit(main())
