"""Pictures that are read while they are learned, by processes, through Grain.

Grain is imported late: most data sets lie in memory and do without it.
"""

from collections.abc import Generator, Mapping
import functools
import multiprocessing
from multiprocessing import connection
import os
import signal
import threading
from typing import Any, NamedTuple

from absl import flags
from absl import logging
import numpy as np

from experiments.data.pictures import Pictures
from experiments.data.types import DataError
from experiments.data.types import Split
from experiments.data.types import Streamed

CORRUPT = ('fail', 'skip')
_MOST_WORKERS = 32
_MOST_PASSED = 100  # unreadable pictures in a row: the disk is gone, or so
# Pictures that a process hands over at once: 2 MB of 224 x 224, and as little
# as /dev/shm of a container has room for many of them.
_GROUP = 16
# A process takes as long to start as it takes to read so many pictures.
_WORTH_IT = 500


def streamed(
  name: str,
  splits: Mapping[str, Pictures],
  num_classes: int,
  image_shape: tuple[int, int, int],
  seed: int,
  workers: int | None,
  corrupt: str = 'fail',
) -> Streamed:
  """A data set of pictures that are read one by one.

  Args:
    name: what it is called.
    splits: of 'train', 'validation' and 'test', the pictures.
    num_classes: number of labels.
    image_shape: of each picture.
    seed: of the order and of what `Pictures.read` draws, in [0, 2^31).
    workers: processes that read; 0 to read in this one, None for one fewer than
      there are cores, and at most 32.
    corrupt: what happens where a picture cannot be read. 'fail' is a DataError.
      With 'skip' the next one that can be read takes its place in training, and
      padding does in an evaluation; the first is logged, and their number is
      when the iterator ends.

  Returns:
    The data set.

  Raises:
    DataError: if an argument is out of range, or a split is empty.
  """
  at_least('seed', seed, 0)
  if workers is None:
    workers = min(max(0, cores() - 1), _MOST_WORKERS)
  at_least('workers', workers, 0)
  if corrupt not in CORRUPT:
    raise DataError(
      f'dataset_kwargs.corrupt is {corrupt!r} but must be one of'
      f' {", ".join(CORRUPT)}.'
    )
  for split, pictures in splits.items():
    if not pictures.number:
      raise DataError(
        f'the data set {name!r} has no pictures to make a {split} set of; add'
        ' some.'
      )
  known = set[str]()

  def batches(
    size: int, first: int, host: tuple[int, int]
  ) -> Generator[Split, None, None]:
    it, share = splits['train'], _share(size, host)
    order, draws = (
      int(x) for x in np.random.SeedSequence(seed).generate_state(2)
    )
    examples = (
      _grain()
      .MapDataset.range(it.number)
      .shuffle(seed=order)
      .repeat()
      .random_map(functools.partial(_drawn, it, corrupt), seed=draws)
    )
    groups = _Groups(examples, size, share, host[0])
    return _read(_Reading(name, image_shape, known, workers, it, groups), first)

  def examples(
    split: str, size: int, host: tuple[int, int]
  ) -> Generator[Split, None, None]:
    it, share = splits[split], _share(size, host)
    padded = -(-it.number // size) * size
    read = functools.partial(_plain, it, corrupt, image_shape)
    rows = _grain().MapDataset.range(padded).map(read)
    groups = _Groups(rows, size, share, host[0])
    some = min(workers, it.number // host[1] // _WORTH_IT)
    return _read(_Reading(name, image_shape, known, some, it, groups), 0)

  return Streamed(
    name=name,
    num_classes=num_classes,
    scale=1 / 255,
    image_shape=image_shape,
    sizes={split: pictures.number for split, pictures in splits.items()},
    batches=batches,
    examples=examples,
  )


def at_least(option: str, value: int, low: int) -> None:
  """Raises DataError where an option of dataset_kwargs is less than `low`."""
  if not low <= value < 2**31:
    raise DataError(
      f'dataset_kwargs.{option} is {value} but must be a whole number of at'
      f' least {low} and below 2^31.'
    )


class _Example(NamedTuple):
  """A picture or a group; `passed` is −1, or a place that was left out."""

  image: np.ndarray
  label: Any
  passed: Any


class _Groups:
  """A host's share of the batches, as groups of pictures in their order.

  A batch is a piece of the sequence of all examples, a host's share a piece of
  that, and a group a piece of the share. Nothing is read but what is asked for.
  """

  def __init__(self, examples: Any, batch: int, share: int, host: int):
    self.group = max(g for g in range(1, _GROUP + 1) if share % g == 0)
    self.per_batch = share // self.group
    self.share = share
    self._examples, self._batch, self._first = examples, batch, host * share

  def __len__(self) -> int:
    return len(self._examples) // self._batch * self.per_batch

  def __getitem__(self, i: int) -> _Example:
    step, part = divmod(int(i), self.per_batch)
    at = step * self._batch + self._first + part * self.group
    rows = [self._examples[at + k] for k in range(self.group)]
    return _Example(
      np.stack([r.image for r in rows]),
      np.array([r.label for r in rows], np.int32),
      np.array([r.passed for r in rows], np.int64),
    )


class _Reading(NamedTuple):
  """What a host reads.

  Attributes:
    name: of the data set.
    image_shape: of a picture.
    known: what has been left out so far, of any split.
    workers: number of processes.
    pictures: all of the split.
    groups: of this host.
  """

  name: str
  image_shape: tuple[int, int, int]
  known: set[str]
  workers: int
  pictures: Pictures
  groups: _Groups


def _read(it: _Reading, first: int) -> Generator[Split, None, None]:
  """The batches from `first` on; processes start and end with them."""
  grain = _grain()
  groups = grain.MapDataset.source(it.groups)
  wanted = groups[first * it.groups.per_batch :].to_iter_dataset(
    grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  )
  if it.workers:
    workers = grain.MultiprocessingOptions(it.workers, per_worker_buffer_size=2)
    wanted = wanted.mp_prefetch(workers, worker_init_fn=_begin)
    # Shared memory is for pictures: labels are handed over as they are.
    options = grain.experimental.DatasetOptions(min_shm_size=2**16)
    wanted = grain.experimental.WithOptionsIterDataset(wanted, options)
  share, before = it.groups.share, len(it.known)
  parts, part = iter(wanted), None
  try:
    while True:
      image = np.empty((share, *it.image_shape), np.uint8)
      label = np.empty(share, np.int32)
      for at in range(0, share, it.groups.group):
        if (part := _next(parts, it)) is None:
          return
        rows = slice(at, at + it.groups.group)
        image[rows], label[rows] = part.image, part.label
        for place in part.passed[part.passed >= 0].tolist():
          what = it.pictures.where(place)
          if not it.known:
            logging.warning(
              '%s cannot be read and is left out, as dataset_kwargs.corrupt ='
              ' skip has it; the number of such pictures comes at the end.',
              what,
            )
          it.known.add(what)
      yield Split(image, label)
  finally:
    part = None  # frees its shared memory, while the processes end
    parts.close()
    if len(it.known) > before:
      logging.warning(
        '%d pictures of %s could not be read so far and were left out.',
        len(it.known),
        it.name,
      )


def _next(parts: Any, it: _Reading) -> _Example | None:
  try:
    return next(parts, None)
  except RuntimeError as e:
    if 'terminated unexpectedly' not in str(e):
      raise
    code = str(e).partition('exit code ')[2].partition('.')[0]
    raise DataError(
      f'a process that reads {it.name!r} has ended with exit code {code}: most'
      ' likely memory, or /dev/shm, is full; take fewer than'
      f' --config.dataset_kwargs.workers={it.workers}, and resume.'
    ) from None


def _drawn(
  pictures: Pictures, corrupt: str, place: int, random: np.random.Generator
) -> _Example:
  """An example to train on: of that place, or of the next that can be read."""
  passed = -1
  for i in range(min(_MOST_PASSED, pictures.number)):
    at = (int(place) + i) % pictures.number
    read = _tried(pictures, corrupt, at, random)
    if read is not None:
      return _Example(*read, passed)
    passed = at if passed < 0 else passed
  raise DataError(
    f'{pictures.where(passed)} cannot be read, and neither can any of the'
    f' {i + 1} from there on: see whether the disk that holds them is there.'
  )


def _plain(
  pictures: Pictures, corrupt: str, shape: tuple[int, ...], place: int
) -> _Example:
  """An example to test on; padding where it cannot be read or there is none."""
  place, read, passed = int(place), None, -1
  if place < pictures.number:
    read = _tried(pictures, corrupt, place, None)
    passed = place if read is None else -1
  return _Example(*(read or (np.zeros(shape, np.uint8), -1)), passed)


def _tried(
  pictures: Pictures,
  corrupt: str,
  place: int,
  random: np.random.Generator | None,
) -> tuple[np.ndarray, int] | None:
  """The example of a place; None if it cannot be read and that is no fault."""
  try:
    return pictures.read(place, random)
  except (ImportError, MemoryError):
    raise
  except Exception as e:  # whatever decoders raise
    if corrupt == 'skip':
      return None
    why = ' '.join(str(e).split())[:200] or type(e).__name__
    raise DataError(
      f'{pictures.where(place)} cannot be read ({why}): put it back from a'
      ' copy, or have such pictures left out, by'
      ' --config.dataset_kwargs.corrupt=skip, and resume.'
    ) from None


def _share(size: int, host: tuple[int, int]) -> int:
  if size < 1 or size % host[1]:
    raise DataError(
      f'batches of {size} pictures cannot be shared by {host[1]} hosts; choose'
      f' a multiple of {host[1]}.'
    )
  return size // host[1]


def cores() -> int:
  """How many cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # a cluster gives a part of them
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _begin(worker: int, workers: int) -> None:
  """What a process does first: it is to end with its parent, and only then.

  Ctrl-C, and what a cluster sends to stop a run, reach it too; the parent saves
  before it ends.
  """
  del worker, workers
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  if (parent := multiprocessing.parent_process()) is not None:
    threading.Thread(
      target=_end_with, args=(parent.sentinel,), daemon=True
    ).start()


def _end_with(sentinel: int) -> None:
  connection.wait([sentinel])
  os._exit(1)


def _grain() -> Any:
  try:
    import grain.python as grain
  except ImportError:
    raise DataError(
      'data sets that are read while they are learned need Grain; install it'
      ' with pip install -r requirements.txt.'
    ) from None
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # it looks into its own, outside a binary too
  return grain
