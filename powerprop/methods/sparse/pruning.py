"""Pruning a trained net by magnitude, in one call."""

from typing import Any

import jax
import jax.numpy as jnp

from powerprop import trees
from powerprop.methods import magnitude
from powerprop.methods import masked
from powerprop.methods import targets
from powerprop.psi import Psi
from powerprop.types import Alpha, Params, Where


def prune(
  params: Params,
  density: float,
  distribution: str = 'uniform',
  *,
  alpha: Alpha = 1.0,
  where: Where = trees.is_weight,
  **options: Any,
) -> tuple[Params, dict[str, jax.Array]]:
  """Keeps the largest weights of a net, and sets the others to zero.

  Masks of φ are those of θ, so either may be pruned. Where leaves that are
  under Ψ and leaves that are not are ranked together, give θ.

  Args:
    params: any pytree of arrays: θ, or φ of one α.
    density: share of the weights that is kept, in (0, 1].
    distribution: 'uniform': the same share of every layer; 'erk', 'erdos_renyi'
      or 'global'; see `methods.make_target`.
    alpha: the power that params are φ of; 1 is θ. It only matters to patterns,
      whose units are ranked by Σ|θ|.
    where: which leaves are pruned; the others stay as they are.
    **options: of `methods.make_target`: `layer_densities`, `exclude`,
      `patterns`, `axes`, and `stem`, which is '' here: no layer stays dense
      for being the first.

  Returns:
    Params with zeros in place of what is gone, and by path boolean masks of
    what is left. Counts are exact: ⌊size·density + ½⌋ of a layer or, but for
    'uniform', of all; ties are broken by index.

  Raises:
    ValueError: if a value is out of range or unknown, no leaf is chosen, one is
      not floating, or one holds a NaN (unless traced).

  Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 3.

  Example:
    >>> import jax.numpy as jnp
    >>> net = {'w': jnp.array([[1., -4.], [3., 2.]]), 'b': jnp.ones(2)}
    >>> pruned, masks = prune(net, 0.5)
    >>> pruned['w'].tolist(), pruned['b'].tolist()
    ([[0.0, -4.0], [3.0, 0.0]], [1.0, 1.0])
    >>> masks['w'].tolist()
    [[False, True], [True, False]]
  """
  target = targets.make_target(
    params, density, distribution, where=where, **{'stem': '', **options}
  )
  for name, x in masked.leaves(target, params).items():
    known = not isinstance(x, jax.core.Tracer)
    if known and bool(jnp.any(jnp.isnan(x))):
      raise ValueError(
        f'{name} holds a NaN, which has no magnitude to prune by: it may have'
        ' diverged; lower the learning rate, or leave it out by where'
      )
  masks = largest(target, params, alpha, where)
  return magnitude.prune(params, masks), masks


def largest(
  target: targets.Target,
  phi: Params,
  alpha: Alpha,
  where: Where = trees.is_weight,
) -> dict[str, jax.Array]:
  """Masks of the largest weights.

  Args:
    target: how many of which layer.
    phi: stored parameters.
    alpha: with which to read them.
    where: which leaves live under Ψ.

  Returns:
    By layer path, boolean arrays.
  """
  brief = masked.Brief(target, steps=1)
  key = jax.random.key(0)  # magnitudes need none
  ranks = masked.scores(brief, 'magnitude', key, phi, Psi(alpha, where), {})
  return targets.select(target, ranks, 1.0)
