"""A user's own folder of pictures, with a folder for each class."""

from collections.abc import Callable, Sequence
import functools
import hashlib
import os
import pathlib
from typing import NamedTuple

import numpy as np

from experiments.data import pictures
from experiments.data import streaming
from experiments.data.pictures import Pictures
from experiments.data.types import DataError
from experiments.data.types import Streamed

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.webp', '.tif', '.tiff')
_VALIDATION = ('validation', 'val')


class Files(NamedTuple):
  """Pictures of a folder.

  Attributes:
    names: relative to the folder, 'class/file'.
    labels: int32 [N].
  """

  names: tuple[str, ...]
  labels: np.ndarray

  def kept(self, keep: Sequence[bool]) -> 'Files':
    """Those of which `keep` is true."""
    names = [n for n, k in zip(self.names, keep, strict=True) if k]
    return Files(tuple(names), self.labels[np.array(keep, bool)])


def folder(
  place: str,
  *,
  size: int = 224,
  seed: int = 0,
  workers: int | None = None,
  corrupt: str = 'fail',
) -> Streamed:
  """The pictures of a folder; see `pictures.decode` for what becomes of them.

  The folder has a folder for each class, or folders `train` and `test` that
  have these, and maybe `validation` or `val`. Classes are numbered in the order
  of their names, and pictures are the files in them whose names end as those of
  pictures do.

  Which split a picture belongs to follows from its name alone, so that more
  pictures move none: h is the first 8 hexadecimal digits of the SHA-256 of
  'class/file', modulo 10. Of class folders alone, the pictures with h of 0 or 1
  are the test set, those with 2 the validation set, and the rest is the
  training set. Where there are `train` and `test` and no validation set, that
  is the pictures of `train` with h = 2. Where there are `train` and `val` and
  no `test`, `val` is the test set, as ImageNet's is, and the validation set is
  made likewise.

  Args:
    place: of the folder.
    size: rows and columns that pictures are brought to, ≥ 1.
    seed: see `streaming.streamed`.
    workers: see `streaming.streamed`.
    corrupt: see `streaming.streamed`.

  Returns:
    The data set.

  Raises:
    DataError: if there is no such folder, or it is not as above: a class
      without pictures, one class alone, classes that differ between splits.
  """
  streaming.at_least('size', size, 1)
  classes, parts = splits_of(place, lambda name: digit(name) == 2)
  splits = {
    split: Pictures(
      len(files.names),
      functools.partial(_read, os.fspath(base), files, size),
      functools.partial(_where, os.fspath(base), files),
    )
    for split, (base, files) in parts.items()
  }
  return streaming.streamed(
    place, splits, len(classes), (size, size, 3), seed, workers, corrupt
  )


def splits_of(
  place: str, held_out: Callable[[str], bool]
) -> tuple[list[str], dict[str, tuple[pathlib.Path, Files]]]:
  """The pictures of a folder by split; see `folder`.

  Args:
    place: of the folder.
    held_out: 'class/file' -> whether a picture that is not of the test set is
      of the validation set, where the folder has none.

  Returns:
    The names of the classes; by split, the folder that its pictures' names
    begin in, and these.

  Raises:
    DataError: as `folder` does.
  """
  root = pathlib.Path(place).expanduser()
  if not root.is_dir():
    raise DataError(
      f'there is no folder {place!r} for the data set; give its path from the'
      ' current folder, or in full.'
    )
  inside = _folders(root)
  held = next((name for name in _VALIDATION if name in inside), None)
  parts: dict[str, tuple[pathlib.Path, Files]] = {}
  if 'train' not in inside:
    classes, found = _classes(place, root)
    tested = [digit(name) < 2 for name in found.names]
    rest = found.kept([not x for x in tested])
    ours = list(map(held_out, rest.names))
    parts['train'] = root, rest.kept([not x for x in ours])
    parts['validation'] = root, rest.kept(ours)
    parts['test'] = root, found.kept(tested)
  elif 'test' not in inside and held is None:
    raise DataError(
      f'the folder {place!r} has train but neither test nor val; add one, or'
      ' name the folder train itself, to have it split.'
    )
  else:
    classes, found = _classes(place, root / 'train')
    test = root / ('test' if 'test' in inside else str(held))
    parts['test'] = test, _same(place, classes, test)
    if 'test' in inside and held is not None:
      parts['train'] = root / 'train', found
      parts['validation'] = root / held, _same(place, classes, root / held)
    else:
      ours = list(map(held_out, found.names))
      parts['train'] = root / 'train', found.kept([not x for x in ours])
      parts['validation'] = root / 'train', found.kept(ours)
  return classes, parts


def _read(
  base: str,
  files: Files,
  size: int,
  i: int,
  random: np.random.Generator | None,
) -> tuple[np.ndarray, int]:
  path = os.path.join(base, files.names[i])
  return pictures.decode(path, size, random), int(files.labels[i])


def _where(base: str, files: Files, i: int) -> str:
  return os.path.join(base, files.names[i])


def digit(name: str, which: int = 0) -> int:
  """A number from 0 to 9 that follows from a name alone.

  Args:
    name: 'class/file'.
    which: the same name has others, of 0 to 7.
  """
  word = hashlib.sha256(name.encode()).hexdigest()[8 * which :][:8]
  return int(word, 16) % 10


def _folders(root: pathlib.Path) -> list[str]:
  with os.scandir(root) as entries:
    names = [e.name for e in entries if e.is_dir()]
  return sorted(name for name in names if not name.startswith('.'))


def _classes(place: str, root: pathlib.Path) -> tuple[list[str], Files]:
  """Names of the classes in a folder, and their pictures in order."""
  classes = _folders(root)
  if len(classes) < 2:
    raise DataError(
      f'the data set {place!r} has {len(classes)} class folders in {root} but'
      ' needs at least 2: a folder for each class, with its pictures in it.'
    )
  names, labels = [], []
  for label, name in enumerate(classes):
    with os.scandir(root / name) as entries:
      mine = sorted(
        e.name
        for e in entries
        if e.name.lower().endswith(_SUFFIXES) and not e.name.startswith('.')
      )
    if not mine:
      raise DataError(
        f'the class folder {root / name} has no pictures'
        f' ({", ".join(_SUFFIXES)}); add some, or remove it.'
      )
    names += [f'{name}/{file}' for file in mine]
    labels += [label] * len(mine)
  return classes, Files(tuple(names), np.array(labels, np.int32))


def _same(place: str, classes: list[str], root: pathlib.Path) -> Files:
  """The pictures of a folder whose classes are to be these."""
  found, files = _classes(place, root)
  for more, fewer, lacking in (
    (found, classes, 'train'),
    (classes, found, root.name),
  ):
    if missing := [name for name in more if name not in fewer]:
      raise DataError(
        f'the data set {place!r} has no class {missing[0]!r} in {lacking}, but'
        ' its splits must have the same classes; add it, or remove the other.'
      )
  return files
