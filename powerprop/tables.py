"""A run's results as Markdown tables, as they are printed at its end."""

from collections.abc import Mapping, Sequence
import math
from typing import Any, TypeGuard

import numpy as np
import tabulate

from powerprop import analysis
from powerprop.analysis import Row

_GROUP = ('transform', 'alpha', 'learning_rate')


def markdown(results: Mapping[str, Any]) -> str:
  """Both tables of a run: what tables.md holds and what is printed at the end.

  Args:
    results: a run's record.

  Returns:
    Markdown, ending in a newline.
  """
  return f'{table(results)}\n\n{analysis_table(results)}\n'


def table(results: Mapping[str, Any], num_densities: int = 10) -> str:
  """Test accuracy in percent as Markdown: densities down, α across.

  Args:
    results: a run's record, with "rows" or their "summary", and "diverged".
    num_densities: most densities to show, ≥ 2; the densest and the sparsest
      always are.

  Returns:
    A table for each pair of transform and learning rate, a line on what its
    cells are, and a line on what diverged.
  """
  by_group = _by_group(analysis.summary_of(results))
  counts = [entry['n'] for c in by_group.values() for entry in c.values()]
  most = max(counts, default=0)
  densities = sorted({d for c in by_group.values() for d in c}, reverse=True)
  if len(densities) > num_densities:
    chosen = np.linspace(0, len(densities) - 1, num_densities).round()
    densities = [densities[int(i)] for i in chosen]

  def cell(entry: Row | None) -> str:
    if entry is None:
      return '–'
    text = f'{100 * entry["test_accuracy_mean"]:.1f}'
    if entry['n'] > 1:
      text += f' ± {100 * entry["test_accuracy_std"]:.1f}'
    return text + (f' (n = {entry["n"]})' if entry['n'] < most else '')

  lines = []
  sections = list(dict.fromkeys((group[0], group[2]) for group in by_group))
  for transform, rate in sections:
    curves = {
      group: curve
      for group, curve in by_group.items()
      if (group[0], group[2]) == (transform, rate)
    }
    body = [
      [f'{100 * density:.3g}%']
      + [cell(curve.get(density)) for curve in curves.values()]
      for density in densities
    ]
    if len(sections) > 1:
      lines.append(f'{transform}, learning rate {rate:g}:')
    lines.append(grid(body, ['weights kept', *_headers(list(curves))]))
  runs = f'mean ± std of {most} runs' if most > 1 else 'one run each'
  lines.append(f'Test accuracy in percent, {runs}.')
  return '\n\n'.join(lines + _diverged_lines(results))


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
  by_group = _by_group(analysis.summary_of(results))

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

  def margin(group: tuple[Any, ...]) -> str:
    curve, reference = by_group.get(group), _baseline(by_group, group)
    if not curve or not reference:
      return '–'
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
  names = _headers(groups)
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
    'that density and every smaller one tested; margin in points of accuracy.'
  )
  lines = [grid(body, headers), note]
  return '\n\n'.join(lines + _diverged_lines(results))


def grid(
  body: Sequence[Sequence[str]], headers: Sequence[str], align: str = 'right'
) -> str:
  """A table of these cells as Markdown.

  Args:
    body: a sequence of cells for each row, which are printed as they are.
    headers: one for each column.
    align: 'left' or 'right', of all columns.

  Returns:
    The lines of the table, without a newline at the end.
  """
  return tabulate.tabulate(
    body, headers, tablefmt='github', disable_numparse=True, stralign=align
  )


def _finite(value: Any) -> TypeGuard[float]:
  return value is not None and math.isfinite(value)


def _by_group(
  summary: Sequence[Row],
) -> dict[tuple[Any, ...], dict[float, Row]]:
  groups: dict[tuple[Any, ...], dict[float, Row]] = {}
  for entry in summary:
    key = tuple(entry[name] for name in _GROUP)
    groups.setdefault(key, {})[entry['density']] = entry
  return groups


def _baseline(
  by_group: Mapping[tuple[Any, ...], dict[float, Row]], group: tuple[Any, ...]
) -> dict[float, Row] | None:
  """α = 1 at the same learning rate, if possible of the same transform."""
  transform, _, learning_rate = group
  for (_, alpha, rate), curve in sorted(
    by_group.items(), key=lambda item: item[0][0] != transform
  ):
    if alpha == 1 and rate == learning_rate:
      return curve
  return None


def _headers(groups: Sequence[tuple[Any, ...]]) -> list[str]:
  """A name for each group that says no more than tells it from the others."""
  several_transforms = len({group[0] for group in groups}) > 1
  several_rates = len({group[2] for group in groups}) > 1
  names = []
  for transform, alpha, rate in groups:
    name = f'α = {alpha:g}' + (' (baseline)' if alpha == 1 else '')
    name += f', {transform}' if several_transforms else ''
    names.append(name + (f', lr {rate:g}' if several_rates else ''))
  return names


def _diverged_lines(results: Mapping[str, Any]) -> list[str]:
  seeds: dict[tuple[Any, ...], list[Any]] = {}
  lost = results.get('diverged')
  for member in (
    analysis.diverged(results.get('rows', [])) if lost is None else lost
  ):
    key = tuple(member[name] for name in _GROUP)
    seeds.setdefault(key, []).append(member['seed'])
  if not seeds:
    return []
  parts = [
    f'{transform} α = {alpha:g} lr {rate:g} '
    f'seed{"s" if len(which) > 1 else ""} {", ".join(map(str, which))}'
    for (transform, alpha, rate), which in seeds.items()
  ]
  return [f'Diverged and left out: {"; ".join(parts)}.']
