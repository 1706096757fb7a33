"""Curves over densities, and looks: what figures of all experiments share."""

from collections.abc import Collection, Iterable, Mapping, Sequence
import math
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
import numpy as np

from experiments.report import naming
from experiments.report import statistics
from experiments.report import style
from experiments.report.style import BASELINE
from experiments.report.style import COLOURS
from experiments.report.style import GREY

Results = Mapping[str, Any]
Records = Mapping[str, np.ndarray]

_LINES = ('-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))


class Group(NamedTuple):
  """One line of a figure: a population that differs by seed only."""

  transform: str
  alpha: float
  learning_rate: float


class Look(NamedTuple):
  """Colour of an α and line style of a transform."""

  colour: Any
  line: Any


def group_of(entry: Mapping[str, Any]) -> Group:
  """Which group a row or an entry of a summary belongs to."""
  return Group(entry['transform'], entry['alpha'], entry['learning_rate'])


def analysis_groups(results: Results) -> list[Group]:
  """The groups in the order in which records number them."""
  return [group_of(entry) for entry in results.get('analysis', [])]


def all_groups(results: Results) -> list[Group]:
  """All groups, Powerprop's first, then by transform and α."""
  found = dict.fromkeys(analysis_groups(results))
  found |= dict.fromkeys(
    group_of(entry) for entry in statistics.summary_of(results)
  )
  return sorted(found, key=lambda g: (g.transform != 'powerprop', g))


def looks_of(groups: Sequence[Group]) -> dict[Group, Look]:
  """How each group is drawn."""
  transforms = list(dict.fromkeys(group.transform for group in groups))
  powers = sorted({group.alpha for group in groups} - {1})
  palette: Sequence[Any] = COLOURS
  if len(powers) > len(COLOURS):
    sample = np.linspace(0, 0.9, len(powers))
    palette = list(matplotlib.colormaps['viridis'](sample))
  return {
    group: Look(
      BASELINE if group.alpha == 1 else palette[powers.index(group.alpha)],
      _LINES[transforms.index(group.transform) % len(_LINES)],
    )
    for group in groups
  }


def legend_handles(results: Results, groups: Collection[Group]) -> list[Line2D]:
  """The legend of these groups: colours for α, lines for transforms."""
  looks, labels = looks_of(all_groups(results)), results.get('labels', {})
  handles: dict[Any, Line2D] = {}
  for group in sorted(groups, key=lambda group: group.alpha):
    label = 'Baseline' if group.alpha == 1 else f'α = {group.alpha:g}'
    handles[label] = Line2D([], [], color=looks[group].colour, label=label)
  transforms = {g.transform: looks[g].line for g in looks if g in groups}
  if set(transforms) != {'powerprop'} or 'powerprop' in labels:
    for transform, line in transforms.items():
      name = naming.transform_name(transform, labels)
      handles[transform] = Line2D([], [], color=GREY, ls=line, label=name)
  for group in lost(results):
    name = naming.setting_name(group.transform, group.alpha, labels)
    handles[group] = Line2D(
      [], [], color=GREY, marker='x', ls='', label=f'{name}: diverged'
    )
  return list(handles.values())


def lost(results: Results) -> list[Group]:
  """Groups all of whose members diverged."""
  lost = results.get('diverged')
  if lost is None:
    lost = statistics.diverged(results.get('rows', []))
  alive = {group_of(entry) for entry in statistics.summary_of(results)}
  return sorted({group_of(member) for member in lost} - alive)


def curves_of(
  results: Results, field: str
) -> dict[Group, list[Mapping[str, Any]]]:
  """The summary's entries that have a field, by group, dense first."""
  curves: dict[Group, list[Mapping[str, Any]]] = {}
  for group in all_groups(results):
    curves[group] = []
  for entry in statistics.summary_of(results):
    mean = entry.get(f'{field}_mean')
    if mean is not None and math.isfinite(mean):
      curves[group_of(entry)].append(entry)
  return {
    group: sorted(entries, key=lambda entry: -entry['density'])
    for group, entries in curves.items()
    if entries
  }


def draw_curves(axes: Axes, results: Results, field: str) -> None:
  """Means of a field against density, with bands of ± one std."""
  looks = looks_of(all_groups(results))
  curves = curves_of(results, field)
  if not curves:
    raise ValueError(f'the results have no {field} to draw')
  for group, entries in curves.items():
    look = looks[group]
    density = [entry['density'] for entry in entries]
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
      style.draw_band(axes, density, mean, std, look.colour)
  style.density_axis(axes, [e['density'] for c in curves.values() for e in c])
  style.percent_limits(axes)


def coincidences(results: Results, field: str) -> list[Line2D]:
  """What a legend says of curves that lie on top of each other."""
  labels = results.get('labels', {})
  means = {
    group: np.array([entry[f'{field}_mean'] for entry in entries])
    for group, entries in curves_of(results, field).items()
  }
  return [
    Line2D(
      [],
      [],
      ls='',
      label='coincide: '
      + '; '.join(
        naming.setting_name(g.transform, g.alpha, labels) for g in groups
      ),
    )
    for groups in style.coinciding(means)
    if len(groups) > 1
  ]


def runs_label(results: Results) -> str:
  """How many runs the means are of."""
  counts = [entry['n'] for entry in statistics.summary_of(results)]
  fewest, most = min(counts), max(counts)
  runs = f'{most}' if fewest == most else f'{fewest} to {most}'
  label = f'mean ± std, {runs} runs' if most > 1 else 'one run each'
  left_out = results.get('left_out')
  return f'{label}; {left_out} more α in tables.md' if left_out else label


def shared_legend(
  figure: Figure,
  results: Results,
  groups: Collection[Group],
  more: Sequence[Line2D] = (),
  title: str = '',
) -> Legend:
  """A legend above all panels, which covers none of them."""
  handles = [*legend_handles(results, groups), *more]
  return style.legend_above(figure, handles, title)


# Where the colours run out, markers tell.
_MARKERS = 'os^DvPX<>phd'


class Mark(NamedTuple):
  """Colour and marker of a method."""

  colour: str
  marker: str


def marks_of(methods: Iterable[str]) -> dict[str, Mark]:
  """How each of a run's methods is drawn; no two of up to 96 are alike.

  Neighbours, as many as a panel shows, differ by colour. Dense nets have a mark
  of their own.
  """
  sparse = [m for m in dict.fromkeys(methods) if m != 'dense']
  colours, markers = len(style.PALETTE), len(_MARKERS)
  marks = {
    method: Mark(style.PALETTE[i % colours], _MARKERS[(i + i // 24) % markers])
    for i, method in enumerate(sparse)
  }
  return {'dense': Mark(style.BASELINE, '*')} | marks
