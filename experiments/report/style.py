"""What all figures look like: settings, colours, axes; how they are saved."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
import contextlib
import math
import os
import pathlib
from typing import Any, TypeVar

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FixedLocator
from matplotlib.ticker import NullLocator
from matplotlib.ticker import StrMethodFormatter
import numpy as np

from experiments.report import progress

# Okabe and Ito's palette, told apart with any kind of colour vision; beyond its
# six, two that no other is close to.
BASELINE, GREY = '#222222', '#777777'
COLOURS = ('#0072B2', '#E69F00', '#009E73', '#D55E00', '#CC79A7', '#56B4E9')
PALETTE = (*COLOURS, GREY, '#6B3D1E')
MOST = 8  # lines that a panel may have and still be read

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
  # TrueType: publishers take no Type 3, and the text can be edited.
  'pdf.fonttype': 42,
  'ps.fonttype': 42,
}
_CHARACTER, _HANDLE = 0.072, 0.62  # inches of a legend's entry

Name = TypeVar('Name', bound=Hashable)


@contextlib.contextmanager
def paper() -> Iterator[None]:
  """Matplotlib's own defaults and our settings, here and nowhere else.

  A figure is the same whatever the user's matplotlibrc says (`text.usetex`
  would need LaTeX). It decorates functions too.
  """
  with matplotlib.rc_context():
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(_STYLE)
    yield


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
      with paper():
        figure.savefig(partial, format=kind, metadata={stamp: None})
      os.replace(partial, path)
    finally:
      partial.unlink(missing_ok=True)
    written.append(path)
  return written


def save_all(
  figures: Iterable[tuple[str, Figure]], workdir: pathlib.Path
) -> list[pathlib.Path]:
  """Writes a run's figures as they are drawn, and tells how many there are.

  Args:
    figures: names and figures, best drawn one by one.
    workdir: the run's folder.

  Returns:
    The files written, under workdir/figures.
  """
  written = []
  with progress.Progress('drawing', None, 'figure') as bar:
    for name, figure in figures:
      written += save(figure, workdir / 'figures' / name)
      bar.add(1, name)
  return written


def legend_above(
  figure: Figure, handles: Sequence[Artist], title: str = ''
) -> Legend:
  """A legend above all panels, which covers none of them.

  Args:
    figure: with a constrained layout.
    handles: with their labels.
    title: of the legend.
  """
  widths = [_HANDLE + _CHARACTER * len(str(h.get_label())) for h in handles]
  room = figure.get_figwidth()
  columns = len(handles) if sum(widths) < room else int(room / max(widths))
  return figure.legend(
    handles=handles,
    loc='outside upper center',
    ncols=max(1, min(columns, 6)),
    title=title,
  )


def legend_beside(
  axes: Axes, handles: Sequence[Artist], title: str = ''
) -> Legend:
  """A legend right of a panel, at its top.

  Args:
    axes: the panel, the last of its row.
    handles: with their labels.
    title: of the legend.
  """
  return axes.legend(
    handles=handles,
    loc='upper left',
    bbox_to_anchor=(1.03, 1.03),
    title=title,
    alignment='left',
  )


def whiskers(mean: Any, spread: Any) -> np.ndarray:
  """How far ± a spread goes from a mean without leaving [0, 100].

  Args:
    mean: of a share in percent, a number or an array [N].
    spread: ≥ 0, likewise.

  Returns:
    The two lengths, float64 [2] or [2, N]: down and up.

  >>> whiskers(99., 3.).tolist()
  [3.0, 1.0]
  """
  mean, spread = np.asarray(mean, np.float64), np.asarray(spread, np.float64)
  room = np.clip([mean, 100 - mean], 0, None)
  return np.minimum(np.broadcast_to(spread, room.shape), room)


def draw_band(axes: Axes, x: Any, mean: Any, std: Any, colour: Any) -> None:
  """A band of ± one std around a line of shares, inside [0, 100].

  Args:
    axes: where to.
    x: [N].
    mean: [N], in percent.
    std: [N], in percent.
    colour: of the line.
  """
  down, up = whiskers(mean, std)
  axes.fill_between(
    x, mean - down, mean + up, color=colour, alpha=0.18, linewidth=0
  )


def percent_limits(axes: Axes, which: str = 'y') -> None:
  """Limits around what was drawn, not further from [0, 100] than a margin.

  Args:
    axes: all of it is there.
    which: 'x' or 'y'.
  """
  low, high = axes.get_ylim() if which == 'y' else axes.get_xlim()
  axes.set(**{f'{which}lim': (max(low, -2.0), min(high, 102.0))})


def density_axis(axes: Axes, densities: Sequence[float]) -> None:
  """A logarithmic axis of weights kept, sparser to the right."""
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


def ratio_axis(axes: Axes, ratios: Sequence[float]) -> None:
  """A logarithmic horizontal axis of costs, each tick a plain number.

  Args:
    axes: where to.
    ratios: what it has to hold, > 0.
  """
  low, high = min(ratios), max(ratios)
  axes.set_xscale('log')
  # A factor of two at least: what costs the same stands at the same place.
  centre, factor = (low * high) ** 0.5, max(high / low, 2.0) ** 0.58
  axes.set_xlim(centre / factor, centre * factor)
  _plain_log(axes.xaxis, centre / factor, centre * factor)


def decade_axis(axes: Axes) -> None:
  """A logarithmic vertical axis around what is there, with a few ticks."""
  axes.set_yscale('log')
  low, high = axes.get_ylim()
  if high < 100 * low:
    _plain_log(axes.yaxis, low, high)


def _plain_log(axis: Axis, low: float, high: float) -> None:
  """At least three ticks, if there are such, that are plain numbers."""
  for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    ticks = [
      tick
      for power in powers
      for digit in digits
      if low <= (tick := digit * 10.0**power) <= high
    ]
    if len(ticks) >= 3:
      break
  axis.set_major_locator(FixedLocator(ticks))
  axis.set_major_formatter(StrMethodFormatter('{x:g}'))
  axis.set_minor_locator(NullLocator())


def coinciding(courses: Mapping[Name, np.ndarray]) -> list[list[Name]]:
  """Which lines of a panel cannot be told apart, as one covers the other.

  Args:
    courses: by name, float [N]; NaN where there is nothing.

  Returns:
    All names in lists. Those of one list are nowhere further apart than a line
    is wide: 0.4% of the range of all.

  >>> coinciding({'a': np.array([0., 1.]), 'b': np.array([1., 1.]),
  ...             'c': np.array([0., 1.])})
  [['a', 'c'], ['b']]
  """
  if not courses:
    return []
  every = np.concatenate([np.ravel(c) for c in courses.values()])
  every = every[np.isfinite(every)]
  width = 0.004 * float(np.ptp(every)) if every.size else 0.0
  found: list[list[Name]] = []
  for name, course in courses.items():
    for names in found:
      first = courses[names[0]]
      if first.shape == course.shape and np.allclose(
        first, course, rtol=0, atol=width, equal_nan=True
      ):
        names.append(name)
        break
    else:
      found.append([name])
  return found
