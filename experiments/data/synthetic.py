"""Pictures made up from their index, which cost no time to read."""

import functools
from typing import Any

import numpy as np

from experiments.data import streaming
from experiments.data.pictures import Pictures
from experiments.data.types import DataError
from experiments.data.types import Streamed

# As many as `imagenet.imagenet2012` has.
_SIZES = 1_271_167, 10_000, 50_000


def synthetic(
  place: Any,
  *,
  size: int = 224,
  num_classes: int = 1000,
  sizes: tuple[int, ...] = _SIZES,
  seed: int = 0,
  workers: int | None = 0,
) -> Streamed:
  """Noise on a colour for each class, shaped as ImageNet is by default.

  For throughput, and for tests: it can be learned from the mean colour.

  Args:
    place: ignored; there is nothing on the disk.
    size: rows and columns of a picture, ≥ 1.
    num_classes: ≥ 2.
    sizes: of the training, validation and test set; each ≥ 1.
    seed: of the order.
    workers: see `streaming.streamed`; a picture costs less
      than it does to hand it over.

  Returns:
    The data set.

  Raises:
    DataError: if an argument is out of range.
  """
  del place
  streaming.at_least('size', size, 1)
  streaming.at_least('num_classes', num_classes, 2)
  whole = isinstance(sizes, tuple | list) and all(
    isinstance(n, int) and n > 0 for n in sizes
  )
  if not whole or len(sizes) != 3:
    raise DataError(
      f'dataset_kwargs.sizes is {sizes!r} but must be three whole numbers above'
      ' 0, of the training, validation and test set.'
    )
  first, splits = 0, {}
  for split, count in zip(('train', 'validation', 'test'), sizes, strict=True):
    splits[split] = Pictures(
      count,
      functools.partial(_picture, first, size, num_classes),
      functools.partial('picture {} of {}'.format, split),
    )
    first += count
  shape = (size, size, 3)
  return streaming.streamed(
    'synthetic', splits, num_classes, shape, seed, workers
  )


def _picture(
  first: int, size: int, num_classes: int, place: int, random: Any
) -> tuple[np.ndarray, int]:
  del random
  index = first + place
  label = index % num_classes
  pixels = size * size * 3
  at = index * 7919 % pixels  # another piece of the same noise each time
  noise = _noise(pixels)[at : at + pixels].reshape(size, size, 3)
  return noise + _colours(num_classes)[label], label


@functools.cache
def _noise(pixels: int) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 128, 2 * pixels, np.uint8)


@functools.cache
def _colours(num_classes: int) -> np.ndarray:
  return np.random.default_rng(1).integers(0, 128, (num_classes, 3), np.uint8)
