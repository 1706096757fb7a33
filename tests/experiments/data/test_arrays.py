"""Data sets of arrays: .npz files, and what functions of a user's own give."""

import zipfile

import numpy as np
import pytest

from experiments import data
from experiments.data import arrays
from experiments.engine import making
from experiments.engine import settings
from tests import tiny

_N = 40


def _two(n=_N, dtype=np.int64):
  random = np.random.default_rng(0)
  image = random.integers(0, 256, (n, 4, 4), np.uint8)
  return {'image': image, 'label': (np.arange(n) % 3).astype(dtype)}


def _six():
  return {
    f'{split}_{part}': x
    for split, n in (('train', 12), ('validation', 6), ('test', 9))
    for part, x in _two(n).items()
  }


@pytest.mark.parametrize('dtype', [np.uint8, np.int32, np.int64])
def test_two_arrays_are_split_by_blocks(tmp_path, dtype):
  given = _two(dtype=dtype)
  np.savez(tmp_path / 'mine.npz', **given)
  found = data.load(str(tmp_path / 'mine.npz'))
  assert found.num_classes == 3 and found.scale == 1 / 255
  places = {
    'test': [*range(0, 10)],
    'validation': [*range(10, 20)],
    'train': [*range(20, 40)],
  }
  for name, rows in places.items():
    split = getattr(found, name)
    np.testing.assert_array_equal(split.image, given['image'][rows][..., None])
    np.testing.assert_array_equal(split.label, given['label'][rows])
    assert split.label.dtype == np.int32


def test_six_arrays_are_the_splits(tmp_path, monkeypatch):
  given = _six() | {'num_classes': np.int64(5), 'scale': np.float64(0.5)}
  np.savez_compressed(tmp_path / 'mine.npz', **given)
  monkeypatch.chdir(tmp_path)
  s = settings.check(tiny.config(dataset='mine.npz'))
  found = making.dataset(s.dataset)
  assert (found.num_classes, found.scale) == (5, 0.5)
  assert isinstance(found.num_classes, int)
  for name in data.SPLITS:
    split = getattr(found, name)
    np.testing.assert_array_equal(split.image[..., 0], given[f'{name}_image'])
    np.testing.assert_array_equal(split.label, given[f'{name}_label'])


def test_pictures_may_have_channels():
  given = _two()
  given['image'] = np.stack([given['image']] * 3, axis=-1)
  found = arrays.of_arrays('mine', given)
  assert found.train.image.shape[1:] == (4, 4, 3)


@pytest.mark.parametrize(
  'change, parts',
  [
    ({'labels': np.zeros(3)}, ['has image, label, labels but', 'train_image']),
    ({'image': None}, ['has label but must have']),
    ({'label': np.zeros(_N)}, ['label of float64', 'whole numbers']),
    ({'label': np.full(_N, -1)}, ['label of int64', 'from 0']),
    ({'label': np.arange(_N - 1)}, ['40 pictures and 39 labels']),
    ({'image': np.zeros((_N, 4, 4))}, ['image float64', 'uint8']),
    ({'image': np.zeros((_N, 16), np.uint8)}, ['train.image uint8[20, 16]']),
    ({'num_classes': np.int64(2)}, ['train.label [2]', '[0, 2)']),
    ({'num_classes': np.arange(2)}, ['num_classes of shape [2]']),
    ({'scale': np.float64(0)}, ['scale 0.0', 'above 0']),
  ],
)
def test_other_arrays_are_refused(tmp_path, change, parts):
  given = {k: v for k, v in (_two() | change).items() if v is not None}
  np.savez(tmp_path / 'mine.npz', **given)
  for made in (
    lambda: data.load(str(tmp_path / 'mine.npz')),
    lambda: data.of_arrays('mine.npz', given),
  ):
    with pytest.raises(data.DataError) as error:
      made()
    text = str(error.value)
    assert all(part in text for part in [*parts, "mine.npz'"]), text
    assert text.endswith('.') and '\n' not in text and len(text) < 500


def test_few_pictures_cannot_be_split():
  with pytest.raises(data.DataError, match='at least 20'):
    data.of_arrays('mine', _two(19))
  with pytest.raises(data.DataError, match='is list but must be a dict'):
    data.of_arrays('mine', [1, 2])


@pytest.mark.parametrize(
  'content',
  [b'', b'nothing', 'cut', 'flipped', 'npy', 'pickle'],
  ids=lambda x: str(x)[:9],
)
def test_a_damaged_file_is_a_sentence(tmp_path, content):
  path = tmp_path / 'mine.npz'
  np.savez(path, **_two())
  whole = path.read_bytes()
  if content == 'cut':
    path.write_bytes(whole[: len(whole) // 2])
  elif content == 'flipped':
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
  elif content == 'npy':
    with path.open('wb') as f:
      np.save(f, np.arange(3))
  elif content == 'pickle':
    np.savez(path, image=np.array([{}, 1], object), label=np.arange(2))
    assert zipfile.is_zipfile(path)
  else:
    path.write_bytes(content)
  with pytest.raises(data.DataError) as error:
    data.load(str(path))
  text = str(error.value)
  assert text.endswith('numpy.savez, with arrays of numbers.'), text
  assert str(path) in text and '\n' not in text and len(text) < 600


def test_a_missing_file_is_a_sentence(tmp_path):
  s = settings.check(tiny.config(dataset=str(tmp_path / 'no.npz')))
  with pytest.raises(data.DataError, match='there is no file .*no.npz'):
    making.dataset(s.dataset)


def _of(name, numbers, classes=2, side=4, scale=1 / 255):
  """Pictures of which each says its data set, split and place."""
  parts = [
    data.Split(
      np.full((n, side, side, 3), 10 * i + len(name), np.uint8),
      np.arange(n, dtype=np.int32) % classes,
    )
    for i, n in enumerate(numbers)
  ]
  return data.Dataset(name, *parts, classes, scale)


def test_data_sets_are_joined_one_after_the_other():
  first, second = _of('a', (8, 4, 6)), _of('bcd', (30, 10, 15), classes=5)
  found = data.joined('a+bcd', [first, second])
  assert (found.name, found.num_classes, found.scale) == ('a+bcd', 7, 1 / 255)
  for which in data.SPLITS:
    mine, one, two = (getattr(d, which) for d in (found, first, second))
    np.testing.assert_array_equal(
      mine.image, np.concatenate([one.image, two.image])
    )
    np.testing.assert_array_equal(
      mine.label, np.concatenate([one.label, two.label + 2])
    )
  # Tasks of two data sets, and of two sizes, in one sequence.
  groups = [[0, 1], [2, 3], [4, 6]]
  tasks = data.SEQUENCES['split'](found, 3, 'task', classes=groups)
  np.testing.assert_array_equal(tasks.sizes['train'], [8, 12, 12])
  assert (tasks.num_classes, tasks.num_outputs) == (2, 6)
  image, label = tasks.pick(
    tasks.tables(0), found.train, 'train', 2, np.arange(12)
  )
  assert (image == 3).all() and set(np.asarray(label)) == {0, 1}


@pytest.mark.parametrize(
  'other, parts',
  [
    (
      {'side': 5},
      ['different shapes', "4 x 4 x 3 of 'a', 5 x 5 x 3 of 'b'", 'resize'],
    ),
    ({'scale': 1 / 16}, ['different scales', "0.0625 of 'b'"]),
    ({'scale': 1 / 16, 'name': 'a'}, ['different scales', "0.0625 of 'a'"]),
  ],
)
def test_what_cannot_be_joined(other, parts):
  with pytest.raises(data.DataError) as error:
    second = _of(**{'name': 'b', 'numbers': (8, 4, 6), **other})
    data.joined('a+b', [_of('a', (8, 4, 6)), second])
  text = str(error.value)
  assert all(part in text for part in ["data sets of 'a+b'", *parts]), text
  assert text.endswith('.') and '\n' not in text and len(text) < 300


def test_a_config_may_join_data_sets():
  s = settings.check(tiny.config(dataset='digits+digits'))
  found = making.dataset(s.dataset)
  assert found.num_classes == 20 and found.name == 'digits+digits'
  one = data.load('digits').test
  np.testing.assert_array_equal(found.test.label[len(one.label) :] - 10, one[1])
  for wrong in ('digits+cifar', 'digits+', '+'):
    with pytest.raises(settings.ConfigError, match='^data set .* is unknown'):
      settings.check(tiny.config(dataset=wrong))
  with pytest.raises(data.DataError, match="^Unknown data set 'cifar'"):
    data.load('digits+cifar')
