"""The pieces of a sparse run's figures: marks, panels and the legend.

`experiments.sparse_training.plots` puts them together. An *entry* is one of
`sparse_analysis.summarise`, with a "choice" where `best_of` gave it.
"""

from collections.abc import Iterable, Mapping, Sequence
import itertools
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation
import numpy as np

from experiments.report import curves
from experiments.report import style
from experiments.report.curves import Group
from experiments.report.curves import Mark
from experiments.report.statistics import Row
from experiments.sparse_training import analysis as sparse_analysis
from experiments.sparse_training.analysis import CHOICES
from experiments.sparse_training.analysis import title
from experiments.sparse_training.analysis import values

ACCURACY = 'test accuracy (%)'
_CONTEXT = '#cccccc'  # what a panel is not about
_CHOSEN: dict[str, Any] = {
  'marker': 'o',
  'markersize': 10,
  'fillstyle': 'none',
  'ls': '',
}
_DIVERGED: dict[str, Any] = {'marker': 'x', 'markersize': 9, 'ls': ''}


# Where rows stand for methods, these stand for the choices.
_CHOICE_MARKS = {
  'baseline': Mark(style.BASELINE, 'o'),
  'powerprop': Mark(style.PALETTE[0], 'o'),
}


def draw_lines(
  axes: Axes,
  dense: Sequence[Row],
  sparse: Sequence[Row],
  marks: Mapping[str, Mark],
) -> None:
  """A line for every method and choice, and level ones for dense nets."""
  for entry in dense:
    look = _style(entry['choice'], marks['dense'])
    axes.axhline(
      _mean(entry), color=style.BASELINE, linestyle=look['linestyle'], lw=1
    )
  for method, choice in itertools.product(values(sparse, 'method'), CHOICES):
    line = [e for e in sparse if (e['method'], e['choice']) == (method, choice)]
    density = [entry['density'] for entry in line]
    mean = np.array([_mean(entry) for entry in line])
    # Dashes on top: they leave to be seen what they cover.
    look = _style(choice, marks[method])
    axes.plot(density, mean, zorder=3 if choice == 'baseline' else 2, **look)
    if all(entry['n'] > 1 for entry in line):
      std = np.array([_std(entry) for entry in line])
      style.draw_band(axes, density, mean, std, marks[method].colour)
  style.density_axis(axes, [entry['density'] for entry in sparse])
  style.percent_limits(axes)


def draw_rows(
  axes: Axes, entries: Sequence[Row], labels: Mapping[str, str]
) -> None:
  """A row for every method, with the α that was chosen beside it."""
  methods = values(entries, 'method')
  for entry in entries:
    choice, row = entry['choice'], methods.index(entry['method'])
    axes.errorbar(
      _mean(entry),
      row + (0.13 if choice == 'baseline' else -0.13),
      xerr=style.whiskers(_mean(entry), _std(entry))[:, None],
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
  axes.set_yticks(
    range(len(methods)), [title(method, labels) for method in methods]
  )
  axes.set_ylim(len(methods) - 0.5, -0.5)
  axes.set_xlabel(ACCURACY)
  style.percent_limits(axes, 'x')


def draw_costs(
  axes: Axes,
  entries: Sequence[Row],
  marks: Mapping[str, Mark],
  context: Sequence[Row] = (),
) -> None:
  """A point for every method and choice, over what its training cost.

  Args:
    axes: where to.
    entries: what the panel is about, and has room for.
    marks: by method.
    context: what other panels are about: grey points.
  """
  for method in values(entries, 'method'):
    pair = [entry for entry in entries if entry['method'] == method]
    x = [entry['training_flops_ratio'] for entry in pair]
    axes.plot(x, [_mean(e) for e in pair], color=marks[method].colour, lw=0.8)
    for place, entry in zip(x, pair, strict=True):
      bars = style.whiskers(_mean(entry), _std(entry))[:, None]
      look = _style(entry['choice'], marks[method])
      axes.errorbar(place, _mean(entry), bars, **look)
  style.percent_limits(axes)
  axes.plot(
    [entry['training_flops_ratio'] for entry in context],
    [_mean(entry) for entry in context],
    'o',
    color=_CONTEXT,
    markersize=3.5,
    zorder=1,
  )


def draw_gains(axes: Axes, rows: Sequence[Row], entries: Sequence[Row]) -> None:
  """How far every α > 1 is ahead of α = 1, with 95% intervals."""
  looks = curves.looks_of(curves.all_groups({'summary': entries}))
  baseline = {e['sparsity']: e for e in entries if e['alpha'] == 1}
  lines: dict[Group, list[tuple[float, ...]]] = {}
  for entry in entries:
    if entry['alpha'] > 1 and entry['sparsity'] in baseline:
      gain = sparse_analysis.difference(
        rows, baseline[entry['sparsity']], entry
      )
      line = lines.setdefault(curves.group_of(entry), [])
      line.append((entry['density'], 100 * gain.mean, 100 * gain.half))
  for group, line in lines.items():
    density, mean, half = np.array(line).T
    colour, dashes = looks[group]
    axes.plot(
      density, mean, color=colour, ls=dashes, marker='o', markersize=2.5
    )
    ends = mean - half, mean + half
    axes.fill_between(density, *ends, color=colour, alpha=0.18, lw=0)
  axes.axhline(0, color=style.BASELINE, lw=1)
  style.density_axis(axes, [entry['density'] for entry in entries])


def draw_rates(
  figure: Figure,
  axes: Axes,
  entries: Sequence[Row],
  looks: Mapping[Group, curves.Look],
  chosen: Sequence[Row],
) -> None:
  """A line for every α and transform, over the learning rate.

  They stand side by side, so that no bar covers another.
  """
  ends: list[float] = []
  lines: dict[tuple[Any, ...], list[Row]] = {}
  for entry in entries:
    if entry['n']:
      key = entry['transform'], entry['alpha']
      lines.setdefault(key, []).append(entry)
  apart = min(0.045, 0.27 / max(len(lines), 1))  # all within the axes
  for place, line in enumerate(lines.values()):
    colour, dashes = looks[curves.group_of(line[0])]
    inches = apart * (place - (len(lines) - 1) / 2)
    beside = axes.transData + ScaledTranslation(
      inches, 0, figure.dpi_scale_trans
    )
    mean = [100 * entry['validation_accuracy_mean'] for entry in line]
    std = [100 * entry['validation_accuracy_std'] for entry in line]
    bars = style.whiskers(mean, std)
    ends += [*(mean - bars[0]), *(mean + bars[1])]
    axes.errorbar(
      values(line, 'learning_rate'),
      mean,
      bars,
      color=colour,
      ls=dashes,
      marker='o',
      markersize=3.5,
      transform=beside,
    )
    for entry in line:
      point = entry['learning_rate'], 100 * entry['validation_accuracy_mean']
      if any(entry.items() <= best.items() for best in chosen):
        axes.plot(*point, color=colour, transform=beside, **_CHOSEN)
      if entry['diverged']:
        axes.plot(*point, color=colour, transform=beside, **_DIVERGED)
  # Matplotlib leaves out of its limits what is moved aside.
  if ends:
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    axes.set_ylim(min(ends) - margin, max(ends) + margin)
  style.percent_limits(axes)


def sweep_handles() -> list[Line2D]:
  """What a legend says of the marks of `draw_rates`."""
  return [
    Line2D([], [], color=style.GREY, label='chosen on validation', **_CHOSEN),
    Line2D([], [], color=style.GREY, label='a seed diverged', **_DIVERGED),
  ]


def legend_handles(
  selected: Sequence[Row],
  marks: Mapping[str, Mark],
  labels: Mapping[str, str],
  lines: bool = False,
) -> list[Line2D]:
  """The methods that have marks, and the choices.

  Args:
    selected: what is drawn.
    marks: of methods, or {} where rows stand for them.
    labels: of methods.
    lines: whether lines join the marks.
  """
  handles = [
    Line2D(
      [],
      [],
      label=title(method, labels),
      color=colour,
      # Dense nets are level lines.
      marker='' if lines and method == 'dense' else marker,
    )
    for method, (colour, marker) in marks.items()
    if method in values(selected, 'method')
  ]
  for choice in values(selected, 'choice'):
    mark = Mark(style.GREY, 'o') if marks else _CHOICE_MARKS[choice]
    look = _style(choice, mark)
    name = CHOICES[choice]
    if choice == 'powerprop' and not marks:
      name += ', α at the right'
    handles.append(Line2D([], [], label=name, **look))
  for handle in handles:
    handle.set_linestyle(handle.get_linestyle() if lines else '')
  return handles


def context_handle() -> Line2D:
  """What a legend says of a panel's grey points."""
  return Line2D(
    [], [], color=_CONTEXT, marker='o', markersize=3.5, ls='', label='others'
  )


def course_of(rows: Iterable[Row]) -> tuple[tuple[int, float], ...]:
  """(step, mean density in percent), rounded as float32 has no more digits."""
  by_step: dict[int, list[float]] = {}
  for row in rows:
    by_step.setdefault(row['step'], []).append(row['density'])
  return tuple(
    (step, round(100 * float(np.mean(by_step[step])), 3))
    for step in sorted(by_step)
  )


def best_of(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
  """What is the best on validation: of dense nets, and of the others."""
  selected = sparse_analysis.select(sparse_analysis.summarise(rows))
  dense: list[Row] = [e for e in selected if e['method'] == 'dense']
  return dense, [e for e in selected if e['method'] != 'dense']


def place_title(
  distribution: str, sparsity: float, labels: Mapping[str, str]
) -> str:
  """What a panel of one distribution and sparsity is called."""
  return f'{title(distribution, labels)}, {100 * sparsity:.4g}% sparsity'


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


def _mean(entry: Row) -> float:
  return 100 * entry['test_accuracy_mean']


def _std(entry: Row) -> float:
  return 100 * entry['test_accuracy_std']
