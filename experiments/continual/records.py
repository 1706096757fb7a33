"""What a sequence leaves on the disk: a file for each task, and its rows."""

from collections.abc import Mapping, Sequence
import hashlib
import io
import json
import pathlib
from typing import Any, NamedTuple
import zipfile
import zlib

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments.continual import analysis as continual_analysis
from experiments.engine import runs
from experiments.report import files

_DIGEST = 'sha256'
_BLOCK = 1 << 13  # bytes of masks that are compared at a time
# What reading a file raises that is not what was written.
_DAMAGES = (
  ValueError,
  OSError,
  EOFError,
  KeyError,
  TypeError,
  RuntimeError,  # an encrypted archive; NotImplementedError is one as well
  zipfile.BadZipFile,
  zlib.error,
)


class Lived(NamedTuple):
  """A finished cell.

  Attributes:
    name: its folder below the run's `cells`.
    rows: one for each member and task.
    arrays: accuracies and use by layer, by member and name.
    seconds: that it took.
    stopped: sentences about members that ran out of weights.
    wall_seconds: that the run had taken when it was finished; 0 where a folder
      of an older version does not say.
  """

  name: str
  rows: list[dict[str, Any]]
  arrays: dict[str, np.ndarray]
  seconds: float
  stopped: list[str]
  wall_seconds: float = 0.0


def _task_file(folder: pathlib.Path, task: int) -> pathlib.Path:
  return folder / 'tasks' / f'{task:04d}.npz'


def write_task(folder: pathlib.Path, task: int, record: Any) -> None:
  """Writes what is kept of a task, with a checksum.

  Args:
    folder: of the cell.
    task: from 0.
    record: a tree of arrays: masks are bits already.
  """
  leaves = [np.asarray(x) for x in jax.tree.leaves(record)]
  if not leaves:
    return
  arrays = {f'{i:04d}': x for i, x in enumerate(leaves)}
  buffer = io.BytesIO()
  np.savez(buffer, **arrays, **{_DIGEST: np.array(_digest(task, leaves))})  # type: ignore[arg-type]
  files.write_atomically(_task_file(folder, task), buffer.getvalue())


def read_task(folder: pathlib.Path, task: int, like: Any) -> Any:
  """Reads what is kept of a task.

  Args:
    folder: of the cell.
    task: from 0.
    like: a tree of the same shapes and dtypes.

  Returns:
    The record, on the device.

  Raises:
    runs.RunError: if the file is missing, or is not what was written.
  """
  wanted, treedef = jax.tree.flatten(like)
  if not wanted:
    return like
  path = _task_file(folder, task)
  remedy = (
    f'put it back from a copy, or delete {folder} to learn that sequence again.'
  )
  if not path.exists():
    there = len(list(path.parent.glob('*.npz')))
    raise runs.RunError(
      f'the checkpoint in {folder} has learned more tasks than there are files'
      f' of masks in {path.parent} ({there}): {path.name} is missing; {remedy}'
    )
  try:
    with np.load(path) as file:
      leaves = [file[f'{i:04d}'] for i in range(len(wanted))]
      if str(file[_DIGEST]) != _digest(task, leaves):
        raise ValueError('its checksum does not match')
  except _DAMAGES as e:
    raise runs.RunError(f'{path} is damaged ({e}); {remedy}') from None
  for x, old in zip(leaves, wanted, strict=True):
    if x.shape != old.shape or x.dtype != old.dtype:
      raise runs.RunError(
        f'{path} has an array {x.dtype}{list(x.shape)} where {old.dtype}'
        f'{list(old.shape)} was written; {remedy}'
      )
  return jax.tree.unflatten(treedef, [jnp.asarray(x) for x in leaves])


def write_measured(
  folder: pathlib.Path, task: int, found: Mapping[str, np.ndarray]
) -> None:
  """Writes what was measured after a task: arrays by name."""
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **found)  # type: ignore[arg-type]
  path = folder / 'measured' / f'{task:04d}.npz'
  files.write_atomically(path, buffer.getvalue())


def read_measured(folder: pathlib.Path, task: int) -> dict[str, np.ndarray]:
  """Reads what was measured after a task.

  Raises:
    runs.RunError: if the file is missing or damaged.
  """
  path = folder / 'measured' / f'{task:04d}.npz'
  try:
    with np.load(path) as file:  # a zip, which has checksums of its own
      return {name: file[name] for name in file.files}
  except _DAMAGES as e:
    raise runs.RunError(
      f'{path} is missing or damaged ({e}); put it back from a copy, or delete'
      f' {folder} to learn that sequence again.'
    ) from None


def _digest(task: int, leaves: Sequence[np.ndarray]) -> str:
  h = hashlib.sha256(str(task).encode())
  for x in leaves:
    h.update(f'{x.shape}{x.dtype}'.encode())
    h.update(np.ascontiguousarray(x).tobytes())
  return h.hexdigest()


def overlap(bits: np.ndarray) -> np.ndarray:
  """Jaccard overlap of masks, |A ∩ B| / |A ∪ B|.

  Args:
    bits: uint8 [T, bytes], as `numpy.packbits` has them.

  Returns:
    float32 [T, T]; 0 where both masks are empty.
  """
  both = np.zeros((len(bits), len(bits)))
  for i in range(0, bits.shape[1], _BLOCK):
    part = np.unpackbits(bits[:, i : i + _BLOCK], axis=1).astype(np.float32)
    both += part @ part.T
  sizes = np.diag(both)
  either = sizes[:, None] + sizes[None] - both
  return (both / np.maximum(either, 1)).astype(np.float32)


def write_lived(folder: pathlib.Path, lived: Lived) -> None:
  """Writes a finished cell: lived.npz, then lived.json."""
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **lived.arrays)  # type: ignore[arg-type]
  files.write_atomically(folder / 'lived.npz', buffer.getvalue())
  text = files.to_json(
    {
      'rows': lived.rows,
      'seconds': lived.seconds,
      'stopped': lived.stopped,
      'wall_seconds': lived.wall_seconds,
    }
  )
  files.write_atomically(folder / 'lived.json', text)


def read_lived(folder: pathlib.Path, name: str) -> Lived | None:
  """A cell that is finished; None where it is not, or its files are damaged."""
  if not (folder / 'lived.json').exists():
    return None
  try:
    found = json.loads((folder / 'lived.json').read_bytes())
    with np.load(folder / 'lived.npz') as file:
      arrays = {k: file[k] for k in file.files}
    return Lived(
      name,
      found['rows'],
      arrays,
      found['seconds'],
      found['stopped'],
      found.get('wall_seconds', 0.0),
    )
  except _DAMAGES as e:
    logging.warning(
      'lived.json or lived.npz in %s is damaged (%s): made again from the last'
      ' checkpoint.',
      folder,
      e,
    )
    return None


def summary(results: Mapping[str, Any], records: Mapping[str, np.ndarray]):
  """Measures of a run over its seeds; see `continual_analysis.summarise`."""
  rows = [r for r in results['rows'] if not r['search']]
  return continual_analysis.summarise(rows, records)
