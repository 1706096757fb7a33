"""Data sets of arrays: of an .npz file, of a user's function, of several."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

import numpy as np

from experiments.data.types import checked
from experiments.data.types import DataError
from experiments.data.types import Dataset
from experiments.data.types import Split

_SPLITS = ('train', 'validation', 'test')
_PARTS = ('image', 'label')
_OPTIONAL = ('num_classes', 'scale')
_SIX = tuple(f'{split}_{part}' for split in _SPLITS for part in _PARTS)


def by_blocks(
  image: np.ndarray, label: np.ndarray
) -> tuple[Split, Split, Split]:
  """Splits examples by their place, where nobody has published splits.

  Example i belongs to block b = i // 10, and b % 5 == 0 is the test set,
  b % 10 == 1 the validation set, the rest the training set. Blocks, because
  labels often run 0, 1, …, 9 in the order of the examples, so that strides of 5
  or 10 would favour some classes.

  Args:
    image: [N, ...].
    label: [N].

  Returns:
    Training, validation and test set: 7, 1 and 2 tenths of the examples.
  """
  block = np.arange(len(label)) // 10
  test, validation = block % 5 == 0, block % 10 == 1
  pick = lambda rows: Split(image[rows], label[rows])
  return pick(~test & ~validation), pick(validation), pick(test)


def of_arrays(name: str, arrays: Any) -> Dataset:
  """A data set from arrays by name.

  Args:
    name: what a config calls it.
    arrays: a dict of train_image, train_label, validation_image,
      validation_label, test_image and test_label; or of image and label, which
      `by_blocks` splits. Pictures are uint8 [N, H, W] or [N, H, W, C], labels
      whole numbers [N] from 0. It may have num_classes, one more than the
      largest label where it has not, and scale, which takes pixels to [0, 1]:
      1/255 where it has not.

  Returns:
    The data set.

  Raises:
    DataError: if it has other arrays, or they are not as above.
  """
  if not isinstance(arrays, Mapping):
    raise DataError(
      f'the data set {name!r} is {type(arrays).__name__} but must be a dict of'
      ' arrays or a data.Dataset; change the function that makes it.'
    )
  given = {k: np.asarray(v) for k, v in arrays.items()}
  parts = set(given) - set(_OPTIONAL)
  if parts not in (set(_SIX), set(_PARTS)):
    raise DataError(
      f'the data set {name!r} has {", ".join(sorted(parts)) or "no arrays"} but'
      f' must have {", ".join(_SIX)}, or image and label; it may have'
      f' {" and ".join(_OPTIONAL)}.'
    )
  for part in sorted(parts):
    given[part] = _of_part(name, part, given[part])
  if 'image' in parts:
    count = {len(given[part]) for part in _PARTS}
    if len(count) > 1 or min(count) < 20:
      raise DataError(
        f'the data set {name!r} has {len(given["image"])} pictures and'
        f' {len(given["label"])} labels but must have as many of both, and at'
        ' least 20, to be split.'
      )
    train, validation, test = by_blocks(given['image'], given['label'])
  else:
    train, validation, test = (
      Split(given[f'{s}_image'], given[f'{s}_label']) for s in _SPLITS
    )
  labels = np.concatenate([s.label.ravel() for s in (train, validation, test)])
  return checked(
    Dataset(
      name=name,
      train=train,
      validation=validation,
      test=test,
      num_classes=_number(
        name, given, 'num_classes', int(labels.max(initial=0)) + 1
      ),
      scale=_number(name, given, 'scale', 1 / 255),
    )
  )


def joined(name: str, several: Sequence[Dataset]) -> Dataset:
  """One data set of several, whose classes follow one another.

  Args:
    name: what it is called.
    several: at least one, with pictures of one shape and one scale.

  Returns:
    Each split is theirs, one after the other. Class c of the second is class
    n + c, where the first has n classes, and so on.

  Raises:
    DataError: if their pictures differ in shape or scale.
  """

  def same(what: str, of: Any, remedy: str) -> None:
    values = [(d.name, of(d)) for d in several]
    if len({v for _, v in values}) > 1:
      each = ', '.join(f'{v} of {n!r}' for n, v in values)
      raise DataError(
        f'the data sets of {name!r} have pictures of different {what} ({each}),'
        f' and cannot be joined: {remedy}, or join others.'
      )

  same(
    'shapes',
    lambda d: ' x '.join(map(str, d.train.image.shape[1:])),
    'resize them in a function of your own',
  )
  same('scales', lambda d: d.scale, 'bring their pixels to one scale')
  counts = [d.num_classes for d in several]
  firsts = [sum(counts[:i]) for i in range(len(counts))]

  def split(which: str) -> Split:
    parts = [getattr(d, which) for d in several]
    labels = [s.label + n for s, n in zip(parts, firsts, strict=True)]
    return Split(
      np.concatenate([s.image for s in parts]),
      np.concatenate(labels).astype(np.int32),
    )

  train, validation, test = map(split, _SPLITS)
  return checked(
    Dataset(name, train, validation, test, sum(counts), several[0].scale)
  )


def _of_part(name: str, part: str, x: np.ndarray) -> np.ndarray:
  """Pictures with an axis of channels; labels as int32."""
  if part.endswith('image'):
    return x[..., None] if x.ndim == 3 else x
  whole = np.issubdtype(x.dtype, np.integer)
  if not whole or np.any(x < 0) or np.any(x > np.iinfo(np.int32).max):
    raise DataError(
      f'the data set {name!r} has {part} of {x.dtype} but it must be whole'
      ' numbers from 0, the classes.'
    )
  return x.astype(np.int32)


def _number(
  name: str, given: Mapping[str, np.ndarray], key: str, default: float
) -> Any:
  if key not in given:
    return default
  if given[key].ndim:
    raise DataError(
      f'the data set {name!r} has {key} of shape {list(given[key].shape)} but'
      ' it must be a number.'
    )
  return given[key].item()


def read(path: str) -> Dataset:
  """The data set of an .npz file; see `of_arrays`.

  Args:
    path: of the file; a config calls the data set by it.

  Raises:
    DataError: if there is no such file, or it is damaged or has other arrays.
  """
  place = os.path.expanduser(path)
  try:
    # Opened here, since np.load leaves a damaged file open.
    with open(place, 'rb') as file, np.load(file, allow_pickle=False) as stored:
      arrays = {name: stored[name] for name in stored.files}
  except (FileNotFoundError, NotADirectoryError):
    raise DataError(
      f'there is no file {path!r} for the data set; give its path from the'
      ' current folder, or in full.'
    ) from None
  except MemoryError:
    raise
  except Exception as e:  # damage surfaces as whatever zipfile or NumPy meet
    why = ' '.join(str(e).split())[:200]
    raise DataError(
      f'the data set {path!r} cannot be read ({why}); make the file again by'
      ' numpy.savez, with arrays of numbers.'
    ) from None
  return of_arrays(path, arrays)
