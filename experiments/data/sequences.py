"""Sequences of tasks, made of one data set on the device.

A sequence is one function that returns a `Sequence`. Ours are in `SEQUENCES`; a
config may name one of the user's own (docs/own_code.md).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.types import checked
from experiments.data.types import DataError
from experiments.data.types import Dataset
from experiments.data.types import Examples
from experiments.data.types import Split

SCENARIOS = ('task', 'domain', 'class')
SPLITS = ('train', 'validation', 'test')


class Sequence(NamedTuple):
  """Tasks that follow each other; every task is the same shapes.

  Attributes:
    dataset: with the pictures as the tasks have them, on the host.
    scenario: 'task', 'domain' or 'class'; see `visible_outputs`.
    num_tasks: T.
    num_classes: of one task; where they differ, a tuple of T.
    num_outputs: width of the net's output layer.
    sizes: by split, int32 [T], the tasks' numbers of examples.
    mean: of the pixels in [0, 1], subtracted from them.
    std: by which they are then divided.
    tables: seed -> arrays on the device that say what the tasks are.
    pick: (tables, split, name of the split, task, rows) -> uint8 pictures and
      their classes within the task; rows in [0, the task's size).
  """

  dataset: Dataset
  scenario: str
  num_tasks: int
  num_classes: int | tuple[int, ...]
  num_outputs: int
  sizes: Mapping[str, np.ndarray]
  mean: float
  std: float
  tables: Callable[[Any], Any]
  pick: Callable[..., tuple[jax.Array, jax.Array]]


class Source(NamedTuple):
  """A task as a training step sees it; all of it may be traced.

  Attributes:
    splits: by name, on the device; the same for all tasks.
    tables: of `Sequence.tables`.
    task: int32, which task.
    now: int32 ≥ task, the last task that was seen: in the class-incremental
      scenario its outputs and all before them compete.
  """

  splits: Mapping[str, Split]
  tables: Any
  task: jax.Array
  now: jax.Array


def visible_outputs(
  sequence: Sequence, task: jax.Array, now: jax.Array
) -> jax.Array:
  """Which logits take part.

  Task-incremental: those of the task, which is known at test time.
  Domain-incremental: the tasks share them, and a task has the first of them, as
  many as it has classes: all, where all tasks have as many. Class-incremental:
  those of all tasks so far.

  Args:
    sequence: the sequence.
    task: int32 scalar.
    now: int32 scalar, the last task that was seen.

  Returns:
    bool [num_outputs].

  Reference: Hsu et al., Re-evaluating continual learning scenarios, 2018,
    section 2; van de Ven and Tolias, 2019.
  """
  if all_take_part(sequence):
    return jnp.ones(sequence.num_outputs, bool)
  if sequence.scenario == 'domain':
    own = jnp.asarray(classes(sequence))[task]
    return jnp.arange(sequence.num_outputs) < own
  owner = jnp.asarray(
    np.repeat(np.arange(sequence.num_tasks, dtype=np.int32), classes(sequence))
  )
  return owner == task if sequence.scenario == 'task' else owner <= now


def all_take_part(sequence: Sequence) -> bool:
  """Whether every task has all outputs."""
  return sequence.scenario == 'domain' and not np.ndim(sequence.num_classes)


def classes(sequence: Sequence) -> np.ndarray:
  """Each task's number of classes, int32 [T]."""
  return np.broadcast_to(
    np.asarray(sequence.num_classes, np.int32), sequence.num_tasks
  )


def examples(
  sequence: Sequence, source: Source, split: str, rows: jax.Array
) -> Examples:
  """Examples of a task.

  Args:
    sequence: the sequence.
    source: its arrays, and which task.
    split: 'train', 'validation' or 'test'.
    rows: int32 [B] ≥ 0, taken modulo the task's number of examples.

  Returns:
    Pictures, labels in [0, num_outputs), and the outputs that take part.
  """
  rows = rows % jnp.asarray(sequence.sizes[split], jnp.int32)[source.task]
  image, label = sequence.pick(
    source.tables, source.splits[split], split, source.task, rows
  )
  if sequence.scenario != 'domain':
    count = classes(sequence)
    first = jnp.asarray(np.cumsum(count) - count, jnp.int32)
    label = label + first[source.task]
  visible = visible_outputs(sequence, source.task, source.now)
  return Examples(
    image, label, jnp.broadcast_to(visible, (len(rows), *visible.shape))
  )


def permuted(
  dataset: Dataset, num_tasks: int, scenario: str, *, padded: bool = True
) -> Sequence:
  """Each task sees all pixels in an order of its own; the first as they are.

  The orders differ from seed to seed.

  Args:
    dataset: any.
    num_tasks: T ≥ 1.
    scenario: 'task', 'domain' or 'class'.
    padded: whether MNIST is padded by 2 to 32x32 pixels first, and normalised
      by mean 0.1000 and standard deviation 0.2752, as the protocol has it. Else
      it keeps its size and its values in [0, 1], as other data sets do.

  Returns:
    A sequence.

  Reference: Hsu et al. 2018, section 4 and its code; Goodfellow et al., An
    empirical investigation of catastrophic forgetting, 2014.
  """
  mean, std = 0.0, 1.0
  if padded and dataset.name == 'mnist':
    dataset = _padded(dataset, 2)
    mean, std = 0.1000, 0.2752
  shape = dataset.train.image.shape[1:]
  pixels = int(np.prod(shape))

  def tables(seed):
    def order(task):
      key = jax.random.fold_in(jax.random.key(seed), task)
      plain = jnp.arange(pixels, dtype=jnp.int32)
      return jnp.where(task == 0, plain, jax.random.permutation(key, plain))

    return jax.lax.map(order, jnp.arange(num_tasks))

  def pick(tables, split, name, task, rows):
    del name
    image = split.image[rows].reshape(len(rows), pixels)[:, tables[task]]
    return image.reshape(len(rows), *shape), split.label[rows]

  return Sequence(
    dataset,
    scenario,
    num_tasks,
    dataset.num_classes,
    dataset.num_classes * (1 if scenario == 'domain' else num_tasks),
    {
      name: np.full(num_tasks, len(getattr(dataset, name).label), np.int32)
      for name in SPLITS
    },
    mean,
    std,
    tables,
    pick,
  )


def split(
  dataset: Dataset,
  num_tasks: int,
  scenario: str,
  *,
  classes: Any = (),
  per_task: int = 0,
  padded: bool = True,
) -> Sequence:
  """Some classes for each task: split MNIST is 5 tasks of 2.

  Args:
    dataset: any.
    num_tasks: T ≥ 1.
    scenario: 'task', 'domain' or 'class'.
    classes: for each task the classes that it has, in the order of its outputs;
      none may be in two. () is all of them in turn, as many in each task as in
      another: where they do not divide evenly the first tasks have one more.
    per_task: so many classes for each task, in turn, where `classes` is ();
      what is left of the data set is in no task. 0 leaves none out.
    padded: whether MNIST is padded to 32x32 pixels and normalised, as the
      reference has it for classification; else it is as it is, in [0, 1].

  Returns:
    A sequence; it is the same for all seeds.

  Raises:
    DataError: if the classes cannot be shared out, or a task has no examples.

  Reference: Zenke et al., Synaptic intelligence, ICML 2017, section 5.1; Hsu et
    al. 2018, section 4, where pictures are padded and normalised as well.
  """
  groups = _groups(dataset, num_tasks, classes, per_task)
  mean, std = 0.0, 1.0
  if padded and dataset.name == 'mnist':
    dataset = _padded(dataset, 2)
    mean, std = 0.1000, 0.2752
  chosen = {
    name: [
      np.flatnonzero(np.isin(getattr(dataset, name).label, g)) for g in groups
    ]
    for name in SPLITS
  }
  for name, rows in chosen.items():
    for t, own in enumerate(rows):
      if not own.size:
        raise DataError(
          f'task {t + 1} of {num_tasks} has no {name} examples: {dataset.name}'
          f' has none of the classes {groups[t]}; choose others, or change the'
          ' data set.'
        )
  # Rows of all tasks in one rectangle; what fills it is never picked.
  arrays: dict[str, Any] = {
    name: np.stack([np.resize(r, max(map(len, rows))) for r in rows])
    for name, rows in chosen.items()
  }
  arrays['within'] = np.zeros(dataset.num_classes)
  for group in groups:
    arrays['within'][group] = np.arange(len(group))

  def tables(seed):
    del seed
    return {name: jnp.asarray(x, jnp.int32) for name, x in arrays.items()}

  def pick(tables, split, name, task, rows):
    rows = tables[name][task, rows]
    return split.image[rows], tables['within'][split.label[rows]]

  counts = tuple(map(len, groups))
  return Sequence(
    dataset,
    scenario,
    num_tasks,
    counts[0] if min(counts) == max(counts) else counts,
    max(counts) if scenario == 'domain' else sum(counts),
    {
      n: np.array([len(r) for r in rows], np.int32)
      for n, rows in chosen.items()
    },
    mean,
    std,
    tables,
    pick,
  )


def _groups(
  dataset: Dataset, num_tasks: int, classes: Any, per_task: int
) -> list[list[int]]:
  """The classes of each task; see `split`."""
  there = dataset.num_classes
  if per_task:
    if classes or not 0 < per_task * num_tasks <= there:
      raise DataError(
        f'per_task is {per_task} but {num_tasks} tasks of so many classes must'
        f' fit the {there} of {dataset.name}, and classes be left out: change'
        ' per_task or num_tasks.'
      )
    return np.arange(per_task * num_tasks).reshape(num_tasks, -1).tolist()
  if not classes:
    if num_tasks > there:
      raise DataError(
        f'num_tasks is {num_tasks} but the {there} classes of {dataset.name}'
        f' cannot be shared out among as many tasks: lower it to {there} at'
        ' most.'
      )
    return [g.tolist() for g in np.array_split(np.arange(there), num_tasks)]

  def wrong(must: str) -> DataError:
    return DataError(f'classes is {classes} but must be {must}.')

  try:
    groups = [[int(c) for c in group] for group in classes]
    whole = groups == [list(group) for group in classes]
  except (TypeError, ValueError):
    groups, whole = [], False
  if not whole or not all(groups):
    raise wrong('a list of lists: for each task the numbers of its classes')
  every = [c for group in groups for c in group]
  if len(groups) != num_tasks:
    raise wrong(
      f'a list for each task, and num_tasks is {num_tasks}: change one of them'
    )
  if not set(every) <= set(range(there)):
    raise wrong(f'of classes of {dataset.name}, which are 0 to {there - 1}')
  if len(set(every)) < len(every):
    raise wrong('without any class in two tasks, or twice in one')
  return groups


SEQUENCES: Mapping[str, Callable[..., Sequence]] = {
  'permuted': permuted,
  'split': split,
}


def _padded(dataset: Dataset, by: int) -> Dataset:
  """A border of black pixels around every picture."""
  around = [(0, 0), (by, by), (by, by), (0, 0)]
  pad = lambda s: s._replace(image=np.pad(s.image, around))
  return dataset._replace(
    train=pad(dataset.train),
    validation=pad(dataset.validation),
    test=pad(dataset.test),
  )


def checked_sequence(name: str, sequence: Any) -> Sequence:
  """A user's own sequence, if it keeps what `Sequence` promises.

  Args:
    name: what a config calls it.
    sequence: what the function of that name returned.

  Returns:
    The same.

  Raises:
    DataError: naming the first promise that it breaks.
  """

  def promise(ok: Any, what: str, must: str) -> None:
    if not ok:
      raise DataError(
        f'the sequence {name!r} has {what} but it must be {must}; change the'
        ' function that makes it.'
      )

  kind = type(sequence).__name__
  promise(isinstance(sequence, Sequence), f'type {kind}', 'a data.Sequence')
  s: Sequence = sequence
  checked(s.dataset)
  promise(
    s.scenario in SCENARIOS, f'scenario {s.scenario!r}', ', '.join(SCENARIOS)
  )
  tasks = s.num_tasks
  whole = isinstance(tasks, int | np.integer) and tasks >= 1
  promise(whole, f'num_tasks {tasks!r}', 'a whole number of at least 1')
  count = np.asarray(s.num_classes)
  promise(
    count.shape in ((), (tasks,))
    and count.dtype.kind == 'i'
    and (count > 0).all(),
    f'num_classes {s.num_classes!r}',
    f'a whole number of at least 1, or {tasks} of them',
  )
  outputs = classes(s).max() if s.scenario == 'domain' else classes(s).sum()
  promise(
    s.num_outputs == outputs,
    f'num_outputs {s.num_outputs!r}',
    f'{outputs}, as its tasks have so many classes and the scenario is'
    f' {s.scenario!r}',
  )
  for split_name in SPLITS:
    size = np.asarray(s.sizes.get(split_name, ()))
    promise(
      size.shape == (tasks,) and size.dtype.kind in 'iu' and (size > 0).all(),
      f'sizes[{split_name!r}] {s.sizes.get(split_name)!r}',
      f'{tasks} whole numbers of at least 1, the examples of the tasks',
    )
    rows = jax.ShapeDtypeStruct((2,), jnp.int32)
    task = jax.ShapeDtypeStruct((), jnp.int32)
    part = getattr(s.dataset, split_name)
    tables = jax.eval_shape(s.tables, jnp.int32(0))
    picked = lambda tables, part, task, rows, name=split_name: s.pick(
      tables, part, name, task, rows
    )
    image, label = jax.eval_shape(picked, tables, part, task, rows)
    shape = (2, *s.dataset.train.image.shape[1:])
    promise(
      image.shape == shape
      and image.dtype == jnp.uint8
      and label.shape == (2,)
      and jnp.issubdtype(label.dtype, jnp.integer),
      f'{image.dtype}{list(image.shape)} and {label.dtype}{list(label.shape)}'
      f' where two examples of {split_name!r} are picked',
      f'uint8{list(shape)} and int32[2], pictures and classes',
    )
  return s
