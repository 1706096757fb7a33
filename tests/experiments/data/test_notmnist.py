"""notMNIST, of a small folder like its author's."""

import io
import logging

import numpy as np
from PIL import Image
import pytest

from experiments import data
from experiments.data import folders
from experiments.engine import making
from experiments.engine import settings
from experiments.engine.settings import ConfigError
from tests import tiny

_LETTERS = 'ABC'
_NUMBER = 30  # of each


def _pixels(letter, i):
  """A picture that tells which it is."""
  pixels = np.zeros((6, 5), np.uint8)
  pixels[0, 0], pixels[1, 1] = _LETTERS.index(letter), i
  return pixels


def _write(root):
  for letter in _LETTERS:
    (root / letter).mkdir(parents=True)
    for i in range(_NUMBER):
      Image.fromarray(_pixels(letter, i)).save(root / letter / f'{i}.png')
  return root


@pytest.fixture(scope='module')
def letters(tmp_path_factory):
  return _write(tmp_path_factory.mktemp('letters'))


def _names(split):
  """Which pictures are in a split, as their pixels tell."""
  of = lambda x: f'{_LETTERS[x[0, 0, 0]]}/{x[1, 1, 0]}.png'
  return [of(x) for x in split.image]


def test_a_folder_is_split_by_names(letters):
  made = making.dataset('notmnist', None, {'folder': f'{letters}'})
  assert (made.name, made.num_classes, made.scale) == ('notmnist', 3, 1 / 255)
  assert made.image_shape == (6, 5, 1)
  every = {f'{c}/{i}.png' for c in _LETTERS for i in range(_NUMBER)}
  for name in data.SPLITS:
    split = getattr(made, name)
    names = _names(split)
    assert [_LETTERS[i] for i in split.label] == [n[0] for n in names]
    assert set(names) <= every
    every -= set(names)
    for n in names:
      if name == 'test':
        assert folders.digit(n) < 2
      else:
        # Nine tenths and one tenth of the rest, by another digit.
        assert folders.digit(n) > 1
        assert (folders.digit(n, 1) == 0) == (name == 'validation')
  assert not every
  many = [folders.digit(f'A/{i}', 1) for i in range(1000)]
  counts = np.bincount(many)
  assert len(counts) == 10 and 60 < counts.min() <= counts.max() < 140


def test_pictures_that_cannot_be_read_are_left_out_and_told(tmp_path, caplog):
  root = _write(tmp_path)
  bad = ['A/7.png', 'B/3.png']
  for name in bad:
    (root / name).write_bytes(b'')
  with caplog.at_level(logging.WARNING):
    made = data.load('notmnist', folder=f'{root}')
  (told,) = [r.getMessage() for r in caplog.records]
  assert '2 of the 90 pictures' in told and 'left out' in told
  assert all(name in told for name in bad)
  there = [n for s in data.SPLITS for n in _names(getattr(made, s))]
  assert len(there) == len({*there}) == 88 and not {*there} & {*bad}


def test_all_of_a_class_are_damaged(tmp_path):
  """A task of it would have nothing to learn: the sequence says so."""
  root = _write(tmp_path)
  for file in (root / 'B').iterdir():
    file.write_bytes(b'')
  made = data.load('notmnist', folder=f'{root}')
  with pytest.raises(data.DataError) as error:
    data.SEQUENCES['split'](made, 3, 'task', per_task=1)
  assert 'task 2 of 3 has no train examples' in f'{error.value}'


def _other_size(root):
  picture = io.BytesIO()
  Image.fromarray(np.zeros((9, 4), np.uint8)).save(picture, 'PNG')
  (root / 'C' / '5.png').write_bytes(picture.getvalue())


def _empty(root):
  for file in (root / 'B').iterdir():
    file.unlink()


def _all_damaged(root):
  for file in root.glob('*/*.png'):
    file.write_bytes(b'no picture')


@pytest.mark.parametrize(
  ('change', 'parts'),
  [
    (_empty, ['class folder', 'B', 'has no pictures', 'remove it']),
    (_other_size, ['C/5.png', '4 x 9 pixels', '5 x 6', 'one size']),
    (_all_damaged, ['none of the 90 pictures', 'unpack them again']),
  ],
)
def test_other_folders_are_refused(tmp_path, change, parts):
  root = _write(tmp_path)
  change(root)
  with pytest.raises(data.DataError) as error:
    data.load('notmnist', folder=f'{root}')
  message = f'{error.value}'
  assert message.endswith('.') and all(part in message for part in parts)


def test_no_data_says_where_to_get_them(tmp_path):
  with pytest.raises(data.DataError) as error:
    data.load('notmnist', tmp_path)
  assert '--config.dataset_kwargs.folder=FOLDER' in f'{error.value}'
  with pytest.raises(data.DataError) as error:
    data.load('notmnist', folder=f'{tmp_path / "none"}')
  assert 'there is no folder' in f'{error.value}'


def test_a_config_has_its_options(letters):
  config = tiny.config(dataset='notmnist', dataset_kwargs={'folder': 'x'})
  assert settings.check(config).dataset_kwargs == {'folder': 'x'}
  with pytest.raises(ConfigError) as error:
    settings.check(tiny.config(dataset='notmnist', dataset_kwargs={'dir': ''}))
  assert "'dir'" in f'{error.value}' and 'folder' in f'{error.value}'
  resolved = settings.resolved({'dataset': 'notmnist'})
  assert resolved['dataset_kwargs'] == {'folder': ''}


def test_a_class_for_each_task_is_as_it_is(letters):
  """One character a task; MNIST is not padded where that is asked for."""
  made = data.load('notmnist', folder=f'{letters}')
  made = made._replace(name='mnist')
  sequence = data.SEQUENCES['split'](made, 3, 'task', per_task=1, padded=False)
  assert sequence.dataset.image_shape == (6, 5, 1)
  assert (sequence.mean, sequence.std) == (0.0, 1.0)
  assert (sequence.num_classes, sequence.num_outputs) == (1, 3)
  padded = data.SEQUENCES['split'](made, 3, 'task', per_task=1)
  assert padded.dataset.image_shape == (10, 9, 1)
