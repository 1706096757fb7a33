"""Tests of experiments.data."""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import requests

from experiments import data
from experiments.data import cache
from experiments.data import datasets
from experiments.data import prepared

_PUBLISHED = datasets._VALIDATION_SIZE
# The small data set below: fewer pictures to decode, again and again.
_VALIDATION, _TEST = 50, 24
_TRAIN = 12 + _VALIDATION
_FOLDER = pathlib.Path('mnist', '3.0.1')
_TEST_FILE = 'mnist-test.array_record-00000-of-00001'


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(datasets, '_VALIDATION_SIZE', _VALIDATION)


# A small prepared data set, written without TensorFlow.


def _picture(i):
  """Returns a picture that tells its index."""
  image = np.zeros((28, 28, 1), np.uint8)
  image[0, :2, 0] = i % 256, i // 256
  return image


def _record(i):
  from tensorflow_datasets.proto import tf_example_pb2

  png = io.BytesIO()
  Image.fromarray(_picture(i)[..., 0]).save(png, format='png')
  example = tf_example_pb2.Example()
  feature = example.features.feature
  feature['image'].bytes_list.value.append(png.getvalue())
  feature['label'].int64_list.value.append(i % 10)
  return example.SerializeToString()


@pytest.fixture(scope='module')
def small_dir(tmp_path_factory):
  """Returns a folder with a prepared 'mnist' of 62 and 24 pictures."""
  from array_record.python import array_record_module

  root = tmp_path_factory.mktemp('tfds')
  folder = root / _FOLDER
  folder.mkdir(parents=True)
  splits = []
  for split, size in (('train', _TRAIN), ('test', _TEST)):
    file = folder / f'mnist-{split}.array_record-00000-of-00001'
    writer = array_record_module.ArrayRecordWriter(str(file), 'group_size:1')
    for i in range(size):
      writer.write(_record(i))
    writer.close()
    splits.append(
      {
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
        'name': split,
        'numBytes': str(file.stat().st_size),
        'shardLengths': [str(size)],
      }
    )
  info = {
    'fileFormat': 'array_record',
    'name': 'mnist',
    'splits': splits,
    'version': '3.0.1',
  }
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  return root


@pytest.fixture
def copy_dir(small_dir, tmp_path):
  """Returns a copy of the small prepared data set that a test may damage."""
  return pathlib.Path(shutil.copytree(small_dir, tmp_path / 'copy'))


def _assert_small(ds):
  for split, first, size in (
    (ds.train, 0, _TRAIN - _VALIDATION),
    (ds.validation, _TRAIN - _VALIDATION, _VALIDATION),
    (ds.test, 0, _TEST),
  ):
    indices = range(first, first + size)
    np.testing.assert_array_equal(
      split.image, np.stack([_picture(i) for i in indices])
    )
    np.testing.assert_array_equal(split.label, np.array(indices) % 10)
    assert split.image.dtype == np.uint8
    assert split.label.dtype == np.int32


def _assert_one_sentence(error, *parts):
  message = str(error.value)
  assert '\n' not in message
  assert message.endswith('.')
  for part in parts:
    assert str(part) in message


# Data sets.


def test_names():
  assert data.names() == (
    'digits',
    'mnist',
    'fashion_mnist',
    'cifar10',
    'cifar100',
    'notmnist',
    'imagenet2012',
    'synthetic',
  )


@pytest.mark.parametrize(
  ('name', 'nearest'),
  [('minst', 'mnist'), ('cifar-10', 'cifar10'), ('svhn', None), ('', None)],
)
def test_unknown_name(name, nearest):
  with pytest.raises(data.DataError) as error:
    data.load(name)
  _assert_one_sentence(error, repr(name), *data.names())
  if nearest:
    _assert_one_sentence(error, f'did you mean {nearest!r}?')
  else:
    assert 'did you mean' not in str(error.value)


def test_digits():
  from sklearn import datasets

  ds = data.load('digits')
  splits = (ds.train, ds.validation, ds.test)
  assert [len(s.label) for s in splits] == [1_257, 180, 360]
  for s in splits:
    assert s.image.shape == (len(s.label), 8, 8, 1)
    assert s.image.dtype == np.uint8
    assert s.label.dtype == np.int32
    assert set(np.unique(s.label)) == set(range(ds.num_classes))
    counts = np.bincount(s.label) / len(s.label)
    np.testing.assert_allclose(counts, 0.1, atol=0.035)
  pixels = data.normalise(ds.train.image, ds.scale)
  assert (pixels.min(), pixels.max()) == (0, 1)
  # Disjoint and covering: together they are the original rows, each once.
  images, labels = datasets.load_digits(return_X_y=True)
  whole = np.concatenate([images, labels[:, None]], axis=1)
  parts = np.concatenate(
    [
      np.concatenate([s.image.reshape(-1, 64), s.label[:, None]], axis=1)
      for s in splits
    ]
  )
  np.testing.assert_array_equal(
    whole[np.lexsort(whole.T)], parts[np.lexsort(parts.T)]
  )


@pytest.mark.parametrize('through', ['argument', 'environment'])
def test_reads_prepared_data(small_dir, monkeypatch, through):
  if through == 'environment':
    monkeypatch.setenv('TFDS_DATA_DIR', str(small_dir))
    ds = data.load('mnist')
  else:
    ds = data.load('mnist', small_dir)
  _assert_small(ds)
  assert (ds.name, ds.num_classes, ds.scale) == ('mnist', 10, 1 / 255)


def test_imports_are_lazy_and_reading_needs_no_tensorflow(small_dir):
  program = (
    'import sys\n'
    'from experiments import data\n'
    f'data.datasets._VALIDATION_SIZE = {_VALIDATION}\n'
    'assert "tensorflow_datasets" not in sys.modules\n'
    'assert "sklearn" not in sys.modules\n'
    f'data.load("mnist", {str(small_dir)!r})\n'
    'assert "tensorflow" not in sys.modules\n'
  )
  root = pathlib.Path(data.__file__).parents[2]
  subprocess.run(
    [sys.executable, '-c', program],
    check=True,
    env=os.environ | {'PYTHONPATH': str(root), 'JAX_PLATFORMS': 'cpu'},
  )


def test_the_last_5000_are_for_validation():
  assert _PUBLISHED == 5_000


def _mnist_dir():
  root = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return pathlib.Path(root).expanduser()


@pytest.mark.skipif(
  not list(_mnist_dir().glob('mnist/*/*.array_record*')),
  reason='no prepared mnist in TFDS_DATA_DIR or ~/tensorflow_datasets',
)
def test_mnist(monkeypatch):
  monkeypatch.setattr(datasets, '_VALIDATION_SIZE', _PUBLISHED)
  ds = data.load('mnist')
  splits = (ds.train, ds.validation, ds.test)
  assert [s.image.shape for s in splits] == [
    (n, 28, 28, 1) for n in (55_000, 5_000, 10_000)
  ]
  assert [s.label.shape for s in splits] == [(55_000,), (5_000,), (10_000,)]
  counts = [np.bincount(s.label, minlength=10) for s in splits]
  np.testing.assert_array_equal(
    counts[0] + counts[1],
    [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
  )
  np.testing.assert_array_equal(
    counts[2], [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
  )
  total = sum(s.image.sum(dtype=np.int64) for s in splits[:2])
  assert total / (60_000 * 28 * 28) == pytest.approx(33.3184, abs=1e-4)


# The cache.


def _cache_file():
  (file,) = pathlib.Path(cache.directory()).iterdir()
  return file


def _forbid_decoding(monkeypatch):
  def fail(*unused_args):
    raise AssertionError('decoded again')

  monkeypatch.setattr(prepared, '_decode', fail)


def test_second_load_comes_from_the_cache(small_dir, monkeypatch):
  data.load('mnist', small_dir)
  assert _cache_file().suffix == '.npz'  # And nothing temporary beside it.
  _forbid_decoding(monkeypatch)
  _assert_small(data.load('mnist', small_dir))


def _truncate(file):
  os.truncate(file, file.stat().st_size // 2)


def _empty(file):
  os.truncate(file, 0)


def _flip(file):
  content = np.frombuffer(file.read_bytes(), np.uint8)
  filled = np.flatnonzero(content)  # files are padded
  position = filled[len(filled) // 2]
  with open(file, 'r+b') as f:
    f.seek(position)
    byte = f.read(1)[0]
    f.seek(position)
    f.write(bytes([byte ^ 0xFF]))


@pytest.mark.parametrize('damage', [_truncate, _empty, _flip])
def test_damaged_cache_is_decoded_again(small_dir, caplog, monkeypatch, damage):
  data.load('mnist', small_dir)
  damage(_cache_file())
  with caplog.at_level('WARNING', logger='absl'):
    _assert_small(data.load('mnist', small_dir))
  assert 'damaged' in caplog.text
  _forbid_decoding(monkeypatch)
  _assert_small(data.load('mnist', small_dir))


def test_cache_follows_the_prepared_files(copy_dir):
  data.load('mnist', copy_dir)
  before = _cache_file().stat().st_mtime_ns
  os.utime(copy_dir / _FOLDER / _TEST_FILE, ns=(1, 1))
  _assert_small(data.load('mnist', copy_dir))
  assert _cache_file().stat().st_mtime_ns > before


def test_unwritable_cache_only_warns(small_dir, tmp_path, caplog, monkeypatch):
  (tmp_path / 'file').touch()
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  with caplog.at_level('WARNING', logger='absl'):
    _assert_small(data.load('mnist', small_dir))
  assert 'cannot be cached' in caplog.text


def test_full_disk_only_warns(small_dir, caplog, monkeypatch):
  def savez(file, **unused_arrays):
    file.write(b'half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(np, 'savez', savez)
  with caplog.at_level('WARNING', logger='absl'):
    _assert_small(data.load('mnist', small_dir))
  assert 'No space left' in caplog.text
  assert not list(pathlib.Path(cache.directory()).iterdir())


# Missing and damaged data.


def _forbid_download(monkeypatch):
  import tensorflow_datasets as tfds

  def fail(*unused_args, **unused_kwargs):
    raise AssertionError('tried to download')

  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)


def _no_tensorflow(monkeypatch):
  monkeypatch.setattr(prepared, '_has_tensorflow', lambda: False)
  _forbid_download(monkeypatch)
  return 'TensorFlow is not installed'


def _no_network(monkeypatch):
  def head(*unused_args, timeout):
    assert timeout <= 30
    raise requests.ConnectionError('Name or service not known')

  monkeypatch.setattr(prepared, '_has_tensorflow', lambda: True)
  monkeypatch.setattr(requests, 'head', head)
  _forbid_download(monkeypatch)
  return 'cannot be reached'


def _failing_download(monkeypatch):
  import tensorflow_datasets as tfds

  def fail(*unused_args, **unused_kwargs):
    raise OSError('Not enough\ndisk space.')

  monkeypatch.setattr(prepared, '_has_tensorflow', lambda: True)
  monkeypatch.setattr(requests, 'head', lambda *_, **__: None)
  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)
  return 'Not enough disk space'


@pytest.mark.parametrize(
  'obstacle', [_no_tensorflow, _no_network, _failing_download]
)
def test_missing_data(tmp_path, monkeypatch, obstacle):
  reason = obstacle(monkeypatch)
  with pytest.raises(data.DataError) as error:
    data.load('cifar10', tmp_path)
  _assert_one_sentence(
    error, 'cifar10', tmp_path, reason, '.[prepare]', 'TFDS_DATA_DIR'
  )


def test_one_of_those_that_are_joined_is_missing(small_dir, monkeypatch):
  reason = _no_tensorflow(monkeypatch)
  with pytest.raises(data.DataError) as error:
    data.load('mnist+cifar10', small_dir)
  _assert_one_sentence(error, "'cifar10' is not prepared", small_dir, reason)


def test_missing_data_are_prepared(small_dir, tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  def download_and_prepare(builder, file_format):
    assert file_format == 'array_record'
    shutil.copytree(small_dir / _FOLDER, builder.data_path)

  monkeypatch.setattr(prepared, '_has_tensorflow', lambda: True)
  monkeypatch.setattr(requests, 'head', lambda *_, **__: None)
  monkeypatch.setattr(
    tfds.core.DatasetBuilder, 'download_and_prepare', download_and_prepare
  )
  _assert_small(data.load('mnist', tmp_path / 'new'))


def _remove(file):
  file.unlink()


@pytest.mark.parametrize(
  ('file', 'damage'),
  [
    (_TEST_FILE, _truncate),
    (_TEST_FILE, _empty),
    (_TEST_FILE, _remove),
    (_TEST_FILE.replace('test', 'train'), _flip),
    ('dataset_info.json', _truncate),
    ('dataset_info.json', _remove),
  ],
)
def test_damaged_data(copy_dir, monkeypatch, file, damage):
  _forbid_download(monkeypatch)
  damage(copy_dir / _FOLDER / file)
  with pytest.raises(data.DataError) as error:
    data.load('mnist', copy_dir)
  _assert_one_sentence(error, 'mnist', copy_dir, 'delete that folder')


def test_data_prepared_in_another_format(copy_dir):
  info = copy_dir / _FOLDER / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  with pytest.raises(data.DataError) as error:
    data.load('mnist', copy_dir)
  _assert_one_sentence(error, copy_dir / _FOLDER, 'tfrecord', 'array_record')


# Batches.


# (num_examples, batch_size): with and without a remainder; whole epochs.


@pytest.mark.parametrize('jit', [False, True])
def test_normalise(jit):
  normalise = jax.jit(data.normalise) if jit else data.normalise
  images = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
  pixels = normalise(images, 1 / 255)
  assert pixels.dtype == jnp.float32
  np.testing.assert_allclose(pixels, images / 255, rtol=1e-6)


# What a data set promises.


def _own(split='train', **fields):
  """Digits as a user might have made them; fields of a split, or of all."""
  made = data.load('digits')
  if set(fields) <= set(data.Dataset._fields):
    return made._replace(**fields)
  return made._replace(**{split: getattr(made, split)._replace(**fields)})


_LABELS = np.arange(1_257, dtype=np.int32) % 10


@pytest.mark.parametrize(
  'made, parts',
  [
    (lambda: _own(label=_LABELS - 1), ['train.label [-1] at [0]', '[0, 10)']),
    (lambda: _own(label=_LABELS + 1), ['train.label [10] at [9]', '[0, 10)']),
    (
      lambda: _own('test', label=np.full(360, 99, np.int32)),
      ['test.label [99]', '[0, 10)'],
    ),
    (lambda: _own(label=_LABELS[:-1]), ['train.label of 1,256', '1,257']),
    (lambda: _own(label=_LABELS * 1.0), ['label float64[1257]', 'int32']),
    (lambda: _own(label=_LABELS.astype(np.int64)), ['label int64', 'int32']),
    (lambda: _own(label=np.eye(10)[_LABELS]), ['[1257, 10]', 'with 1 axis,']),
    (lambda: _own(label=_LABELS.tolist()), ['list', 'a NumPy array']),
    (
      lambda: _own(image=np.zeros((1_257, 8, 8), np.uint8)),
      ['train.image uint8[1257, 8, 8]', 'uint8 with 4 axes'],
    ),
    (
      lambda: _own(image=np.zeros((1_257, 8, 8, 1), np.float32)),
      ['train.image float32', 'uint8'],
    ),
    (
      lambda: _own('validation', image=np.zeros((0, 8, 8, 1), np.uint8)),
      ['validation.image uint8[0, 8, 8, 1]', 'empty'],
    ),
    (
      lambda: _own('test', image=np.zeros((360, 9, 9, 1), np.uint8)),
      ['test.image of [9, 9, 1]', 'of [8, 8, 1]'],
    ),
    (lambda: _own(num_classes=5), ['train.label [5]', '[0, 5)']),
    (lambda: _own(num_classes=10.0), ['num_classes 10.0', 'whole number']),
    (lambda: _own(num_classes=1), ['num_classes 1', 'at least 2']),
    (lambda: _own(scale=0.0), ['scale 0.0', 'above 0']),
    (lambda: _own(scale=float('nan')), ['scale nan', 'finite']),
  ],
)
def test_a_data_set_of_ones_own_breaks_a_promise(monkeypatch, made, parts):
  wrong = made()
  monkeypatch.setattr('experiments.data.datasets._digits', lambda: wrong)
  with pytest.raises(data.DataError) as error:
    data.load('digits')
  text = str(error.value)
  assert all(part in text for part in parts), text
  assert "data set 'digits'" in text and text.endswith('.')
  assert '\n' not in text and len(text) < 300
