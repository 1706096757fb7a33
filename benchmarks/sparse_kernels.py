"""What a sparse kernel makes of few weights on this processor."""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax.experimental import sparse as jax_sparse
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from benchmarks import timing

_CALLS = 10  # of a program, each time that it is timed
# Inputs and outputs of every layer that runs after another, and how many rows
# of its input there are for each picture.
NETS: dict[str, tuple[int, tuple[tuple[int, int], ...]]] = {
  'LeNet-300-100': (1, ((784, 300), (300, 100), (100, 10))),
  '1000×1000': (1, ((1000, 1000),)),
  # A 3x3 convolution of 64 channels on 8x8 places, as slices and a product.
  'conv 3×3, 64 to 64': (64, ((576, 64),)),
}


def latency(
  say: timing.Say,
  nets: dict[str, tuple[int, tuple[tuple[int, int], ...]]] | None = None,
  sparsities: tuple[float, ...] = (0.8, 0.9, 0.95, 0.99),
  batches: tuple[int, ...] = (1, 128),
  rounds: int = 5,
) -> timing.Table:
  """Products with sparse matrices, by real sparse kernels, against dense ones.

  Args:
    say: told what is going on.
    nets: by name; None is `NETS`.
    sparsities: shares of the weights that are zero, in [0, 1).
    batches: numbers of pictures, ≥ 1.
    rounds: how often each is timed, ≥ 1.

  Returns:
    Four rows for each net, sparsity and batch. The ratio is to jax's dense
    product of the masked weights, in the same process.
  """
  rows = []
  for name, (places, layers) in (NETS if nets is None else nets).items():
    for sparsity in sparsities:
      weights = _weights(layers, 1 - sparsity)
      for batch in batches:
        say(f'{name}, {sparsity:.0%}, batch {batch}')
        x = np.random.default_rng(1).normal(size=(places * batch, layers[0][0]))
        timed: dict[str, Any] = {
          what: functools.partial(_repeated, program)
          for what, program in programs(weights, x.astype(np.float32)).items()
        }
        found = timing.compare(timed, 'dense, jax', rounds, say)
        rows += [
          {
            'net': name,
            'zeros': f'{sparsity:.0%}',
            'batch': batch,
            'what': what,
            'ms': 1e3 * t.seconds / _CALLS,
            **timing.ratio_cells(t),
          }
          for what, t in found.items()
        ]
  return timing.Table(
    'Sparse kernels on the CPU, against dense products of the same weights',
    (
      'Layers with ReLU between them, no biases, float32, random masks. CSR is'
      " scipy.sparse's, of one thread; BCSR jax.experimental.sparse's, jitted."
      ' Above 1 is slower than the dense product.',
    ),
    rows,
  )


def programs(
  weights: list[np.ndarray], x: np.ndarray
) -> dict[str, Callable[[], Any]]:
  """Programs of no arguments that give the same, to rounding.

  Args:
    weights: of each layer, [inputs, outputs], mostly zeros.
    x: [rows, inputs].
  """
  # Both kernels want the sparse matrix on the left: wᵀ xᵀ.
  csr = [scipy.sparse.csr_array(w.T) for w in weights]
  bcsr = [jax_sparse.BCSR.from_scipy_sparse(w) for w in csr]
  columns = np.ascontiguousarray(x.T)

  def forward(layers, product, relu, x):
    for i, w in enumerate(layers):
      x = product(w, x if not i else relu(x))
    return x

  relu = lambda x: np.maximum(x, 0, out=x)
  dense = jax.jit(
    functools.partial(forward, product=lambda w, x: x @ w, relu=jax.nn.relu)
  )
  sparse = jax.jit(
    functools.partial(forward, product=lambda w, x: w @ x, relu=jax.nn.relu)
  )
  on_device = [jnp.asarray(w) for w in weights], jnp.asarray(x)
  turned = jnp.asarray(columns)
  return {
    'dense, jax': lambda: dense(on_device[0], x=on_device[1]),
    'dense, NumPy': lambda: forward(weights, lambda w, x: x @ w, relu, x),
    'CSR, scipy': lambda: forward(csr, lambda w, x: w @ x, relu, columns).T,
    'BCSR, jax': lambda: sparse(bcsr, x=turned).T,
  }


def _weights(
  layers: tuple[tuple[int, int], ...], density: float
) -> list[np.ndarray]:
  random = np.random.default_rng(0)
  out = []
  for shape in layers:
    kept = random.permutation(shape[0] * shape[1]) < round(
      density * shape[0] * shape[1]
    )
    w = random.normal(size=shape) * kept.reshape(shape)
    out.append(w.astype(np.float32))
  return out


def _repeated(program: Callable[[], Any]) -> Any:
  for _ in range(_CALLS):
    out = jax.block_until_ready(program())
  return out
