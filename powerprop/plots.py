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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import json
import math
import os
import pathlib
import sys
from typing import Any, NamedTuple
import zipfile

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from matplotlib.ticker import NullLocator
import numpy as np
from scipy import stats

from powerprop import analysis

Results = Mapping[str, Any]
Records = Mapping[str, np.ndarray]

# Okabe and Ito's palette, told apart with any kind of colour vision.
_BASELINE = '#222222'
_COLOURS = ('#0072B2', '#E69F00', '#009E73', '#D55E00', '#CC79A7', '#56B4E9')
_KEPT, _PRUNED = '#009E73', '#D55E00'
_LINES = ('-', '--', '-.', (0, (1, 1)))
_TICKS = tuple(
  digit * 10.0**power for power in range(0, -6, -1) for digit in (1, 0.5, 0.2)
)
_STYLE: dict[Any, Any] = {
  'font.size': 10,
  'axes.titlesize': 11,
  'axes.titlelocation': 'left',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': '#e5e5e5',
  'legend.fontsize': 9,
  'legend.framealpha': 0.8,
  'legend.edgecolor': 'none',
  'lines.linewidth': 1.6,
  'savefig.dpi': 160,
}


class _Group(NamedTuple):
  """One line of a figure: a population that differs by seed only."""

  transform: str
  alpha: float
  learning_rate: float


class _Look(NamedTuple):
  colour: Any
  line: Any


@matplotlib.rc_context(_STYLE)
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
  _draw_accuracy(figure.add_subplot(), results)
  return figure


@matplotlib.rc_context(_STYLE)
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
  chance = _draw_overlap(figure.add_subplot(), results)
  groups = set(_curves(results, 'mask_overlap'))
  _shared_legend(figure, results, groups, chance).set_title(_runs(results))
  return figure


@matplotlib.rc_context(_STYLE)
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
  chosen = _change_groups(results, records)
  count = max(1, len(chosen))
  figure = Figure(figsize=(5.2 * count, 4.8), layout='constrained')
  grid = figure.add_gridspec(1, count)
  limits = _change_limits(chosen, records)
  for place, (index, group) in enumerate(chosen):
    title = _change_title(group)
    _draw_change(figure, grid[place], records, index, limits, title)
  return figure


@matplotlib.rc_context(_STYLE)
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
  if _curves(results, 'test_accuracy'):
    drawers.append(
      lambda figure, spec: _draw_accuracy(
        figure.add_subplot(spec), results, '(a) One-shot pruning'
      )
    )
  if _curves(results, 'mask_overlap'):
    drawers.append(lambda figure, spec: _draw_panel_b(figure, spec, results))
  chosen = _change_groups(results, records)
  limits = _change_limits(chosen, records)
  for letter, (index, group) in zip('cd', chosen, strict=False):
    title = f'({letter}) {_change_title(group)}'

    def draw_change(
      figure: Figure, spec: SubplotSpec, index: int = index, title: str = title
    ) -> None:
      _draw_change(figure, spec, records, index, limits, title)

    drawers.append(draw_change)
  rows = max(1, math.ceil(len(drawers) / 2))
  figure = Figure(figsize=(10.5, 4.6 * rows), layout='constrained')
  grid = figure.add_gridspec(rows, 2, wspace=0.06, hspace=0.06)
  for place, drawer in enumerate(drawers):
    drawer(figure, grid[place // 2, place % 2])
  return figure


@matplotlib.rc_context(_STYLE)
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
  looks = _looks(_groups(results))
  layers = [j for j in range(len(names)) if any(_bars(results, records, j))]
  columns = min(3, max(1, len(layers)))
  rows = max(1, math.ceil(len(layers) / columns))
  figure = Figure(
    figsize=(1 + 3.6 * columns, 0.7 + 3 * rows), layout='constrained'
  )
  drawn = set()
  for place, j in enumerate(layers):
    axes = figure.add_subplot(rows, columns, place + 1)
    for group, density, edges in _bars(results, records, j):
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
  _shared_legend(figure, results, drawn)
  return figure


@matplotlib.rc_context(_STYLE)
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
  looks, drawn = _looks(_groups(results)), set()
  for index, group in enumerate(_analysis_groups(results)):
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
  _shared_legend(figure, results, drawn)
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
  results, records = _load(workdir)
  folder = workdir / 'figures'
  rates = sorted({group.learning_rate for group in _groups(results)})
  written = []
  for rate in rates:
    suffix = f'_lr{rate:g}' if len(rates) > 1 else ''
    part = at_learning_rate(results, records, rate)
    for fn in _supported(*part):
      figure = fn(*part)
      for extension in ('png', 'pdf'):
        path = folder / f'{fn.__name__}{suffix}.{extension}'
        _save(figure, path)
        written.append(path)
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
    for index, group in enumerate(_analysis_groups(results))
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


def main(arguments: Sequence[str] | None = None) -> int:
  """Redraws the figures of the folders named on the command line."""
  parser = argparse.ArgumentParser(
    prog='python -m powerprop.plots',
    description='Redraws the figures of finished runs from their records.',
  )
  parser.add_argument('workdir', nargs='+', help="a run's folder")
  for workdir in parser.parse_args(arguments).workdir:
    try:
      paths = draw(workdir)
    except (OSError, ValueError) as error:
      print(error, file=sys.stderr)
      return 1
    if not paths:
      print(f'{workdir} has no results to draw.', file=sys.stderr)
      return 1
    for path in paths:
      print(path)
  return 0


def _load(workdir: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
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


def _save(figure: Figure, path: pathlib.Path) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}.partial')
  kind = path.suffix[1:]
  stamp = {'png': {'Software': None}, 'pdf': {'CreationDate': None}}
  try:
    with matplotlib.rc_context(_STYLE):
      figure.savefig(partial, format=kind, metadata=stamp[kind])
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def _supported(
  results: Results, records: Records
) -> Iterator[Callable[[Results, Records], Figure]]:
  accuracy = bool(_curves(results, 'test_accuracy'))
  overlap = bool(_curves(results, 'mask_overlap'))
  change = bool(_change_groups(results, records))
  if accuracy:
    yield accuracy_vs_density
  if overlap:
    yield mask_overlap
  if change:
    yield weight_change
  if accuracy and (overlap or change):
    yield figure1
  layers = range(len(results.get('layers', [])))
  if any(any(_bars(results, records, j)) for j in layers):
    yield histograms
  powers = [
    records.get(f'g{index}/alpha_over_steps', np.zeros(1))
    for index in range(len(_analysis_groups(results)))
  ]
  if 'steps' in records and any(np.ptp(power) > 0 for power in powers):
    yield alpha_over_steps


def _group(entry: Mapping[str, Any]) -> _Group:
  return _Group(entry['transform'], entry['alpha'], entry['learning_rate'])


def _analysis_groups(results: Results) -> list[_Group]:
  """The groups in the order in which records number them."""
  return [_group(entry) for entry in results.get('analysis', [])]


def _summary(results: Results) -> Sequence[Mapping[str, Any]]:
  return results.get('summary') or analysis.summarise(results.get('rows', []))


def _groups(results: Results) -> list[_Group]:
  """All groups, Powerprop's first, then by transform and α."""
  found = dict.fromkeys(_analysis_groups(results))
  found |= dict.fromkeys(_group(entry) for entry in _summary(results))
  return sorted(found, key=lambda g: (g.transform != 'powerprop', g))


def _looks(groups: Sequence[_Group]) -> dict[_Group, _Look]:
  transforms = list(dict.fromkeys(group.transform for group in groups))
  powers = sorted({group.alpha for group in groups} - {1})
  palette: Sequence[Any] = _COLOURS
  if len(powers) > len(_COLOURS):
    sample = np.linspace(0, 0.9, len(powers))
    palette = list(matplotlib.colormaps['viridis'](sample))
  return {
    group: _Look(
      _BASELINE if group.alpha == 1 else palette[powers.index(group.alpha)],
      _LINES[transforms.index(group.transform) % len(_LINES)],
    )
    for group in groups
  }


def _transform_name(transform: str) -> str:
  names = {'powerprop': 'Powerprop', 'chain_rule': 'naive chain rule'}
  if 'adaptive' in transform:
    return 'adaptive from that α'
  return names.get(transform, transform.replace('_', ' '))


def _handles(results: Results, groups: Collection[_Group]) -> list[Line2D]:
  """The legend of these groups: colours for α, lines for transforms."""
  looks = _looks(_groups(results))
  handles: dict[Any, Line2D] = {}
  for group in sorted(groups, key=lambda group: group.alpha):
    label = 'Baseline' if group.alpha == 1 else f'α = {group.alpha:g}'
    handles[label] = Line2D([], [], color=looks[group].colour, label=label)
  transforms = {g.transform: looks[g].line for g in looks if g in groups}
  if set(transforms) != {'powerprop'}:
    for transform, line in transforms.items():
      handles[transform] = Line2D(
        [], [], color='#777777', ls=line, label=_transform_name(transform)
      )
  for group in _lost(results):
    label = f'α = {group.alpha:g}'
    if group.transform != 'powerprop':
      label += f', {_transform_name(group.transform)}'
    handles[group] = Line2D(
      [], [], color='#777777', marker='x', ls='', label=f'{label}: diverged'
    )
  return list(handles.values())


def _lost(results: Results) -> list[_Group]:
  """Groups all of whose members diverged."""
  lost = results.get('diverged')
  if lost is None:
    lost = analysis.diverged(results.get('rows', []))
  alive = {_group(entry) for entry in _summary(results)}
  return sorted({_group(member) for member in lost} - alive)


def _curves(
  results: Results, field: str
) -> dict[_Group, list[Mapping[str, Any]]]:
  """The summary's entries that have a field, by group, dense first."""
  curves: dict[_Group, list[Mapping[str, Any]]] = {}
  for group in _groups(results):
    curves[group] = []
  for entry in _summary(results):
    mean = entry.get(f'{field}_mean')
    if mean is not None and math.isfinite(mean):
      curves[_group(entry)].append(entry)
  return {
    group: sorted(entries, key=lambda entry: -entry['density'])
    for group, entries in curves.items()
    if entries
  }


def _draw_curves(axes: Axes, results: Results, field: str) -> None:
  looks = _looks(_groups(results))
  curves = _curves(results, field)
  if not curves:
    raise ValueError(f'the results have no {field} to draw')
  for group, entries in curves.items():
    look = looks[group]
    density = np.array([entry['density'] for entry in entries])
    mean = 100 * np.array([entry[f'{field}_mean'] for entry in entries])
    axes.plot(
      density,
      mean,
      color=look.colour,
      linestyle=look.line,
      marker='o',
      markersize=2.5,
      zorder=3 if group.alpha == 1 else 2,
    )
    if all(entry['n'] > 1 for entry in entries):
      std = 100 * np.array([entry[f'{field}_std'] for entry in entries])
      axes.fill_between(
        density,
        mean - std,
        mean + std,
        color=look.colour,
        alpha=0.18,
        linewidth=0,
      )
  _density_axis(axes, [e['density'] for c in curves.values() for e in c])


def _runs(results: Results) -> str:
  counts = [entry['n'] for entry in _summary(results)]
  fewest, most = min(counts), max(counts)
  runs = f'{most}' if fewest == most else f'{fewest} to {most}'
  return f'mean ± std, {runs} runs' if most > 1 else 'one run each'


def _shared_legend(
  figure: Figure,
  results: Results,
  groups: Collection[_Group],
  more: Sequence[Line2D] = (),
) -> Legend:
  """A legend above all panels, which covers none of them."""
  handles = [*_handles(results, groups), *more]
  columns = max(1, min(int(figure.get_figwidth() / 2), len(handles)))
  return figure.legend(
    handles=handles, loc='outside upper center', ncols=columns
  )


def _density_axis(axes: Axes, densities: Sequence[float]) -> None:
  largest, smallest = max(densities), min(densities)
  if smallest == largest:
    largest, smallest = min(1.0, 2 * largest), smallest / 2
  margin = (largest / smallest) ** 0.02
  axes.set_xscale('log')
  axes.set_xlim(largest * margin, smallest / margin)  # sparser to the right
  ticks = [
    tick for tick in _TICKS if smallest / margin <= tick <= largest * margin
  ]
  axes.xaxis.set_major_locator(FixedLocator(ticks))
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_xticklabels([f'{100 * tick:g}%' for tick in ticks])
  axes.set_xlabel('weights kept')


def _draw_accuracy(axes: Axes, results: Results, title: str = '') -> None:
  _draw_curves(axes, results, 'test_accuracy')
  axes.set(title=title, ylabel='test accuracy (%)')
  axes.legend(
    handles=_handles(results, set(_curves(results, 'test_accuracy'))),
    loc='lower left',
    title=_runs(results),
    alignment='left',
  )


def _draw_overlap(
  axes: Axes, results: Results, title: str = ''
) -> list[Line2D]:
  """Draws the curves, and the chance level, which it returns."""
  _draw_curves(axes, results, 'mask_overlap')
  chance = {
    entry['density']: entry['chance_overlap']
    for entry in _summary(results)
    if entry.get('chance_overlap') is not None
  }
  lines: list[Line2D] = []
  if chance:
    density = sorted(chance)
    lines = axes.plot(
      density,
      [100 * chance[d] for d in density],
      color='#777777',
      linestyle=':',
      label='chance',
      zorder=1,
    )
  axes.set(title=title, ylabel='mask overlap (%)')
  axes.set_ylim(0, 102)
  return lines


def _draw_panel_b(figure: Figure, spec: SubplotSpec, results: Results) -> None:
  axes = figure.add_subplot(spec)
  title = '(b) Masks before and after training'
  chance = _draw_overlap(axes, results, title)
  if chance:  # the other lines are those of panel a
    axes.legend(handles=chance, loc='upper right')


def _change_groups(
  results: Results, records: Records
) -> list[tuple[int, _Group]]:
  """The baseline and α = 4, or else the largest, of the first transform."""
  usable = []
  for index, group in enumerate(_analysis_groups(results)):
    names = [f'g{index}/{name}' for name in ('initial', 'final', 'kept')]
    if all(name in records for name in names) and all(
      np.all(np.isfinite(records[name])) for name in names[:2]
    ):
      usable.append((index, group))
  usable.sort(key=lambda item: item[1].transform != 'powerprop')
  baselines = [item for item in usable if item[1].alpha == 1]
  others = [item for item in usable if item[1].alpha != 1]
  same = [
    item for item in others if item[1].transform == others[0][1].transform
  ]
  same.sort(key=lambda item: (item[1].alpha == 4, item[1].alpha))
  return baselines[:1] + same[-1:]


def _change_title(group: _Group) -> str:
  if group.alpha == 1:
    return 'Baseline (α = 1)'
  if 'adaptive' in group.transform:
    return f'Adaptive, from α = {group.alpha:g}'
  return f'{_transform_name(group.transform).capitalize()}, α = {group.alpha:g}'


def _change_limits(
  chosen: Sequence[tuple[int, _Group]], records: Records
) -> tuple[float, float]:
  """Half-widths of the shared axes.

  A trained network has a few weights far outside all others, which would leave
  those no room: the vertical axis ends a little beyond 99.8% of the weights,
  and `_draw_change` marks the rest at its edge.
  """

  def reach(name: str, share: float) -> float:
    sizes = [np.abs(records[f'g{i}/{name}']) for i, _ in chosen]
    widest = max((float(np.quantile(x, share)) for x in sizes), default=1.0)
    largest = max((float(np.max(x)) for x in sizes), default=1.0)
    return 1.05 * min(1.3 * widest, largest) or 1.0

  return reach('initial', 1.0), reach('final', 0.998)


def _draw_change(
  figure: Figure,
  spec: SubplotSpec,
  records: Records,
  index: int,
  limits: tuple[float, float],
  title: str,
) -> None:
  initial, final = records[f'g{index}/initial'], records[f'g{index}/final']
  kept = records[f'g{index}/kept'].astype(bool)
  grid = spec.subgridspec(
    2, 2, width_ratios=(5, 1), height_ratios=(1, 5), wspace=0.02, hspace=0.02
  )
  axes = figure.add_subplot(grid[1, 0])
  top = figure.add_subplot(grid[0, 0], sharex=axes)
  side = figure.add_subplot(grid[1, 1], sharey=axes)
  for margin in (top, side):
    margin.axis('off')
  axes.plot(
    [-limits[0], limits[0]], [-limits[0], limits[0]], color='#999999', lw=0.8
  )
  for which, colour, name in (
    (~kept, _PRUNED, 'pruned'),
    (kept, _KEPT, 'kept'),
  ):
    axes.scatter(
      initial[which],
      final[which],
      s=3,
      color=colour,
      alpha=0.5,
      linewidths=0,
      rasterized=True,
      label=f'{name} ({100 * np.mean(which):.0f}%)',
    )
    for sign, marker in ((1, '^'), (-1, 'v')):
      outside = which & (sign * final > limits[1])
      edge = np.full(np.count_nonzero(outside), 0.98 * sign * limits[1])
      axes.scatter(initial[outside], edge, s=16, marker=marker, color=colour)
    for margin, values, limit in (
      (top, initial[which], limits[0]),
      (side, final[which], limits[1]),
    ):
      position, height = _kernel_density(values, limit)
      if margin is top:
        margin.plot(position, height, color=colour, lw=1.2)
        margin.fill_between(position, height, color=colour, alpha=0.2, lw=0)
      else:
        margin.plot(height, position, color=colour, lw=1.2)
        margin.fill_betweenx(position, height, color=colour, alpha=0.2, lw=0)
  axes.set_xlim(-limits[0], limits[0])
  axes.set_ylim(-limits[1], limits[1])
  top.set_ylim(bottom=0)
  side.set_xlim(left=0)
  top.set_title(title)
  axes.set(xlabel='weight θ before training', ylabel='weight θ after training')
  beyond = np.count_nonzero(np.abs(final) > limits[1])
  if beyond:
    axes.text(
      0.98,
      0.04,
      f'▲▼ {beyond} beyond, up to ±{np.max(np.abs(final)):.1f}',
      transform=axes.transAxes,
      ha='right',
      fontsize=8,
    )
  axes.legend(loc='upper left', markerscale=4, handletextpad=0.2)


def _kernel_density(
  values: np.ndarray, limit: float
) -> tuple[np.ndarray, np.ndarray]:
  """A kernel density estimate over [-limit, limit], scaled to a peak of 1.

  Values too alike for an estimate get a spike where they are.
  """
  if values.size == 0:
    return np.array([-limit, limit]), np.zeros(2)
  low, high = float(np.min(values)), float(np.max(values))
  if values.size < 2 or high - low < 1e-6 * limit:
    centre = (low + high) / 2
    spike = 1e-3 * limit * np.array([-1, 0, 1]) + centre
    position = np.concatenate([[-limit], spike, [limit]])
    return position, np.array([0.0, 0, 1, 0, 0])
  # A fine grid where the values are: pruned weights fill little of the axis.
  wide, fine = np.linspace(-limit, limit, 201), np.linspace(low, high, 201)
  position = np.unique(np.concatenate([wide, fine]))
  # Scott's rule, with a spread that a few far-off weights do not inflate.
  spread = np.subtract(*np.percentile(values, [75, 25])) / 1.349
  ratio = min(1.0, spread / np.std(values)) or 1.0
  kde = stats.gaussian_kde(
    values.astype(np.float64), bw_method=ratio * values.size**-0.2
  )
  height = kde(position)
  return position, height / np.max(height)


def _bars(
  results: Results, records: Records, layer: int
) -> Iterator[tuple[_Group, np.ndarray, np.ndarray]]:
  """Normalised histograms of one layer, of every group that has one."""
  for index, group in enumerate(_analysis_groups(results)):
    counts = records.get(f'g{index}/layer{layer}/counts')
    edges = records.get(f'g{index}/layer{layer}/edges')
    if counts is None or edges is None or not np.all(np.isfinite(edges)):
      continue
    area = counts.sum() * np.diff(edges)
    if np.all(area > 0):
      yield group, counts / area, edges


if __name__ == '__main__':
  sys.exit(main())
