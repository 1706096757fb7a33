"""How well a sequence of tasks was learned, and what was forgotten; NumPy only.

A run's record is a list of *rows*: one task of one member. A *setting* is all
that its members share but for the seed; rows with a true "search" are of
trainings on fewer tasks that only serve to choose among candidates. A *matrix*
holds the accuracy [i, j] on task j after learning task i, NaN where it was not
measured.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import math
from typing import Any, TypeGuard

import numpy as np

from experiments.report import statistics
from experiments.report.differences import Entry
from experiments.report.naming import display_name
from experiments.report.naming import net_name
from experiments.report.naming import NO_LABELS
from experiments.report.statistics import Row

Records = Mapping[str, np.ndarray]

# In the order of the tables, with what they are called there.
METHODS = {
  'naive': 'fine-tuning',
  'single': 'one net per task',
  'joint': 'joint training',
  'l2': 'L2',
  'ewc': 'EWC',
  'online_ewc': 'online EWC',
  'online_laplace': 'Laplace (Bayesian)',
  'si': 'SI',
  'mas': 'MAS',
  'vcl': 'VCL',
  'experience_replay': 'experience replay',
  'a_gem': 'A-GEM',
  'clnp': 'CLNP',
  'packnet': 'PackNet',
  'efficient_packnet': 'EfficientPackNet',
}
LINE = ('method', 'transform', 'alpha')
SETTING = (*LINE, 'coefficient', 'learning_rate')

_MEANS = ('accuracy_when_learned', 'accuracy_before_pruning')


def title(method: str, labels: Mapping[str, str] = NO_LABELS) -> str:
  """What tables and figures call a method.

  Args:
    method: as a config calls it.
    labels: what the config calls it otherwise.

  >>> title('a_gem'), title('my_method'), title('mine', {'mine': 'Mine, 0.5'})
  ('A-GEM', 'my method', 'Mine, 0.5')
  """
  return display_name(method, METHODS, labels)


def finite(value: Any) -> TypeGuard[float]:
  """Whether there is such a number: neither None nor NaN nor infinite."""
  return value is not None and math.isfinite(value)


def filled(matrix: np.ndarray) -> np.ndarray:
  """The matrix of a net whose old tasks keep their outputs bit for bit.

  Args:
    matrix: float [T, T], with all of the diagonal.

  Returns:
    float64 [T, T]: the diagonal carried down each column; above it, as before.

  >>> filled(np.array([[.5, np.nan], [np.nan, .25]])).tolist()
  [[0.5, nan], [0.5, 0.25]]
  """
  matrix = np.asarray(matrix, np.float64)
  below = np.tri(len(matrix), dtype=bool)
  return np.where(below, np.diagonal(matrix)[None, :], matrix)


def average_accuracy(matrix: np.ndarray) -> np.ndarray:
  r"""Mean accuracy on all tasks so far, after each.

  .. math:: A_i = \frac{1}{i} \sum_{j \le i} R_{ij}

  Args:
    matrix: float [T, T].

  Returns:
    float64 [T]; NaN where a task was not measured.

  >>> average_accuracy(np.array([[1., 0.], [.5, .75]])).tolist()
  [1.0, 0.625]

  References:
    Lopez-Paz and Ranzato, Gradient episodic memory, 2017, equation (2).
  """
  matrix = np.asarray(matrix, np.float64)
  return np.array([np.mean(row[: i + 1]) for i, row in enumerate(matrix)])


def forgetting(matrix: np.ndarray) -> float:
  r"""How far the accuracy on a task fell from its best, at the end.

  .. math::
    \frac{1}{T-1} \sum_{j < T} \left(\max_{l < T} R_{lj} - R_{Tj}\right)

  Args:
    matrix: float [T, T], with the diagonal and the last row. What was not
      measured takes no part in the maximum.

  Returns:
    A number in [−1, 1], negative where tasks got better; NaN for T < 2.

  >>> forgetting(np.array([[1., 0.], [.5, .75]]))
  0.5

  References:
    Chaudhry et al., Riemannian walk for incremental learning, 2018, section 3.
  """
  matrix = np.asarray(matrix, np.float64)
  if len(matrix) < 2:
    return math.nan
  best = np.fmax.reduce(matrix[:-1, :-1], axis=0)
  return float(np.mean(best - matrix[-1, :-1]))


def backward_transfer(matrix: np.ndarray) -> float:
  r"""What learning later tasks did to the accuracy on a task.

  .. math:: \frac{1}{T-1} \sum_{j < T} \left(R_{Tj} - R_{jj}\right)

  Args:
    matrix: float [T, T], with the diagonal and the last row.

  Returns:
    A number in [−1, 1], negative where tasks are forgotten; NaN for T < 2.

  >>> backward_transfer(np.array([[1., 0.], [.5, .75]]))
  -0.5

  References:
    Lopez-Paz and Ranzato, Gradient episodic memory, 2017, equation (3).
  """
  matrix = np.asarray(matrix, np.float64)
  if len(matrix) < 2:
    return math.nan
  return float(np.mean(matrix[-1, :-1] - np.diagonal(matrix)[:-1]))


def forward_transfer(before: Sequence[Any], at_start: Sequence[Any]) -> float:
  r"""What earlier tasks did to the accuracy on a task yet to be learned.

  .. math::
    \frac{1}{T-1} \sum_{1 < j \le T} \left(R_{j-1,j} - b_j\right)

  Args:
    before: T accuracies, of each task just before it is trained.
    at_start: T accuracies b, of each task with the untrained net.

  Returns:
    A number in [−1, 1]; NaN for T < 2, or where one of them is None.

  >>> forward_transfer([.1, .5], [.1, .25])
  0.25

  References:
    Lopez-Paz and Ranzato, Gradient episodic memory, 2017, equation (4).
  """
  if len(before) < 2:
    return math.nan
  pairs = np.array([before[1:], at_start[1:]], np.float64)
  return float(np.mean(pairs[0] - pairs[1]))


def mean_overlap(overlap: np.ndarray) -> float:
  """Mean Jaccard overlap of the masks of two different tasks.

  Args:
    overlap: float [T, T], symmetric, in [0, 1].

  Returns:
    A share in [0, 1]; NaN for T < 2.

  >>> mean_overlap(np.array([[1., .25], [.25, 1.]]))
  0.25
  """
  pairs = np.asarray(overlap, np.float64)[np.tril_indices(len(overlap), -1)]
  return float(np.mean(pairs)) if pairs.size else math.nan


def settings(
  rows: Iterable[Row], search: bool = False
) -> dict[tuple[Any, ...], list[list[Row]]]:
  """The members of each setting, methods in the order of `METHODS`.

  Args:
    rows: a run's rows.
    search: whether those of the search, or those that count.

  Returns:
    By the values of `SETTING`, a list of members, each a list of rows in the
    order of its tasks.
  """
  known = list(METHODS)
  members: dict[str, list[Row]] = {}
  for row in sorted(rows, key=lambda row: row['task']):
    if bool(row['search']) == search:
      members.setdefault(net_name(row), []).append(row)
  groups: dict[tuple[Any, ...], list[list[Row]]] = {}
  for member in members.values():
    groups.setdefault(setting_of(member[0]), []).append(member)

  def rank(key: tuple[Any, ...]) -> tuple[Any, ...]:
    place = known.index(key[0]) if key[0] in METHODS else len(known)
    return (place, *key)

  return {key: groups[key] for key in sorted(groups, key=rank)}


def longest(groups: Mapping[Any, Sequence[Sequence[Row]]]) -> int:
  """The most tasks that a member of these has learned, or 0."""
  return max((len(m) for group in groups.values() for m in group), default=0)


def pair_of(member: Sequence[Row]) -> tuple[Any, int]:
  """The seed, and how many tasks were learned: see `Entry.pair`."""
  return member[0]['seed'], len(member)


def matrix_of(member: Sequence[Row], records: Records) -> np.ndarray:
  """The accuracies [i, j] of a member on task j after learning task i.

  Args:
    member: its rows, in the order of the tasks.
    records: a run's records. Where they lack the member, the diagonal and the
      last row come from the rows.

  Returns:
    float64 [T, T]; `filled` where all tasks' outputs stayed bit for bit.
  """
  name = f'{net_name(member[0])}/accuracy'
  if name in records:
    matrix = np.array(records[name], np.float64)
  else:
    matrix = np.full([len(member)] * 2, np.nan)
    matrix[-1] = [_number(row['final_accuracy']) for row in member]
    learned = [_number(row['accuracy_when_learned']) for row in member]
    np.fill_diagonal(matrix, learned)
  return filled(matrix) if all(row['unchanged'] for row in member) else matrix


def measures(member: Sequence[Row], records: Records) -> dict[str, float]:
  """All that is measured of a member; NaN where it cannot be.

  Args:
    member: its rows, in the order of the tasks.
    records: a run's records.

  Returns:
    By name: "average_accuracy" of all tasks at the end; the means over tasks of
    "accuracy_when_learned", "accuracy_before_pruning" and
    "validation_accuracy" (at the end); "forgetting", "backward_transfer",
    "forward_transfer"; "used_weights" at the end; "overlap" of masks; and two
    numbers of tasks, "failed_tasks", and "missed_targets" where masks have a
    target.
  """
  matrix = matrix_of(member, records)
  mean = lambda name: float(np.mean([_number(row[name]) for row in member]))
  overlap = records.get(f'{net_name(member[0])}/overlap', np.zeros([0, 0]))
  return {
    'average_accuracy': float(average_accuracy(matrix)[-1]),
    **{name: mean(name) for name in _MEANS},
    'validation_accuracy': mean('final_validation_accuracy'),
    'forgetting': forgetting(matrix),
    'backward_transfer': backward_transfer(matrix),
    'forward_transfer': forward_transfer(
      [row['accuracy_before'] for row in member],
      [row['accuracy_at_start'] for row in member],
    ),
    'used_weights': _number(member[-1]['used_weights']),
    'overlap': mean_overlap(overlap),
    'failed_tasks': float(sum(bool(row['failed']) for row in member)),
    'missed_targets': missed_targets(member),
  }


def missed_targets(member: Sequence[Row]) -> float:
  """The number of tasks whose mask is not as good as was asked for.

  Args:
    member: its rows.

  Returns:
    A number; NaN where no mask has a target.
  """
  reached = [row['reached'] for row in member if row.get('reached') is not None]
  return float(reached.count(False)) if reached else math.nan


def summarise(rows: Sequence[Row], records: Records) -> list[dict[str, Any]]:
  """Means over seeds of all `measures`, of every setting but the search's.

  Args:
    rows: a run's rows: one mapping a member and task.
    records: a run's records; {} leaves out what needs them.

  Returns:
    One entry a setting, methods in the order of `METHODS`: the fields of
    `SETTING`; "n", the number of seeds; "tasks", the fewest that one of them
    has learned; and "…_mean" and "…_std" (ddof = 1; 0.0 for a single seed) of
    each measure that a seed has.
  """
  out = []
  for key, group in settings(rows).items():
    entry: dict[str, Any] = dict(zip(SETTING, key, strict=True))
    entry |= {'n': len(group), 'tasks': min(map(len, group))}
    found = [measures(member, records) for member in group]
    for name in found[0]:
      numbers = [f[name] for f in found if math.isfinite(f[name])]
      if not numbers:
        continue
      mean, std = statistics.mean_and_std(numbers)
      entry |= {f'{name}_mean': mean, f'{name}_std': std}
    out.append(entry)
  return out


def candidates(rows: Sequence[Row], search: bool) -> list[dict[str, Any]]:
  """What there is to choose from, with its validation accuracy.

  Args:
    rows: a run's rows.
    search: whether those of the search, or those that count.

  Returns:
    One entry a setting: the fields of `SETTING`, "searched" as asked for, "n"
    seeds, the fewest "tasks", "failed", whether a task did, and
    "validation_accuracy_mean" and "…_std" over seeds of the mean over tasks,
    after the last; "validation_before_pruning_mean", of the same before
    pruning; "used_weights_mean", at the end. None where a number lacks.
  """
  out = []
  for key, group in settings(rows, search).items():
    of = lambda name, group=group: [
      float(np.mean([_number(row.get(name)) for row in m])) for m in group
    ]
    or_none = lambda x: x if finite(x) else None
    mean, std = statistics.mean_and_std(of('final_validation_accuracy'))
    before, _ = statistics.mean_and_std(of('validation_before_pruning'))
    used = float(np.mean([_number(m[-1]['used_weights']) for m in group]))
    out.append(
      dict(zip(SETTING, key, strict=True))
      | {'searched': search, 'n': len(group), 'tasks': min(map(len, group))}
      | {'failed': any(row['failed'] for m in group for row in m)}
      | {
        'validation_accuracy_mean': mean if finite(mean) else None,
        'validation_accuracy_std': std if finite(mean) else None,
        'validation_before_pruning_mean': or_none(before),
        'used_weights_mean': or_none(used),
      }
    )
  return out


def select(rows: Sequence[Row], margin: float = 0.0) -> list[dict[str, Any]]:
  """The best coefficient and learning rate, on validation accuracy.

  The test accuracy plays no part. Where there was a search it decides, and what
  failed in it cannot win. A setting that broke off early loses to all that went
  on for longer, as the first tasks are easier to remember. Of equals, the first
  in the rows is taken.

  With a margin the best is, where methods have masks, the one with the fewest
  weights in use of those that are good enough: both before pruning and after it
  at most the margin below the best of them before pruning. Where none is, the
  margin does not count.

  Args:
    rows: a run's rows.
    margin: `choose_margin`, in [0, 1); 0 goes by the accuracy alone.

  Returns:
    For every (method, transform, alpha) that has one, the best of its
    `candidates`.
  """
  whole, searched = candidates(rows, False), candidates(rows, True)
  lines = {line_of(entry) for entry in searched}
  found = [e for e in searched if not e['failed']]
  found += [e for e in whole if line_of(e) not in lines]
  searches_first = sorted(rows, key=lambda row: not row['search'])
  order = list(dict.fromkeys(map(setting_of, searches_first)))
  found.sort(key=lambda e: order.index(setting_of(e)))
  return _best_of_lines(found, margin)


def at_edge(chosen: Row, rows: Sequence[Row]) -> list[str]:
  """What of a choice is the least or the largest that its search has tried.

  Args:
    chosen: of `select`.
    rows: a run's rows.

  Returns:
    Of 'coefficient' and 'learning_rate' those beyond which it might be better:
    nothing is beyond 0, and where one was tried alone there was no choice.
  """
  mine = [r for r in rows if r['search'] and line_of(r) == line_of(chosen)]
  out = []
  for name in ('coefficient', 'learning_rate'):
    tried = sorted({row[name] for row in mine})
    ends = {value for value in tried[:1] + tried[-1:] if value}
    if len(tried) > 1 and chosen[name] in ends:
      out.append(name)
  return out


def shown(
  rows: Sequence[Row], margin: float = 0.0
) -> dict[tuple[Any, ...], list[list[Row]]]:
  """The members that stand for each (method, transform, alpha) in figures.

  Args:
    rows: a run's rows.
    margin: as `select` takes it.

  Returns:
    As `settings`, of those that count: what `select` chooses, or the best on
    validation of what was trained on all tasks, where that was not.
  """
  groups = settings(rows)
  whole = candidates(rows, False)
  chosen = [setting_of(entry) for entry in select(rows, margin)]
  there = [e for e in whole if setting_of(e) in chosen]
  rest = [e for e in whole if line_of(e) not in map(line_of, there)]
  keys = {setting_of(e) for e in [*there, *_best_of_lines(rest, margin)]}
  return {key: group for key, group in groups.items() if key in keys}


def _best_of_lines(
  entries: Sequence[dict[str, Any]], margin: float
) -> list[dict[str, Any]]:
  lines: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
  for entry in entries:
    if entry['validation_accuracy_mean'] is not None:
      lines.setdefault(line_of(entry), []).append(entry)
  return [_best(mine, margin) for mine in lines.values()]


def _best(entries: Sequence[dict[str, Any]], margin: float) -> dict[str, Any]:
  """Of one line's; see `select`."""
  accuracy = lambda e: e['validation_accuracy_mean']
  most = max(e['tasks'] for e in entries)
  there = [e for e in entries if e['tasks'] == most]
  best = max(there, key=accuracy)
  if not margin or any(e['used_weights_mean'] is None for e in there):
    return best

  def before(entry):
    found = entry['validation_before_pruning_mean']
    return accuracy(entry) if found is None else found

  # Accuracies are of float32: a difference of the margin may be just above it.
  least = max(map(before, there)) - margin - 1e-6
  merit = lambda e: (e['used_weights_mean'], -accuracy(e))
  enough = (e for e in there if min(before(e), accuracy(e)) >= least)
  return min(enough, key=merit, default=best)


def line_of(entry: Row) -> tuple[Any, ...]:
  """The values of `LINE`."""
  return tuple(entry[name] for name in LINE)


def setting_of(entry: Row) -> tuple[Any, ...]:
  """The values of `SETTING`."""
  return tuple(entry[name] for name in SETTING)


def _number(value: Any) -> float:
  return float(value) if finite(value) else math.nan


def entries(results: Mapping[str, Any]) -> list[Entry]:
  """All nets of a run that did not diverge, for `report.compare`."""
  names = 'average_accuracy', 'accuracy_before_pruning', 'used_weights'
  return entries_of(results, lambda member: measures(member, {}), names)


def entries_of(
  results: Mapping[str, Any],
  measured: Callable[[list[Row]], Mapping[str, float]],
  names: Sequence[str],
) -> list[Entry]:
  """Some measures of all nets of a run that learned several tasks.

  Args:
    results: of the run.
    measured: rows of a member -> all that is measured of it.
    names: of the measures.
  """
  out = []
  for key, group in settings(results.get('rows', [])).items():
    setting = dict(zip(SETTING, key, strict=True))
    for member in group:
      found = measured(member)
      told = {name: found[name] for name in names}
      out.append(Entry(setting, member[0]['seed'], told, len(member)))
  return out
