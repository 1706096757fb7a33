"""`adaptive_powerprop`: α that rises while the share of small weights does."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from powerprop import checks
from powerprop import reparam
from powerprop import trees
from powerprop.transforms import inner as inner_lib
from powerprop.transforms import target_propagation as target
from powerprop.types import Alpha, Params, Where


class AdaptiveState(NamedTuple):
  """State of `adaptive_powerprop`.

  Attributes:
    base: the wrapped `powerprop`'s state; its alpha is the current α.
    near_zero: float32, the share of weights in (−ε, ε) at the last change.
    initial_phase: bool, whether α still grows geometrically.
  """

  base: target.PowerpropState
  near_zero: jax.Array
  initial_phase: jax.Array


def near_zero_share(
  theta: Params, epsilon: float, where: Where = trees.is_weight
) -> jax.Array:
  """The share of weights in (−ε, ε): the report's sparsity.

  Args:
    theta: a pytree of weights θ (not φ: re-mapping moves φ).
    epsilon: ε > 0, in units of θ.
    where: which leaves count.

  Returns:
    A float32 scalar in [0, 1].

  Raises:
    ValueError: if `where` chooses none of the leaves.
  """
  checks.check_where(where)
  leaves = trees.weights(theta, where).values()
  # optax.tree.map_params asks for the state of a tree without any leaves.
  if not leaves and jax.tree.leaves(theta):
    raise ValueError(
      f'where is {checks.brief(where)} but chooses no leaf, so that no share of'
      ' small weights can be taken; let it choose one at least.'
    )
  # A small ε would be zero in half precision.
  wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in leaves]
  small = sum(jnp.sum(jnp.abs(x) < epsilon, dtype=jnp.float32) for x in wide)
  # XLA may compile a division into this product: equal counts must give equal
  # shares, compiled or not.
  size = max(1, sum(x.size for x in leaves))
  return jnp.asarray(small * (1 / size), jnp.float32)


def adaptive_powerprop(
  inner: optax.GradientTransformation,
  alpha: Alpha,
  every: int,
  factor: float = 1.5,
  increment: float = 0.1,
  epsilon: float = 1e-2,
  max_alpha: float = math.inf,
  where: Where = trees.is_weight,
) -> optax.GradientTransformationExtraArgs:
  """Powerpropagation with an α that adapts to the sparsity that it brings.

  Every `every` updates the share s of weights in (−ε, ε) is compared with the
  share at the last change:

  * s did not fall, initial phase: α ← 1 + factor·(α − 1);
  * s did not fall, later: α ← α + increment;
  * s fell: α ← 1 + (α − 1)/factor, and the initial phase ends.

  φ is re-mapped to the new α so that θ, and with it the loss, does not change.
  The inner optimiser's state lives in θ's space and so needs no change either.

  The first comparison is with the share at initialisation. The report gives
  neither that, nor ε, nor the start: they are defaults of ours. Nothing in the
  rule holds α back while the share keeps rising; `max_alpha` does.

  Args:
    inner: as in `powerprop`.
    alpha: where α starts, above 1 (1 is a fixed point of the rule).
    every: number of updates between changes, ≥ 1 (the report: 3 epochs).
    factor: cr > 1.
    increment: cd > 0.
    epsilon: ε > 0, in units of θ.
    max_alpha: α never grows beyond it (nor beyond its start, if that is
      larger); the report's rule has no such bound.
    where: as in `powerprop`.

  Returns:
    An optax transformation; `current_alpha` reads α from its state.

  Raises:
    ValueError: if an argument is out of its range; at `init` as `powerprop`,
      and if `where` chooses no leaf.

  Warns:
    UserWarning: as `powerprop` does.

  Reference: Jain, Raj and Asgaonkar, Powerpropagation (report, 2022), section
    5, Algorithm 1.
  """
  alpha = reparam.check_alpha(alpha)
  if not isinstance(alpha, jax.core.Tracer) and np.asarray(alpha) == 1:
    raise ValueError(
      f'alpha is {alpha}, but an adaptive α must start at a finite number'
      ' above 1, which the rule never leaves; choose for instance alpha=1.25.'
    )
  for name, value, low, must in (
    ('every', every, 1, 'at least 1'),
    ('factor', factor, 1, 'above 1'),
    ('increment', increment, 0, 'above 0'),
    ('epsilon', epsilon, 0, 'above 0'),
    ('max_alpha', max_alpha, 1, 'above 1'),
  ):
    if not isinstance(value, int | float | np.number):
      must = f'a number {must}'
    elif value > low or (value == low and must.startswith('at least')):
      continue
    raise ValueError(f'{name} is {checks.brief(value)} but must be {must}.')
  inner = inner_lib.supported(inner)
  checks.check_where(where)

  # The α in the state decides; a schedule that never moves would re-map at
  # every update, so the base is rebuilt around the array instead.
  def base(now):
    return target.powerprop(inner, now, where)

  def init_fn(phi):
    start = jnp.asarray(alpha, jnp.float32)
    theta = reparam.to_theta(phi, start, where)
    return AdaptiveState(
      target.MovingState(*base(start).init(phi)),
      near_zero_share(theta, epsilon, where),
      jnp.asarray(True),
    )

  def change(updates, state, params):
    now = state.base.alpha
    theta = reparam.to_theta(optax.apply_updates(params, updates), now, where)
    share = near_zero_share(theta, epsilon, where)
    rose = share >= state.near_zero
    grown = jnp.where(
      state.initial_phase, 1 + factor * (now - 1), now + increment
    )
    grown = jnp.minimum(grown, jnp.maximum(now, max_alpha))
    new = jnp.where(rose, grown, 1 + (now - 1) / factor)
    updates = target.remap(updates, params, now, new, where)
    return updates, AdaptiveState(
      state.base._replace(alpha=new), share, state.initial_phase & rose
    )

  def update_fn(updates, state, params=None, **extra_args):
    updates, new = base(state.base.alpha).update(
      updates, state.base, params, **extra_args
    )
    state = state._replace(base=target.MovingState(*new))
    return jax.lax.cond(
      new.count % every == 0,
      lambda: change(updates, state, params),
      lambda: (updates, state),
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
