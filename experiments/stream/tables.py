"""What was found in a stream as Markdown tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.continual import analysis as continual_analysis
from experiments.report import differences
from experiments.report import markup
from experiments.report import naming
from experiments.report.statistics import Row
from experiments.stream import analysis as stream_analysis

# By header: a measure, and its factor.
_COLUMNS = {
  'accuracy (%)': ('average_accuracy', 100.0),
  'found': ('changes_found', 1.0),
  'false': ('false_alarms', 1.0),
  'delay': ('delay_mean', 1.0),
  'longest': ('delay_max', 1.0),
  'opened': ('opened', 1.0),
  'recognised': ('returns_recognised', 1.0),
}
_NOTES = """\
Means ± one standard deviation over seeds. *accuracy*: on the test pictures of
all true tasks at the end, each by the net of the segments that hold most of it.
*found*: changes after which an alarm came before the next; *false*: all other
alarms; *delay* and *longest*: steps from a change to its alarm, mean and
largest; *opened*: tasks; *recognised*: returns for which the net of before was
taken."""


def markdown(results: Mapping[str, Any]) -> str:
  """What tables.md holds and what is printed at the end of a run.

  Args:
    results: a run's record.

  Returns:
    Markdown, ending in a newline: what was found, and what it cost against
    known boundaries.
  """
  rows = results['rows']
  first = rows[0]
  counts = lambda name: _several(row[name] for row in rows)
  setting = (
    f'{results["num_tasks"]} tasks ({results["sequence"]}) of'
    f' {results["dataset"]}, {results["network"]}, in'
    f' {len(first["order"])} visits: {counts("true_changes")} changes,'
    f' {counts("returns")} returns, {counts("steps")} steps. A window is'
    f' {results["window"]} steps; a change is expected after'
    f' {results["hazard"]:g}; an alarm is a probability of at least'
    f' {results["threshold"]:g} of any change within the last four windows,'
    ' where log(loss + 0.05) has risen by more than 0.25 since (28%).'
  )
  labels = results.get('labels', {})
  parts = [
    setting,
    _main(results['summary'], labels),
    _diverged(rows, labels),
    _NOTES,
    _lost(rows, labels),
  ]
  return '\n\n'.join(part for part in parts if part) + '\n'


def _several(numbers: Iterable[int]) -> str:
  there = list(numbers)
  low, high = min(there), max(there)
  return f'{low:,}' if low == high else f'{low:,} to {high:,}'


def name_of(entry: Row, rows: Sequence[Row], labels: Mapping[str, str]) -> str:
  """What tables and figures call a setting of a run, but for its boundaries."""
  method = continual_analysis.title(entry['method'], labels)
  name = f'{method}, '
  name += naming.setting_name(entry['transform'], entry['alpha'], labels)
  several = len({row['learning_rate'] for row in rows}) > 1
  return name + (f', lr {entry["learning_rate"]:g}' if several else '')


def _main(summary: Sequence[Row], labels: Mapping[str, str]) -> str:
  def cell(entry: Row, name: str, scale: float) -> str:
    if f'{name}_mean' not in entry:
      return '–'
    mean, std = (scale * entry[f'{name}_{part}'] for part in ('mean', 'std'))
    spread = f' ± {std:.1f}' if entry['n'] > 1 else ''
    return f'{mean:.1f}{spread}'

  body = [
    [
      name_of(entry, summary, labels),
      entry['boundaries'],
      *(cell(entry, *column) for column in _COLUMNS.values()),
    ]
    for entry in summary
  ]
  return markup.grid(body, ['net', 'boundaries', *_COLUMNS], 'left', 2)


def _diverged(rows: Sequence[Row], labels: Mapping[str, str]) -> str:
  names = [
    f'{name_of(row, rows, labels)}, {row["boundaries"]}, seed {row["seed"]}'
    for row in rows
    if row.get('diverged')
  ]
  return f'Diverged, and left out: {"; ".join(names)}.' if names else ''


def _lost(rows: Sequence[Row], labels: Mapping[str, str]) -> str:
  """What detecting changes costs against known ones, seeds paired."""
  body = []
  pairs: dict[Any, dict[str, dict[Any, float]]] = {}
  for key, group in stream_analysis.settings(
    stream_analysis.sound(rows)
  ).items():
    *rest, boundaries = key
    pairs.setdefault(tuple(rest), {})[boundaries] = {
      row['seed']: row['average_accuracy'] for row in group
    }
    names = dict(zip(stream_analysis.SETTING, key, strict=True))
    both = pairs[tuple(rest)]
    if len(both) == 2:
      gap = differences.paired(both['known'], both['detected'])
      body.append([name_of(names, rows, labels), markup.difference_cell(gap)])
  if not body:
    return ''
  headers = ['net', 'accuracy, detected minus known']
  return f'{markup.grid(body, headers, "left")}\n\n{markup.DIFFERENCE}'
