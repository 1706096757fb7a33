"""How well characters are drawn, as Markdown, beside the paper's Table 3."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.continual import analysis as continual_analysis
from experiments.continual import courses
from experiments.continual import tables as continual_tables
from experiments.continual.analysis import finite
from experiments.continual.analysis import setting_of
from experiments.generative import analysis as generative_analysis
from experiments.report import differences
from experiments.report import markup
from experiments.report import naming
from experiments.report import published
from experiments.report.statistics import Row

# By header: a measure, its factor, and its digits.
_COLUMNS = {
  'log-likelihood': ('log_likelihood', 1, 2),
  'error': ('log_likelihood_error', 1, 2),
  'ELBO': ('elbo', 1, 2),
  'validation': ('validation_elbo', 1, 2),
  'when learned': ('elbo_when_learned', 1, 2),
  'before pruning': ('elbo_before_pruning', 1, 2),
  'forgetting': ('forgetting', 1, 2),
  'used weights': ('used_weights', 100, 2),
  'unchanged': ('unchanged', 100, 0),
  'failed tasks': ('failed_tasks', 1, 1),
  'missed targets': ('missed_targets', 1, 1),
}
_NOTES = (
  'In nats a picture, but for used weights (of the shared decoder) and'
  ' unchanged tasks, in percent, and numbers of tasks. Log-likelihood: of the'
  ' test pictures of all tasks after the last, the mean over tasks; error: the'
  ' standard error of that mean, over pictures, of one run. ELBO: likewise, the'
  ' bound that is trained on; validation: the same of validation pictures; when'
  ' learned and before pruning: just after each task. Forgetting: best minus'
  ' last log-likelihood of a task, by fewer samples. Unchanged: tasks whose'
  ' decoded pictures, from the same codes, stay the same bit for bit. Failed:'
  ' training diverged in all tries.'
)
_DIFFERENCE = (
  "In nats, seeds paired, with half the 95% interval by Student's t where there"
  ' are three seeds or more, * where that leaves out zero, and in how many'
  ' seeds it is above zero.'
)
_LOST = (
  '–: there is no mean, as a log-likelihood of a seed overflowed; it counts as'
  ' the lowest.'
)
_IMPORTANCE = (
  "Percent of the sum over the shared decoder's kernels after the last task, by"
  ' |θ|, the smallest weights first: means over seeds. Sum: of the importance'
  ' itself, not multiplied by the coefficient.'
)


def markdown(results: Mapping[str, Any]) -> str:
  """What tables.md holds and what is printed at the end of a run.

  Args:
    results: a run's record.

  Returns:
    Markdown, ending in a newline: all settings beside what is published, what
    each was given, α > 1 against α = 1, which orders of the paper hold, where
    penalties hold, each task by itself, and what a search chose from.
  """
  rows, labels = results['rows'], results.get('labels', {})
  plain = generative_analysis.plain(rows)
  parts = [
    setting(results),
    main_table(results),
    _NOTES,
    continual_tables.budget_table({**results, 'rows': plain}),
    difference_table(results),
    order_table(results),
    importance_table(results),
    tasks_table(rows, labels),
    search_table(rows, labels),
  ]
  return '\n\n'.join(part for part in parts if part) + '\n'


def setting(results: Mapping[str, Any]) -> str:
  """What was learned and how it was measured, in a sentence or two."""
  pictures = results['pictures']
  span = lambda n: f'{n[0]:,}' if n[0] == n[1] else f'{n[0]:,} to {n[1]:,}'
  return (
    f'{naming.short_name(results["dataset"])},'
    f' {results["num_tasks"]} characters in turn,'
    f' {span(pictures["train"])} training and {span(pictures["test"])} test'
    f' pictures each. The log-likelihood is importance sampling with'
    f' {results["likelihood_samples"]:,} samples of'
    f' {span(pictures["measured"])} test pictures of each character.'
    + (f' {results["epochs"]:g} epochs a task.' if 'epochs' in results else '')
  )


def published_of(entry: Row, results: Mapping[str, Any]) -> float | None:
  """What the paper has for a setting, in nats; None where it has nothing."""
  stands = results.get('stands_for', {})
  method = stands.get(entry['method'], entry['method'])
  return published.likelihood(results['dataset'], method, entry['alpha'] > 1)


def main_table(results: Mapping[str, Any]) -> str:
  """Every setting, how well it draws, and what the paper has."""
  rows, labels = results['rows'], results.get('labels', {})
  summary = results.get('summary') or generative_analysis.summarise(rows, {})
  there = {
    header: column
    for header, column in _COLUMNS.items()
    if any(finite(e.get(f'{column[0]}_mean')) for e in summary)
  }
  for name in ('failed tasks', 'missed targets'):
    if name in there and not any(
      e.get(f'{there[name][0]}_mean') for e in summary
    ):
      there.pop(name)
  body = []
  for entry in summary:
    number = published_of(entry, results)
    cells = [_measure(entry, *column) for column in there.values()]
    if 'before pruning' in there and 'used_weights_mean' not in entry:
      cells[list(there).index('before pruning')] = '–'  # nothing is pruned
    body.append(
      [
        *courses.names(entry, rows, labels),
        cells[0],
        '' if number is None else f'{number:.2f}',
        *cells[1:],
      ]
    )
  if not body:
    return ''
  first, *rest = there
  headers = [*courses.headers(rows), first, 'paper', *rest]
  most = max(entry['n'] for entry in summary)
  runs = f'Mean ± std of {most} runs.' if most > 1 else 'One run each.'
  table = markup.without_empty(body, headers, len(courses.headers(rows)))
  paper = any(published_of(e, results) is not None for e in summary)
  if not paper:
    return f'{table}\n\n{runs}'
  sizes = published.TABLE3_SIZES[results['dataset']]
  return f'{table}\n\n{runs} Paper: {published.TABLE3}, of {sizes}.'


def difference_table(results: Mapping[str, Any]) -> str:
  """How far every α > 1 is ahead of α = 1, chosen against chosen; or ''.

  Where a name has no α = 1, as what it holds is the same there, it is compared
  with the method that it stands for.
  """
  rows, labels = results['rows'], results.get('labels', {})
  stands = results.get('stands_for', {})
  groups = generative_analysis.shown(rows)
  by_line = {key[:3]: group for key, group in groups.items()}
  of = generative_analysis.likelihoods
  body = []
  for (method, transform, alpha), group in by_line.items():
    names = method, stands.get(method, method)
    same = [n for n in names if (n, transform, 1.0) in by_line]
    if alpha == 1 or not same:
      continue
    found = differences.paired(of(by_line[same[0], transform, 1.0]), of(group))
    if not found.n:
      continue
    name = naming.setting_name(transform, alpha, labels)
    title = continual_analysis.title
    body.append(
      [
        title(method, labels),
        name,
        '' if same[0] == method else title(same[0], labels),
        markup.difference_cell(found, 2, 1),
      ]
    )
  if not body:
    return ''
  headers = ['method', 'setting', 'against', 'log-likelihood']
  table = markup.without_empty(body, headers, 2, 'left')
  lost = f' {_LOST}' if any(line[-1][0] == '–' for line in body) else ''
  return f'Difference to α = 1.\n\n{table}\n\n{_DIFFERENCE}{lost}'


def order_table(results: Mapping[str, Any]) -> str:
  """Which of the paper's orders of methods hold here; or ''."""
  labels = results.get('labels', {})
  found = generative_analysis.orders(
    results['rows'], results.get('stands_for', {}), results['dataset']
  )
  if not found:
    return ''
  kinds = ('holds', 'the other way round', 'seeds differ')
  body = []
  name = lambda of: (
    continual_analysis.title(of[0], labels) + (', α > 1' if of[1] else '')
  )
  for order in found:
    every = (order.found.ahead, order.found.behind, order.found.n)
    kind = kinds[every.index(order.found.n)]
    cell = markup.difference_cell(order.found, 2, 1)
    paper = f'{order.paper:+.2f}'
    body.append([name(order.better), name(order.worse), paper, cell, kind])
  headers = ['ahead in the paper', 'of', 'there by', 'here by', '']
  table = markup.grid(body, headers, 'left', 2)
  found_kinds = [line[-1] for line in body]
  counted = ', '.join(f'{found_kinds.count(kind)} {kind}' for kind in kinds)
  lost = f' {_LOST}' if any(line[-2][0] == '–' for line in body) else ''
  return (
    f"The paper's orders of two methods, {len(found)} in all: {counted}. One"
    f' holds where it does in every seed.{lost}\n\n{table}'
  )


def importance_table(results: Mapping[str, Any]) -> str:
  """What weights of which size have of a penalty's strength; or ''."""
  rows, labels = results['rows'], results.get('labels', {})
  held = results.get('importance', {})
  body = []
  for group in generative_analysis.shown(rows).values():
    nets = map(naming.net_name, (member[0] for member in group))
    there = [held[net] for net in nets if net in held]
    shares = [of['shares'] for of in there if all(map(finite, of['shares']))]
    if not shares:
      continue
    cells = [f'{100 * x:.1f}' for x in np.mean(shares, axis=0)]
    cells.append(f'{np.mean([of["sum"] for of in there]):.3g}')
    body.append([*courses.names(group[0][0], rows, labels), *cells])
  if not body:
    return ''
  keys = courses.headers(rows)
  tenths = [str(i + 1) for i in range(len(body[0]) - len(keys) - 1)]
  table = markup.grid(body, [*keys, *tenths, 'sum'], 'left', len(keys))
  return f"Where the penalties' importance lies:\n\n{table}\n\n{_IMPORTANCE}"


def tasks_table(rows: Sequence[Row], labels: Mapping[str, str]) -> str:
  """The log-likelihood of each task after the last, means over seeds."""
  groups = generative_analysis.shown(rows)
  body = []
  for group in groups.values():
    numbers = np.array(
      [
        [
          r['log_likelihood'] if finite(r['log_likelihood']) else np.nan
          for r in m
        ]
        for m in group
      ]
    )
    cells = [
      f'{x:.1f}' if np.isfinite(x) else '–' for x in numbers.mean(axis=0)
    ]
    body.append([*courses.names(group[0][0], rows, labels), *cells])
  if not body:
    return ''
  headers = courses.headers(rows)
  longest = max(len(line) for line in body) - len(headers)
  body = [line + ['–'] * (longest + len(headers) - len(line)) for line in body]
  names = [str(task + 1) for task in range(longest)]
  table = markup.grid(body, [*headers, *names], 'left', len(headers))
  return f'Log-likelihood of each task after the last:\n\n{table}'


def search_table(rows: Sequence[Row], labels: Mapping[str, str]) -> str:
  """The candidates of a search with their ELBO on validation data, or ''."""
  plain = generative_analysis.plain(rows)
  candidates = continual_analysis.candidates(plain, True)
  if not candidates:
    return ''
  selected = {setting_of(e) for e in continual_analysis.select(plain)}
  body = []
  for entry in candidates:
    text = _measure(entry, 'validation_accuracy', 1, 2)
    text += ' (failed a task)' if entry['failed'] else ''
    chosen = 'chosen' if setting_of(entry) in selected else ''
    names = courses.names(entry, rows, labels)
    body.append([*names, str(entry['tasks']), text, chosen])
  headers = [*courses.headers(rows), 'tasks', 'validation ELBO', '']
  table = markup.grid(body, headers, 'left', len(courses.headers(rows)))
  return f'The search, on validation data, after its last task:\n\n{table}'


def _measure(entry: Row, name: str, scale: float, digits: int) -> str:
  mean = entry.get(f'{name}_mean')
  if not finite(mean):
    return '–'
  text = _number(scale * mean, digits)
  number = entry.get(f'{name}_n', entry['n'])
  if name == 'log_likelihood_error':
    return text
  if number > 1:
    text += f' ± {_number(scale * entry[f"{name}_std"], digits)}'
  return text if number == entry['n'] else f'{text} ({number} of {entry["n"]})'


def _number(x: float, digits: int) -> str:
  """As many digits, or three in all of what an exploded net has."""
  return f'{x:.{digits}f}' if abs(x) < 1e6 else f'{x:.3g}'
