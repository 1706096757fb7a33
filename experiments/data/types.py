"""Core types of the data: a split, a data set, and what can go wrong."""

from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class DataError(ValueError):
  """A data set is unknown, missing or damaged; one sentence with the remedy."""


class Split(NamedTuple):
  """Labelled pictures on the host.

  Attributes:
    image: uint8 [N, H, W, C].
    label: int32 [N], in [0, num_classes).
  """

  image: np.ndarray
  label: np.ndarray


class Examples(NamedTuple):
  """Labelled pictures of one task, on the device.

  Attributes:
    image: uint8 [B, H, W, C].
    label: int32 [B], the outputs that are right.
    visible: bool [B, outputs], those that take part.
  """

  image: jax.Array
  label: jax.Array
  visible: jax.Array


class Dataset(NamedTuple):
  """Three disjoint splits of one data set.

  Attributes:
    name: what `load` was given.
    train: the examples to train on.
    validation: held out of what is published as the training set.
    test: the published test set.
    num_classes: number of labels.
    scale: multiply uint8 pixels by this to get values in [0, 1].
  """

  name: str
  train: Split
  validation: Split
  test: Split
  num_classes: int
  scale: float

  @property
  def image_shape(self) -> tuple[int, ...]:
    """(H, W, C)."""
    return self.train.image.shape[1:]

  @property
  def sizes(self) -> dict[str, int]:
    """By split, the number of its examples."""
    splits = {'train': self.train, 'validation': self.validation}
    return {k: len(v.label) for k, v in (splits | {'test': self.test}).items()}


class Streamed(NamedTuple):
  """A data set that is read while it is learned: too large for memory.

  Processes that read start with the first batch that is asked for. They end
  with `close()` of the generator, which whoever takes one calls, in the thread
  that asks for batches.

  Attributes:
    name: what `load` was given.
    num_classes: number of labels.
    scale: multiply uint8 pixels by this to get values in [0, 1].
    image_shape: (H, W, C) of every picture that comes out.
    sizes: of 'train', 'validation' and 'test', the number of pictures.
    batches: (B, first step, (host, number of hosts)) -> the host's share of the
      batches for training, without an end: image uint8 [B/hosts, H, W, C] and
      label int32 [B/hosts]. B is the batch of all hosts together, and a
      multiple of their number. The batch of step t follows from the data set's
      seed, B and t alone: neither the number of hosts nor the first step
      matters.
    examples: (split, B, (host, number of hosts)) -> the host's share of a
      split's pictures, each once, in their order and without augmentation, in
      batches of [B/hosts]. Every host gives as many batches; what pads them has
      label -1 and pixels of zero.
  """

  name: str
  num_classes: int
  scale: float
  image_shape: tuple[int, int, int]
  sizes: Mapping[str, int]
  batches: Callable[[int, int, tuple[int, int]], Generator[Split, None, None]]
  examples: Callable[[str, int, tuple[int, int]], Generator[Split, None, None]]


def checked(dataset: Dataset) -> Dataset:
  """The data set, if it keeps what `Dataset` and `Split` promise.

  Args:
    dataset: from wherever it was made.

  Returns:
    The same.

  Raises:
    DataError: naming the first promise that it breaks.
  """

  def promise(ok: bool, what: str, value: Any, must: str) -> None:
    if not ok:
      raise DataError(
        f'the data set {dataset.name!r} has {what} {value} but it must be'
        f' {must}; change the function that makes the data set.'
      )

  classes, scale = dataset.num_classes, dataset.scale
  whole = isinstance(classes, int | np.integer) and not isinstance(
    classes, bool
  )
  promise(
    whole and classes >= 2,
    'num_classes',
    repr(classes),
    'a whole number of at least 2',
  )
  promise(
    isinstance(scale, int | float | np.number) and 0 < scale < np.inf,
    'scale',
    repr(scale),
    'a finite number above 0, which takes pixels to [0, 1]',
  )
  for name in ('train', 'validation', 'test'):
    split = getattr(dataset, name)
    for part, dtype, axes in (('image', 'uint8', 4), ('label', 'int32', 1)):
      x = getattr(split, part)
      promise(
        isinstance(x, np.ndarray), f'{name}.{part}', type(x), 'a NumPy array'
      )
      promise(
        x.dtype == dtype and x.ndim == axes and x.size > 0,
        f'{name}.{part}',
        f'{x.dtype}{list(x.shape)}',
        f'{dtype} with {axes} {"axes" if axes > 1 else "axis"}, none of them'
        ' empty',
      )
    promise(
      len(split.label) == len(split.image),
      f'{name}.label',
      f'of {len(split.label):,} examples',
      f'of {len(split.image):,}, as many as there are pictures',
    )
    promise(
      split.image.shape[1:] == dataset.train.image.shape[1:],
      f'{name}.image',
      f'of {list(split.image.shape[1:])}',
      f'of {list(dataset.train.image.shape[1:])}, as those to train on',
    )
    wrong = np.flatnonzero((split.label < 0) | (split.label >= classes))
    promise(
      not wrong.size,
      f'{name}.label',
      f'{split.label[wrong[:1]]} at {wrong[:1]}',
      f'in [0, {classes}), the classes being {classes}',
    )
  return dataset
