"""`chain_rule`: the naive way, an optimiser on ∂L/∂φ, kept to compare with."""

import jax.numpy as jnp
import optax

from powerprop import checks
from powerprop import trees
from powerprop.transforms import inner as inner_lib
from powerprop.transforms import target_propagation as target
from powerprop.types import Alpha, Where


def chain_rule(
  inner: optax.GradientTransformation,
  alpha: Alpha,
  where: Where = trees.is_weight,
) -> optax.GradientTransformationExtraArgs:
  """Plain optimisation of φ: Δφ = optim(∂L/∂θ · α|φ|^(α−1)).

  Takes ∂L/∂θ as `powerprop` does, so that the two are exchangeable, and
  multiplies by the slope before the optimiser instead of after it. `inner` sees
  φ as its params. An optimiser that normalises gradients, as Adam does, undoes
  the slope; the paper argues that this weakens the effect.

  Args:
    inner: any optax transformation but lookahead or one with a line search; see
      docs/transforms.md.
    alpha: a number ≥ 1 (compiled in) or an array (traced). No schedule: the
      inner optimiser's moments live in φ's space, which must not move.
    where: `where(path, leaf)`: which leaves live under Ψ.

  Returns:
    An optax transformation whose state is a `PowerpropState`.

  Raises:
    ValueError: if α is no power or a schedule, `where` no function or `inner`
      no optimiser; at `init` if `inner` is one that is refused; at `update` if
      params are missing.

  Warns:
    UserWarning: as `powerprop` does.

  Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 2, eq. (1)
    and footnote 1.
  """
  if callable(alpha):
    raise ValueError(
      'chain_rule needs a constant α, as its moments live in the space of φ;'
      ' use powerprop for a scheduled α.'
    )
  inner = inner_lib.supported(inner)
  checks.check_where(where)
  target.stored(alpha)

  def init_fn(phi):
    count, now = jnp.zeros((), jnp.int32), target.stored(alpha)
    checks.warn_of_stuck(phi, target.read(now), where)
    state = target.PowerpropState(count, now, inner.init(phi))
    inner_lib.refuse(state.inner, naive=True)
    return state

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
        'chain_rule needs the current φ: call update(grads, state, params).'
      )
    now = target.stored(alpha)
    grads = target.scale_by_slope(updates, params, target.read(now), where)
    updates, inner_state = inner.update(
      grads, state.inner, params, **extra_args
    )
    count = optax.safe_increment(state.count)
    return updates, target.PowerpropState(count, now, inner_state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
