"""Task by task, as Markdown: what is known at the end, how nets fill up."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.continual import analysis as continual_analysis
from experiments.continual.analysis import finite
from experiments.continual.analysis import title
from experiments.report import markup
from experiments.report import naming
from experiments.report import published
from experiments.report import statistics
from experiments.report.naming import NO_LABELS
from experiments.report.statistics import Row


def headers(rows: Sequence[Row]) -> list[str]:
  """What tells the settings of a run apart."""
  several = lambda name: len({row[name] for row in rows}) > 1
  found = ['method', 'α']
  found += ['transform'] if several('transform') else []
  found += ['coefficient'] if any(row['coefficient'] for row in rows) else []
  return found + (['lr'] if several('learning_rate') else [])


def names(
  entry: Row, rows: Sequence[Row], labels: Mapping[str, str]
) -> list[str]:
  """The cells under `headers`."""
  cells = {
    'method': title(entry['method'], labels),
    'α': f'{entry["alpha"]:g}',
    'transform': naming.transform_name(entry['transform'], labels),
    'coefficient': f'{entry["coefficient"]:g}' if entry['coefficient'] else '',
    'lr': f'{entry["learning_rate"]:g}',
  }
  return [cells[header] for header in headers(rows)]


def each_task(
  groups: Mapping[Any, Sequence[Sequence[Row]]],
  rows: Sequence[Row],
  labels: Mapping[str, str] = NO_LABELS,
) -> str:
  """How well each task is answered at the end.

  Args:
    groups: by setting, the members to show.
    rows: of the runs that they are of.
    labels: what the configs call methods and transforms.

  Returns:
    A table in Markdown below its title: test accuracies after the last task,
    means over the seeds that learned the task; or '' where there are none.
  """
  keys = headers(rows)
  last = continual_analysis.longest(groups)
  body = [
    [*names(group[0][0], rows, labels), *(_last(group, t) for t in range(last))]
    for group in groups.values()
  ]
  if not body:
    return ''
  numbers = [str(t + 1) for t in range(last)]
  table = markup.grid(body, [*keys, *numbers], 'left', len(keys))
  spread = (
    ', mean ± std' if any(len(group) > 1 for group in groups.values()) else ''
  )
  return f'Test accuracy of each task after the last{spread}:\n\n{table}'


def _last(group: Sequence[Sequence[Row]], task: int) -> str:
  """The cell of a task, counted from 0."""
  found = [m[task]['final_accuracy'] for m in group if len(m) > task]
  found = [100 * x for x in found if finite(x)]
  if not found:
    return '–'
  mean, std = statistics.mean_and_std(found)
  return f'{mean:.1f}' + (f' ± {std:.1f}' if found[1:] else '')


def by_task(
  rows: Sequence[Row], labels: Mapping[str, str] = NO_LABELS
) -> list[str]:
  """How the nets fill up: for methods with masks, a table a setting.

  Args:
    rows: a run's rows.
    labels: what the config calls methods and transforms.

  Returns:
    Tables in Markdown, each below its title, with a line for tasks 1, 2, 5,
    10, … and the last. All numbers are means over the seeds that learned that
    task; new and reused weights are numbers. "asked for" and "found" are what
    the search for a mask had as its target, and what the mask has before it is
    retrained, both on validation data. Columns that no line fills are left out,
    and so is the number of missed targets where it is zero.
  """
  out = []
  for group in continual_analysis.settings(rows).values():
    if not all(finite(row['used_weights']) for m in group for row in m):
      continue
    last = max(map(len, group))
    body = [_course(group, task) for task in milestones(last)]
    columns = ['tasks', 'average accuracy', 'this task', 'before pruning']
    columns += ['asked for', 'found', 'kept', 'used weights', 'new', 'reused']
    columns += ['failed so far', 'missed so far']
    name = full_name(group[0][0], rows, labels)
    out.append(f'{name}:\n\n{markup.without_empty(body, columns, 1, "right")}')
  return out


def by_layer(results: Mapping[str, Any]) -> list[str]:
  """How many units of each layer tasks use: for methods that take whole units.

  Args:
    results: a run's record.

  Returns:
    As `by_task`, with three columns a layer: the share in use, and the numbers
    of new and of reused units of the task, all of them means over the seeds
    that learned it; after how many tasks the last layer is full; and what is
    published of the method.
  """
  rows, labels = results['rows'], results.get('labels', NO_LABELS)
  out = []
  for group in continual_analysis.settings(rows).values():
    known = results.get('masks', {}).get(group[0][0]['method'], {})
    if known.get('of') != 'units':
      continue
    layers = known['layers']
    columns = ['tasks']
    for name in layers:
      columns += [f'{name}: used (%)', 'new', 'reused']
    body = [
      _units(group, task, layers) for task in milestones(max(map(len, group)))
    ]
    lines = published.usage(results, group[0][0]['method'], layers)
    told = [
      f' {line.source}, has {shares}% in use after {line.tasks} tasks'
      f' ({line.note}).'
      for line in lines
      for shares in ['% and '.join(f'{x:g}' for x in line.shares)]
    ]
    name = f'{full_name(group[0][0], rows, labels)}, units of each layer'
    table = markup.without_empty(body, columns, 1, 'right')
    full = _until_full(group, *list(layers.items())[-1])
    full += ''.join(f' {x.source}: about {x.until_full}.' for x in lines)
    out.append(f'{name}:{"".join(told)}\n\n{table}\n\n{full}')
  return out


def _until_full(group: Sequence[Sequence[Row]], name: str, size: int) -> str:
  """After how many tasks a layer has no free unit, in a sentence."""
  ends = []
  for member in group:
    used = [row['units_by_layer'][name]['used'] for row in member]
    ends += [used.index(size) + 1] if size in used else []
  most = max(map(len, group))
  if not ends:
    return f'{name} is not full after {most} tasks.'
  mean, std = statistics.mean_and_std(ends)
  text = f'{name} is full after {mean:.3g}'
  text += (f' ± {std:.1f}' if ends[1:] else '') + ' tasks'
  if len(ends) < len(group):
    text += f' in {len(ends)} of {len(group)} runs, in the others not after'
    text += f' {most}'
  return f'{text}.'


def _units(
  group: Sequence[Sequence[Row]], task: int, layers: Mapping[str, int]
) -> list[str]:
  """The line after so many tasks."""
  there = [m[task - 1]['units_by_layer'] for m in group if len(m) >= task]
  cells = [str(task)]
  for name, size in layers.items():
    mean = lambda part, name=name: np.mean([u[name][part] for u in there])
    cells += [f'{100 * mean("used") / size:.1f}']
    cells += [f'{mean(part):,.0f}' for part in ('new', 'reused')]
  return cells


def full_name(
  entry: Row, rows: Sequence[Row], labels: Mapping[str, str]
) -> str:
  """A setting in words: what the cells of `names` say."""
  method, *cells = zip(headers(rows), names(entry, rows, labels), strict=True)
  parts = [f'{header} = {cell}' for header, cell in cells if cell]
  return ', '.join([method[1], *parts])


def _course(group: Sequence[Sequence[Row]], task: int) -> list[str]:
  """The line after so many tasks."""
  there = [member for member in group if len(member) >= task]

  def number(
    name: str, scale: float = 100.0, digits: int = 1, without: str = '–'
  ) -> str:
    found: list[Any] = [m[task - 1].get(name) for m in there]
    found = [value for value in found if finite(value)]
    if not found:
      return without
    return f'{scale * statistics.mean_and_std(found)[0]:,.{digits}f}'

  failed = [sum(bool(r['failed']) for r in m[:task]) for m in there]
  missed = [sum(r.get('reached') is False for r in m[:task]) for m in there]
  ever = any(r.get('reached') is False for m in group for r in m)
  return [
    str(task) + (f' (n = {len(there)})' if len(there) < len(group) else ''),
    average(group, task) or '–',
    number('accuracy_when_learned'),
    number('accuracy_before_pruning'),
    number('target', without=''),
    number('pruned_accuracy', without=''),
    number('rate', digits=2),
    number('used_weights', digits=2),
    number('new_weights', 1, 0),
    number('reused_weights', 1, 0),
    f'{np.mean(failed):.3g}',
    f'{np.mean(missed):.3g}' if ever else '',
  ]


def average(group: Sequence[Sequence[Row]], task: int) -> str:
  """Average accuracy after so many tasks as text, or ''.

  The rows have it for those that forget nothing, and for all at the end.
  """
  found = []
  for member in group:
    exact = all(row['unchanged'] for row in member)
    if task == len(member) or (exact and task < len(member)):
      name = 'accuracy_when_learned' if exact else 'final_accuracy'
      found.append([row[name] for row in member[:task]])
  values = [100 * float(np.mean(f)) for f in found if all(map(finite, f))]
  if not values:
    return ''
  mean, std = statistics.mean_and_std(values)
  return f'{mean:.2f}' + (f' ± {std:.2f}' if len(values) > 1 else '')


def milestones(last: int) -> list[int]:
  """1, 2, 5, 10, …, and the last.

  >>> milestones(30)
  [1, 2, 5, 10, 20, 30]
  """
  steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
  return [*(step for step in steps if step < last), last]
