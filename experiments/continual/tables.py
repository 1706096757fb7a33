"""A continual-learning run as Markdown tables, beside published numbers."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.continual import analysis as continual_analysis
from experiments.continual.analysis import finite
from experiments.continual.analysis import LINE
from experiments.continual.analysis import line_of
from experiments.continual.analysis import setting_of
from experiments.continual.analysis import title
from experiments.report import differences
from experiments.report import markup
from experiments.report import naming
from experiments.report import published
from experiments.report import statistics
from experiments.report.naming import NO_LABELS
from experiments.report.statistics import Row

# Headers and fields of the main table, and what they are multiplied by.
_COLUMNS = {
  'average accuracy': ('average_accuracy', 100),
  'when learned': ('accuracy_when_learned', 100),
  'before pruning': ('accuracy_before_pruning', 100),
  'forgetting': ('forgetting', 100),
  'BWT': ('backward_transfer', 100),
  'FWT': ('forward_transfer', 100),
  'used weights': ('used_weights', 100),
  'mask overlap': ('overlap', 100),
  'failed tasks': ('failed_tasks', 1),
  'missed targets': ('missed_targets', 1),
}
_NOTES = (
  'All in percent but for the number of failed tasks. Average accuracy: of all'
  " tasks after the last, on test data, with its 95% interval by Student's t"
  ' where there are three seeds or more. When learned and before'
  ' pruning: means over tasks, just after each. Forgetting (Chaudhry et al.,'
  ' 2018): best minus last accuracy. BWT and FWT (Lopez-Paz and Ranzato, 2017,'
  ' equations 3 and 4): last minus when learned; before a task was trained'
  ' minus untrained. Failed: in all tries, training diverged or its validation'
  ' accuracy was not above failure_accuracy.'
)
_MISSED = (
  'Missed targets: tasks whose mask, on validation data, is not as good as was'
  ' asked for.'
)


def markdown(results: Mapping[str, Any]) -> str:
  """What tables.md holds and what is printed at the end of a run.

  Args:
    results: a run's record, with "rows" and, where it has them, their
      "summary" by `continual_analysis.summarise`, "defaults" (each method's
      coefficient by protocol), "default_rates" (its learning rate, where that
      is chosen), "efforts" (of `cells.efforts`), and "dataset", "network",
      "sequence", "scenario" and "num_tasks".

  Returns:
    Markdown, ending in a newline: all settings that were trained on all tasks;
    what each was given; how they differ from α = 1; published numbers; for
    methods with masks, the course over the tasks; and what a search chose from.
  """
  rows = results['rows']
  parts = [
    f'{_setting(results)}.',
    main_table(results),
    _NOTES,
    budget_table(results),
    difference_table(rows, results.get('labels', {})),
    published_table(results),
    *course_tables(rows, results.get('labels', {})),
    search_table(rows, results.get('labels', {})),
  ]
  return '\n\n'.join(part for part in parts if part) + '\n'


def main_table(results: Mapping[str, Any]) -> str:
  """Every setting, and how well it learned.

  Args:
    results: as `markdown` takes them.

  Returns:
    A table in Markdown; columns without a number are left out. The column of
    the choice says which coefficient (and learning rate) is the protocol's
    default and which is the best on validation data.
  """
  rows = results['rows']
  summary = results.get('summary') or continual_analysis.summarise(rows, {})
  selected = {setting_of(e) for e in continual_analysis.select(rows)}
  defaults = results.get('defaults') or {}
  rates = results.get('default_rates') or {}
  labels = results.get('labels', {})
  columns = {
    header: column
    for header, column in _COLUMNS.items()
    if any(finite(e.get(f'{column[0]}_mean')) for e in summary)
  }
  missed = any(e.get('missed_targets_mean') for e in summary)
  if not missed:
    columns.pop('missed targets', None)
  most = max((entry['n'] for entry in summary), default=0)
  tasks = {entry['tasks'] for entry in summary}

  def choice(entry: Row) -> str:
    method, rate = entry['method'], entry['learning_rate']
    names = []
    if (
      defaults.get(method) == entry['coefficient']
      and rates.get(method, rate) == rate
    ):
      names.append('default')
    if setting_of(entry) in selected and _alternatives(entry, rows) > 1:
      names.append('validation')
    return ', '.join(names)

  def cell(entry: Row, name: str, scale: float) -> str:
    # Nothing is pruned where there are no masks.
    prunes = finite(entry.get('used_weights_mean'))
    if name == 'accuracy_before_pruning' and not prunes:
      return '–'
    return _measure(entry, name, scale)

  body = [
    [
      *_names(entry, rows, labels),
      choice(entry),
      *([str(entry['tasks'])] if len(tasks) > 1 else []),
      *(cell(entry, name, scale) for name, scale in columns.values()),
      *([str(entry['n'])] if any(e['n'] < most for e in summary) else []),
    ]
    for entry in summary
  ]
  headers = [*_headers(rows), 'chosen by']
  headers += ['tasks'] if len(tasks) > 1 else []
  headers += columns
  headers += ['runs'] if any(e['n'] < most for e in summary) else []
  runs = f'Mean ± std of {most} runs.' if most > 1 else 'One run each.'
  table = markup.without_empty(body, headers, len(_headers(rows)))
  said = f'{runs} {_MISSED}' if missed else runs
  return f'{table}\n\n{said}' if body else ''


def budget_table(results: Mapping[str, Any]) -> str:
  """What each method was given: candidates of a search, steps of a task.

  Args:
    results: as `markdown` takes them.

  Returns:
    A table in Markdown, or '' where nothing was searched and all have taken as
    many steps, as far as the record says.
  """
  rows = results['rows']
  tried = _tried(rows)
  efforts = results.get('efforts') or {}
  steps = {name: _steps(mine, efforts) for name, mine in efforts.items()}
  if not tried and len(set(steps.values())) < 2:
    return ''
  selected = {line_of(e): e for e in continual_analysis.select(rows)}
  labels = results.get('labels', {})
  keys = [h for h in _headers(rows) if h not in ('coefficient', 'lr')]
  body = []
  groups = continual_analysis.settings(rows).values()
  lines = {line_of(group[0][0]): group[0][0] for group in groups}
  for line, row in lines.items():
    best = selected.get(line)
    body.append(
      [
        *_names(row, rows, labels)[: len(keys)],
        str(tried.get(line, 1)),
        _edges(best, rows) if best else '',
        steps.get(row['method'], ''),
      ]
    )
  headers = [*keys, 'candidates tried', 'at the edge', 'steps a task']
  notes = 'What each was given.'
  if tried:
    notes += (
      ' Candidates: trainings on the first tasks, of which the best on'
      ' validation data was chosen. At the edge: the least or the largest value'
      ' that was tried won, and one beyond it may be better.'
    )
  return f'{notes}\n\n{markup.without_empty(body, headers, len(keys))}'


def _steps(
  mine: Mapping[str, Any], efforts: Mapping[str, Mapping[str, Any]]
) -> str:
  """The cell of a method's steps in a task."""
  text = f'{mine["steps"]:,}'
  if len({effort['batch_size'] for effort in efforts.values()}) > 1:
    text += f' of {mine["batch_size"]}'
  if mine['retrain_steps']:
    text += f' + {mine["retrain_steps"]:,} retraining'
  if mine.get('trial_steps'):
    text += f' + {mine["trial_steps"]:,} of trial'
  text += ', each with a batch of memory' if mine['rehearses'] else ''
  return text + (', on all tasks so far' if mine['joint'] else '')


def _tried(rows: Sequence[Row]) -> dict[tuple[Any, ...], int]:
  """How many candidates were searched, by the values of `LINE`."""
  keys = dict.fromkeys(setting_of(row) for row in rows if row['search'])
  return collections.Counter(key[: len(LINE)] for key in keys)


def _edges(entry: Row, rows: Sequence[Row]) -> str:
  """What of a choice is the least or the largest that was tried."""
  names = {'coefficient': 'coefficient', 'learning_rate': 'lr'}
  found = continual_analysis.at_edge(entry, rows)
  return ', '.join(names[field] for field in found)


def difference_table(
  rows: Sequence[Row], labels: Mapping[str, str] = NO_LABELS
) -> str:
  """How far every setting of α > 1 is ahead of that of α = 1.

  Each is compared with the one that differs in α alone, and what was chosen
  with what was chosen.

  Args:
    rows: a run's rows.
    labels: what the config calls methods and transforms.

  Returns:
    A table in Markdown and a line on what its cells are, or '' where nothing
    can be compared.
  """
  groups = continual_analysis.settings(rows)
  chosen = continual_analysis.shown(rows)
  headers = _headers(rows)
  body = []
  for key, group in groups.items():
    same = (*key[:2], 1.0, *key[3:])
    best = [k for k in chosen if k[:3] == same[:3] and key in chosen]
    names = _names(group[0][0], rows, labels)
    for other in dict.fromkeys([same, *best]):
      if key[2] > 1 and other in groups:
        theirs = _names(groups[other][0][0], rows, labels)
        against = [
          f'{header} = {cell}'
          for header, mine, cell in zip(headers, names, theirs, strict=True)
          if cell != mine
        ]
        cells = _differences(groups[other], group)
        body.append([*names, ', '.join(against), *cells])
  if not body:
    return ''
  headers += ['against', 'average accuracy', 'used weights']
  table = markup.without_empty(body, headers, len(_headers(rows)))
  return f'Difference to α = 1.\n\n{table}\n\n{markup.DIFFERENCE}'


def _differences(
  baseline: Sequence[Sequence[Row]], group: Sequence[Sequence[Row]]
) -> list[str]:
  """The cells of average accuracy and of used weights."""
  cells = []
  for name in ('average_accuracy', 'used_weights'):
    first, second = (
      {
        member[0]['seed']: measured[name]
        for member in members
        if finite((measured := continual_analysis.measures(member, {}))[name])
      }
      for members in (baseline, group)
    )
    found = differences.paired(first, second)
    cells.append(markup.difference_cell(found, digits=2) if found.n else '')
  return cells


def published_table(results: Mapping[str, Any]) -> str:
  """Published average accuracies of the run's methods on permuted MNIST.

  Args:
    results: as `markdown` takes them.

  Returns:
    A sentence that names this run's setting and a table in Markdown, with this
    run's average accuracy after as many tasks where it has come so far, or ''.
  """
  rows = results['rows']
  groups = continual_analysis.shown(rows)
  body = []
  for line in published.PERMUTED_MNIST:
    mine = {
      key: _average(group, line.tasks)
      for key, group in groups.items()
      if key[0] == line.method and (key[2] > 1 or not line.powerprop)
    }
    if not mine:
      continue
    number = str(line.number.accuracy)
    if finite(line.number.std):
      number += f' ± {line.number.std:.2f}'
    texts = [f'{text} (α = {key[2]:g})' for key, text in mine.items() if text]
    name = title(line.method, results.get('labels', {}))
    body.append(
      [name, str(line.tasks), 'α > 1' if line.powerprop else '']
      + [number, ', '.join(texts) or '–', line.note, line.source]
    )
  if not body:
    return ''
  headers = ['method', 'tasks', '', 'published', 'here', 'note', 'source']
  return (
    'Published average accuracy in percent, on permuted MNIST with one output'
    f' layer for all tasks. Here: {_setting(results)}.\n\n'
    + markup.grid(body, headers, 'left', 2)
  )


def course_tables(
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
    body = [_course(group, task) for task in _milestones(last)]
    headers = ['tasks', 'average accuracy', 'this task', 'before pruning']
    headers += ['asked for', 'found', 'kept', 'used weights', 'new', 'reused']
    headers += ['failed so far', 'missed so far']
    method, *cells = zip(
      _headers(rows), _names(group[0][0], rows, labels), strict=True
    )
    parts = [f'{header} = {cell}' for header, cell in cells if cell]
    name = ', '.join([method[1], *parts])
    out.append(f'{name}:\n\n{markup.without_empty(body, headers, 1, "right")}')
  return out


def search_table(
  rows: Sequence[Row], labels: Mapping[str, str] = NO_LABELS
) -> str:
  """The candidates of a search with their validation accuracy, or ''.

  Args:
    rows: a run's rows.
    labels: what the config calls methods and transforms.
  """
  entries = continual_analysis.candidates(rows, True)
  if not entries:
    return ''
  selected = {setting_of(e) for e in continual_analysis.select(rows)}
  body = []
  for entry in entries:
    text = 'failed'
    if entry['validation_accuracy_mean'] is not None:
      text = _measure(entry, 'validation_accuracy', 100)
      text += ' (failed a task)' if entry['failed'] else ''
    chosen = 'chosen' if setting_of(entry) in selected else ''
    names = _names(entry, rows, labels)
    body.append([*names, str(entry['tasks']), text, chosen])
  headers = [*_headers(rows), 'tasks', 'validation accuracy', '']
  return (
    'The search, on validation data, after its last task:\n\n'
    + markup.grid(body, headers, 'left', len(_headers(rows)))
  )


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
    _average(group, task) or '–',
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


def _average(group: Sequence[Sequence[Row]], task: int) -> str:
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


def _milestones(last: int) -> list[int]:
  """1, 2, 5, 10, …, and the last.

  >>> _milestones(30)
  [1, 2, 5, 10, 20, 30]
  """
  steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
  return [*(step for step in steps if step < last), last]


def _measure(entry: Row, name: str, scale: float) -> str:
  mean = entry.get(f'{name}_mean')
  if not finite(mean):
    return '–'
  digits = 2 if scale > 1 else 0 if entry['n'] == 1 else 1
  text = f'{scale * mean:.{digits}f}'
  if entry['n'] > 1:
    text += f' ± {scale * entry[f"{name}_std"]:.{digits}f}'
  if entry['n'] > 2 and name == 'average_accuracy':
    half = differences.half_width(entry[f'{name}_std'], entry['n'])
    ends = scale * (mean - half), scale * (mean + half)
    text += f' [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]'
  return text


def _setting(results: Mapping[str, Any]) -> str:
  short = lambda field: naming.short_name(results[field])
  return (
    f'{short("dataset")}, {short("network")}, {results["num_tasks"]:,}'
    f' tasks ({short("sequence")}, {results["scenario"]})'
  )


def _headers(rows: Sequence[Row]) -> list[str]:
  """What tells the settings of a run apart."""
  several = lambda name: len({row[name] for row in rows}) > 1
  headers = ['method', 'α']
  headers += ['transform'] if several('transform') else []
  headers += ['coefficient'] if any(row['coefficient'] for row in rows) else []
  return headers + (['lr'] if several('learning_rate') else [])


def _names(
  entry: Row, rows: Sequence[Row], labels: Mapping[str, str]
) -> list[str]:
  """The cells under `_headers`."""
  cells = {
    'method': title(entry['method'], labels),
    'α': f'{entry["alpha"]:g}',
    'transform': naming.transform_name(entry['transform'], labels),
    'coefficient': f'{entry["coefficient"]:g}' if entry['coefficient'] else '',
    'lr': f'{entry["learning_rate"]:g}',
  }
  return [cells[header] for header in _headers(rows)]


def _alternatives(entry: Row, rows: Sequence[Row]) -> int:
  """How many settings there were to choose this one from."""
  keys = dict.fromkeys(map(setting_of, rows))
  return sum(key[: len(LINE)] == line_of(entry) for key in keys)
