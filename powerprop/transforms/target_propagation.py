"""`powerprop`: Δφ = optim(∂L/∂θ)·α|φ|^(α−1), around an optax optimiser."""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from powerprop import checks
from powerprop import reparam
from powerprop import trees
from powerprop.transforms import inner as inner_lib
from powerprop.types import Alpha, Params, Schedule, Updates, Where

# A number α in a state: {'2.5': None}. That has no leaves: a number in the key
# is part of the tree's structure, and so of the program. And what saves trees
# by their fields and keys (flax.serialization) needs to know no class of ours.
StaticAlpha: TypeAlias = dict[str, None]


class PowerpropState(NamedTuple):
  """State of `powerprop` and of the transformations made from it.

  Attributes:
    count: int32, the number of updates done.
    alpha: the α that φ is to be read with; see `current_alpha`.
    inner: the inner optimiser's state, which lives in θ's space.
  """

  count: jax.Array  # type: ignore[assignment]
  alpha: StaticAlpha | jax.Array
  inner: optax.OptState


class MovingState(PowerpropState):
  """A `PowerpropState` whose α changes while φ is re-mapped to keep θ."""


def moves(opt_state: optax.OptState) -> bool:
  """Whether α is one that changes: whether the state has a `MovingState`."""
  is_one = lambda x: isinstance(x, MovingState)
  return any(map(is_one, jax.tree.leaves(opt_state, is_leaf=is_one)))


def stored(alpha: Any) -> StaticAlpha | jax.Array:
  """How a state keeps α: numbers as part of the program, arrays as leaves."""
  alpha = reparam.check_alpha(alpha)
  if isinstance(alpha, float):
    return {repr(alpha): None}
  return jnp.asarray(alpha, jnp.float32)


def read(alpha: StaticAlpha | jax.Array) -> Alpha:
  """The inverse of `stored`."""
  return float(next(iter(alpha))) if isinstance(alpha, dict) else alpha


def alphas(opt_state: optax.OptState) -> list[Alpha]:
  """The α of each state of ours within an optimiser's."""
  is_ours = lambda x: isinstance(x, PowerpropState)
  leaves = jax.tree.leaves(opt_state, is_leaf=is_ours)
  return [read(x.alpha) for x in leaves if is_ours(x)]


def current_alpha(opt_state: optax.OptState) -> Alpha:
  """The α with which φ is to be read now, from any optimiser state.

  Args:
    opt_state: the state of `powerprop`, `chain_rule`, `adaptive_powerprop`, or
      of any optax wrapper or chain around one of them.

  Returns:
    A float where α is static, else a float32 scalar (or a vector, where the
    state is that of a vmapped population).

  Raises:
    ValueError: if the state holds no α, or several that are not one number.
  """
  found = alphas(opt_state)
  same = all(isinstance(a, float) and a == found[0] for a in found)
  if not found or (len(found) > 1 and not same):
    raise ValueError(
      f'found {len(found)} Powerprop states in this optimiser state where one'
      ' was expected; pass the state of the transformation that you mean.'
    )
  return found[0]


def powerprop(
  inner: optax.GradientTransformation,
  alpha: Alpha | Schedule,
  where: Where = trees.is_weight,
  step_bound: float | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Powerpropagation around an optax optimiser: target propagation.

  .. math::
    Δφ = optim(∂L/∂θ) · α|φ|^{α−1},  θ = φ|φ|^{α−1}

  The gradients that go in are ∂L/∂θ (from `powerprop.value_and_grad`, from the
  modules, or from a net under `powerprop.reparameterise`); the parameters are
  φ. `inner` sees ∂L/∂θ and, as its params, θ: AdamW decays θ and a trust ratio
  compares θ's norms. What comes out is to be added to φ. Leaves that `where`
  leaves out go through `inner` and nothing else.

  With gradients from a backward pass that went through Ψ (`chain_rule=True`),
  the slope would be applied twice: use the plain optimiser there.

  Args:
    inner: an optax transformation that answers with a step; docs/transforms.md
      lists those that do, and those that are refused, as they need to know
      where their steps lead. Extra arguments of `update` are handed on to it.
    alpha: a number ≥ 1 (compiled in), an array ≥ 1 (traced; taken as it is at
      every update, so that `optax.inject_hyperparams` may change it), or an
      optax schedule of the update count. With a schedule, φ is re-mapped at
      every update so that θ does not depend on the schedule: read α for the
      forward pass with `current_alpha(opt_state)`.
    where: `where(path, leaf)`: which leaves live under Ψ. A static argument for
      `optax.inject_hyperparams`.
    step_bound: c ≥ 1, or None for no bound, as in the paper; an option of ours.
      θ moves by about α²|φ|^{2(α−1)} times what `inner` asks for, so that a
      large weight takes larger steps than with α = 1, and grows by them. With a
      bound none takes more than c times as large ones, to first order in the
      step: the slope s that Δφ is multiplied by becomes min(s, c/s).

  Returns:
    An optax transformation whose state is a `PowerpropState`.

  Raises:
    ValueError: if α is no power, `where` no function, `inner` no optimiser or
      `step_bound` below 1; at `init` if `inner` is one that is refused; at
      `update` if params are missing.

  Warns:
    UserWarning: at `init`, unless it is traced, if a leaf under Ψ is zero all
      over and α > 1, as it would never move.

  Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 2.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> tx = powerprop(optax.sgd(0.1), alpha=2., where=lambda path, x: True)
    >>> phi = {'w': jnp.array([2., 0.])}
    >>> updates, _ = tx.update({'w': jnp.ones(2)}, tx.init(phi), phi)
    >>> [round(float(x), 4) for x in updates['w']]
    [-0.4, -0.0]
  """
  inner = inner_lib.supported(inner)
  checks.check_where(where)
  number = isinstance(step_bound, int | float | np.number)
  if step_bound is not None and not (number and step_bound >= 1):
    raise ValueError(
      f'step_bound is {checks.brief(step_bound)} but must be at least 1 (what'
      ' α = 1 moves by), or None for no bound.'
    )
  schedule = alpha if callable(alpha) else None
  kind = PowerpropState if schedule is None else MovingState
  if schedule is None:
    stored(alpha)  # an α below 1 is refused here, not at the first step

  def init_fn(phi):
    count = jnp.zeros((), jnp.int32)
    now = stored(schedule(count) if schedule else alpha)
    checks.warn_of_stuck(phi, read(now), where)
    theta = reparam.to_theta(phi, read(now), where)
    state = kind(count, now, inner.init(theta))
    inner_lib.refuse(state.inner)
    return state

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
        'powerprop needs the current φ: call update(grads, state, params).'
      )
    now = state.alpha if schedule else stored(alpha)
    theta = reparam.to_theta(params, read(now), where)
    updates, inner_state = inner.update(
      updates, state.inner, theta, **extra_args
    )
    updates = scale_by_slope(updates, params, read(now), where, step_bound)
    count = optax.safe_increment(state.count)
    if schedule:
      new = stored(schedule(count))
      updates = remap(updates, params, read(now), read(new), where)
      now = new
    return updates, kind(count, now, inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def scale_by_slope(
  updates: Updates,
  phi: Params,
  alpha: Alpha,
  where: Where,
  step_bound: float | None = None,
) -> Updates:
  """updates · min(s, step_bound/s) where `where` chooses; s is Ψ'(φ)."""
  if isinstance(alpha, float) and alpha == 1:
    return updates  # bit for bit the inner optimiser's

  def leaf(path, p, u):
    if not where(trees.path_name(path), p):
      return u
    slope = reparam.slope(p, alpha)
    if step_bound is not None:
      # A slope of zero stays: c/0 is infinite.
      slope = jnp.minimum(slope, step_bound / slope)
    return u * slope

  return jax.tree_util.tree_map_with_path(leaf, phi, updates)


def remap(
  updates: Updates, phi: Params, alpha: Alpha, new_alpha: Alpha, where: Where
) -> Updates:
  """Extends an update so that φ stands for the same θ under a new α.

  φ' = Ψ⁻¹_α'(Ψ_α(φ + Δφ)). Where α' = α, the update stays as it is.

  Args:
    updates: Δφ.
    phi: φ before the update.
    alpha: the α that φ is read with.
    new_alpha: the α that it will be read with.
    where: which leaves live under Ψ.

  Returns:
    φ' − φ.
  """

  def leaf(path, p, u):
    if not where(trees.path_name(path), p):
      return u
    theta = reparam.power(p + u, alpha)
    moved = reparam.inverse_power(theta, new_alpha) - p
    return jnp.where(jnp.asarray(alpha == new_alpha), u, moved)

  return jax.tree_util.tree_map_with_path(leaf, phi, updates)
