"""What a file takes, as Markdown."""

import gzip
import os
import pathlib
from typing import Any

import jax
import numpy as np

from experiments.report import markup
from experiments.report.weights import Weights
from powerprop import reparam
from powerprop import sparse_file
from powerprop.sparse_file import Sparse


def sizes(path: str | os.PathLike[str], kept: Sparse, found: Weights) -> str:
  """Bytes of the net as it is, and as files.

  Args:
    path: of a file of sparse weights.
    kept: what lies in it.
    found: the net that it comes from.

  Returns:
    Markdown. Dense are the arrays of the net, masked or not, and of its state.
  """
  masked = _bytes((found.params, found.state))
  dense = len(masked)
  rows = [('dense', dense), ('this file', pathlib.Path(path).stat().st_size)]
  theta = reparam.to_theta(found.phi, found.alpha)
  shapes = lambda tree: jax.tree.map(np.shape, tree)
  # Where φ has other leaves (VCL's), θ is none of a net.
  if shapes(theta) == shapes(found.params):
    rows.append(('gzip -9 of dense', _gzipped(_bytes((theta, found.state)))))
  rows.append(('gzip -9 of masked dense', _gzipped(masked)))
  body = [[what, f'{n:,}', f'{n / dense:.3f}'] for what, n in rows]
  return markup.grid(body, ('what', 'bytes', 'of dense'))


def layers(path: str | os.PathLike[str]) -> str:
  """How many weights of which layer are left, and how they lie in a file."""
  body = []
  rest = [0, 0]
  for leaf in sparse_file.leaves(path):
    size = int(np.prod(leaf.shape))
    if leaf.kind == 'dense':
      rest = [rest[0] + size, rest[1] + leaf.size]
      continue
    shape = '×'.join(map(str, leaf.shape))
    share = f'{leaf.kept / size:.2%}' if size else '–'
    body.append(
      [leaf.path, shape, f'{leaf.kept:,}', share, leaf.kind, f'{leaf.size:,}']
    )
  body.append(
    ['all without a mask', '', f'{rest[0]:,}', '', '', f'{rest[1]:,}']
  )
  head = ('layer', 'shape', 'kept', 'density', 'stored as', 'bytes')
  return markup.grid(body, head)


def _bytes(tree: Any) -> bytes:
  return b''.join(np.asarray(x).tobytes() for x in jax.tree.leaves(tree))


def _gzipped(content: bytes) -> int:
  return len(gzip.compress(content, 9, mtime=0))
