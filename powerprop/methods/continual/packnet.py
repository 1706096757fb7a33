"""PackNet: a fixed share of the weights for every task."""

import jax.numpy as jnp
import numpy as np

from powerprop import trees
from powerprop.methods import magnitude
from powerprop.methods.continual import packing
from powerprop.methods.continual import sequential
from powerprop.types import Ending, Method


def packnet(
  tasks: sequential.Tasks,
  *,
  planned: int = 0,
  reinitialise: bool = True,
  biases: str = 'frozen',
  average_examples: int = packing.AVERAGE_EXAMPLES,
) -> Method:
  """PackNet: each of T tasks gets 1/T of every layer, and uses all before it.

  At the end of a task the largest free weights of each layer are its own; its
  net is they and those of all earlier tasks. A retraining under the mask is
  part of the method: give it steps (`retrain_epochs` in a config).

  Args:
    tasks: of the sequence.
    planned: T ≥ the number of tasks; 0 is that number.
    reinitialise: draw the weights that are free anew for the next task. The
      paper leaves them at zero, where weights under Powerprop cannot move.
      False leaves them at the values that they have.
    biases: 'frozen', 'per_task' or 'free'; see `packing.layout`.
    average_examples: as in `packing.method`.

  Returns:
    A method.

  Raises:
    ValueError: if `biases` is unknown, or there are more tasks than planned.

  Reference: Mallya and Lazebnik, PackNet, CVPR 2018, section 3; with 1/T of the
    weights as in Schwarz et al. 2021, section 4.
  """
  total = planned or tasks.number
  if total < tasks.number:
    raise ValueError(
      f'planned is {planned} but there are {tasks.number} tasks: it must be at'
      ' least that, or 0'
    )
  where = packing.layout(tasks, biases)
  # Each layer is full at the end of the last task, and not before.
  shares = {
    n: np.floor(np.prod(s) * np.arange(total + 1) / total)
    for n, s in where.shapes.items()
  }
  counts = {n: np.diff(x).astype(np.int32) for n, x in shares.items()}

  def end_task(ending: Ending, phi, state: packing.Packing):
    # Nothing that is rounded: XLA may compute a rank twice, and then masks with
    # numbers that differ in the last bit have an entry too few.
    least = jnp.finfo(jnp.float32).tiny  # free weights at zero rank above used
    ranks = {
      n: jnp.where(state.used[n], 0, jnp.maximum(trees.wide(jnp.abs(x)), least))
      for n, x in packing.governed(where, phi).items()
    }
    number = {n: jnp.asarray(c)[ending.task] for n, c in counts.items()}
    new = trees.top_k_masks(ranks, number)
    mask = {n: m | state.used[n] for n, m in new.items()}
    theta = ending.psi.to_theta(phi)
    accuracy = ending.score(magnitude.prune(theta, mask), average_examples)
    found = packing.report(where, state, mask)
    kept = jnp.sum(packing.flat(mask), dtype=jnp.int32)
    more = {
      'rate': kept / jnp.float32(where.size),
      'reached': jnp.asarray(True),
      'pruned_accuracy': accuracy,
    }
    return phi, state._replace(mask=mask), found | more

  retrain = tasks.retrain_steps > 0
  return packing.method(
    where, end_task, retrain, reinitialise, average_examples
  )
