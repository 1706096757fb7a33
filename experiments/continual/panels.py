"""The pieces of a continual run's figures: looks, courses, panels, heat maps.

`experiments.continual.plots` puts them together. A *group* is the members of a
setting that stands for its line, as `continual_analysis.shown` gives them; its
*key* is the setting.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import Any, NamedTuple

from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
import numpy as np

from experiments.continual import analysis as continual_analysis
from experiments.continual.analysis import Records
from experiments.continual.analysis import title
from experiments.report import curves
from experiments.report import differences
from experiments.report import statistics
from experiments.report import style
from experiments.report.naming import net_name
from experiments.report.naming import transform_name
from experiments.report.statistics import Row

Key = tuple[Any, ...]
Group = Sequence[Sequence[Row]]

# Of the rows of `draw_ends`.
_ENDS = 'os^Dv'
_PUBLISHED: dict[str, Any] = {
  'marker': '*',
  'markersize': 9,
  'color': style.GREY,
  'fillstyle': 'none',
  'ls': '',
}
# Greys, as colours stand for α.
_NEW, _REUSED = '#555555', '#bdbdbd'
_LINES: Sequence[Any] = ('-', '-.', ':', (0, (5, 1, 1, 1, 1, 1)))


class LineLook(NamedTuple):
  """How a line is drawn."""

  colour: Any
  marker: str
  line: Any


def looks_of(keys: Sequence[Key]) -> dict[Key, LineLook]:
  """How each line of a run is drawn.

  Colours and markers stand for methods; α has a style of line, and the larger
  it is, the darker. Of a single method, colours stand for α. Lines of α = 1 are
  dashed.
  """
  methods = list(dict.fromkeys(key[0] for key in keys))
  marks = curves.marks_of(methods)
  alone = curves.looks_of([_group(key) for key in keys])
  powers = sorted({key[2] for key in keys} - {1})
  looks = {}
  for key in keys:
    line = _LINES[powers.index(key[2]) % len(_LINES)] if key[2] != 1 else '--'
    same = sorted({k[2] for k in keys if k[0] == key[0]})
    colour: Any = marks[key[0]].colour
    if len(methods) == 1:
      colour = alone[_group(key)].colour
      line = '--' if key[2] == 1 else '-'
    elif len(same) > 1:
      share = same.index(key[2]) / (len(same) - 1)
      colour = _lighter(colour, 0.65 * (1 - share))
    looks[key] = LineLook(colour, marks[key[0]].marker, line)
  return looks


def label_of(key: Key, keys: Iterable[Key], labels: Mapping[str, str]) -> str:
  """What a line is called: no more than tells it from the others."""
  keys = list(keys)
  several = lambda i: len({k[i] for k in keys}) > 1
  label = title(key[0], labels) if several(0) or not several(2) else ''
  label += f'{", " if label else ""}α = {key[2]:g}' if several(2) else ''
  if len({k[1] for k in keys if (k[0], k[2]) == (key[0], key[2])}) > 1:
    label += f', {transform_name(key[1], labels)}'
  return label


def handles_of(
  keys: Iterable[Key],
  looks: Mapping[Key, LineLook],
  labels: Mapping[str, str],
  together: Iterable[Sequence[Key]] = (),
) -> list[Line2D]:
  """What a legend shows of these lines.

  Args:
    keys: of all lines.
    looks: how they are drawn.
    labels: of methods and transforms.
    together: keys of lines that coincide: the last is drawn for all.
  """
  keys = list(keys)
  same = {names[-1]: names for names in together}
  hidden = {key for names in same.values() for key in names[:-1]}
  return [
    Line2D(
      [],
      [],
      color=looks[key].colour,
      linestyle=looks[key].line,
      marker=looks[key].marker,
      markersize=4,
      label='\n= '.join(
        label_of(k, keys, labels) for k in same.get(key, [key])
      ),
    )
    for key in keys
    if key not in hidden
  ]


def runs_label(groups: Mapping[Key, Group]) -> str:
  """How many runs the means are of."""
  return curves.runs_label(
    {'summary': [{'n': len(g)} for g in groups.values()]}
  )


def course(courses: Iterable[Any]) -> np.ndarray:
  """The courses of seeds as one array, as far as all of them go.

  Args:
    courses: for each seed a number a task, NaN where there is none. A seed
      without a single number is left out.

  Returns:
    float64 [seeds, T].
  """
  arrays = [np.array(c, np.float64) for c in courses]
  arrays = [a for a in arrays if np.isfinite(a).any()]
  shortest = min(map(len, arrays), default=0)
  return np.array([a[:shortest] for a in arrays]).reshape(-1, shortest)


def average_courses(group: Group, records: Records) -> np.ndarray:
  """Average accuracy on all tasks so far, float64 [seeds, T], in percent."""
  matrices = [continual_analysis.matrix_of(m, records) for m in group]
  return 100 * course(
    [continual_analysis.average_accuracy(x) for x in matrices]
  )


def used_courses(group: Group) -> np.ndarray:
  """Share of the weights in use, float64 [seeds, T], in percent."""
  return 100 * course([[row['used_weights'] for row in m] for m in group])


def ends_of(values: np.ndarray) -> np.ndarray:
  """Where courses [seeds, T] end, [seeds]: at the last task that all have."""
  return values[:, np.flatnonzero(np.isfinite(values).all(axis=0))[-1]]


def draw_course(axes: Axes, values: np.ndarray, look: LineLook) -> None:
  """The mean of the seeds over the number of tasks, with a band of ± one std.

  Args:
    axes: where to.
    values: float64 [seeds, T]; where one is NaN, the line goes straight on.
    look: the line's.
  """
  tasks = 1 + np.flatnonzero(np.isfinite(values).all(axis=0))
  values = values[:, tasks - 1]
  if not values.size:
    return
  mean = values.mean(axis=0)
  axes.plot(
    tasks,
    mean,
    color=look.colour,
    linestyle=look.line,
    marker=look.marker,
    markersize=4,
    markevery=max(1, len(tasks) // 10),
    # Dashes on top: they leave to be seen what they cover.
    zorder=3 if look.line == '--' else 2,
  )
  if len(values) > 1:
    std = values.std(axis=0, ddof=1)
    style.draw_band(axes, tasks, mean, std, look.colour)


def draw_published(axes: Axes, task: int, number: float) -> Line2D:
  """A star where a published number is; returns what a legend shows of it."""
  axes.plot(task, number, zorder=4, **_PUBLISHED)
  return Line2D([], [], label='published', **_PUBLISHED)


def all_sure(ends: Mapping[Key, np.ndarray]) -> bool:
  """Whether all have the three seeds that an interval takes."""
  return all(len(values) > 2 for values in ends.values())


def draw_ends(
  axes: Axes,
  ends: Mapping[Key, np.ndarray],
  labels: Mapping[str, str],
  published: Mapping[str, float],
  rising: bool,
) -> list[Line2D]:
  """Where the lines of a crowd end, a row a method, ranked by the best α.

  Args:
    axes: where to.
    ends: by line, float64 [seeds], in percent.
    labels: of methods and transforms.
    published: by method, in percent.
    rising: whether the smallest comes first.

  Returns:
    What a legend shows: the mean of every α, with its 95% interval by Student's
    t, or ± std where one has fewer than three seeds; and what is published.
  """
  sure = all_sure(ends)
  best: dict[str, float] = {}
  for key, values in ends.items():
    mean = float(values.mean()) * (1 if rising else -1)
    best[key[0]] = min(best.get(key[0], math.inf), mean)
  for method, number in published.items():
    best.setdefault(method, number * (1 if rising else -1))
  methods = sorted(best, key=lambda method: best[method])
  lines = list(dict.fromkeys((key[1], key[2]) for key in ends))
  looks = curves.looks_of([curves.Group(*line, 0.0) for line in lines])
  handles = []
  for place, line in enumerate(lines):
    beside = 0.5 * ((place + 0.5) / len(lines) - 0.5)
    colour = looks[curves.Group(*line, 0.0)].colour
    look: dict[str, Any] = {
      'color': colour,
      'marker': _ENDS[place % len(_ENDS)],
      'markersize': 5,
      'markerfacecolor': 'white' if line[1] == 1 else colour,
      'ls': '',
    }
    for key, values in ends.items():
      if (key[1], key[2]) == line:
        mean = float(values.mean())
        row = methods.index(key[0]) + beside
        _, bar = statistics.mean_and_std(values.tolist())
        if sure:
          bar = differences.half_width(bar, len(values))
        bars = style.whiskers(mean, bar)[:, None]
        axes.errorbar(mean, row, xerr=bars, **look)
    several = len({transform for transform, _ in lines}) > 1
    name = f'α = {line[1]:g}'
    if several:
      name += f', {transform_name(line[0], labels)}'
    handles.append(Line2D([], [], label=name, **look))
  for method, number in published.items():
    axes.plot(number, methods.index(method), **_PUBLISHED)
  if published:
    name = 'published, of other settings'
    handles.append(Line2D([], [], label=name, **_PUBLISHED))
  axes.set_yticks(range(len(methods)), [title(m, labels) for m in methods])
  axes.set_ylim(len(methods) - 0.5, -0.5)
  style.percent_limits(axes, 'x')
  return handles


def task_axis(axes: Axes, last: int) -> None:
  """An axis of the number of tasks."""
  margin = max(0.02 * last, 0.5)
  axes.set_xlim(1 - margin, last + margin)
  axes.xaxis.set_major_locator(MaxNLocator('auto', integer=True, min_n_ticks=1))


def layer_mean(group: Group, records: Records, name: str) -> np.ndarray:
  """An array of a group's records [T, L], as far as all seeds go, their mean.

  Args:
    group: the members.
    records: a run's records, which have it for all of them.
    name: of the array.
  """
  found = [records[f'{net_name(m[0])}/{name}'] for m in group]
  shortest = min(map(len, found))
  return np.mean([array[:shortest] for array in found], axis=0)


def draw_parts(axes: Axes, new: np.ndarray, reused: np.ndarray) -> None:
  """What each task uses, new above reused, stacked.

  Args:
    axes: where to.
    new: float [T], in percent.
    reused: float [T], in percent.
  """
  edges = np.arange(len(new) + 1) + 0.5
  axes.stairs(reused, edges, fill=True, color=_REUSED, label='reused')
  axes.stairs(
    reused + new, edges, baseline=reused, fill=True, color=_NEW, label='new'
  )


def draw_map(
  axes: Axes, matrix: np.ndarray, limits: tuple[float, float], text: bool
) -> AxesImage:
  """A heat map over tasks, which are numbered from 1.

  Args:
    axes: where to.
    matrix: float [T, T], in percent; NaN stays grey.
    limits: of the colours.
    text: whether to write the numbers as well.

  Returns:
    What a colour bar is made from.
  """
  size = len(matrix)
  axes.set_facecolor('#eeeeee')
  axes.grid(visible=False)
  image = axes.imshow(
    matrix,
    vmin=limits[0],
    vmax=limits[1],
    extent=(0.5, size + 0.5, size + 0.5, 0.5),
    interpolation='nearest',
  )
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_locator(
      MaxNLocator(min(size, 6), integer=True, min_n_ticks=1)
    )
  middle = np.mean(limits)
  for (i, j), value in np.ndenumerate(matrix) if text else ():
    if np.isfinite(value):
      axes.text(
        j + 1,
        i + 1,
        f'{value:.0f}',
        ha='center',
        va='center',
        fontsize=7,
        color='black' if value > middle else 'white',
      )
  return image


def mean_matrix(matrices: Sequence[np.ndarray]) -> np.ndarray:
  """The mean over seeds, as far as all of them go; NaN where one has none."""
  shortest = min(map(len, matrices))
  return np.mean([m[:shortest, :shortest] for m in matrices], axis=0)


def _group(key: Key) -> curves.Group:
  return curves.Group(key[1], key[2], 0.0)


def _lighter(colour: str, share: float) -> Any:
  rgb = np.array(colors.to_rgb(colour))
  return tuple((1 - share) * rgb + share)
