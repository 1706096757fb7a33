"""What a stream brings, step by step, and how a learner sees it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.stream import settings as stream_settings
from experiments.stream.settings import StreamSettings

_ORDER, _ROWS, _KEPT = range(3)  # what random numbers are for


class Stream(NamedTuple):
  """Steps of visits that follow each other; the same for every learner.

  Attributes:
    seed: of the member.
    tasks: int32 [steps], the true task of each step.
    order: the visits' tasks.
    begins: the first step of each visit.
    batch_size: examples of a step.
    num_train: of a task.
  """

  seed: int
  tasks: np.ndarray
  order: tuple[int, ...]
  begins: tuple[int, ...]
  batch_size: int
  num_train: int

  @property
  def steps(self) -> int:
    """How many there are."""
    return len(self.tasks)

  def rows(self, first: int, count: int) -> np.ndarray:
    """Which training examples steps learn from, int32 [count, batch_size].

    The data set is gone through in epochs, whatever the tasks are.
    """
    per_epoch = self.num_train // self.batch_size
    out = []
    for step in range(first, first + count):
      epoch, i = divmod(step, per_epoch)
      rows = _epoch(self.seed, epoch, self.num_train)
      out.append(rows[i * self.batch_size : (i + 1) * self.batch_size])
    return np.stack(out)

  def kept(
    self, first: int, end: int, split: str, number: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """What a learner keeps of a segment: examples that the stream brought.

    Args:
      first: step of the segment.
      end: step after its last.
      split: 'train': examples that were learned from; else held-out ones, as if
        some of the stream's were put aside.
      number: of examples to keep.

    Returns:
      int32 [number] rows of the split, and the true task of each, of which the
      learner sees but the picture.
    """
    rng = np.random.default_rng([_KEPT, self.seed, first, split == 'train'])
    if split != 'train':
      chosen = rng.integers(first, end, number)
      return np.arange(number, dtype=np.int32), self.tasks[chosen]
    brought = (end - first) * self.batch_size
    some = rng.choice(brought, number, replace=brought < number)
    step, place = np.divmod(some, self.batch_size)
    rows = self.rows(first, end - first)[step, place]
    return rows, self.tasks[first + step]


@functools.lru_cache(maxsize=64)
def _epoch(seed: int, epoch: int, number: int) -> np.ndarray:
  rng = np.random.default_rng([_ROWS, seed, epoch])
  return rng.permutation(number).astype(np.int32)


def make(s: StreamSettings, steps: int, num_train: int, seed: int) -> Stream:
  """The stream of a seed.

  Args:
    s: checked settings.
    steps: of a visit, unless the settings have lengths.
    num_train: training examples of a task.
    seed: of the member.

  Returns:
    A stream.

  Raises:
    ConfigError: if the window is longer than a visit.
  """
  rng = np.random.default_rng([_ORDER, seed])
  order = s.order or _with_returns(s.training.num_tasks, s.returns, rng)
  lengths: Any = s.lengths or [steps] * len(order)
  if s.unequal:
    low, high = max(steps // 2, 1), steps + steps // 2
    lengths = rng.integers(low, high, len(order), endpoint=True)
  stream_settings.check_window(s, int(min(lengths)))
  begins = np.cumsum(lengths) - lengths
  return Stream(
    seed,
    np.repeat(np.array(order, np.int32), lengths),
    tuple(order),
    tuple(begins.tolist()),
    s.training.training.batch_size,
    num_train,
  )


def _with_returns(tasks: int, returns: int, rng: Any) -> tuple[int, ...]:
  """All tasks in turn, with visits of earlier ones between, never two alike."""
  order = list(range(tasks))
  for _ in range(returns):
    place = int(rng.integers(2, len(order), endpoint=True))
    earlier = {*order[:place]} - {*order[place - 1 : place + 1]}
    if not earlier:  # between two tasks, and no others were before
      place = len(order)
      earlier = {*order} - {order[-1]}
    order.insert(place, int(rng.choice(sorted(earlier))))
  return tuple(order)


def untold(
  sequence: data.Sequence, kept: int, window: int, segments: int
) -> data.Sequence:
  """A sequence whose tasks are what a learner takes for tasks: segments.

  Which rows are there, and of which true task each is, is in the tables, an
  argument of the compiled programs: 'base' has the sequence's own, and the name
  of each split has int32 rows and tasks, [N] both.

  Args:
    sequence: of the true tasks, whose outputs they share.
    kept: training examples that are kept of a segment.
    window: examples of a window, which is a split too.
    segments: the most that there may be.

  Returns:
    A sequence.

  Raises:
    ConfigError: if the tasks have different numbers of classes.
  """
  if not data.all_take_part(sequence):
    raise stream_settings.ConfigError(
      f'num_classes of the sequence is {sequence.num_classes}, but where nobody'
      ' tells the task all must have as many: choose another sequence, or'
      ' sequence_kwargs.'
    )
  sizes = {
    'train': kept,
    'validation': int(sequence.sizes['validation'].min()),
    'test': int(sequence.sizes['test'].min()),
    'window': window,
  }

  def pick(tables, split, name, task, rows):
    del task
    own, tasks = tables[name]
    source = 'train' if name == 'window' else name
    count = jnp.asarray(sequence.sizes[source], jnp.int32)

    def one(row, task):
      row = (row % count[task])[None]
      image, label = sequence.pick(tables['base'], split, source, task, row)
      return image[0], label[0]

    return jax.vmap(one)(own[rows], tasks[rows])

  def tables(seed):
    zeros = lambda n: jnp.zeros(n, jnp.int32)
    none = {name: (zeros(n), zeros(n)) for name, n in sizes.items()}
    return {'base': sequence.tables(seed), **none}

  return sequence._replace(
    num_tasks=segments,
    sizes={n: np.full(segments, size, np.int32) for n, size in sizes.items()},
    tables=tables,
    pick=pick,
  )
