"""A continual-learning run as Markdown tables, beside published numbers."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.continual import analysis as continual_analysis
from experiments.continual import courses
from experiments.continual.analysis import finite
from experiments.continual.analysis import LINE
from experiments.continual.analysis import line_of
from experiments.continual.analysis import setting_of
from experiments.continual.analysis import title
from experiments.report import differences
from experiments.report import markup
from experiments.report import naming
from experiments.report import published
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
_FEW = 12  # tasks that have a column each
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
_FEWEST = (
  'Tasks: the fewest that a run learned. Each run has its average over all that'
  ' it learned, so that rows of unequal numbers of tasks do not compare.'
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
    what each was given; how they differ from α = 1; published numbers; each
    task of a short sequence; for methods with masks, the course over the tasks;
    and what a search chose from.
  """
  rows, margin = results['rows'], results.get('choose_margin', 0.0)
  parts = [
    f'{_setting(results)}.',
    main_table(results),
    _NOTES,
    budget_table(results),
    difference_table(rows, results.get('labels', {}), margin),
    published_table(results),
    _each_task(results),
    *courses.by_task(rows, results.get('labels', {})),
    *courses.by_layer(results),
    search_table(rows, results.get('labels', {}), margin),
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
  margin = results.get('choose_margin', 0.0)
  selected = {setting_of(e) for e in continual_analysis.select(rows, margin)}
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
      *courses.names(entry, rows, labels),
      choice(entry),
      *([str(entry['tasks'])] if len(tasks) > 1 else []),
      *(cell(entry, name, scale) for name, scale in columns.values()),
      *([str(entry['n'])] if any(e['n'] < most for e in summary) else []),
    ]
    for entry in summary
  ]
  headers = [*courses.headers(rows), 'chosen by']
  headers += ['tasks'] if len(tasks) > 1 else []
  headers += columns
  headers += ['runs'] if any(e['n'] < most for e in summary) else []
  runs = f'Mean ± std of {most} runs.' if most > 1 else 'One run each.'
  table = markup.without_empty(body, headers, len(courses.headers(rows)))
  said = [runs]
  said += [_FEWEST] if len(tasks) > 1 else []
  said += [_MISSED] if missed else []
  return f'{table}\n\n{" ".join(said)}' if body else ''


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
  margin = results.get('choose_margin', 0.0)
  selected = {line_of(e): e for e in continual_analysis.select(rows, margin)}
  labels = results.get('labels', {})
  keys = [h for h in courses.headers(rows) if h not in ('coefficient', 'lr')]
  body = []
  groups = continual_analysis.settings(rows).values()
  lines = {line_of(group[0][0]): group[0][0] for group in groups}
  for line, row in lines.items():
    best = selected.get(line)
    body.append(
      [
        *courses.names(row, rows, labels)[: len(keys)],
        str(tried.get(line, 1)),
        _edges(best, rows) if best else '',
        steps.get(row['method'], ''),
      ]
    )
  headers = [*keys, 'candidates tried', 'at the edge', 'steps a task']
  notes = 'What each was given.'
  if tried:
    notes += (
      ' Candidates: trainings on the first tasks, of which'
      f' {_rule(margin)} was chosen. At the edge: the least or the largest'
      ' value that was tried won, and one beyond it may be better.'
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
  rows: Sequence[Row],
  labels: Mapping[str, str] = NO_LABELS,
  margin: float = 0.0,
) -> str:
  """How far every setting of α > 1 is ahead of that of α = 1.

  Each is compared with the one that differs in α alone, and what was chosen
  with what was chosen.

  Args:
    rows: a run's rows.
    labels: what the config calls methods and transforms.
    margin: by which one was chosen; see `continual_analysis.select`.

  Returns:
    A table in Markdown and a line on what its cells are, or '' where nothing
    can be compared. Members that have not learned as many tasks as each other,
    as where a net was full early, are not compared; a sentence names them.
  """
  groups = continual_analysis.settings(rows)
  chosen = continual_analysis.shown(rows, margin)
  headers = courses.headers(rows)
  body, apart = [], []
  for key, group in groups.items():
    same = (*key[:2], 1.0, *key[3:])
    best = [k for k in chosen if k[:3] == same[:3] and key in chosen]
    names = courses.names(group[0][0], rows, labels)
    for other in dict.fromkeys([same, *best]):
      if key[2] > 1 and other in groups:
        theirs = courses.names(groups[other][0][0], rows, labels)
        against = [
          f'{header} = {cell}'
          for header, mine, cell in zip(headers, names, theirs, strict=True)
          if cell != mine
        ]
        cells = _differences(groups[other], group)
        body.append([*names, ', '.join(against), *cells])
        if lengths := differences.unequal(
          *(
            map(continual_analysis.pair_of, members)
            for members in (groups[other], group)
          )
        ):
          name = courses.full_name(group[0][0], rows, labels)
          apart.append(
            f'{name} has learned {lengths[1]}, and {lengths[0]} at'
            f' {", ".join(against)}'
          )
  if not body:
    return ''
  headers += ['against', 'average accuracy', 'used weights']
  table = markup.without_empty(body, headers, len(courses.headers(rows)))
  told = markup.unequal_line(apart)
  parts = ['Difference to α = 1.', table, markup.DIFFERENCE, told]
  return '\n\n'.join(filter(None, parts))


def _differences(
  baseline: Sequence[Sequence[Row]], group: Sequence[Sequence[Row]]
) -> list[str]:
  """The cells of average accuracy and of used weights."""
  cells = []
  for name in ('average_accuracy', 'used_weights'):
    first, second = (
      {
        continual_analysis.pair_of(member): measured[name]
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
    run's average accuracy after as many tasks where it has come so far; with
    CLNP all of its table. '' where tasks are of another kind.
  """
  rows = results['rows']
  groups = continual_analysis.shown(rows, results.get('choose_margin', 0.0))
  body = []
  if results['sequence'] != 'permuted':
    return ''
  for line in published.averages({key[0] for key in groups}):
    mine = {
      key: courses.average(group, line.tasks)
      for key, group in groups.items()
      if key[0] == line.method and (key[2] > 1 or not line.powerprop)
    }
    if line.powerprop and not mine:
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


def _each_task(results: Mapping[str, Any]) -> str:
  """Each task after the last, where there are a few; else ''."""
  rows = results['rows']
  groups = continual_analysis.shown(rows, results.get('choose_margin', 0.0))
  if not 1 < continual_analysis.longest(groups) <= _FEW:
    return ''
  return courses.each_task(groups, rows, results.get('labels', {}))


def search_table(
  rows: Sequence[Row],
  labels: Mapping[str, str] = NO_LABELS,
  margin: float = 0.0,
) -> str:
  """The candidates of a search with their validation accuracy, or ''.

  Args:
    rows: a run's rows.
    labels: what the config calls methods and transforms.
    margin: by which one was chosen; see `continual_analysis.select`.
  """
  entries = continual_analysis.candidates(rows, True)
  if not entries:
    return ''
  selected = {setting_of(e) for e in continual_analysis.select(rows, margin)}
  body = []
  for entry in entries:
    text = 'failed'
    if entry['validation_accuracy_mean'] is not None:
      text = _measure(entry, 'validation_accuracy', 100)
      text += ' (failed a task)' if entry['failed'] else ''
    chosen = 'chosen' if setting_of(entry) in selected else ''
    names = courses.names(entry, rows, labels)
    cells = [str(entry['tasks']), text]
    if margin:
      cells += [
        _percent(entry['validation_before_pruning_mean']),
        _percent(entry['used_weights_mean']),
      ]
    body.append([*names, *cells, chosen])
  headers = [*courses.headers(rows), 'tasks', 'validation accuracy']
  headers += ['before pruning', 'used weights'] if margin else []
  return (
    'The search, on validation data, after its last task'
    + (f'; chosen is {_rule(margin)}' if margin else '')
    + ':\n\n'
    + markup.grid(body, [*headers, ''], 'left', len(courses.headers(rows)))
  )


def _rule(margin: float) -> str:
  """What of the candidates is chosen."""
  best = 'the best on validation data'
  if not margin:
    return best
  return (
    f'{best}, or, of methods with masks, of those that before pruning and after'
    f' it are at most {100 * margin:g}% below the best the one with the fewest'
    ' weights in use'
  )


def _percent(x: float | None) -> str:
  return '–' if x is None else f'{100 * x:.2f}'


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


def _alternatives(entry: Row, rows: Sequence[Row]) -> int:
  """How many settings there were to choose this one from."""
  keys = dict.fromkeys(map(setting_of, rows))
  return sum(key[: len(LINE)] == line_of(entry) for key in keys)
