"""A net as ONNX, by jax2onnx, held to what JAX answers."""

import importlib
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.export import nets
from experiments.report import files
from powerprop.sparse_file import Sparse

_CLOSE = 1e-5  # of the largest logit
_BATCHES = (1, 3)


def save(path: str | os.PathLike[str], found: Sparse) -> float:
  """Writes a net as ONNX, with its masked weights as dense initialisers.

  The input is float32 [batch, H, W, C], pixels from 0 to 1 (or what the net was
  trained on), of any batch size; the output is the logits. Before anything is
  written, onnxruntime answers some pictures, which must be what JAX does.

  Args:
    path: of the file.
    found: of a file of `python -m experiments.export`.

  Returns:
    The largest difference of a logit, relative to the largest logit.

  Raises:
    ImportError: if jax2onnx or onnxruntime is not installed.
    ValueError: if the net cannot be written as ONNX, or would answer otherwise.
  """
  net = nets.made(found.meta)
  try:
    jax2onnx = importlib.import_module('jax2onnx')
    onnxruntime = importlib.import_module('onnxruntime')
  except ImportError as e:
    raise ImportError(
      f'ONNX needs jax2onnx and onnxruntime ({e}): pip install'
      " 'powerprop[onnx]' into an environment of its own."
    ) from None
  shape = tuple(found.meta['image_shape'])
  params, state = jax.tree.map(jnp.asarray, (found.params, found.state))

  def logits(x: jax.Array) -> jax.Array:
    return net.apply(params, state, None, x, is_training=False)[0]

  far = 0.0
  try:
    model = jax2onnx.to_onnx(logits, inputs=[('batch', *shape)])
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(
      content, providers=['CPUExecutionProvider']
    )
    name = session.get_inputs()[0].name
    for size in _BATCHES:
      x = np.random.default_rng(0).uniform(size=(size, *shape))
      x = x.astype(np.float32)
      (given,) = session.run(None, {name: x})
      far = max(far, _distance(given, logits(jnp.asarray(x))))
  except Exception as e:  # whatever the two packages meet
    why = ' '.join(str(e).split())[:200] or type(e).__name__
    raise ValueError(
      f'the network {found.meta["network"]!r} cannot be written as ONNX'
      f' ({why}); docs/export.md has the nets that can.'
    ) from None
  if not far <= _CLOSE:
    raise ValueError(
      f'as ONNX the network {found.meta["network"]!r} answers otherwise, by'
      f' {far:.2g} of its largest logit: nothing was written.'
    )
  files.write_atomically(pathlib.Path(path), content)
  return far


def _distance(given: Any, wanted: Any) -> float:
  wanted = np.asarray(wanted).astype(np.float64)
  if np.shape(given) != wanted.shape:
    return np.inf
  return float(np.max(np.abs(given - wanted)) / np.max(np.abs(wanted)))
