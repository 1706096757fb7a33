"""Synaptic intelligence: held by what each parameter did for the loss."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from powerprop import trees
from powerprop.methods.continual import anchors
from powerprop.methods.continual.sequential import Tasks
from powerprop.types import Method, Params


class Path(NamedTuple):
  """State of `si`.

  Attributes:
    importance: as in `anchors.Anchor`.
    anchor: as there, and so the parameters that the task started from.
    omega: arrays like them, how far each has lowered the loss in this task.
  """

  importance: Params
  anchor: Params
  omega: Any


def si(tasks: Tasks, *, space: str = 'theta', damping: float = 0.1) -> Method:
  r"""Synaptic intelligence.

  .. math::
    ω \mathrel{-}= (∂L/∂p) Δp \text{ at every step}, \quad
    Ω \mathrel{+}= ω / ((p − p^*)^2 + \text{damping}) \text{ after a task}

  with the gradient of the task's loss alone, without the penalty and without an
  L2 term. ω is a line integral, so that it
  is the same in φ as in θ to first order in the step: θ's is taken for both.
  Ω may be negative, as in Hsu et al.

  Args:
    tasks: of the sequence.
    space: 'theta' or 'phi': which parameters are held.
    damping: ξ > 0; 0.1 as in the paper.

  Returns:
    A method.

  Raises:
    ValueError: for options that do not exist.

  Reference: Zenke et al., Continual learning through synaptic intelligence,
  ICML 2017, eq. (3)-(5), as Hsu et al. 2018 run it. Its coefficient is in
  `anchors.COEFFICIENTS`.
  """
  if not damping > 0:
    raise ValueError(f'damping is {damping} but must be above 0')

  def init(key, phi, psi, gradient):
    del key, gradient
    at = anchors.in_space(phi, psi, space)
    return phi, Path(anchors.zeros(phi), at, anchors.zeros(phi))

  def track(plain, before, after, state):
    omega = jax.tree.map(
      lambda o, g, old, new: (
        o - trees.wide(g) * (trees.wide(new) - trees.wide(old))
      ),
      state.omega,
      plain,
      before,
      after,
    )
    return state._replace(omega=omega)

  def update(ending, phi, params, state):
    del ending, phi
    importance = jax.tree.map(
      lambda old, o, p, start: old + o / (jnp.square(p - start) + damping),
      state.importance,
      state.omega,
      params,
      state.anchor,
    )
    omega = jax.tree.map(jnp.zeros_like, state.omega)
    return Path(importance, params, omega)

  return anchors.method(tasks, update, space, init=init, track=track)
