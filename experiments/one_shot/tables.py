"""A run's results as Markdown tables, as they are printed at its end."""

from collections.abc import Mapping, Sequence
import math
from typing import Any, TypeGuard

from experiments.one_shot import analysis
from experiments.report import differences
from experiments.report import markup
from experiments.report import naming
from experiments.report import statistics
from experiments.report.statistics import Row

Group = tuple[Any, ...]  # the values of `_GROUP`
_GROUP = ('transform', 'alpha', 'learning_rate')


def markdown(results: Mapping[str, Any]) -> str:
  """All tables of a run: what tables.md holds and what is printed at the end.

  Args:
    results: a run's record.

  Returns:
    Markdown, ending in a newline.
  """
  parts = [table(results), difference_table(results), analysis_table(results)]
  return '\n\n'.join(part for part in parts if part) + '\n'


def table(results: Mapping[str, Any], num_densities: int = 10) -> str:
  """Test accuracy in percent as Markdown: densities down, α across.

  Args:
    results: a run's record, with "rows" or their "summary", and "diverged".
    num_densities: most densities to show, ≥ 2; the densest and the sparsest
      always are.

  Returns:
    A table for each pair of transform and learning rate, a line on what its
    cells are, and lines on what has layers without weights and what diverged;
    by the config's "labels".
  """
  labels = results.get('labels', {})
  by_group = _by_group(statistics.summary_of(results))
  counts = [entry['n'] for c in by_group.values() for entry in c.values()]
  most = max(counts, default=0)
  densities = _spread(by_group, num_densities)

  def cell(entry: Row | None) -> str:
    if entry is None:
      return '–'
    text = f'{100 * entry["test_accuracy_mean"]:.1f}'
    if entry['n'] > 1:
      text += f' ± {100 * entry["test_accuracy_std"]:.1f}'
    return text + (f' (n = {entry["n"]})' if entry['n'] < most else '')

  lines = []
  for name, curves in _sections(by_group, labels).items():
    body = [
      [f'{100 * density:.3g}%']
      + [cell(curve.get(density)) for curve in curves.values()]
      for density in densities
    ]
    lines += [name] if name else []
    headers = ['weights kept', *_headers(list(curves), labels)]
    lines.append(markup.grid(body, headers))
  runs = f'mean ± std of {most} runs' if most > 1 else 'one run each'
  lines.append(f'Test accuracy in percent, {runs}.')
  emptied = markup.emptied_line(
    results.get('rows', []), lambda row: f'{100 * row["density"]:.3g}%'
  )
  lines += [emptied] if emptied else []
  return '\n\n'.join(lines + _diverged_lines(results))


def difference_table(
  results: Mapping[str, Any], num_densities: int = 10
) -> str:
  """How far every α is ahead of α = 1: densities down, α across.

  Args:
    results: a run's record, with "rows".
    num_densities: as `table` takes it.

  Returns:
    Tables and a line on what their cells are, or '' for a run without α = 1 or
    with nothing beside it.
  """
  labels = results.get('labels', {})
  by_group = _by_group(statistics.summary_of(results))
  accuracies = differences.by_seed(results.get('rows', []))
  densities = _spread(by_group, num_densities)

  def cell(group: Group, density: float) -> str:
    baseline = (*(_baseline(by_group, group) or ()), density)
    return markup.difference_cell(
      differences.paired(
        accuracies.get(baseline, {}), accuracies.get((*group, density), {})
      )
    )

  lines = []
  for name, curves in _sections(by_group, labels).items():
    groups = [g for g in curves if g[1] != 1 and _baseline(by_group, g)]
    if not groups:
      continue
    body = [
      [f'{100 * density:.3g}%', *(cell(group, density) for group in groups)]
      for density in densities
    ]
    headers = ['weights kept', *_headers(groups, labels)]
    lines += [name] if name else []
    lines.append(markup.grid(body, headers, 'left'))
  if not lines or not accuracies:
    return ''
  return '\n\n'.join(['Difference to α = 1.', *lines, markup.DIFFERENCE])


def analysis_table(results: Mapping[str, Any]) -> str:
  """What α did to the weights, and where it beats the baseline, in Markdown.

  Args:
    results: a run's record, with "analysis", "rows" or their "summary", and
      "diverged". Numbers that an entry of "analysis" lacks are shown as –.

  Returns:
    A table with one row per (transform, alpha, learning rate). The last two
    columns are the density from which down the baseline loses, and the largest
    margin over the baseline, in percentage points of accuracy, with the density
    where it occurs.
  """
  by_group = _by_group(statistics.summary_of(results))

  def number(entry: Row, name: str, scale: float, digits: int) -> str:
    mean, std = entry.get(f'{name}_mean'), entry.get(f'{name}_std')
    if not _finite(mean):
      return '–'
    text = f'{scale * mean:.{digits}f}'
    if _finite(std) and entry.get('n', 2) > 1:
      text += f' ± {scale * std:.{digits}f}'
    return text

  def decile(entry: Row, index: int) -> str:
    means = entry.get('kept_by_decile_mean')
    if means is None or not _finite(means[index]):
      return '–'
    return f'{100 * means[index]:.1f}'

  def margin(group: Group) -> str:
    curve, baseline = by_group.get(group), _baseline(by_group, group)
    if not curve or not baseline:
      return '–'
    reference = by_group[baseline]
    shared = [density for density in curve if density in reference]
    if not shared:
      return '–'
    density, points = analysis.largest_margin(
      shared,
      [curve[d]['test_accuracy_mean'] for d in shared],
      [reference[d]['test_accuracy_mean'] for d in shared],
    )
    return f'{100 * points:+.1f} at {100 * density:.3g}%'

  entries = results.get('analysis', [])
  groups = [tuple(entry[name] for name in _GROUP) for entry in entries]
  body = []
  names = _headers(groups, results.get('labels', {}))
  for entry, group, name in zip(entries, groups, names, strict=True):
    below = entry.get('beats_baseline_below')
    body.append(
      [
        name,
        number(entry, 'sign_change', 100, 1),
        number(entry, 'kurtosis', 1, 1),
        number(entry, 'near_zero', 100, 1),
        decile(entry, 0),
        decile(entry, 9),
        f'{100 * below:.3g}%' if _finite(below) else '–',
        '–' if group[1] == 1 else margin(group),
      ]
    )
  headers = [
    '',
    'sign changed %',
    'excess kurtosis',
    'near zero %',
    'kept, smallest tenth %',
    'kept, largest tenth %',
    'beats baseline below',
    'largest margin',
  ]
  note = (
    'Smallest and largest tenth by initial magnitude; beats the baseline at '
    'that density and every smaller one tested; margin in points of accuracy, '
    'of means, at the density where it is largest.'
  )
  lines = [markup.grid(body, headers), note]
  return '\n\n'.join(lines + _diverged_lines(results))


def _finite(value: Any) -> TypeGuard[float]:
  return value is not None and math.isfinite(value)


def _by_group(summary: Sequence[Row]) -> dict[Group, dict[float, Row]]:
  groups: dict[Group, dict[float, Row]] = {}
  for entry in summary:
    key = tuple(entry[name] for name in _GROUP)
    groups.setdefault(key, {})[entry['density']] = entry
  return groups


def _sections(
  by_group: Mapping[Group, dict[float, Row]], labels: Mapping[str, str]
) -> dict[str, dict[Group, dict[float, Row]]]:
  """The curves that share a table, by its title: '' where there is only one."""
  sections: dict[str, dict[Group, dict[float, Row]]] = {}
  for group, curve in by_group.items():
    name = naming.transform_name(group[0], labels)
    name = f'{name[0].upper()}{name[1:]}, learning rate {group[2]:g}:'
    sections.setdefault(name, {})[group] = curve
  return sections if len(sections) > 1 else {'': dict(by_group)}


def _spread(
  by_group: Mapping[Group, dict[float, Row]], most: int
) -> list[float]:
  """At most so many of the densities, from the densest to the sparsest."""
  densities = sorted({d for c in by_group.values() for d in c}, reverse=True)
  return statistics.spread(densities, most)


def _baseline(
  by_group: Mapping[Group, dict[float, Row]], group: Group
) -> Group | None:
  """α = 1 at the same learning rate, if possible of the same transform."""
  transform, _, rate = group
  found = [g for g in by_group if g[1] == 1 and g[2] == rate]
  return min(found, key=lambda g: g[0] != transform, default=None)


def _headers(groups: Sequence[Group], labels: Mapping[str, str]) -> list[str]:
  """A name for each group that says no more than tells it from the others."""
  several_transforms = len({group[0] for group in groups}) > 1
  several_rates = len({group[2] for group in groups}) > 1
  names = []
  for transform, alpha, rate in groups:
    name = f'α = {alpha:g}'
    if several_transforms:
      name = naming.setting_name(transform, alpha, labels)
    name += ' (baseline)' if alpha == 1 else ''
    names.append(name + (f', lr {rate:g}' if several_rates else ''))
  return names


def _diverged_lines(results: Mapping[str, Any]) -> list[str]:
  seeds: dict[tuple[Any, ...], list[Any]] = {}
  lost = results.get('diverged')
  for member in (
    statistics.diverged(results.get('rows', [])) if lost is None else lost
  ):
    key = tuple(member[name] for name in _GROUP)
    seeds.setdefault(key, []).append(member['seed'])
  if not seeds:
    return []
  parts = []
  for (transform, alpha, rate), which in seeds.items():
    name = naming.setting_name(transform, alpha, results.get('labels', {}))
    several = 's' if len(which) > 1 else ''
    parts.append(
      f'{name}, lr {rate:g}, seed{several} {", ".join(map(str, which))}'
    )
  return [f'Diverged and left out: {"; ".join(parts)}.']
