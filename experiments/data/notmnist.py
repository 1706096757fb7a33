"""notMNIST: letters from A to J in many typefaces, 28x28 pixels.

Reference: Bulatov, notMNIST dataset, 2011.
"""

import io
import os
import pathlib

from absl import logging
import numpy as np
from PIL import Image

from experiments.data import folders
from experiments.data import prepared
from experiments.data.folders import Files
from experiments.data.types import checked
from experiments.data.types import DataError
from experiments.data.types import Dataset
from experiments.data.types import Split

_NAMED = 5  # of the pictures that are left out


def notmnist(
  place: str | os.PathLike[str] | None, *, folder: str = ''
) -> Dataset:
  """The letters, as arrays.

  Of a folder as its author publishes it, with a folder of pictures for each
  letter: the test set are two tenths of the pictures, as in `folders.folder`,
  and the validation set one tenth of the rest, as the protocol of VCL has it,
  both by the hash of 'class/file' alone. The folder may have splits of its own.
  Pictures that cannot be read are left out, which is told once, with their
  number: two of the published ones have no bytes.

  Args:
    place: where TFDS's prepared data are; see `datasets.load`. Where there is
      no folder, they are read: the last tenth of their training examples is the
      validation set.
    folder: of the folders A to J.

  Returns:
    The data set; its pictures are grey and of one size.

  Raises:
    DataError: if there are no such data, or a class has no pictures, or a
      picture is of another size than the others.

  Reference: Nguyen et al., Variational continual learning, 2018, section 6.2.
  """
  if not isinstance(folder, str):
    raise DataError(
      f'dataset_kwargs.folder is {folder!r} but must be the path of a folder.'
    )
  return checked(_of_folder(folder) if folder else _of_tfds(place))


def _of_tfds(place: str | os.PathLike[str] | None) -> Dataset:
  try:
    read, num_classes = prepared.read('notmnist', place)
  except DataError as e:
    raise DataError(
      'notmnist is not there as prepared data, and TFDS cannot download it'
      f" ({e}) Unpack its author's notMNIST_small or notMNIST_large, and give"
      ' the folder of A to J: --config.dataset_kwargs.folder=FOLDER.'
    ) from e
  image, label = read['train_image'], read['train_label']
  cut = len(label) - len(label) // 10
  return Dataset(
    'notmnist',
    Split(image[:cut], label[:cut]),
    Split(image[cut:], label[cut:]),
    Split(read['test_image'], read['test_label']),
    num_classes,
    1 / 255,
  )


def _of_folder(place: str) -> Dataset:
  held_out = lambda name: folders.digit(name, 1) == 0
  classes, parts = folders.splits_of(place, held_out)
  damaged: list[str] = []
  splits = {n: _read(root, them, damaged) for n, (root, them) in parts.items()}
  total = sum(len(them.names) for _, them in parts.values())
  if len(damaged) == total:
    raise DataError(
      f'none of the {total} pictures in {place!r} can be read; unpack them'
      ' again.'
    )
  if damaged:
    more = len(damaged) - _NAMED
    logging.warning(
      '%d of the %d pictures in %s cannot be read, and are left out: %s%s.',
      len(damaged),
      total,
      place,
      ', '.join(damaged[:_NAMED]),
      f' and {more} more' if more > 0 else '',
    )
  _check_sizes(place, parts, splits)
  of = lambda name: Split(
    np.stack([*splits[name].values()]), parts[name][1].labels[[*splits[name]]]
  )
  train, validation, test = map(of, ('train', 'validation', 'test'))
  return Dataset(
    'notmnist', train, validation, test, len(classes), scale=1 / 255
  )


def _read(
  root: pathlib.Path, them: Files, damaged: list[str]
) -> dict[int, np.ndarray]:
  """By place, the pictures that can be read; uint8 [H, W, 1]."""
  found = {}
  for i, name in enumerate(them.names):
    content = (root / name).read_bytes()  # a disk that is gone is no damage
    try:
      with Image.open(io.BytesIO(content)) as image:
        found[i] = np.asarray(image.convert('L'))[..., None]
    except Exception:  # whatever Pillow raises for what it cannot read
      damaged.append(name)
  return found


def _check_sizes(place, parts, splits) -> None:
  """Raises DataError unless there are pictures, all of one size."""
  first = None
  for split, images in splits.items():
    names = parts[split][1].names
    if not images:
      raise DataError(
        f'the {split} set of {place!r} has no pictures: there are too few to be'
        ' split; add some.'
      )
    for i, image in images.items():
      first = first or (names[i], image.shape)
      if image.shape != first[1]:
        size = lambda shape: f'{shape[1]} x {shape[0]}'
        raise DataError(
          f'{names[i]} in {place!r} has {size(image.shape)} pixels and'
          f' {first[0]} {size(first[1])}, but all must be of one size; remove'
          ' the one that does not belong there.'
        )
