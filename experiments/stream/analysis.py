"""What was found in a stream, and what it cost; NumPy only.

A run's record is a list of *rows*, one for each member: method × transform ×
α × learning rate × seed × boundaries.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.report import statistics
from experiments.report.differences import Entry
from experiments.report.statistics import Row

SETTING = (
  'method',
  'transform',
  'alpha',
  'coefficient',
  'learning_rate',
  'boundaries',
)
# Numbers of a row, in the order of the table.
MEASURES = (
  'average_accuracy',
  'changes_found',
  'false_alarms',
  'delay_mean',
  'delay_max',
  'opened',
  'returns_recognised',
)


def record_by_task(
  segments: Sequence[Mapping[str, int]], tasks: np.ndarray
) -> list[int]:
  """For each true task the record of the segments that hold most of it.

  Args:
    segments: with "first", "end" and "record", one after the other.
    tasks: int [steps], the true task of each step; all of 0, …, T − 1.

  Returns:
    T records.

  >>> record_by_task([{'first': 0, 'end': 3, 'record': 0},
  ...                 {'first': 3, 'end': 6, 'record': 1}],
  ...                np.array([0, 0, 1, 1, 1, 0]))
  [0, 1]
  """
  number = 1 + max(segment['record'] for segment in segments)
  counts = np.zeros((int(tasks.max()) + 1, number), np.int64)
  for segment in segments:
    mine = tasks[segment['first'] : segment['end']]
    counts[:, segment['record']] += np.bincount(mine, minlength=len(counts))
  return counts.argmax(1).tolist()


def measures(
  order: Sequence[int],
  begins: Sequence[int],
  steps: int,
  segments: Sequence[Mapping[str, int]],
  alarms: Sequence[Mapping[str, int]] | None,
) -> dict[str, Any]:
  """What was found of the changes of a stream.

  The first alarm after a change and before the next has found it; all others
  are false.

  Args:
    order: the visits' tasks.
    begins: the first step of each visit.
    steps: of the stream.
    segments: of the learner.
    alarms: each with the "step" after which it came; None where the boundaries
      were known.

  Returns:
    "true_changes"; "changes_found", "false_alarms", "delay_mean" and
    "delay_max", in steps from a change to its alarm (None where there is none);
    "returns", visits of earlier tasks, and "returns_recognised", of how many
    most steps went to the record that most of the task's earlier ones went to.
  """
  changes = [*begins[1:], steps]
  found = dict.fromkeys(changes[:-1])
  false = 0
  for alarm in alarms or ():
    before = [c for c in changes[:-1] if c < alarm['step']]
    if before and found[before[-1]] is None:
      found[before[-1]] = alarm['step'] - before[-1]
    else:
      false += 1
  delays = [d for d in found.values() if d is not None]
  if alarms is None:
    delays, false = [0] * len(found), 0
  whole = np.zeros(steps, np.int64)
  for segment in segments:
    whole[segment['first'] : segment['end']] = segment['record']
  most = lambda records: int(np.bincount(records).argmax())
  ends = [*begins[1:], steps]
  visits = [whole[first:end] for first, end in zip(begins, ends, strict=True)]
  again = [i for i, task in enumerate(order) if task in order[:i]]
  right = [
    i
    for i in again
    if most(visits[i])
    == most(
      np.concatenate([visits[j] for j in range(i) if order[j] == order[i]])
    )
  ]
  return {
    'true_changes': len(found),
    'changes_found': len(delays),
    'false_alarms': false,
    'delay_mean': float(np.mean(delays)) if delays else None,
    'delay_max': max(delays) if delays else None,
    'returns': len(again),
    'returns_recognised': len(right),
  }


def settings(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
  """The rows of each setting, by the values of `SETTING`."""
  out: dict[tuple[Any, ...], list[Row]] = {}
  for row in rows:
    out.setdefault(tuple(row[name] for name in SETTING), []).append(row)
  return out


def sound(rows: Sequence[Row]) -> list[Row]:
  """The rows but for those of learners that diverged."""
  return [row for row in rows if not row.get('diverged')]


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Means over seeds, of every setting.

  Args:
    rows: of a run; learners that diverged are left out.

  Returns:
    One entry a setting of which a learner is left: the fields of `SETTING`,
    "n", the number of seeds, and "…_mean" and "…_std" (ddof = 1; 0.0 for a
    single seed) of `MEASURES`.
  """
  out = []
  for key, group in settings(sound(rows)).items():
    entry: dict[str, Any] = dict(zip(SETTING, key, strict=True))
    entry['n'] = len(group)
    for name in MEASURES:
      numbers = [row[name] for row in group if row[name] is not None]
      if numbers:
        mean, std = statistics.mean_and_std(numbers)
        entry |= {f'{name}_mean': mean, f'{name}_std': std}
    out.append(entry)
  return out


def entries(results: Mapping[str, Any]) -> list[Entry]:
  """All learners of a run that have not diverged, for `report.compare`."""
  return [
    Entry(
      {name: row[name] for name in SETTING},
      row['seed'],
      {'average_accuracy': row['average_accuracy']},
    )
    for row in sound(results.get('rows', []))
  ]
