"""The panels of this experiment's figures, which `plots` puts together."""

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
import numpy as np

from experiments.report import curves
from experiments.report import naming
from experiments.report import statistics
from experiments.report.curves import Group
from experiments.report.curves import Records
from experiments.report.curves import Results
from experiments.report.style import GREY

_KEPT, _PRUNED = '#009E73', '#D55E00'


def draw_accuracy(
  axes: Axes, results: Results, title: str = ''
) -> list[Line2D]:
  """Panel (a); returns what the legend has to say beside the groups."""
  curves.draw_curves(axes, results, 'test_accuracy')
  axes.set(title=title, ylabel='test accuracy (%)')
  return curves.coincidences(results, 'test_accuracy')


def draw_overlap(axes: Axes, results: Results, title: str = '') -> list[Line2D]:
  """Panel (b), with the chance level; returns likewise."""
  curves.draw_curves(axes, results, 'mask_overlap')
  chance = {
    entry['density']: entry['chance_overlap']
    for entry in statistics.summary_of(results)
    if entry.get('chance_overlap') is not None
  }
  lines: list[Line2D] = []
  if chance:
    density = sorted(chance)
    lines = axes.plot(
      density,
      [100 * chance[d] for d in density],
      color=GREY,
      linestyle=':',
      label='overlap by chance',
      zorder=1,
    )
  axes.set(title=title, ylabel='mask overlap (%)')
  axes.set_ylim(0, 102)
  return [*lines, *curves.coincidences(results, 'mask_overlap')]


def change_groups(
  results: Results, records: Records
) -> list[tuple[int, Group]]:
  """The baseline and α = 4, or else the largest, of the first transform."""
  usable = []
  for index, group in enumerate(curves.analysis_groups(results)):
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


def change_title(group: Group, labels: Mapping[str, str]) -> str:
  """Title of panel (c) or (d)."""
  if group.alpha == 1:
    return 'Baseline (α = 1)'
  if group.transform == 'powerprop':
    return (
      f'{naming.transform_name(group.transform, labels)}, α = {group.alpha:g}'
    )
  name = naming.setting_name(group.transform, group.alpha, labels)
  return name[0].upper() + name[1:]


def change_limits(
  chosen: Sequence[tuple[int, Group]], records: Records
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


def draw_change(
  figure: Figure,
  spec: SubplotSpec,
  records: Records,
  index: int,
  limits: tuple[float, float],
  title: str,
) -> None:
  """Panel (c) or (d): a scatter plot with kernel densities at its margins."""
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
  (unchanged,) = axes.plot(
    [-limits[0], limits[0]],
    [-limits[0], limits[0]],
    color='#999999',
    lw=0.8,
    label='unchanged',
  )
  handles: list[Artist] = []
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
    )
    label = f'{name} ({100 * np.mean(which):.0f}%)'
    handles.append(Patch(color=colour, alpha=0.6, label=label))
    for sign, marker in ((1, '^'), (-1, 'v')):
      outside = which & (sign * final > limits[1])
      edge = np.full(np.count_nonzero(outside), 0.98 * sign * limits[1])
      axes.scatter(initial[outside], edge, s=16, marker=marker, color=colour)
    for margin, values, limit in (
      (top, initial[which], limits[0]),
      (side, final[which], limits[1]),
    ):
      position, height = kernel_density(values, limit)
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
  handles.append(unchanged)
  beyond = np.count_nonzero(np.abs(final) > limits[1])
  if beyond:
    most = f'or ▼: {beyond} beyond, up to ±{np.max(np.abs(final)):.1f}'
    handles.append(
      Line2D([], [], color=GREY, marker='^', markersize=5, ls='', label=most)
    )
  handles.append(Line2D([], [], ls='', label='at the margins: densities'))
  axes.legend(
    handles=handles,
    loc='upper center',
    bbox_to_anchor=(0.5, -0.16),
    ncols=2,
  )


def kernel_density(
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
  from scipy import stats  # takes a second

  # Scott's rule, with a spread that a few far-off weights do not inflate.
  spread = np.subtract(*np.percentile(values, [75, 25])) / 1.349
  ratio = min(1.0, spread / np.std(values)) or 1.0
  kde = stats.gaussian_kde(
    values.astype(np.float64), bw_method=ratio * values.size**-0.2
  )
  height = kde(position)
  return position, height / np.max(height)


def layer_bars(
  results: Results, records: Records, layer: int
) -> Iterator[tuple[Group, np.ndarray, np.ndarray]]:
  """Normalised histograms of one layer, of every group that has one."""
  for index, group in enumerate(curves.analysis_groups(results)):
    counts = records.get(f'g{index}/layer{layer}/counts')
    edges = records.get(f'g{index}/layer{layer}/edges')
    if counts is None or edges is None or not np.all(np.isfinite(edges)):
      continue
    area = counts.sum() * np.diff(edges)
    if np.all(area > 0):
      yield group, counts / area, edges
