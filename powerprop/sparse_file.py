"""Sparse weights as a file: what masks leave, and which weights these are.

The one room of the library that reads and writes files. They are safetensors:
any program that reads these finds the values and the packed masks by name.
"""

from collections.abc import Iterator, Mapping
import hashlib
import json
import os
import pathlib
import types
from typing import Any, NamedTuple

import jax
import numpy as np

from powerprop.methods import patterns

_FORMAT = 'powerprop.sparse'
_VERSION = 1
_GROUPS = (2, 4, 8, 16, 32)  # the m of the n:m that are looked for
_SKIP = 255  # in gaps: so many weights are left out, and the gap goes on

Arrays = dict[str, np.ndarray]


class Sparse(NamedTuple):
  """A net of few weights; trees are nested dicts of NumPy arrays.

  Attributes:
    params: w = θ ⊙ M, as the net's `apply` takes it.
    state: the net's own, such as moving averages; {} where it has none.
    masks: by path, 'module/name', bool of the leaf's shape; leaves without an
      entry are dense.
    meta: what whoever wrote the file says of the net.
  """

  params: Any
  state: Any
  masks: dict[str, np.ndarray]
  meta: dict[str, Any]


class Leaf(NamedTuple):
  """How a leaf lies in a file.

  Attributes:
    keys: ('params', 'module', 'name'), or of 'state'.
    at: what its tensors are called, before any suffix.
    shape: of the leaf.
    dtype: of the leaf.
    kind: 'dense', without a mask; 'full', with a mask of ones; 'bits', a bit
      for every weight; 'gaps', a byte for every weight that is kept; 'N:M', the
      index of every weight that is kept among its M.
    kept: number of its values that are stored.
    size: bytes of what is stored.
  """

  keys: tuple[str, ...]
  at: str
  shape: tuple[int, ...]
  dtype: str
  kind: str
  kept: int
  size: int

  @property
  def path(self) -> str:
    """'module/name', as masks are called."""
    return '/'.join(self.keys[1:])


def save_sparse(
  path: str | os.PathLike[str],
  params: Any,
  masks: Mapping[str, Any],
  *,
  state: Any = None,
  meta: Mapping[str, Any] | None = None,
) -> None:
  """Writes the weights that masks leave, whole or not at all.

  A leaf's mask takes the smallest of a bit for every weight, a byte for every
  weight that is kept, and, where it keeps n of every m inputs, their indices.

  Args:
    path: of the file, .safetensors by custom.
    params: w or θ, a nested dict of arrays, as Haiku's; of any dtype.
    masks: by path, 'module/name', as `prune` and the methods give them: bool or
      zeros and ones. What they leave out is zero in the file, whatever it is in
      `params`.
    state: the net's state, a nested dict of arrays; None is no state.
    meta: of JSON: whatever a reader is to know of the net.

  Raises:
    ImportError: if safetensors is not installed.
    ValueError: if a tree has other nodes than dicts, a mask fits no leaf, or
      `meta` is no JSON.
  """
  library = _safetensors()
  tensors, contents = _pack(params, masks, state, meta)
  text = json.dumps(contents, sort_keys=True)
  about = {
    'format': _FORMAT,
    'version': str(_VERSION),
    'contents': text,
    'sha256': _digest(text, tensors),
  }
  path = pathlib.Path(path)
  part = path.with_name(path.name + '.part')
  try:
    with open(part, 'wb') as file:
      file.write(library.numpy.save(tensors, about))
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


def load_sparse(path: str | os.PathLike[str]) -> Sparse:
  """Reads what `save_sparse` has written, to the bit.

  Args:
    path: of the file.

  Returns:
    The net: `params` go into its `apply` as they are.

  Raises:
    FileNotFoundError: there is no such file.
    ImportError: if safetensors is not installed.
    ValueError: it is damaged, of another version, or no such file.
  """
  tensors, known, meta = _read(path)
  out: dict[str, Any] = {'params': {}, 'state': {}}
  masks = {}
  for leaf in known:
    try:
      x, mask = _decode(leaf, tensors)
    except (IndexError, KeyError, TypeError, ValueError):
      raise ValueError(
        f'{path} has not the shapes that it says it has, at {leaf.path}: write'
        ' it again.'
      ) from None
    *folders, last = leaf.keys
    at = out
    for key in folders:
      at = at.setdefault(key, {})
    at[last] = x
    if mask is not None:
      masks[leaf.path] = mask
  return Sparse(masks=masks, meta=meta, **out)


def leaves(path: str | os.PathLike[str]) -> list[Leaf]:
  """How the leaves of a file lie in it; raises what `load_sparse` does."""
  return _read(path)[1]


def _safetensors() -> types.ModuleType:
  """The package, which the library does without otherwise."""
  try:
    import safetensors
    import safetensors.numpy
  except ImportError as e:
    raise ImportError(
      'files of sparse weights need the package safetensors: pip install'
      " 'powerprop[export]'"
    ) from e
  return safetensors


def _pack(params, masks, state, meta) -> tuple[Arrays, dict[str, Any]]:
  """The tensors of a file, and what is said of them."""
  masks = {name: np.asarray(m) for name, m in masks.items()}
  tensors: Arrays = {}
  entries: list[Leaf] = []
  found = set()
  trees = {'params': params, 'state': {} if state is None else state}
  for root, tree in trees.items():
    for keys, leaf in _leaves(root, tree):
      x = np.asarray(leaf)
      name = '/'.join(keys)
      mask = masks.get(name) if root == 'params' else None
      if mask is not None:
        if mask.shape != x.shape or name in found:
          raise ValueError(
            f'the mask of {name!r} has the shape {list(mask.shape)}, but must'
            f' have that of one leaf of params, {list(x.shape)}'
          )
        found.add(name)
        if not np.all((mask == 0) | (mask == 1)):
          raise ValueError(f'the mask of {name!r} must be of zeros and ones')
      kind, parts = _encode(name, x, None if mask is None else mask != 0)
      size = sum(part.nbytes for part in parts.values())
      at = f'{root}/{name}'
      if any(at + suffix in tensors for suffix in parts):
        at += f'/{len(entries)}'  # two ways to the same name
      for suffix, part in parts.items():
        tensors[at + suffix] = part
      kept = (parts[''] if '' in parts else parts['.values']).size
      leaf = Leaf((root, *keys), at, x.shape, x.dtype.name, kind, kept, size)
      entries.append(leaf)
  if lost := [name for name in masks if name not in found]:
    raise ValueError(
      f'there is a mask of {lost[0]!r}, but params has no such leaf'
    )
  try:
    meta = json.loads(json.dumps(dict(meta or {}), allow_nan=False))
  except (TypeError, ValueError) as e:
    raise ValueError(f'meta must be of JSON, but {e}') from None
  return tensors, {'leaves': entries, 'meta': meta}


def _leaves(root: str, tree: Any) -> Iterator[tuple[list[str], Any]]:
  """The keys to every leaf, and the leaf."""
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    keys = [getattr(step, 'key', None) for step in path]
    if not keys or not all(isinstance(key, str) for key in keys):
      raise ValueError(
        f'{root}{jax.tree_util.keystr(path)} is in a tree that is not of'
        ' dicts: only such trees can be saved'
      )
    yield [str(key) for key in keys], leaf


def _read(path) -> tuple[Arrays, list[Leaf], dict[str, Any]]:
  """The tensors of a file and what it says of them, once it is known whole."""
  if not os.path.isfile(path):
    raise FileNotFoundError(f'There is no file {path}.')
  library = _safetensors()
  try:
    with library.safe_open(path, 'numpy') as file:
      about = file.metadata() or {}
      if about.get('format') != _FORMAT:
        about = {}
      tensors = {n: file.get_tensor(n) for n in file.keys() if about}
  except (OSError, ValueError, TypeError, library.SafetensorError) as e:
    why = ' '.join(str(e).split())[:200]
    raise ValueError(
      f'{path} is damaged, cut off, or no safetensors file ({why}): write it'
      ' again.'
    ) from None
  if not about:
    raise ValueError(
      f'{path} is a safetensors file, but none of powerprop.save_sparse: read'
      ' it with the package safetensors.'
    )
  if about.get('version') != str(_VERSION):
    raise ValueError(
      f'{path} is of version {about.get("version")} of its format, but this'
      f' powerprop reads version {_VERSION}: install the one that wrote it.'
    )
  if about.get('sha256') != _digest(about.get('contents', ''), tensors):
    raise ValueError(
      f'{path} is damaged: its checksum does not match; write it again.'
    )
  try:
    contents = json.loads(about['contents'])
    known = [
      Leaf(tuple(keys), at, tuple(shape), *rest)
      for keys, at, shape, *rest in contents['leaves']
    ]
    return tensors, known, contents['meta']
  except (KeyError, TypeError, ValueError):
    raise ValueError(
      f'{path} does not say what is in it: write it again.'
    ) from None


def _digest(text: str, tensors: Arrays) -> str:
  """SHA-256 of all that a file holds."""
  h = hashlib.sha256(f'{_FORMAT} {_VERSION} {text}'.encode())
  for name in sorted(tensors):
    x = tensors[name]
    h.update(f'\0{name}\0{list(x.shape)}\0{x.dtype.name}\0'.encode())
    h.update(np.ascontiguousarray(x).tobytes())
  return h.hexdigest()


def _plain(x: np.ndarray) -> np.ndarray:
  """The same bits; what safetensors has no name for, as unsigned integers."""
  x = np.ascontiguousarray(x).reshape(x.shape)  # of no axes it would make one
  return x.view(f'u{x.dtype.itemsize}') if x.dtype.kind == 'V' else x


def _encode(
  name: str, x: np.ndarray, mask: np.ndarray | None
) -> tuple[str, Arrays]:
  """What is stored of a leaf: its kind, and the tensors by their suffix."""
  if mask is None or mask.all():
    return 'dense' if mask is None else 'full', {'': _plain(x)}
  values = _plain(x[mask])
  found = {
    'bits': {'.mask': np.packbits(mask), '.values': values},
    'gaps': {'.gaps': _gaps(mask), '.values': values},
  }
  for m in _GROUPS:
    try:
      places = _groups(name, x.shape, m)
    except ValueError:
      continue  # it has no such groups
    kept = mask.reshape(-1)[places]
    n = int(kept[0].sum())
    if not n or np.any(kept.sum(1) != n):
      continue
    index = np.nonzero(kept)[1].astype(np.uint8)
    bits = np.unpackbits(index[:, None], 1)[:, 8 - _width(m) :]
    in_groups = _plain(x.reshape(-1)[places[kept]])
    of_groups = {'.indices': np.packbits(bits), '.values': in_groups}
    found = {f'{n}:{m}': of_groups} | found
  size = lambda kind: sum(part.nbytes for part in found[kind].values())
  kind = min(found, key=size)  # of equals the first: n:m
  return kind, found[kind]


def _decode(
  leaf: Leaf, tensors: Arrays
) -> tuple[np.ndarray, np.ndarray | None]:
  """A leaf and its mask, which is None where it is dense."""
  part = lambda suffix: tensors[leaf.at + suffix]
  shape, dtype, kind = leaf.shape, np.dtype(leaf.dtype), leaf.kind
  if kind in ('dense', 'full'):
    x = part('')
    if x.shape != shape:
      raise ValueError
    mask = np.ones(shape, bool) if kind == 'full' else None
    return x.view(dtype).copy(), mask
  values = part('.values').view(dtype)
  x, mask = np.zeros(shape, dtype), np.zeros(shape, bool)
  if kind == 'bits':
    places = np.flatnonzero(_bits(part('.mask'), mask.size))
  elif kind == 'gaps':
    gaps = part('.gaps')
    ends = np.cumsum(gaps, dtype=np.int64)[gaps != _SKIP]
    places = ends + np.arange(ends.size)
  else:
    n, m = map(int, kind.split(':'))
    of_groups = _groups(leaf.path, shape, m)
    number, width = n * len(of_groups), _width(m)
    bits = _bits(part('.indices'), number * width).reshape(number, width)
    index = np.packbits(bits, 1) >> (8 - width)
    places = np.take_along_axis(of_groups, index.reshape(-1, n), 1).ravel()
  mask.reshape(-1)[places] = True
  if not mask.sum() == places.size == values.size:
    raise ValueError
  x.reshape(-1)[places] = values
  return x, mask


def _bits(packed: np.ndarray, count: int) -> np.ndarray:
  if packed.size != -(-count // 8):
    raise ValueError
  return np.unpackbits(packed, count=count)


def _width(m: int) -> int:
  """Bits of an index below m."""
  return (m - 1).bit_length()


def _gaps(mask: np.ndarray) -> np.ndarray:
  """How many weights are left out before each that is kept; uint8.

  A gap of 255 or more has bytes of 255 before the rest of it.
  """
  kept = np.flatnonzero(mask)
  gaps = np.diff(kept, prepend=-1) - 1
  out = np.full(int(np.sum(gaps // _SKIP + 1)), _SKIP, np.uint8)
  out[np.cumsum(gaps // _SKIP + 1) - 1] = gaps % _SKIP
  return out


def _groups(name: str, shape: tuple[int, ...], m: int) -> np.ndarray:
  """Where the weights of every group of m inputs are; ints [groups, m]."""
  if len(shape) < 2 or not (size := int(np.prod(shape))):
    raise ValueError
  order = patterns.find_axes(name, shape).order(len(shape))
  places = np.arange(size).reshape(shape).transpose(order)
  *rest, inputs, outputs = places.shape
  places = places.reshape(*rest, inputs // m, m, outputs)  # if m divides them
  return np.moveaxis(places, -2, -1).reshape(-1, m)
