"""What a population learns from, on its devices: all of a data set, or windows.

A data set in memory lies on the devices whole. One that is streamed comes as
windows of a few batches: while the devices work on one, the next is read.
"""

from collections.abc import Iterator
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.engine import population
from experiments.engine import validation
from experiments.engine.settings import Settings

_WINDOW_BYTES = 2**28  # of a window, on each host


class Window(NamedTuple):
  """What some steps of a training learn from.

  Attributes:
    source: of the problem, on the devices.
    start: the first step.
    steps: how many.
  """

  source: Any
  start: int
  steps: int


class Held:
  """A data set in memory: one window holds all steps of a chunk."""

  def __init__(
    self, dataset: data.Dataset, mesh: jax.sharding.Mesh | None
  ) -> None:
    """Puts nothing on the devices yet.

    Args:
      dataset: on the host.
      mesh: of the devices that are all to have it; None is the default one.
    """
    self._dataset, self._mesh = dataset, mesh
    self._splits: dict[str, Any] = {}

  def some(self, examples: int) -> Any:
    """A source with at least so many examples to train on, if there are."""
    del examples
    return self._split('train')

  def windows(self, start: int, steps: int) -> Iterator[Window]:
    """The windows of some steps, one after the other."""
    yield Window(self._split('train'), start, steps)

  def parts(self, split: str) -> Iterator[tuple[Any, int]]:
    """A whole split: sources to score, and how many examples are in each."""
    yield self._split(split), len(getattr(self._dataset, split).label)

  def sizes(self) -> dict[str, int]:
    """By split, the number of its examples."""
    return dict(self._dataset.sizes)

  def close(self) -> None:
    """Does nothing."""

  def _split(self, name):
    if name not in self._splits:
      split = getattr(self._dataset, name)
      if self._mesh is None:
        split = jax.tree.map(jnp.asarray, split)
      self._splits[name] = population.place(split, self._mesh)
    return self._splits[name]


class Streaming:
  """A data set that is read while it is learned.

  A source is a `data.Split` whose arrays begin with two axes, the steps of the
  window and the examples of a batch; to be scored, it has the latter alone.
  Every host reads its own part of each batch.
  """

  def __init__(
    self,
    dataset: data.Streamed,
    mesh: jax.sharding.Mesh | None,
    batch_size: int,
    chunk_steps: int,
  ) -> None:
    """Reads nothing yet.

    Args:
      dataset: to read.
      mesh: whose axis `data` shares each batch; None is the default device.
      batch_size: examples in a batch of all hosts.
      chunk_steps: a window is no longer than a chunk.
    """
    self._dataset, self._mesh = dataset, mesh
    self._batch_size = batch_size
    self._steps = window_steps(dataset, batch_size, chunk_steps)
    self._reader: Any = None
    self._at = -1

  def some(self, examples: int) -> Any:
    """A source with at least so many examples to train on, from the start."""
    number = max(1, math.ceil(examples / self._batch_size))
    reader = self._open(0)
    try:
      return self._window(reader, number)
    finally:
      reader.close()

  def windows(self, start: int, steps: int) -> Iterator[Window]:
    """The windows of some steps, one after the other."""
    if start != self._at:
      self.close()
      self._reader = self._open(start)
    end = start + steps
    while start < end:
      number = min(self._steps, end - start)
      # Until the steps are done, it is not known that the reader is there.
      self._at = -1
      source = self._window(self._reader, number)
      start += number
      self._at = start
      yield Window(source, start - number, number)

  def parts(self, split: str) -> Iterator[tuple[Any, int]]:
    """A whole split: sources to score, and how many examples are in each."""
    reader: Any = self._dataset.examples(split, self._batch_size, _share())
    try:
      for part in reader:
        source = self._put(part, 'data')
        yield source, int(population.to_host(_count(source.label)))
    finally:
      reader.close()

  def sizes(self) -> dict[str, int]:
    """By split, the number of its examples."""
    return dict(self._dataset.sizes)

  def close(self) -> None:
    """Ends the processes that read."""
    if self._reader is not None:
      self._reader.close()
    self._reader, self._at = None, -1

  def _open(self, start):
    return self._dataset.batches(self._batch_size, start, _share())

  def _window(self, reader, steps):
    batches = [next(reader) for _ in range(steps)]
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *batches)
    return self._put(data.Split(*stacked), None, 'data')

  def _put(self, split, *axes):
    if self._mesh is None:
      return jax.tree.map(jnp.asarray, split)
    where = population.sharding(self._mesh, *axes)
    put = lambda x: jax.make_array_from_process_local_data(where, x)
    return jax.tree.map(put, split)


Feed = Held | Streaming


@jax.jit
def _count(label):
  return jnp.sum(label >= 0)


def _share() -> tuple[int, int]:
  """Which part of every batch this host reads, of how many."""
  return jax.process_index(), jax.process_count()


def make(
  s: Settings,
  dataset: data.Dataset | data.Streamed,
  mesh: jax.sharding.Mesh | None,
) -> Feed:
  """What a population learns from.

  Args:
    s: the run's settings.
    dataset: of the settings.
    mesh: of the population's cells.

  Returns:
    A feed, which has read nothing yet.
  """
  if isinstance(dataset, data.Streamed):
    return Streaming(dataset, mesh, s.batch_size, s.chunk_steps)
  return Held(dataset, mesh)


def window_steps(
  dataset: data.Streamed, batch_size: int, chunk_steps: int
) -> int:
  """How many batches a window has: as many as fit into 256 MB on each host.

  They divide a chunk, so that there is one program for all windows.
  """
  share = math.prod(dataset.image_shape) * batch_size // jax.process_count()
  most = max(1, min(chunk_steps, _WINDOW_BYTES // max(1, share)))
  return next(n for n in range(most, 0, -1) if chunk_steps % n == 0)


def shapes(s: Settings, dataset: data.Dataset | data.Streamed) -> Any:
  """The shapes of a source to train on, without reading anything."""
  if not isinstance(dataset, data.Streamed):
    return dataset.train
  steps = window_steps(dataset, s.batch_size, s.chunk_steps)
  lead = (steps, s.batch_size)
  image = jax.ShapeDtypeStruct((*lead, *dataset.image_shape), jnp.uint8)
  return data.Split(image, jax.ShapeDtypeStruct(lead, jnp.int32))  # type: ignore[arg-type]


def in_memory(
  dataset: data.Dataset | data.Streamed, experiment: str
) -> data.Dataset:
  """The data set, of which an experiment needs all at once.

  Args:
    dataset: of a config.
    experiment: the binary's name in `experiments`.

  Returns:
    The same.

  Raises:
    ConfigError: if it is one that is streamed.
  """
  if isinstance(dataset, data.Streamed):
    raise validation.ConfigError(
      f'dataset {dataset.name!r} is read while it is learned, but'
      f' experiments.{experiment} needs all of its data in memory: choose'
      ' another dataset, or experiments.sparse_training.'
    )
  return dataset
