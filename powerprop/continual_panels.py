"""The pieces of a continual run's figures: looks, courses, panels, heat maps.

`powerprop.continual_plots` puts them together. A *group* is the members of a
setting that stands for its line, as `continual_analysis.shown` gives them; its
*key* is the setting.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
import numpy as np

from powerprop import continual_analysis
from powerprop import panels
from powerprop import sparse_panels
from powerprop.analysis import Row
from powerprop.continual_analysis import member_name
from powerprop.continual_analysis import Records
from powerprop.continual_analysis import title

Key = tuple[Any, ...]
Group = Sequence[Sequence[Row]]

# Greys, as colours stand for α.
_NEW, _REUSED = '#555555', '#bdbdbd'
_LINES: Sequence[Any] = ('-', '-.', ':', (0, (5, 1, 1, 1, 1, 1)))


class Look(NamedTuple):
  """How a line is drawn."""

  colour: Any
  marker: str
  line: Any


def looks_of(keys: Sequence[Key]) -> dict[Key, Look]:
  """How each line of a run is drawn.

  Colours and markers stand for methods; α has a style of line, and the larger
  it is, the darker. Of a single method, colours stand for α. Lines of α = 1 are
  dashed.
  """
  methods = list(dict.fromkeys(key[0] for key in keys))
  marks = sparse_panels.marks_of(methods)
  alone = panels.looks_of([_group(key) for key in keys])
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
    looks[key] = Look(colour, marks[key[0]].marker, line)
  return looks


def label_of(key: Key, keys: Iterable[Key]) -> str:
  """What a line is called: no more than tells it from the others."""
  keys = list(keys)
  several = lambda i: len({k[i] for k in keys}) > 1
  label = title(key[0]) if several(0) or not several(2) else ''
  label += f'{", " if label else ""}α = {key[2]:g}' if several(2) else ''
  if len({k[1] for k in keys if (k[0], k[2]) == (key[0], key[2])}) > 1:
    label += f', {panels.transform_name(key[1])}'
  return label


def handles_of(keys: Iterable[Key], looks: Mapping[Key, Look]) -> list[Line2D]:
  """What a legend shows of these lines."""
  keys = list(keys)
  return [
    Line2D(
      [],
      [],
      color=looks[key].colour,
      linestyle=looks[key].line,
      marker=looks[key].marker,
      markersize=4,
      label=label_of(key, keys),
    )
    for key in keys
  ]


def runs_label(groups: Mapping[Key, Group]) -> str:
  """How many runs the means are of."""
  return panels.runs_label(
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


def draw_course(axes: Axes, values: np.ndarray, look: Look) -> None:
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
  )
  if len(values) > 1:
    std = values.std(axis=0, ddof=1)
    axes.fill_between(
      tasks, mean - std, mean + std, color=look.colour, alpha=0.18, lw=0
    )


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
  found = [records[f'{member_name(m[0])}/{name}'] for m in group]
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


def _group(key: Key) -> panels.Group:
  return panels.Group(key[1], key[2], 0.0)


def _lighter(colour: str, share: float) -> Any:
  rgb = np.array(colors.to_rgb(colour))
  return tuple((1 - share) * rgb + share)
