"""What the host knows of a cell's sequence, and the rows that it gives."""

from collections.abc import Mapping, Sequence
import functools
import itertools
from typing import Any

from absl import logging
import numpy as np

from experiments import data
from experiments.continual.cells import Course
from experiments.continual.records import Lived
from experiments.continual.records import overlap
from experiments.engine import population
from experiments.engine.population import Cell

_COUNTS = ('new_by_layer', 'reused_by_layer')
# What a task has that failed: nothing.
_NOTHING = (*_COUNTS, 'kept_by_layer')


def full_layers(plan: Course, used: Sequence[int]) -> list[bool]:
  """By layer, whether no weight is free.

  Args:
    plan: of a method with masks.
    used: by layer, how many weights (or units) tasks have.
  """
  return [u == n for u, n in zip(used, plan.layer_sizes, strict=True)]


def is_full(plan: Course, used: Sequence[int]) -> bool:
  """Whether no more task can be learned without a head; see `full_layers`."""
  layers = full_layers(plan, used)
  needed = plan.method.continual.needed
  return layers[plan.layers.index(needed)] if needed else all(layers)


class Log:
  """What the host knows of a cell's sequence; plain numbers, so JSON keeps it.

  Every entry of a task is a list over members.
  """

  def __init__(self, cell: Cell, sequence: data.Sequence):
    """An empty log.

    Args:
      cell: whose it is.
      sequence: that is learned.
    """
    self._cell = cell
    self._heads = sequence.scenario == 'task'
    self._tasks: list[dict[str, list[Any]]] = []
    self._before: list[list[float]] = []
    self._at_start: list[list[float]] = []
    # By 'split' and the task after which: [task][member].
    self._matrix: dict[str, dict[str, list[list[float]]]] = {}
    self._prints: list[list[bool]] = []
    self._loss: Any = None

  def to_json(self) -> dict[str, Any]:
    """For a checkpoint."""
    return {
      'tasks': self._tasks,
      'before': self._before,
      'at_start': self._at_start,
      'matrix': self._matrix,
      'prints': self._prints,
      'loss': self._loss,
    }

  def restore(self, saved: Mapping[str, Any]) -> None:
    """From a checkpoint."""
    self._tasks = list(saved['tasks'])
    self._before = list(saved['before'])
    self._at_start = list(saved['at_start'])
    self._matrix = {k: dict(v) for k, v in saved['matrix'].items()}
    self._prints = list(saved['prints'])
    self._loss = saved['loss']

  def _list(self, x: Any) -> list[Any]:
    return population.per_member(self._cell, x).tolist()

  def at_start(self, accuracies: list[Any]) -> None:
    """Of all tasks before the first is learned."""
    self._at_start = [self._list(x) for x in accuracies]

  def before(self, task: int, accuracy: Any) -> None:
    """Of a task just before it is learned."""
    self._before = [*self._before[:task], self._list(accuracy)]

  def loss(self, loss: Any) -> None:
    """Mean of the last chunk of steps."""
    self._loss = self._list(loss)

  def learned(
    self, task, found, dense, report, failed, attempts, factor
  ) -> None:
    """What is known when a task has just been learned.

    Args:
      task: from 0.
      found: by split, the Score of its own net.
      dense: by split, the accuracy before pruning; {} without pruning.
      report: of the method.
      failed: bool [members].
      attempts: int [members].
      factor: float [members], on the learning rate.
    """
    entry = {
      'failed': failed.tolist(),
      'attempts': attempts.tolist(),
      'factor': factor.tolist(),
      'loss': self._loss,
    }
    for split, score in found.items():
      entry[f'{split}_accuracy'] = self._list(score.value)
      entry[f'{split}_print'] = self._list(score.fingerprint)
      entry[f'{split}_before'] = self._list(dense.get(split, score.value))
    entry |= {name: self._list(x) for name, x in report.items()}
    nothing = [0] * len(self._cell.plan.layers)
    for m, lost in enumerate(entry['failed']):
      if lost and nothing:  # it took no weights, and has no mask of its own
        before = self._tasks[-1]['used_by_layer'][m] if task else nothing
        entry['used_by_layer'][m] = before
        for name in report:
          if name in _NOTHING:
            entry[name][m] = nothing
          elif name != 'used_by_layer':
            entry[name][m] = None
    self._tasks.append(entry)
    self._prints.append([True] * len(self._cell.members))
    self._tell(task)

  def _tell(self, task: int) -> None:
    """Says what has filled up."""
    layers = np.array(self._cell.plan.layers)
    told = set()
    for m, member in enumerate(self._cell.members):
      if member in told or member.variant.search:
        continue
      told.add(member)
      new = np.array(self._full_layers(task, m), bool)
      if task:
        new &= ~np.array(self._full_layers(task - 1, m), bool)
      if new.any():
        logging.warning(
          '%s: no free %s are left in %s after task %d%s.',
          member.name,
          self._cell.plan.masks_of,
          ', '.join(layers[new]),
          task + 1,
          self._consequence() if self.full()[m] else '',
        )
      if one := self._single_units(task, m):
        logging.warning(
          '%s: of %s task %d keeps a single unit, as no layer goes without one:'
          ' lower the coefficient or margin.',
          member.name,
          ', '.join(one),
          task + 1,
        )
      if self._get(task, m, 'reached') is False:
        logging.warning(
          '%s: the mask of task %d misses its target: %.4f on validation data,'
          ' of %.4f that were asked for.',
          member.name,
          task + 1,
          self._get(task, m, 'pruned_accuracy', np.nan),
          self._get(task, m, 'target', np.nan),
        )

  def _consequence(self) -> str:
    if self._heads:
      return ', and so in none: from here on heads alone are trained'
    return ', and so in none: this sequence stops there'

  def _full_layers(self, task: int, m: int) -> list[bool]:
    if not self._cell.plan.layer_sizes:
      return []
    return full_layers(self._cell.plan, self._tasks[task]['used_by_layer'][m])

  def _single_units(self, task: int, m: int) -> list[str]:
    """Layers of several units of which the task's net has one."""
    plan = self._cell.plan
    if plan.masks_of != 'units' or self._tasks[task]['failed'][m]:
      return []
    kept = self._tasks[task]['kept_by_layer'][m]
    every = zip(plan.layers, kept, plan.layer_sizes, strict=True)
    return [name for name, n, size in every if n == 1 < size]

  def _is_full(self, task: int, m: int) -> bool:
    return is_full(self._cell.plan, self._tasks[task]['used_by_layer'][m])

  def full(self) -> np.ndarray:
    """By member: whether no more task can be learned; bool [members]."""
    count = len(self._cell.members)
    if not self._tasks or not self._cell.plan.layers:
      return np.zeros(count, bool)
    last = len(self._tasks) - 1
    return np.array([self._is_full(last, m) for m in range(count)])

  def stuck(self) -> np.ndarray:
    """By member: whether it can learn no more: full, and without heads."""
    return self.full() & (not self._heads)

  def recalled(self, now: int, split: str, scores: list[Any]) -> None:
    """Of all tasks so far, after task `now`.

    Args:
      now: the last task.
      split: 'validation' or 'test'.
      scores: one for each task.
    """
    self._matrix.setdefault(split, {})[str(now)] = [
      self._list(s.value) for s in scores
    ]
    for j, score in enumerate(scores):
      first = self._tasks[j].get(f'{split}_print')
      for m, bits in enumerate(self._list(score.fingerprint)):
        self._prints[j][m] &= first is not None and bits == first[m]

  def ends(self) -> list[int]:
    """By member: how many tasks it has learned before it was full."""
    count = len(self._tasks)
    out = []
    for m in range(len(self._cell.members)):
      end = count
      if self._cell.plan.layers and not self._heads:
        for t in range(count):
          if self._is_full(t, m):
            end = t + 1
            break
      out.append(end)
    return out

  def rows_of(self, task: int, seconds: float) -> list[dict[str, Any]]:
    """A row for every member that learned the task.

    Args:
      task: from 0.
      seconds: that it took all members; kept with the task.

    Returns:
      Rows; what is not known yet is None.
    """
    self._tasks[task].setdefault('seconds', [seconds] * len(self._cell.members))
    ends = self.ends()
    seen = set()
    out = []
    for m, member in enumerate(self._cell.members):
      if member in seen or task >= ends[m]:
        continue  # a copy that fills a device, or a net that was full
      seen.add(member)
      out.append(self._row(task, m))
    return out

  def _get(self, t: int, m: int, name: str, default: Any = None) -> Any:
    """What is known of a member's task."""
    entry = self._tasks[t]
    return entry[name][m] if name in entry else default

  def _row(self, t: int, m: int) -> dict[str, Any]:
    entry = self._tasks[t]
    member = self._cell.members[m]
    plan = self._cell.plan
    get = functools.partial(self._get, t, m)
    final = lambda split: self._final(split, t, m)
    named = lambda flags: [*itertools.compress(plan.layers, flags)]
    layers = bool(plan.layers)
    size = sum(plan.layer_sizes)
    total = lambda name: sum(entry[name][m]) if layers else 0
    or_none = lambda x: x if layers else None
    if 'kept_by_layer' in entry:
      mask = total('kept_by_layer')
    else:
      mask = total('new_by_layer') + total('reused_by_layer')
    share = lambda x: x / size if layers else None
    return {
      **member.row(),
      'task': t,
      'accuracy_when_learned': get('test_accuracy'),
      'accuracy_before_pruning': get('test_before'),
      'validation_accuracy': get('validation_accuracy'),
      'validation_before_pruning': get('validation_before'),
      'accuracy_before': (
        self._before[t][m] if t < len(self._before) else None
      ),
      'accuracy_at_start': (
        self._at_start[t][m] if t < len(self._at_start) else None
      ),
      'final_accuracy': final('test'),
      'final_validation_accuracy': final('validation'),
      'used_weights': share(total('used_by_layer')),
      'new_weights': or_none(total('new_by_layer')),
      'reused_weights': or_none(total('reused_by_layer')),
      'mask_density': share(mask),
      'rate': get('rate'),
      'linear_rate': get('linear_rate'),
      'evaluations': get('evaluations'),
      'target': get('target'),
      'pruned_accuracy': get('pruned_accuracy'),
      'reached': get('reached'),
      'units_by_layer': self._units(t, m),
      'without': named(get('without_by_layer') or []),
      'full_layers': named(self._full_layers(t, m)),
      'failed': get('failed'),
      'attempts': get('attempts'),
      'learning_rate_used': member.learning_rate * get('factor'),
      'loss': get('loss'),
      'seconds': get('seconds'),
      'unchanged': self._prints[t][m],
    }

  def _units(self, t: int, m: int) -> dict[str, dict[str, int]] | None:
    """By layer, its numbers of units; None where masks are of weights."""
    plan, entry = self._cell.plan, self._tasks[t]
    if plan.masks_of != 'units':
      return None
    names = 'used', 'new', 'reused'
    return {
      layer: {name: entry[f'{name}_by_layer'][m][i] for name in names}
      for i, layer in enumerate(plan.layers)
    }

  def _final(self, split: str, t: int, m: int) -> float | None:
    ends = self._matrix.get(split, {})
    if not ends:
      return None
    rows = ends[max(ends, key=int)]
    return rows[t][m] if t < len(rows) else None

  def lived(self, name: str, records: list[Any], seconds: float) -> Lived:
    """The cell's results.

    Args:
      name: of the cell.
      records: of its tasks.
      seconds: that it took.

    Returns:
      Rows of all members and tasks, and arrays.
    """
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    stopped: list[str] = []
    seen = set()
    ends = self.ends()
    for m, member in enumerate(self._cell.members):
      if member in seen:
        continue
      seen.add(member)
      end = ends[m]
      rows += [self._row(t, m) for t in range(end)]
      if end < self._cell.plan.num_tasks:
        stopped.append(
          f'{member.name}: no free {self._cell.plan.masks_of} are left after'
          f' task {end} of {self._cell.plan.num_tasks}'
        )
      if not member.variant.search:
        mine = self._arrays(m, end, records)
        arrays |= {f'{member.name}/{k}': v for k, v in mine.items()}
    return Lived(name, rows, arrays, seconds, stopped)

  def _arrays(self, m: int, end: int, records) -> dict[str, np.ndarray]:
    matrix = np.full((end, end), np.nan, np.float32)
    for t in range(end):
      matrix[t, t] = self._tasks[t]['test_accuracy'][m]
    for now, found in self._matrix.get('test', {}).items():
      i = min(int(now), end - 1)  # what a full net answers stays the same
      for j in range(min(len(found), i + 1)):
        matrix[i, j] = found[j][m]
    out = {'accuracy': matrix}
    if not self._cell.plan.layers:
      return out
    for name in ('used_by_layer', *_COUNTS):
      out[name] = np.array(
        [self._tasks[t][name][m] for t in range(end)], np.int64
      )
    sizes = np.array(self._cell.plan.layer_sizes)
    out['used_by_layer'] = (out['used_by_layer'] / sizes).astype(np.float32)
    mine = lambda x: x[m] if self._cell.stacked else x
    bits = [np.asarray(mine(r[0].bits)) for r in records[:end]]
    out['overlap'] = overlap(np.stack(bits))
    return out
