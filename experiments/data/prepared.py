"""TFDS's prepared data as arrays; downloads and prepares what is missing.

Reading needs no TensorFlow. tensorflow_datasets is imported late: it takes a
while, and those who use embedded data need not wait for it.
"""

import importlib.util
import os
from typing import Any

import numpy as np
import tqdm

from experiments.data import cache
from experiments.data.types import DataError

# TFDS retries a missing network for minutes; we ask first.
_NETWORK_TIMEOUT_S = 10
_CHUNK = 1024
_ARRAYS = ('train_image', 'train_label', 'test_image', 'test_label')


def read(
  name: str, data_dir: str | os.PathLike[str] | None = None
) -> tuple[dict[str, np.ndarray], int]:
  """Returns a TFDS data set's arrays, from the cache if they are there.

  Args:
    name: TFDS's name of the data set, which must have the features `image` and
      `label` and the splits `train` and `test`.
    data_dir: as in `load`.

  Returns:
    `train_image`, `train_label`, `test_image` and `test_label` (uint8
    [N, H, W, C] and int32 [N]), and the number of classes.

  Raises:
    DataError: if the data are missing and cannot be prepared, or are damaged.
  """
  it = builder(name, data_dir)
  if not it.data_path.exists():
    _prepare(it)
    it = builder(name, data_dir)
  check_format(it)

  folder = os.fspath(it.data_path)
  fingerprint = cache.fingerprint(folder)
  path = cache.path(name, str(it.version), folder)
  arrays = cache.read(path, fingerprint, _ARRAYS)
  if arrays is None:
    arrays = _decode(it)
    cache.write(path, fingerprint, arrays)
  return arrays, it.info.features['label'].num_classes


def builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
  """TFDS's builder of a data set, prepared or not.

  Args:
    name: TFDS's name of the data set.
    data_dir: as in `load`.

  Raises:
    DataError: if what is prepared is damaged.
  """
  import tensorflow_datasets as tfds

  # TFDS reads the variable when it is imported, which may be too early.
  data_dir = data_dir or os.environ.get('TFDS_DATA_DIR')
  if data_dir is not None:
    data_dir = os.path.expanduser(data_dir)
  try:
    return tfds.builder(name, data_dir=data_dir)
  except (ImportError, MemoryError):
    raise
  except Exception as e:
    where = os.path.join(data_dir or tfds.core.constants.DATA_DIR, name)
    raise damaged(name, where, e) from e


def _prepare(builder: Any) -> None:
  """Lets TFDS download and prepare a data set, or says why it cannot."""
  reason = _obstacle(builder)
  cause = None
  if not reason:
    try:
      builder.download_and_prepare(file_format='array_record')
      return
    except Exception as e:
      reason, cause = _one_line(e), e
  root = os.path.dirname(os.path.dirname(os.fspath(builder.data_path)))
  raise DataError(
    f'The data set {builder.name!r} is not prepared in {root} and cannot be'
    f' downloaded and prepared now ({reason}): run `pip install'
    ' .[prepare]` and try again with a network, or set TFDS_DATA_DIR'
    ' to a folder that holds it in the array_record format.'
  ) from cause


def _obstacle(builder: Any) -> str:
  """Returns why a download would be in vain; empty if it may succeed."""
  if not _has_tensorflow():
    return 'TensorFlow is not installed'
  import requests

  for url in list(builder.url_infos)[:1]:
    try:
      requests.head(url, timeout=_NETWORK_TIMEOUT_S)
    except requests.RequestException as e:
      return f'{url} cannot be reached, {type(e).__name__}'
  return ''


def _has_tensorflow() -> bool:
  return importlib.util.find_spec('tensorflow') is not None


def check_format(builder: Any) -> None:
  """Raises DataError where a builder's data cannot be read as array_record."""
  folder = os.fspath(builder.data_path)
  if not builder.info.splits:
    raise damaged(builder.name, folder, 'it lists no splits')
  formats = {f.value for f in builder.info.available_file_formats()}
  if 'array_record' not in formats:
    raise DataError(
      f'The data set {builder.name!r} in {folder} is prepared as'
      f' {", ".join(sorted(formats))}, which needs TensorFlow to read: run'
      f' `tfds convert_format --dataset_version_dir={folder}'
      ' --out_file_format=array_record`, or choose another data_dir or'
      ' TFDS_DATA_DIR.'
    )


def _decode(builder: Any) -> dict[str, np.ndarray]:
  arrays: dict[str, np.ndarray] = {}
  for split in ('train', 'test'):
    try:
      image, label = _decode_split(builder, split)
    except (ImportError, MemoryError):
      raise
    except Exception as e:
      folder = os.fspath(builder.data_path)
      raise damaged(builder.name, folder, e) from e
    arrays |= {f'{split}_image': image, f'{split}_label': label}
  return arrays


def _decode_split(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
  source = builder.as_data_source(split=split, file_format='array_record')
  size = len(source)
  image = np.empty((size, *builder.info.features['image'].shape), np.uint8)
  label = np.empty(size, np.int32)
  title = f'Decoding {builder.name} {split}'
  with tqdm.tqdm(total=size, desc=title, unit=' pictures', leave=False) as bar:
    for start in range(0, size, _CHUNK):
      rows = range(start, min(start + _CHUNK, size))
      for i, example in zip(rows, source.__getitems__(rows), strict=True):
        image[i], label[i] = example['image'], example['label']
      bar.update(len(rows))
  return image, label


def damaged(name: str, folder: str, why: Exception | str) -> DataError:
  """What to say of a prepared data set that cannot be read, and why."""
  return DataError(
    f'The prepared data set {name!r} in {folder} cannot be read'
    f' ({_one_line(why)}): delete that folder and prepare the data again.'
  )


def _one_line(why: Exception | str) -> str:
  text = ' '.join(str(why).split()) or type(why).__name__
  return text if len(text) <= 200 else text[:199] + '…'
