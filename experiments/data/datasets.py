"""`load`: a data set by name."""

from collections.abc import Callable
import difflib
import os
from typing import Any

import numpy as np

from experiments.data import arrays
from experiments.data import folders
from experiments.data import imagenet
from experiments.data import notmnist
from experiments.data import prepared
from experiments.data import synthetic
from experiments.data.types import checked
from experiments.data.types import DataError
from experiments.data.types import Dataset
from experiments.data.types import Split
from experiments.data.types import Streamed

_EMBEDDED = ('digits',)
_TFDS = ('mnist', 'fashion_mnist', 'cifar10', 'cifar100')
_STREAMED: dict[str, Callable[..., Streamed]] = {
  'imagenet2012': imagenet.imagenet2012,
  'synthetic': synthetic.synthetic,
}
# In memory, with options.
_OPTIONS: dict[str, Callable[..., Dataset]] = {'notmnist': notmnist.notmnist}

_VALIDATION_SIZE = 5_000


def names() -> tuple[str, ...]:
  """Returns the names that `load` and `stream` know."""
  return (*_EMBEDDED, *_TFDS, *_OPTIONS, *_STREAMED)


def is_path(name: Any) -> bool:
  """Whether this names a file or a folder: it ends in .npz or has a slash."""
  return isinstance(name, str) and (
    name.endswith('.npz') or '/' in name or os.sep in name
  )


def streams(name: Any) -> Callable[..., Streamed] | None:
  """The function that reads a data set while it is learned.

  Args:
    name: of a data set.

  Returns:
    Where the data are, options -> the data set; None for data sets that lie in
    memory.
  """
  if is_path(name):
    return None if name.endswith('.npz') else folders.folder
  return _STREAMED.get(name)


def takes_options(name: Any) -> Callable[..., Dataset | Streamed] | None:
  """The function that reads one of our data sets, if that has options.

  Args:
    name: of a data set.

  Returns:
    Where the data are, options -> the data set; None for one without options.
  """
  return (
    _OPTIONS.get(name)
    if isinstance(name, str) and name in _OPTIONS
    else (streams(name))
  )


def stream(
  name: str, data_dir: str | os.PathLike[str] | None = None, **options: Any
) -> Streamed:
  """A data set that is read while it is learned.

  Args:
    name: one for which `streams` has a function: the path of a folder, see
      `folders.folder`, 'imagenet2012' or 'synthetic'.
    data_dir: as in `load`.
    **options: of that function.

  Returns:
    The data set.

  Raises:
    DataError: if the data are missing or damaged, or an option is out of range.
  """
  fn = streams(name)
  if fn is None:
    raise _unknown(name)
  return fn(name if is_path(name) else data_dir, **options)


def load(
  name: str, data_dir: str | os.PathLike[str] | None = None, **options: Any
) -> Dataset:
  """Loads a data set into memory.

  `digits` comes with scikit-learn: 1,797 pictures of 8x8 pixels with values
  0..16. It has no published splits: `arrays.by_blocks` makes a training set of
  1,257, a validation set of 180 and a test set of 360.

  A name that ends in .npz is the path of a file: see `arrays.read`.

  All others are TensorFlow Datasets, at the version and with the test set that
  TFDS publishes; the last 5,000 training examples are the validation set.
  cifar100 has its fine labels. Data that were prepared in the array_record
  format are read without TensorFlow; if there are none, TFDS downloads and
  prepares them, which does need TensorFlow (`pip install -e '.[prepare]'`)
  and a network. The decoded arrays are cached in `$XDG_CACHE_HOME` or
  `~/.cache`, under `powerprop/data`, and can be deleted at any time.

  `notmnist` comes from a folder as well: see `notmnist.notmnist`.

  Several names joined by '+', such as 'cifar10+cifar100', are one data set: see
  `arrays.joined`.

  Args:
    name: one of `names()` but those that `stream` reads, several of them joined
      by '+', or the path of an .npz file.
    data_dir: where TFDS's prepared data are or will be; the default is the
      environment's TFDS_DATA_DIR, else `~/tensorflow_datasets`. Embedded data
      ignore it.
    **options: of a data set that has some; see `takes_options`.

  Returns:
    The data set, as arrays on the host.

  Raises:
    DataError: if the name is unknown, or the data are missing and cannot be
      downloaded, or are damaged, or are not what `Dataset` promises.
  """
  if name.endswith('.npz'):
    return arrays.read(name)
  if streamed := [x for x in name.split('+') if streams(x) is not None]:
    raise DataError(
      f'the data set {streamed[0]!r} is read while it is learned, and can'
      ' neither be loaded into memory nor joined with others; choose another.'
    )
  if '+' in name:
    several = [load(part, data_dir) for part in name.split('+')]
    return arrays.joined(name, several)
  if name in _OPTIONS:
    return _OPTIONS[name](data_dir, **options)
  if name == 'digits':
    return checked(_digits())
  if name in _TFDS:
    return checked(_from_tfds(name, data_dir))
  raise _unknown(name)


def _digits() -> Dataset:
  from sklearn import datasets

  images, labels = datasets.load_digits(return_X_y=True)
  images = images.reshape(-1, 8, 8, 1).astype(np.uint8)
  train, validation, test = arrays.by_blocks(images, labels.astype(np.int32))
  return Dataset(
    'digits', train, validation, test, num_classes=10, scale=1 / 16
  )


def _from_tfds(name: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
  read, num_classes = prepared.read(name, data_dir)
  image, label = read['train_image'], read['train_label']
  cut = len(label) - _VALIDATION_SIZE
  return Dataset(
    name=name,
    train=Split(image[:cut], label[:cut]),
    validation=Split(image[cut:], label[cut:]),
    test=Split(read['test_image'], read['test_label']),
    num_classes=num_classes,
    scale=1 / 255,
  )


def _unknown(name: str) -> DataError:
  near = difflib.get_close_matches(str(name), names(), n=1)
  hint = f'did you mean {near[0]!r}? Known' if near else 'known'
  if os.path.isdir(name):
    hint = f'a folder is named by its path, as ./{name}; known'
  return DataError(
    f'Unknown data set {name!r}: {hint} names are {", ".join(names())}.'
  )
