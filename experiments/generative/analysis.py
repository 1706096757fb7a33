"""How well characters are drawn, and what was forgotten; NumPy only.

A run's record is a list of *rows*: one task of one member, as those of
`experiments.continual`, whose measures are in nats a picture here and have
other names (`NAMES`). The higher a number the better; all are negative.
"""

from collections.abc import Iterable, Mapping, Sequence
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from experiments.continual import analysis as continual_analysis
from experiments.continual.analysis import finite
from experiments.continual.analysis import Records
from experiments.continual.analysis import SETTING
from experiments.report import differences
from experiments.report import published
from experiments.report import statistics
from experiments.report.differences import Difference
from experiments.report.differences import Entry
from experiments.report.naming import net_name
from experiments.report.statistics import Row

# What rows call what those of `experiments.continual` call otherwise.
NAMES: Mapping[str, str] = {
  'accuracy_when_learned': 'elbo_when_learned',
  'accuracy_before_pruning': 'elbo_before_pruning',
  'validation_accuracy': 'validation_elbo',
  'validation_before_pruning': 'validation_elbo_before_pruning',
  'accuracy_before': 'elbo_before',
  'accuracy_at_start': 'elbo_at_start',
  'final_accuracy': 'final_elbo',
  'final_validation_accuracy': 'final_validation_elbo',
  'pruned_accuracy': 'pruned_elbo',
}
_BACK = {ours: theirs for theirs, ours in NAMES.items()}
# Of a member, in the order of the tables.
MEASURES = (
  'log_likelihood',
  'log_likelihood_error',
  'elbo',
  'validation_elbo',
  'elbo_when_learned',
  'elbo_before_pruning',
  'forgetting',
  'used_weights',
  'failed_tasks',
  'missed_targets',
  'unchanged',
)


def named(rows: Iterable[Row]) -> list[dict[str, Any]]:
  """Rows of `experiments.continual` under the names of this experiment."""
  return [{NAMES.get(k, k): v for k, v in row.items()} for row in rows]


def plain(rows: Iterable[Row]) -> list[dict[str, Any]]:
  """The inverse of `named`.

  >>> plain(named([{'final_accuracy': -90.0, 'task': 0}]))
  [{'final_accuracy': -90.0, 'task': 0}]
  """
  return [{_BACK.get(k, k): v for k, v in row.items()} for row in rows]


def with_likelihoods(
  rows: Iterable[Row], records: Records
) -> list[dict[str, Any]]:
  """Rows with the log-likelihood of their task after the last, in nats.

  Args:
    rows: of a run.
    records: arrays 'log_likelihood' [T, 2] of members: means over the test
      pictures, and their standard errors.

  Returns:
    The same with "log_likelihood" and "log_likelihood_error", which are None
    for the trainings of a search.
  """
  out = []
  for row in rows:
    found = records.get(f'{net_name(row)}/log_likelihood')
    mean, error = (None, None) if found is None else found[row['task']]
    number = lambda x: float(x) if finite(x) else None  # of one picture
    out.append(
      {
        **row,
        'log_likelihood': number(mean),
        'log_likelihood_error': number(error),
      }
    )
  return out


def settings(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[list[Row]]]:
  """The members of each setting; see `continual_analysis.settings`."""
  return continual_analysis.settings(rows)


def shown(
  rows: Sequence[Row],
) -> dict[tuple[Any, ...], Sequence[Sequence[Row]]]:
  """The members that stand for each (method, transform, alpha)."""
  found = continual_analysis.shown(plain(rows))
  return {key: [named(m) for m in group] for key, group in found.items()}


def matrix_of(member: Sequence[Row], records: Records) -> np.ndarray:
  """The log-likelihoods [i, j] of a member on task j after learning task i.

  Args:
    member: its rows, in the order of the tasks.
    records: a run's; where they lack the member, its ELBOs stand in.

  Returns:
    float64 [T, T]; NaN above the diagonal.
  """
  name = f'{net_name(member[0])}/likelihoods'
  if name in records:
    return np.array(records[name], np.float64)
  return continual_analysis.matrix_of(plain(member), {})


def averages(matrix: np.ndarray) -> np.ndarray:
  """The mean of all tasks so far, after each; float64 [T]."""
  return continual_analysis.average_accuracy(matrix)


def measures(member: Sequence[Row], records: Records) -> dict[str, float]:
  """All that is measured of a member; NaN where it cannot be.

  Args:
    member: its rows, in the order of the tasks.
    records: a run's records.

  Returns:
    By name, of `MEASURES`: the mean over tasks of "log_likelihood", after the
    last, and the standard error of that mean, over test pictures; of "elbo"
    and "validation_elbo" after the last, "elbo_when_learned" and
    "elbo_before_pruning"; "forgetting", best minus last log-likelihood of all
    tasks but the last, in nats; "used_weights" at the end, of the shared ones;
    two numbers of tasks, "failed_tasks" and "missed_targets"; and "unchanged",
    the share of the tasks whose decoded pictures stayed the same bits.
  """
  numbers = lambda name: np.array(
    [row[name] if finite(row.get(name)) else math.nan for row in member]
  )
  mean = lambda name: float(np.mean(numbers(name)))
  errors = numbers('log_likelihood_error')
  return {
    'log_likelihood': mean('log_likelihood'),
    'log_likelihood_error': float(np.sqrt(np.sum(errors**2)) / len(errors)),
    'elbo': mean('final_elbo'),
    'validation_elbo': mean('final_validation_elbo'),
    'elbo_when_learned': mean('elbo_when_learned'),
    'elbo_before_pruning': mean('elbo_before_pruning'),
    'forgetting': continual_analysis.forgetting(matrix_of(member, records)),
    'used_weights': float(numbers('used_weights')[-1]),
    'failed_tasks': float(sum(bool(row['failed']) for row in member)),
    'missed_targets': continual_analysis.missed_targets(member),
    'unchanged': float(np.mean([bool(row['unchanged']) for row in member])),
  }


def likelihoods(
  group: Iterable[Sequence[Row]],
) -> dict[tuple[Any, int], float]:
  """The log-likelihood of members, to compare settings by.

  Args:
    group: members of a setting.

  Returns:
    By seed and number of tasks, the mean over tasks; −inf where one of them is
    not a number, as what overflows is below all that do not.
  """
  out = {}
  for member in group:
    found = measures(member, {})['log_likelihood']
    pair = continual_analysis.pair_of(member)
    out[pair] = found if math.isfinite(found) else -math.inf
  return out


def summarise(rows: Sequence[Row], records: Records) -> list[dict[str, Any]]:
  """Means over seeds of all `measures`, of every setting but the search's.

  Args:
    rows: a run's rows.
    records: a run's records; {} leaves out what needs them.

  Returns:
    One entry a setting: the fields of `SETTING`, "n" seeds, the fewest "tasks",
    and "…_mean" and "…_std" (ddof = 1; 0.0 for a single seed) of each measure
    that a seed has, and "…_n", how many have it, where not all do.
  """
  out = []
  for key, group in settings(rows).items():
    entry: dict[str, Any] = dict(zip(SETTING, key, strict=True))
    entry |= {'n': len(group), 'tasks': min(map(len, group))}
    found = [measures(member, records) for member in group]
    for name in MEASURES:
      there = [f[name] for f in found if math.isfinite(f[name])]
      if there:
        mean, std = statistics.mean_and_std(there)
        entry |= {f'{name}_mean': mean, f'{name}_std': std}
        if len(there) < len(found):
          entry[f'{name}_n'] = len(there)
    out.append(entry)
  return out


def select(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """The best coefficient and learning rate, on the ELBO of validation data.

  Args:
    rows: a run's rows.

  Returns:
    As `continual_analysis.select`, under this experiment's names.
  """
  return [
    {
      k.replace('validation_accuracy', 'validation_elbo'): v
      for k, v in e.items()
    }
    for e in continual_analysis.select(plain(rows))
  ]


class Order(NamedTuple):
  """Two settings of which the paper has one ahead of the other.

  Attributes:
    better: method, as `powerprop.methods` calls it, and whether with α > 1: the
      one that is ahead in the paper.
    worse: the other.
    paper: by how much, in nats.
    found: by how much here, seeds paired.
  """

  better: tuple[str, bool]
  worse: tuple[str, bool]
  paper: float
  found: Difference


def orders(
  rows: Sequence[Row], stands_for: Mapping[str, str], dataset: str
) -> list[Order]:
  """Every pair of the paper's rows that a run has as well.

  Args:
    rows: a run's rows.
    stands_for: what method a name stands for. A name that is not a method's own
      is a variant, and none of the paper's rows.
    dataset: as a config calls it.

  Returns:
    From the best pair of the paper's to the worst, of those that have learned
    as many tasks. Of several α > 1 that with the best ELBO on validation data
    takes part.
  """
  lines: dict[tuple[str, bool], tuple[float, dict[Any, float]]] = {}
  for (method, _, alpha, *_), group in shown(rows).items():
    of = method, alpha > 1
    value = float(np.mean([measures(m, {})['validation_elbo'] for m in group]))
    variant = stands_for.get(method, method) != method
    if variant or published.likelihood(dataset, *of) is None:
      continue
    if of not in lines or value > lines[of][0]:
      lines[of] = value, likelihoods(group)
  paper = {of: published.likelihood(dataset, *of) or 0.0 for of in lines}
  ranked = sorted(lines, key=lambda of: -paper[of])
  every = [
    Order(
      better,
      worse,
      paper[better] - paper[worse],
      differences.paired(lines[worse][1], lines[better][1]),
    )
    for better, worse in itertools.combinations(ranked, 2)
  ]
  return [order for order in every if order.found.n]


def entries(results: Mapping[str, Any]) -> list[Entry]:
  """All nets of a run, for `report.compare`; in nats, but for the weights."""
  names = 'log_likelihood', 'elbo', 'used_weights'
  return continual_analysis.entries_of(
    results, lambda member: measures(member, {}), names
  )
