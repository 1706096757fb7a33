"""Data sets that are read while they are learned, mostly in this process."""

import functools
import io
import itertools
import json
import multiprocessing
import os
import pathlib

import numpy as np
from PIL import Image
import pytest

from experiments import data
from experiments.data import folders
from experiments.data import pictures
from experiments.data import streaming
from experiments.engine import feed
from experiments.engine import folder
from experiments.engine import making
from experiments.engine import settings
from experiments.engine.validation import ConfigError
from tests import tiny

_SPLITS = ('train', 'validation', 'test')
_SIDE = 8
_IN_PROCESS = {'size': _SIDE, 'workers': 0}


def _told(error, *parts):
  text = str(error.value)
  assert all(str(part) in text for part in parts), text
  assert text.endswith('.') and '\n' not in text and len(text) < 700, text


def _take(batches, number):
  """The first batches, as one Split; what reads them is closed."""
  found = list(itertools.islice(batches, number))
  batches.close()
  return data.Split(
    np.concatenate([b.image for b in found]),
    np.concatenate([b.label for b in found]),
  )


def _same(a, b):
  np.testing.assert_array_equal(a.label, b.label)
  np.testing.assert_array_equal(a.image, b.image)
  assert (a.image.dtype, a.label.dtype) == (np.uint8, np.int32)


# What is streamed, of pictures that tell which they are and what was drawn.

_NUMBER = 30


def _counted(bad=(), corrupt='fail', seed=0, numbers=(_NUMBER, 7, 11)):
  """A data set, and the places that are read, in order."""
  read = []

  def one(place, random):
    read.append(place)
    if place in bad:
      raise OSError(f'no {place}')
    drawn = 0 if random is None else random.integers(1, 256)
    return np.full((2, 2, 3), drawn, np.uint8), place

  splits = {
    split: pictures.Pictures(n, one, 'picture {}'.format)
    for split, n in zip(_SPLITS, numbers, strict=True)
  }
  made = streaming.streamed(
    'mine', splits, _NUMBER, (2, 2, 3), seed, workers=0, corrupt=corrupt
  )
  return made, read


def test_an_epoch_has_every_picture_once_and_each_epoch_its_own_order():
  # Batches of 12 of 30 pictures: one lies in two epochs.
  labels = _take(_counted()[0].batches(12, 0, (0, 1)), 10).label
  epochs = labels.reshape(4, _NUMBER)
  np.testing.assert_array_equal(
    np.sort(epochs), np.broadcast_to(np.arange(_NUMBER), epochs.shape)
  )
  assert len({tuple(e) for e in epochs}) == 4
  assert not np.array_equal(epochs[0], np.arange(_NUMBER))


def test_what_is_drawn_is_new_in_each_epoch():
  found = _take(_counted()[0].batches(_NUMBER, 0, (0, 1)), 2)
  drawn = np.zeros((2, _NUMBER), int)
  for epoch in (0, 1):
    rows = slice(epoch * _NUMBER, (epoch + 1) * _NUMBER)
    drawn[epoch, found.label[rows]] = found.image[rows, 0, 0, 0]
  assert (drawn[0] != drawn[1]).sum() > _NUMBER // 2
  assert len(set(drawn[0])) > _NUMBER // 2


@pytest.mark.parametrize(('hosts', 'first'), [(1, 3), (2, 0), (3, 3), (12, 3)])
def test_a_batch_follows_from_seed_and_step_alone(hosts, first):
  whole = _take(_counted()[0].batches(12, 0, (0, 1)), 6)
  shares = [
    _take(_counted()[0].batches(12, first, (host, hosts)), 3)
    for host in range(hosts)
  ]
  for k in range(3):
    mine = slice(k * 12 // hosts, (k + 1) * 12 // hosts)
    step = slice((first + k) * 12, (first + k + 1) * 12)
    joined = (
      np.concatenate([getattr(s, part)[mine] for s in shares])
      for part in ('image', 'label')
    )
    _same(data.Split(*joined), data.Split(whole.image[step], whole.label[step]))


def test_a_seed_changes_order_and_draws():
  a, b = (_take(_counted(seed=i)[0].batches(30, 0, (0, 1)), 1) for i in (0, 1))
  assert (a.label != b.label).any() and (a.image != b.image).any()


def test_nothing_is_read_before_the_first_step_that_is_asked_for():
  made, read = _counted()
  batches = made.batches(12, 10**9, (1, 2))
  assert not read
  share = next(batches)
  assert read == share.label.tolist() and len(read) == 6
  batches.close()


@pytest.mark.parametrize('hosts', [1, 2, 4])
@pytest.mark.parametrize(('split', 'number'), [('validation', 7), ('test', 11)])
def test_an_evaluation_has_every_picture_once_in_order(split, number, hosts):
  made, _ = _counted()
  shares = [list(made.examples(split, 8, (h, hosts))) for h in range(hosts)]
  assert {len(s) for s in shares} == {-(-number // 8)}
  rows = [
    np.concatenate(row)
    for row in zip(*[[b.label for b in s] for s in shares], strict=True)
  ]
  label = np.concatenate(rows)
  assert label[:number].tolist() == list(range(number))
  assert (label[number:] == -1).all()
  assert all((b.image == 0).all() for s in shares for b in s)
  assert {b.image.shape for s in shares for b in s} == {(8 // hosts, 2, 2, 3)}


# What cannot be read.


def test_a_picture_that_cannot_be_read_is_a_sentence():
  for of in (
    lambda made: made.batches(30, 0, (0, 1)),
    lambda made: made.examples('train', 30, (0, 1)),
  ):
    with pytest.raises(data.DataError) as error:
      next(of(_counted(bad=[4])[0]))
    _told(error, 'picture 4', 'no 4', '--config.dataset_kwargs.corrupt=skip')


def test_a_picture_that_cannot_be_read_is_left_out_and_counted(caplog):
  whole = _take(_counted()[0].batches(15, 0, (0, 1)), 4)
  made, _ = _counted(bad=[4, 5, 20], corrupt='skip')
  batches = made.batches(15, 0, (0, 1))
  found = [next(batches) for _ in range(4)]
  assert len(caplog.messages) == 1
  assert caplog.messages[0].startswith('picture ')
  batches.close()
  assert caplog.messages[1].startswith('3 pictures of mine')
  label = np.concatenate([b.label for b in found])
  instead = {4: 6, 5: 6, 20: 21}
  assert label.tolist() == [instead.get(i, i) for i in whole.label.tolist()]


def test_an_evaluation_leaves_it_out(caplog):
  made, _ = _counted(bad=[2], corrupt='skip')
  label = _take(made.examples('validation', 8, (0, 1)), 1).label
  assert label.tolist() == [0, 1, -1, 3, 4, 5, 6, -1]
  assert [m[:9] for m in caplog.messages] == ['picture 2', '1 picture']
  # Another evaluation says nothing new.
  list(made.examples('validation', 8, (0, 1)))
  assert len(caplog.messages) == 2


def test_a_disk_that_is_gone_is_not_skipped():
  made, read = _counted(bad=range(_NUMBER), corrupt='skip')
  with pytest.raises(data.DataError) as error:
    next(made.batches(2, 0, (0, 1)))
  _told(error, f'picture {read[0]} cannot be read', 'any of the 30', 'the disk')


def test_a_process_that_ended_is_a_sentence():
  def parts():
    raise RuntimeError(
      'Worker process was terminated unexpectedly with exit code -7. Search.'
    )
    yield

  made = streaming._Reading('mine', (2, 2, 3), set(), 9, None, None)
  with pytest.raises(data.DataError) as error:
    streaming._next(parts(), made)
  _told(error, "'mine'", 'exit code -7', '/dev/shm', 'dataset_kwargs.workers=9')


@pytest.mark.parametrize(
  ('options', 'parts'),
  [
    ({'seed': -1}, ['seed is -1', 'at least 0']),
    ({'workers': -2}, ['workers is -2', 'at least 0']),
    ({'size': 0}, ['size is 0', 'at least 1']),
    ({'num_classes': 1}, ['num_classes is 1', 'at least 2']),
    ({'sizes': (4, 4)}, ['sizes is (4, 4)', 'three whole numbers']),
    ({'sizes': (4, 0, 4)}, ['sizes is (4, 0, 4)', 'above 0']),
  ],
)
def test_options_out_of_range(options, parts):
  with pytest.raises(data.DataError) as error:
    data.stream('synthetic', **options)
  _told(error, 'dataset_kwargs.', *parts)


def test_hosts_share_a_batch_evenly():
  with pytest.raises(data.DataError) as error:
    data.stream('synthetic', size=2).batches(10, 0, (0, 4))
  _told(error, 'batches of 10', '4 hosts', 'multiple of 4')


# Pictures.


def _encoded(image, kind='JPEG', **options):
  out = io.BytesIO()
  image.save(out, kind, **options)
  return out.getvalue()


def _noise(height, width):
  random = np.random.default_rng(0)
  return Image.fromarray(
    random.integers(0, 256, (height, width, 3), np.uint8), 'RGB'
  )


@pytest.mark.parametrize(
  ('width', 'height'), [(500, 375), (30, 200), (7, 7), (1, 1), (3, 400)]
)
def test_a_random_crop_is_within_the_picture(width, height):
  random = np.random.default_rng(0)
  boxes = [pictures.random_box(random, width, height) for _ in range(200)]
  for box in boxes:
    assert 0 <= box.left <= box.left + box.width <= width and box.width
    assert 0 <= box.top <= box.top + box.height <= height and box.height
  if (width, height) != (500, 375):
    return
  share = np.array([b.width * b.height for b in boxes]) / (width * height)
  ratio = np.array([b.width / b.height for b in boxes])
  # Both are rounded to pixels, of which a crop has more than 80 on each side.
  assert 0.078 < share.min() < 0.12 and 0.9 < share.max() <= 1
  assert 0.74 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.35


def test_the_middle_is_that_of_resizing_to_8_7_and_cropping():
  assert pictures.middle_box(256, 256) == (16, 16, 224, 224)
  assert pictures.middle_box(512, 256) == (144, 16, 224, 224)
  assert pictures.middle_box(1, 5) == (0, 2, 1, 1)


def test_half_of_the_pictures_are_mirrored():
  # Left is black, right white; a crop keeps which side is darker.
  image = Image.fromarray(np.tile(np.uint8([0, 0, 255, 255]), (4, 1)), 'L')
  file, random = (
    _encoded(image.resize((64, 64)), 'PNG'),
    np.random.default_rng(0),
  )
  made = [pictures.decode(file, 4, random).astype(int) for _ in range(60)]
  right = np.array([m[:, -1].mean() - m[:, 0].mean() for m in made])
  assert 15 <= (right > 0).sum() <= 45 and (right < 0).sum() >= 15
  plain = pictures.decode(file, 4, None).astype(int)
  assert plain[:, -1].min() > plain[:, 0].max()


_MODES = {
  'grey.jpg': ('L', (60,) * 3),
  'four.jpg': ('CMYK', None),
  'plain.png': ('RGB', (10, 200, 90)),
  'alpha.png': ('RGBA', (10, 200, 90)),
  'palette.png': ('P', None),
  'deep.png': ('I;16', (60,) * 3),
  'bits.png': ('1', (255,) * 3),
}


@pytest.mark.parametrize('name', _MODES)
def test_all_become_rgb(tmp_path, name):
  mode, expected = _MODES[name]
  if mode == 'I;16':
    image = Image.fromarray(np.full((20, 30), 60 * 256 + 7, np.uint16))
  elif mode in ('L', '1'):
    image = Image.new(mode, (30, 20), 60 if mode == 'L' else 1)
  else:
    image = Image.new('RGB', (30, 20), (10, 200, 90)).convert(mode)
  image.save(tmp_path / name)
  found = pictures.decode(str(tmp_path / name), 5, None)
  assert found.shape == (5, 5, 3) and found.dtype == np.uint8
  near = np.abs(found.astype(int) - (expected or (10, 200, 90)))
  # CMYK and palettes have fewer colours.
  assert near.max() <= (2 if expected else 40)


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(monkeypatch):
  ramp = np.linspace(0, 255, 900).astype(np.uint8)
  plane = np.broadcast_to(ramp, (800, 900))
  file = _encoded(Image.fromarray(np.stack([plane, plane[::-1], plane], -1)))
  quick = pictures.decode(file, 32, None).astype(int)
  drafts = []
  monkeypatch.setattr(
    'PIL.JpegImagePlugin.JpegImageFile.draft',
    lambda self, mode, size: drafts.append(size),
  )
  whole = pictures.decode(file, 32, None).astype(int)
  assert np.abs(quick - whole).max() <= 3
  # 700 pixels of each side are 32: a picture of 900/700 as much will do.
  assert drafts == [(41, 36)]


# A user's own folder.


def _write(root, names, classes='abc', splits=('',)):
  for split in splits:
    for k, name in enumerate(classes):
      (root / split / name).mkdir(parents=True)
      for file in names:
        image = Image.new('RGB', (12, 10), (80 * k, 255 - 80 * k, 128))
        image.save(root / split / name / file)
  return root


@pytest.fixture(scope='module')
def own(tmp_path_factory):
  """A folder with three classes of 20 pictures each, of one colour each."""
  names = [f'{i}.jpg' for i in range(20)]
  return _write(tmp_path_factory.mktemp('own'), names)


def test_a_folder_of_classes_is_split_by_names(own):
  made = data.stream(f'{own}', **_IN_PROCESS)
  assert (made.num_classes, made.image_shape) == (3, (_SIDE, _SIDE, 3))
  assert sum(made.sizes.values()) == 60
  expected = [folders.digit(f'{c}/{i}.jpg') for c in 'abc' for i in range(20)]
  assert made.sizes == {
    'train': sum(d > 2 for d in expected),
    'validation': expected.count(2),
    'test': sum(d < 2 for d in expected),
  }
  # The digits are spread evenly, and always the same.
  many = np.bincount([folders.digit(f'a/{i}.jpg') for i in range(1000)])
  assert len(many) == 10 and 60 < many.min() <= many.max() < 140
  first = [folders.digit(f'a/{i}.jpg') for i in range(6)]
  assert first == [1, 1, 8, 5, 2, 6]


def test_labels_are_those_of_the_pictures(own):
  made = data.stream(f'{own}', **_IN_PROCESS)
  for found in (
    _take(made.batches(10, 0, (0, 1)), 3),
    _take(made.examples('test', 4, (0, 1)), 2),
  ):
    for image, label in zip(found.image, found.label, strict=True):
      if label >= 0:
        colour = 80 * label, 255 - 80 * label, 128
        assert np.abs(image.astype(int) - colour).max() <= 4


@pytest.mark.parametrize(
  ('splits', 'sources'),
  [
    (('train', 'test'), (('train', True), ('train', True), ('test', False))),
    (('train', 'val'), (('train', True), ('train', True), ('val', False))),
    (
      ('train', 'val', 'test'),
      (('train', False), ('val', False), ('test', False)),
    ),
    (
      ('train', 'validation', 'test'),
      (('train', False), ('validation', False), ('test', False)),
    ),
  ],
  ids=lambda x: '-'.join(x) if isinstance(x[0], str) else '',
)
def test_a_folder_may_have_splits(tmp_path, splits, sources):
  names = [f'{i}.png' for i in range(6)]
  made = data.stream(f'{_write(tmp_path, names, splits=splits)}', **_IN_PROCESS)
  held = sum(folders.digit(f'{c}/{n}') == 2 for c in 'abc' for n in names)
  assert 0 < held < 9
  for split, (_, shared) in zip(_SPLITS, sources, strict=True):
    part = {'train': 18 - held, 'validation': held}[split] if shared else 18
    assert made.sizes[split] == part
  root = os.path.join(tmp_path, sources[2][0])
  (tmp_path / sources[2][0] / 'a' / '0.png').write_bytes(b'')
  with pytest.raises(data.DataError) as error:
    list(made.examples('test', 18, (0, 1)))
  _told(error, os.path.join(root, 'a', '0.png'))


def _no_class(root):
  for name in 'abc':
    os.rename(root / name, root / f'.{name}')


def _no_pictures(root):
  for file in sorted((root / 'b').iterdir()):
    file.rename(file.with_suffix('.txt'))


def _two_splits(root, without=''):
  for split in ('train', 'test'):
    _write(
      root / split,
      ['0.jpg'],
      classes=[c for c in 'xyz' if c not in without or split == 'train'],
    )


@pytest.mark.parametrize(
  ('change', 'parts'),
  [
    (_no_class, ['0 class folders', 'at least 2']),
    (_no_pictures, ['b has no pictures', 'remove it']),
    (
      lambda root: [os.rename(root / c, root / f'.{c}') for c in 'ab'],
      ['1 class folders', 'at least 2'],
    ),
    (lambda root: _write(root / 'train', ['0.jpg']), ['neither test nor val']),
    (lambda root: _two_splits(root, 'z'), ["no class 'z' in test", 'the same']),
    (_two_splits, ['no pictures to make a validation set']),
  ],
)
def test_other_folders_are_refused(tmp_path, change, parts):
  change(_write(tmp_path, ['0.jpg', '1.jpg']))
  with pytest.raises(data.DataError) as error:
    data.stream(f'{tmp_path}/')
  _told(error, tmp_path, *parts)


def test_a_folder_is_named_by_its_path(tmp_path, monkeypatch):
  monkeypatch.chdir(_write(tmp_path, ['0.jpg']).parent)
  with pytest.raises(data.DataError) as error:
    data.load(tmp_path.name)
  _told(error, f'as ./{tmp_path.name};')
  with pytest.raises(data.DataError) as error:
    data.stream('./nowhere')
  _told(error, 'there is no folder', "'./nowhere'")


def test_a_damaged_file_is_named_or_skipped(own, tmp_path, caplog):
  names = [f'{i}.jpg' for i in range(20)]
  damaged = _write(tmp_path, names) / 'c' / '7.jpg'
  damaged.write_bytes(damaged.read_bytes()[:-200])
  assert folders.digit('c/7.jpg') > 2
  with pytest.raises(data.DataError) as error:
    list(data.stream(f'{tmp_path}', **_IN_PROCESS).examples('train', 9, (0, 1)))
  _told(error, damaged, 'corrupt=skip')
  made = data.stream(f'{tmp_path}', corrupt='skip', **_IN_PROCESS)
  whole = data.stream(f'{own}', **_IN_PROCESS)
  a, b = (list(d.examples('train', 60, (0, 1)))[0] for d in (made, whole))
  (gone,) = np.flatnonzero(a.label != b.label)
  assert a.label[gone] == -1 and b.label[gone] == 2
  assert caplog.messages[0].startswith(f'{damaged} cannot be read')
  assert caplog.messages[1].startswith('1 pictures of')


def test_processes_give_the_same_batches_and_end(tmp_path, caplog):
  root = _write(tmp_path, [f'{i}.jpg' for i in range(10)])
  (root / 'b' / '3.jpg').write_bytes(b'nothing')
  made = functools.partial(data.stream, f'{root}', corrupt='skip', size=_SIDE)
  # Groups of 11, two of them in a batch, one for each process.
  alone = _take(made(workers=0).batches(22, 1, (0, 1)), 3)
  messages, caplog.records[:] = list(caplog.messages), []
  caplog.clear()
  batches = made(workers=2).batches(22, 1, (0, 1))
  first = next(batches)
  assert len(multiprocessing.active_children()) == 2
  rest = [next(batches) for _ in range(2)]
  batches.close()
  _same(alone, data.Split(*map(np.concatenate, zip(first, *rest, strict=True))))
  assert caplog.messages == messages and 'b/3.jpg' in messages[0]
  assert not multiprocessing.active_children()


# ImageNet.


def _imagenet(root, sizes):
  """A prepared imagenet2012 in small, written without TensorFlow."""
  from array_record.python import array_record_module
  from tensorflow_datasets.proto import tf_example_pb2

  folder_of = root / 'imagenet2012' / '5.1.0'
  folder_of.mkdir(parents=True)
  splits = []
  for split, size in sizes.items():
    name = f'imagenet2012-{split}.array_record-00000-of-00001'
    writer = array_record_module.ArrayRecordWriter(
      str(folder_of / name), 'group_size:1'
    )
    for i in range(size):
      example = tf_example_pb2.Example()
      feature = example.features.feature
      image = Image.new('RGB', (30, 20), (i * 5, 100, 0))
      feature['image'].bytes_list.value.append(_encoded(image))
      feature['label'].int64_list.value.append(i)
      feature['file_name'].bytes_list.value.append(b'n.JPEG')
      writer.write(example.SerializeToString())
    writer.close()
    splits.append(
      {
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
        'name': split,
        'numBytes': '1000',
        'shardLengths': [str(size)],
      }
    )
  info = {
    'fileFormat': 'array_record',
    'name': 'imagenet2012',
    'splits': splits,
    'version': '5.1.0',
  }
  (folder_of / 'dataset_info.json').write_text(json.dumps(info))
  return root


@pytest.fixture
def imagenet(tmp_path):
  return _imagenet(tmp_path, {'train': 43, 'validation': 6})


def test_imagenet_is_read(imagenet):
  made = data.stream('imagenet2012', imagenet, **_IN_PROCESS)
  # A tenth of the training set is held out, where it is small.
  assert made.sizes == {'train': 39, 'validation': 4, 'test': 6}
  assert (made.num_classes, made.scale) == (1000, 1 / 255)
  for split, labels in (('validation', range(39, 43)), ('test', range(6))):
    (found,) = made.examples(split, len(labels), (0, 1))
    assert found.label.tolist() == list(labels)
    reds = found.image[..., 0].astype(int) - 5 * found.label[:, None, None]
    assert np.abs(reds).max() <= 4
  found = _take(made.batches(13, 0, (0, 1)), 3)
  assert sorted(found.label) == list(range(39))
  fewer = data.stream('imagenet2012', imagenet, validation_size=2, workers=0)
  assert fewer.sizes == {'train': 41, 'validation': 2, 'test': 6}
  assert fewer.image_shape == (224, 224, 3)


def test_imagenet_that_is_not_there_says_how_to_get_it(tmp_path):
  with pytest.raises(data.DataError) as error:
    data.stream('imagenet2012', tmp_path)
  _told(
    error,
    f'in {tmp_path} is missing',
    'ILSVRC2012_img_train.tar',
    'https://image-net.org',
    '--file_format=array_record',
  )
  (tmp_path / 'imagenet2012' / 'incomplete.ABC_5.1.0').mkdir(parents=True)
  with pytest.raises(
    data.DataError, match=r'half prepared.*incomplete'
  ) as error:
    data.stream('imagenet2012', tmp_path)
  _told(error, 'tfds build')


def test_imagenet_that_is_not_whole_is_a_sentence(imagenet):
  place = imagenet / 'imagenet2012' / '5.1.0'
  info = place / 'dataset_info.json'
  whole = info.read_text()
  info.write_text(whole.replace('"array_record"', '"tfrecord"'))
  with pytest.raises(data.DataError) as error:
    data.stream('imagenet2012', imagenet)
  _told(error, place, 'tfrecord', 'convert_format', 'array_record')
  info.write_text(whole)
  shard = place / 'imagenet2012-validation.array_record-00000-of-00001'
  content = shard.read_bytes()
  shard.write_bytes(content[: len(content) // 2])
  with pytest.raises(data.DataError) as error:
    made = data.stream('imagenet2012', imagenet, **_IN_PROCESS)
    list(made.examples('test', 6, (0, 1)))
  _told(error, place)
  shard.unlink()
  with pytest.raises(data.DataError) as error:
    data.stream('imagenet2012', imagenet)
  _told(error, '1 of its 1 files', shard.name, 'prepare the data again')


def test_pictures_of_imagenet():
  """Real ones, where they are at hand."""
  root = pathlib.Path(os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets'))
  if not (root.expanduser() / 'imagenet2012').is_dir():
    pytest.skip('no imagenet2012 in TFDS_DATA_DIR')
  made = data.stream('imagenet2012', size=64, workers=0)
  found = _take(made.batches(64, 0, (0, 1)), 2)
  assert 80 < found.image.mean() < 160 and found.image.std() > 40
  assert len(set(found.label.tolist())) > 100
  (held,) = itertools.islice(made.examples('validation', 32, (0, 1)), 1)
  assert held.image.std() > 40 and held.label.min() >= 0


# Synthetic pictures.


def test_synthetic_pictures_are_those_of_their_class():
  made = data.stream('synthetic', size=16, num_classes=5, sizes=(20, 10, 9))
  assert made.sizes == {'train': 20, 'validation': 10, 'test': 9}
  train = _take(made.batches(20, 0, (0, 1)), 1)
  test = _take(made.examples('test', 9, (0, 1)), 1)
  assert np.bincount(train.label).tolist() == [4] * 5
  means = lambda split: split.image.mean((1, 2))
  centres = np.stack([means(train)[train.label == k].mean(0) for k in range(5)])
  near = ((means(test)[:, None] - centres) ** 2).sum(-1).argmin(1)
  assert near.tolist() == test.label.tolist()
  assert len({image.tobytes() for image in train.image}) == 20
  default = data.stream('synthetic')
  assert default.image_shape == (224, 224, 3) and default.num_classes == 1000


# Configs.


def _settings(**fields):
  return settings.check(tiny.config(**fields))


@pytest.mark.parametrize(
  ('dataset', 'kwargs', 'parts'),
  [
    ('digits', {'size': 8}, ["dataset_kwargs is {'size': 8}", 'takes none']),
    ('mine.npz', {'seed': 1}, ['dataset_kwargs', "'mine.npz'", 'takes none']),
    ('synthetic', {'sise': 8}, ["'sise'", "did you mean 'size'?", 'workers']),
    ('./mine', {'validation_size': 3}, ["'./mine'", 'corrupt, seed, size']),
    ('imagenet2012', {'size': 8.5}, ['dataset_kwargs.size is 8.5', 'whole']),
    ('imagenet2012', {'corrupt': 3}, ['dataset_kwargs.corrupt is 3', 'a name']),
    ('imagenet2012', {'workers': 'all'}, ["workers is 'all'", 'or None']),
    ('synthetic', 3, ['dataset_kwargs is 3', 'a dict']),
  ],
)
def test_keyword_arguments_are_checked(dataset, kwargs, parts):
  with pytest.raises(ConfigError) as error:
    _settings(dataset=dataset, dataset_kwargs=kwargs)
  _told(error, *parts)


def test_corrupt_is_one_of_two(own):
  s = _settings(dataset=f'{own}', dataset_kwargs={'corrupt': 'leave'})
  with pytest.raises(data.DataError) as error:
    making.dataset(s.dataset, None, s.dataset_kwargs)
  _told(error, "corrupt is 'leave'", 'fail, skip')


def test_experiments_in_memory_refuse_them():
  s = _settings(dataset='synthetic')
  made = making.dataset(s.dataset, None, s.dataset_kwargs)
  with pytest.raises(ConfigError) as error:
    feed.in_memory(made, 'continual')
  _told(error, "'synthetic'", 'experiments.sparse_training')


def test_a_config_makes_one(own):
  s = _settings(dataset=f'{own}', dataset_kwargs={'size': 4, 'workers': 0})
  made = making.dataset(s.dataset, None, s.dataset_kwargs)
  assert isinstance(made, data.Streamed) and made.image_shape == (4, 4, 3)


def test_an_own_function_has_keyword_arguments(tmp_path, monkeypatch):
  (tmp_path / 'own_stripes.py').write_text(
    'import numpy as np\n'
    'def stripes(number: int, side: int = 4):\n'
    '  image = np.zeros((number, side, side), np.uint8)\n'
    "  return {'image': image, 'label': np.arange(number) % 2}\n"
  )
  monkeypatch.chdir(tmp_path)
  name = 'own_stripes:stripes'
  s = _settings(dataset=name, dataset_kwargs={'number': 40})
  made = making.dataset(s.dataset, None, s.dataset_kwargs)
  assert made.train.image.shape == (20, 4, 4, 1)
  kept = settings.resolved(s._asdict())['dataset_kwargs']
  assert kept == {'number': 40, 'side': 4}
  for kwargs, part in (
    ({'number': 'x'}, "dataset_kwargs.number is 'x'"),
    ({'number': 40, 'sides': 3}, "'sides'"),
    ({}, "'number'"),
  ):
    with pytest.raises(ConfigError) as error:
      _settings(dataset=name, dataset_kwargs=kwargs)
    _told(error, part)


def test_they_cannot_be_joined():
  with pytest.raises(ConfigError, match='is unknown'):
    _settings(dataset='digits+imagenet')
  with pytest.raises(data.DataError) as error:
    data.load('digits+synthetic')
  _told(error, "'synthetic'", 'nor joined')


def test_processes_and_what_is_corrupt_may_change_on_resuming(tmp_path):
  def start(**kwargs):
    config = tiny.config(dataset='imagenet2012', dataset_kwargs=kwargs)
    rules = settings.rules(settings.check(config))
    folder.open_folder(tmp_path, config.to_dict(), rules)
    return json.loads((tmp_path / 'config.json').read_bytes())

  first = start(size=64)['dataset_kwargs']
  assert first == {
    'size': 64,
    'validation_size': 10_000,
    'seed': 0,
    'workers': None,
    'corrupt': 'fail',
  }
  (tmp_path / 'metrics.jsonl').write_bytes(b'')
  now = start(size=64, workers=3, corrupt='skip')['dataset_kwargs']
  assert now == first | {'workers': 3, 'corrupt': 'skip'}
  with pytest.raises(folder.runs.RunError, match='dataset_kwargs was'):
    start(size=64, seed=1)
