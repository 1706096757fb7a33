"""Penalties on the distance to parameters of earlier tasks: what they share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from powerprop import reparam
from powerprop import trees
from powerprop.methods.continual import sequential
from powerprop.psi import Psi
from powerprop.types import Ending, Method, Params, Penalty

# What the penalties are multiplied by where nothing else is asked for: what Hsu
# et al. 2018 run permuted MNIST with, one head for all tasks (their scripts
# have others for other benchmarks); 1 is Bayes' rule.
COEFFICIENTS = {
  'l2': 0.02,
  'ewc': 150.0,
  'online_ewc': 250.0,
  'online_laplace': 1.0,
  'si': 10.0,
  'mas': 0.1,
}


class Anchor(NamedTuple):
  """Where parameters are held, and how strongly.

  Attributes:
    importance: arrays like the parameters; 0 in the first task.
    anchor: arrays like the parameters, those to stay close to. Both are float32
      or wider: squares of small gradients are zero in half precision.
  """

  importance: Params
  anchor: Params


def method(
  tasks: sequential.Tasks,
  update: Callable[[Ending, Params, Params, Any], Any],
  space: str,
  *,
  scale: float = 1.0,
  per_example: bool = False,
  **fields: Any,
) -> Method:
  """A `Method` that trains everything with a quadratic penalty.

  Args:
    tasks: of the sequence.
    update: (ending, phi, params, state) -> state, at the end of a task;
      `params` are those of the space.
    space: 'theta' or 'phi': which parameters are held.
    scale: ≥ 0, what the penalty is multiplied by.
    per_example: whether 1/num_train of the tasks is in it; see `Penalty`.
    **fields: of `sequential.method`; by default `init` gives an empty `Anchor`.

  Returns:
    A method.

  Raises:
    ValueError: if there is no such space.
  """
  if space not in ('theta', 'phi'):
    raise ValueError(f"space is {space!r} but must be 'theta' or 'phi'")

  def init(key, phi, psi, gradient):
    del key, psi, gradient
    return phi, Anchor(zeros(phi), zeros(phi))

  def end_task(ending, phi, state):
    params = in_space(phi, ending.psi, space)
    return phi, update(ending, phi, params, state), {}

  return sequential.method(
    **{
      'init': init,
      'penalty': Penalty(
        lambda params, state: scale * penalty(params, state),
        space,
        per_example,
      ),
      'end_task': end_task,
      **fields,
    }
  )


def penalty(params: Params, state: Any) -> jax.Array:
  """Σ Ω (p − p*)², over all parameters.

  Args:
    params: p, a pytree of float arrays.
    state: has Ω and p*, as `Anchor` has.

  Returns:
    A scalar ≥ 0 where Ω is.
  """
  parts = jax.tree.map(
    lambda p, strength, at: jnp.sum(strength * jnp.square(trees.wide(p) - at)),
    params,
    state.importance,
    state.anchor,
  )
  return jax.tree.reduce(jnp.add, parts)


def zeros(params: Params) -> Params:
  """Zeros like the parameters, float32 or wider."""
  return jax.tree.map(lambda x: jnp.zeros_like(trees.wide(x)), params)


def in_space(phi: Params, psi: Psi, space: str) -> Params:
  """The parameters of the space, φ or θ = Ψ(φ), float32 or wider.

  In arrays of their own: biases are the same in both, and all is where α = 1.
  """
  params = phi if space == 'phi' else psi.to_theta(phi)
  return trees.copied(jax.tree.map(trees.wide, params))


def by_slope(
  values: Params,
  phi: Params,
  psi: Psi,
  space: str,
  power: int,
) -> Params:
  """Takes an importance from θ to the space, by the chain rule.

  Args:
    values: of θ, float arrays like φ.
    phi: stored parameters, where it was measured.
    psi: with which to read them.
    space: 'theta' changes nothing; 'phi' multiplies by Ψ'(φ)^power.
    power: how often the gradient is a factor of the importance.

  Returns:
    A pytree like `values`.
  """
  if space == 'theta':
    return values
  return trees.map_where(
    lambda value, x: value * reparam.slope(trees.wide(x), psi.alpha) ** power,
    psi.where,
    values,
    phi,
  )


def add(old: Params, new: Params, decay: float = 1.0) -> Params:
  """decay · old + new, by leaf."""
  return jax.tree.map(lambda x, y: decay * x + y, old, new)
