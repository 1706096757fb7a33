"""Ways to keep a large α from diverging: transforms of configs/large_alpha.py.

What was tried beside `powerprop(step_bound=…)`, as transforms of one's own.
"""

import jax.numpy as jnp
import optax

from powerprop import reparam
from powerprop import trees
from powerprop.transforms import current_alpha
from powerprop.transforms import powerprop


def clipped(inner, alpha) -> optax.GradientTransformation:
  """Powerprop around the optimiser of a gradient of norm 1 at most."""
  return powerprop(optax.chain(optax.clip_by_global_norm(1.0), inner), alpha)


def bounded_slope(inner, alpha) -> optax.GradientTransformation:
  """Δφ = optim(∂L/∂θ) · min(Ψ', 1)."""
  base = powerprop(inner, alpha)

  def update(updates, state, params=None, **extra):
    updates, state = base.update(updates, state, params, **extra)
    slope = lambda x: reparam.slope(x, current_alpha(state))
    by = {
      n: jnp.minimum(1, 1 / slope(x)) for n, x in trees.weights(params).items()
    }
    return _times(updates, by), state

  return optax.GradientTransformationExtraArgs(base.init, update)


def normalised_slope(inner, alpha) -> optax.GradientTransformation:
  """Δφ = optim(∂L/∂θ) · Ψ' / its mean over the layer before the first step."""
  base = powerprop(inner, alpha)

  def init(phi):
    state = base.init(phi)
    mean = lambda x: jnp.mean(reparam.slope(x, current_alpha(state)))
    return state, {n: 1 / mean(x) for n, x in trees.weights(phi).items()}

  def update(updates, state, params=None, **extra):
    updates, kept = base.update(updates, state[0], params, **extra)
    return _times(updates, state[1]), (kept, state[1])

  return optax.GradientTransformationExtraArgs(init, update)


def _times(updates, by):
  """Updates of the layers in `by`, multiplied by what it has for them."""
  scaled = {n: by[n] * u for n, u in trees.weights(updates).items()}
  return trees.replace_weights(updates, scaled)
