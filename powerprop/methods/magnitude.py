"""One-shot pruning by magnitude, per layer, without retraining."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import trees
from powerprop.types import Params, Where


def counts(
  theta: Params,
  densities: Sequence[float],
  scales: Mapping[str, float] | None = None,
  where: Where = trees.is_weight,
) -> dict[str, np.ndarray]:
  """How many weights of each layer are kept at each density.

  Args:
    theta: parameters (or their shapes).
    densities: D shares kept, each in (0, 1].
    scales: by layer path, a factor on the density, which is capped at 1; the
      authors' release keeps min(1, 2·density) of the output layer.
    where: which leaves are pruned; the others stay dense.

  Returns:
    By layer path, int32 [D]: ⌊size·density + ½⌋, at least 1.

  Raises:
    ValueError: if a density is out of range.

  Example:
    >>> counts({'w': np.zeros((10, 10))}, [1., .1, .001])['w'].tolist()
    [100, 10, 1]
  """
  scales = scales or {}
  for density in densities:
    trees.check_density('density', density)
  return {
    name: np.array(
      [
        trees.kept(x.size, min(1.0, d * scales.get(name, 1.0)))
        for d in densities
      ],
      np.int32,
    )
    for name, x in trees.weights(theta, where).items()
  }


def masks(
  phi: Params,
  kept: Mapping[str, jax.Array],
  where: Where = trees.is_weight,
) -> dict[str, jax.Array]:
  """Boolean masks of each layer's largest weights.

  |θ| rises with |φ|, so φ is ranked: large powers of small numbers underflow
  into ties.

  Args:
    phi: stored parameters φ of one α.
    kept: by layer path, how many to keep, a scalar (one density of `counts`);
      exact, ties broken by index.
    where: as in `counts`.

  Returns:
    By layer path, a boolean array of the layer's shape.

  Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 3.
  """
  layers = trees.weights(phi, where)
  return trees.top_k_masks(layers, {name: kept[name] for name in layers})


def prune(theta: Params, layer_masks: Mapping[str, jax.Array]) -> Params:
  """w = θ ⊙ M on the masked layers; the others stay as they are."""
  flat = trees.weights(theta, lambda path, _: path in layer_masks)
  return trees.replace_weights(
    theta,
    # Not a product: what is masked may be anything, NaN as well.
    {n: jnp.where(layer_masks[n], x, 0) for n, x in flat.items()},
  )
