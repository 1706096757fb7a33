"""Memory-aware synapses: held by how much the outputs depend on them."""

import jax
import jax.numpy as jnp

from powerprop import trees
from powerprop.methods.continual import anchors
from powerprop.methods.continual import fisher
from powerprop.methods.continual.sequential import Tasks
from powerprop.types import Method


def mas(tasks: Tasks, *, space: str = 'theta') -> Method:
  """Memory-aware synapses: Ω += the mean of |∂ mean(outputs²) / ∂p|.

  The inner mean is over a minibatch and the outputs that take part, the outer
  one over the minibatches of the task; no labels are used.

  Args:
    tasks: of the sequence.
    space: 'theta' or 'phi': which parameters are held.

  Returns:
    A method.

  Raises:
    ValueError: if there is no such space.

  Reference: Aljundi et al., Memory aware synapses, ECCV 2018, eq. (3) and
  section 4.1, as Hsu et al. 2018 run it (there over minibatches). Its
  coefficient is in `anchors.COEFFICIENTS`.
  """

  def update(ending, phi, params, state):
    theta = ending.psi.to_theta(phi)

    def output(at, batch):
      outputs, visible = ending.outputs(at, batch)
      squares = jnp.square(jnp.where(visible, trees.wide(outputs), 0))
      return jnp.sum(squares) / jnp.sum(visible)

    def magnitudes(batch, key):
      del key
      grads = jax.grad(output)(theta, batch)
      return jax.tree.map(lambda g: jnp.abs(trees.wide(g)), grads)

    new = fisher.mean(magnitudes, ending, tasks, group=tasks.batch_size)
    new = anchors.by_slope(new, phi, ending.psi, space, 1)
    return anchors.Anchor(anchors.add(state.importance, new), params)

  return anchors.method(tasks, update, space)
