"""ImageNet, as TFDS prepares it, read while it is learned."""

import functools
import os
from typing import Any

import numpy as np

from experiments.data import pictures
from experiments.data import prepared
from experiments.data import streaming
from experiments.data.pictures import Pictures
from experiments.data.types import DataError
from experiments.data.types import Streamed

_NAME = 'imagenet2012'


def imagenet2012(
  place: str | os.PathLike[str] | None,
  *,
  size: int = 224,
  validation_size: int = 10_000,
  seed: int = 0,
  workers: int | None = None,
  corrupt: str = 'fail',
) -> Streamed:
  """ImageNet of 2012: 1,000 classes, and 1.28 million pictures to train on.

  The published validation set, 50,000 pictures, is the test set, as in the
  papers. The validation set is ours: of the training set's records, which TFDS
  has shuffled, the last.

  Args:
    place: where TFDS's prepared data are; the default is the environment's
      TFDS_DATA_DIR, else `~/tensorflow_datasets`.
    size: rows and columns that pictures are brought to, ≥ 1; 224 in the papers.
    validation_size: pictures of the validation set, ≥ 1, but at most a tenth of
      those that the training set has. Ours.
    seed: see `streaming.streamed`.
    workers: see `streaming.streamed`.
    corrupt: see `streaming.streamed`.

  Returns:
    The data set; see `pictures.decode` for what becomes of a picture.

  Raises:
    DataError: if the data are missing or not whole, which says how to get them,
      or an argument is out of range.
  """
  streaming.at_least('size', size, 1)
  streaming.at_least('validation_size', validation_size, 1)
  builder = prepared.builder(_NAME, place)
  folder = os.fspath(builder.data_path)
  if not os.path.exists(folder):
    raise _missing(folder)
  prepared.check_format(builder)
  sources = {name: _source(builder, name) for name in ('train', 'validation')}
  count = len(sources['train'])
  held = min(validation_size, count // 10)
  splits = {
    split: Pictures(
      number,
      functools.partial(_read, sources[name], first, size),
      functools.partial(_where, folder, name, first),
    )
    for split, name, first, number in (
      ('train', 'train', 0, count - held),
      ('validation', 'train', count - held, held),
      ('test', 'validation', 0, len(sources['validation'])),
    )
  }
  classes = builder.info.features['label'].num_classes
  return streaming.streamed(
    _NAME, splits, classes, (size, size, 3), seed, workers, corrupt
  )


def _source(builder: Any, split: str) -> Any:
  """The records of a split, whose pictures are not decoded."""
  import tensorflow_datasets as tfds

  folder = os.fspath(builder.data_path)
  try:
    found = builder.info.splits[split]
    if builder.info.file_format.value == 'array_record':
      files = [os.fspath(path) for path in found.filepaths]
      lacking = [path for path in files if not os.path.exists(path)]
      if lacking:
        raise FileNotFoundError(
          f'{len(lacking)} of its {len(files)} files of the split {split!r} are'
          f' missing, the first of them {os.path.basename(lacking[0])}'
        )
    return builder.as_data_source(
      split=split,
      decoders={'image': tfds.decode.SkipDecoding()},
      file_format='array_record',
    )
  except (ImportError, MemoryError):
    raise
  except Exception as e:  # damage surfaces as whatever TFDS meets
    raise prepared.damaged(_NAME, folder, e) from None


def _read(
  source: Any,
  first: int,
  size: int,
  i: int,
  random: np.random.Generator | None,
) -> tuple[np.ndarray, int]:
  record = source[first + i]
  return pictures.decode(record['image'], size, random), int(record['label'])


def _where(folder: str, split: str, first: int, i: int) -> str:
  return f'record {first + i} of the split {split!r} in {folder}'


def _missing(folder: str) -> DataError:
  root = os.path.dirname(os.path.dirname(folder))
  there = os.path.dirname(folder)
  begun = os.path.isdir(there) and any(
    name.startswith('incomplete') for name in os.listdir(there)
  )
  what = f'half prepared, as {there}/incomplete.* shows' if begun else 'missing'
  return DataError(
    f'The data set {_NAME!r} in {root} is {what}: register at'
    ' https://image-net.org, put ILSVRC2012_img_train.tar and'
    f' ILSVRC2012_img_val.tar into {root}/downloads/manual, and run `pip'
    f' install .[prepare]` and `tfds build {_NAME} --data_dir={root}'
    ' --file_format=array_record`, or set TFDS_DATA_DIR to a folder that holds'
    ' it in the array_record format.'
  )
