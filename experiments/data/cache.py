"""Decoded arrays in the user's cache folder: one file per data set.

The file is an uncompressed .npz, whose CRC-32 of every array tells damage. A
cache is a convenience: whatever is wrong with it is logged and costs time only.
"""

from collections.abc import Iterable, Mapping
import hashlib
import json
import os
import stat
import tempfile
from typing import Any

from absl import logging
import numpy as np

_FORMAT = 1  # Raise it when the meaning of the arrays changes.
_FINGERPRINT = 'fingerprint'


def user_folder() -> str:
  """Returns `powerprop` in `$XDG_CACHE_HOME`, else in `~/.cache`.

  A user without a home has one in the folder for temporary files.
  """
  root = os.environ.get('XDG_CACHE_HOME', '')
  if not os.path.isabs(root):  # The XDG specification ignores relative paths.
    home = os.path.expanduser('~')
    if not os.path.isabs(home):
      return _temporary()
    root = os.path.join(home, '.cache')
  return os.path.join(root, 'powerprop')


def _temporary() -> str:
  """A folder that belongs to this user alone: programs are loaded from it."""
  folder = os.path.join(tempfile.gettempdir(), f'powerprop-{os.getuid()}')
  try:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.lstat(folder)
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
      return folder
  except OSError:
    pass
  return tempfile.mkdtemp(prefix='powerprop-')


def directory() -> str:
  """Returns the folder of decoded data in `user_folder`."""
  return os.path.join(user_folder(), 'data')


def path(name: str, version: str, folder: str) -> str:
  """Returns the cache file of the data set that is prepared in `folder`."""
  place = hashlib.sha256(os.path.abspath(folder).encode()).hexdigest()[:8]
  return os.path.join(directory(), f'{name}-{version}-{place}.npz')


def fingerprint(folder: str) -> str:
  """Returns a digest of the names, sizes and times of a folder's files."""
  with os.scandir(folder) as entries:
    stats = [(e.name, e.stat()) for e in entries]
  files = sorted((name, s.st_size, s.st_mtime_ns) for name, s in stats)
  return hashlib.sha256(json.dumps([_FORMAT, files]).encode()).hexdigest()


def read(
  file: str, expected: str, names: Iterable[str]
) -> dict[str, np.ndarray] | None:
  """Returns the arrays of a cache file.

  Args:
    file: a path from `path`.
    expected: the fingerprint of the files that the arrays were decoded from.
    names: of the arrays to read.

  Returns:
    The arrays by name; None if there is no such file, or it is damaged or of
    other files.
  """
  try:
    # Opened here, since np.load leaves a damaged file open.
    with open(file, 'rb') as f, np.load(f, allow_pickle=False) as stored:
      if str(stored[_FINGERPRINT]) != expected:
        logging.info('%s is out of date; decoding again.', file)
        return None
      return {name: stored[name] for name in names}
  except (FileNotFoundError, NotADirectoryError):
    return None
  except MemoryError:
    raise
  except Exception as e:  # Damage surfaces as whatever zipfile or NumPy meet.
    logging.warning(
      'The cache %s is damaged or unreadable (%s); decoding again.', file, e
    )
    return None


def write(
  file: str, fingerprint_: str, arrays: Mapping[str, np.ndarray]
) -> None:
  """Writes a cache file in one step; logs a warning where it cannot.

  Args:
    file: a path from `path`.
    fingerprint_: of the files that the arrays were decoded from.
    arrays: what `read` is to return.
  """
  contents: dict[str, Any] = {_FINGERPRINT: np.array(fingerprint_), **arrays}
  temporary = None
  try:
    os.makedirs(os.path.dirname(file), exist_ok=True)
    handle, temporary = tempfile.mkstemp(
      dir=os.path.dirname(file), prefix=os.path.basename(file), suffix='.tmp'
    )
    with os.fdopen(handle, 'wb') as f:
      np.savez(f, **contents)
    os.replace(temporary, file)
    temporary = None
  # A full disk surfaces as ValueError where zipfile then closes the archive.
  except (OSError, ValueError) as e:
    logging.warning(
      'Decoded data cannot be cached in %s (%s); they will be decoded each'
      ' time: free some space there or set XDG_CACHE_HOME.',
      os.path.dirname(file),
      e,
    )
  finally:
    if temporary is not None:
      try:
        os.remove(temporary)
      except OSError:
        pass
