"""The trained weights and masks of a net, as arrays that NumPy alone reads.

Nothing in these files is pickled; `experiments.export` writes them, and the
smaller ones that have what the masks leave.
"""

from collections.abc import Iterator, Mapping
import hashlib
import io
import json
import os
import pathlib
from typing import Any, NamedTuple
import zipfile

import jax
import numpy as np

from experiments.report import files
from experiments.report import naming

_CONTENTS = 'contents'
_FORMAT = 1


class Weights(NamedTuple):
  """A trained net; trees are nested dicts of NumPy arrays, as Haiku has them.

  Attributes:
    params: w, as the net's `apply` takes it: Ψ(φ), masked.
    masks: by layer path, bool arrays; layers without an entry are dense.
    state: the net's own state, such as moving averages; {} where it has none.
    phi: what is stored and moved by the optimiser; not masked.
    alpha: the α that φ is to be read with.
  """

  params: Any
  masks: dict[str, np.ndarray]
  state: Any
  phi: Any
  alpha: float


def save(path: str | os.PathLike[str], weights: Weights) -> None:
  """Writes a net, whole or not at all.

  Args:
    path: of the file: an .npz whose arrays are called params/MODULE/NAME,
      masks/PATH, state/…, phi/… and alpha. Dtypes that NumPy lacks, such as
      bfloat16, are kept as unsigned integers of their size.
    weights: of any trees of nested dicts.

  Raises:
    ValueError: if a tree has other nodes than dicts.
  """
  arrays: dict[str, np.ndarray] = {}
  leaves = []
  for field, tree in weights._asdict().items():
    for keys, leaf in _leaves(field, tree):
      x = np.asarray(leaf)
      name = '/'.join((field, *keys))
      if name in arrays or name == _CONTENTS:
        name = f'{name}/{len(arrays)}'  # two ways to the same name
      leaves.append([name, [field, *keys], x.dtype.name])
      arrays[name] = x.view(f'u{x.dtype.itemsize}') if _is_foreign(x) else x
  text = json.dumps({'format': _FORMAT, 'leaves': leaves})
  arrays[_CONTENTS] = np.array([text, _digest(text, arrays)])
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)  # type: ignore[arg-type]
  files.write_atomically(pathlib.Path(path), buffer.getvalue())


def load(path: str | os.PathLike[str]) -> Weights:
  """Reads what `save` has written, to the bit.

  Args:
    path: of the file.

  Returns:
    The same trees, dtypes and bits.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or `save` has not written it.
  """
  try:
    # Opened here, since np.load leaves a damaged file open.
    with open(path, 'rb') as file:
      # Before NumPy, which would believe a damaged header.
      if broken := zipfile.ZipFile(file).testzip():
        raise ValueError(f'{broken} in it is not what was written')
      file.seek(0)
      stored = np.load(file, allow_pickle=False)
      arrays = {name: stored[name] for name in stored.files}
    text, digest = map(str, arrays.pop(_CONTENTS))
    if digest != _digest(text, arrays):
      raise ValueError('its checksum does not match')
    contents = json.loads(text)
    if contents['format'] != _FORMAT:
      raise ValueError('it is of another version of this program')
    trees: dict[str, Any] = {name: {} for name in Weights._fields}
    for name, keys, dtype in contents['leaves']:
      x = arrays[name]
      *folders, last = keys
      at = trees
      for key in folders:
        at = at.setdefault(key, {})
      at[last] = x if x.dtype.name == dtype else x.view(np.dtype(dtype))
    return Weights(**trees | {'alpha': float(trees['alpha'])})
  except (FileNotFoundError, MemoryError):
    raise
  except Exception as e:  # damage surfaces as whatever zipfile or NumPy meet
    why = ' '.join(str(e).split())[:200] or type(e).__name__
    raise ValueError(
      f'{path} is damaged, or no file of weights ({why}); write it again by'
      ' python -m experiments.export.'
    ) from None


def _leaves(field: str, tree: Any) -> Iterator[tuple[list[str], Any]]:
  """The keys to every leaf, and the leaf."""
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    keys = [getattr(step, 'key', None) for step in path]
    if not all(isinstance(key, str) for key in keys):
      raise ValueError(
        f'{field}{jax.tree_util.keystr(path)} is in a tree that is not of'
        ' dicts: only such trees can be saved.'
      )
    yield [str(key) for key in keys], leaf


def _is_foreign(x: np.ndarray) -> bool:
  """Whether NumPy does not know the dtype, and would write it as void."""
  return x.dtype.kind == 'V'


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
  h = hashlib.sha256(text.encode())
  for name in sorted(arrays):
    x = arrays[name]
    h.update(f'{name}{x.shape}{x.dtype}'.encode())
    h.update(np.ascontiguousarray(x).tobytes())
  return h.hexdigest()


def names(workdir: str | os.PathLike[str]) -> list[str]:
  """The nets of a finished run, as `of_run` takes them.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: a file of the run cannot be read.
  """
  results, _ = files.load(workdir)
  rows = [r for r in results['rows'] if not r.get('search')]
  return list(dict.fromkeys(naming.net_name(row) for row in rows))


def of_run(
  workdir: str | os.PathLike[str],
  name: str,
  task: int | None = None,
  data_dir: str | None = None,
) -> Weights:
  """A net of a finished run, from its last checkpoint.

  Args:
    workdir: the run's folder, with its checkpoints.
    name: of `names`.
    task: from 0, of a run that learned several; None elsewhere.
    data_dir: where TFDS's prepared data lie; None for TFDS's default.

  Returns:
    Its weights.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: there is no such net or task, or a file cannot be read.
    RuntimeError: a checkpoint is missing or damaged.
  """
  known = names(workdir)
  if name not in known:
    raise ValueError(
      f'{workdir} has no net {name!r}; python -m experiments.export --workdir='
      f'{workdir} lists them.'
    )
  results, _ = files.load(workdir)
  several = 'num_tasks' in results
  if several != (task is not None):
    raise ValueError(
      f'{workdir} has learned'
      f' {"several tasks: say which by" if several else "one task: leave out"}'
      ' --task.'
    )
  part = files.part_of(results, 'run')
  args = (pathlib.Path(workdir), name, *([task] if several else []))
  return part.weights(*args, data_dir=data_dir)
