"""PackNet: a fixed share of the weights for every task."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import trees
from powerprop.methods import magnitude
from powerprop.methods import masked
from powerprop.methods.continual import packing
from powerprop.methods.continual import sequential
from powerprop.types import Ending, Method

DISTRIBUTIONS = ('layer', 'global')

# Of every layer, for the tasks that are still to come.
_KEPT_BACK = 0.5


def packnet(
  tasks: sequential.Tasks,
  *,
  planned: int = 0,
  distribution: str = 'layer',
  reinitialise: bool = True,
  biases: str = 'frozen',
  average_examples: int = packing.AVERAGE_EXAMPLES,
) -> Method:
  """PackNet: each of T tasks gets 1/T of the weights, and uses all before it.

  At the end of a task the largest free weights of each layer are its own; its
  net is they and those of all earlier tasks. A retraining under the mask is
  part of the method: give it steps (`retrain_epochs` in a config).

  Args:
    tasks: of the sequence.
    planned: T ≥ the number of tasks; 0 is that number.
    distribution: 'layer': a task gets 1/T of every layer, as in the paper; of a
      small layer that may be too few. 'global', which is ours: as many in all,
      the largest |φ| of all layers, but half of each layer is kept back in
      equal parts: of n weights tasks leave at least ⌊½ n t/T⌋ free while t
      tasks are still to come. So no task finds a layer full.
    reinitialise: draw the weights that are free anew for the next task. The
      paper leaves them at zero, where weights under Powerprop cannot move.
      False leaves them at the values that they have.
    biases: 'frozen', 'per_task' or 'free'; see `packing.layout`.
    average_examples: as in `packing.method`.

  Returns:
    A method.

  Raises:
    ValueError: if `distribution` or `biases` is unknown, or there are more
      tasks than planned.

  Reference: Mallya and Lazebnik, PackNet, CVPR 2018, section 3; with 1/T of the
    weights as in Schwarz et al. 2021, section 4.
  """
  total = planned or tasks.number
  if total < tasks.number:
    raise ValueError(
      f'planned is {planned} but there are {tasks.number} tasks: it must be at'
      ' least that, or 0'
    )
  if distribution not in DISTRIBUTIONS:
    raise ValueError(
      f'distribution is {distribution!r} but must be one of'
      f' {", ".join(DISTRIBUTIONS)}'
    )
  where = packing.layout(tasks, biases)
  divide = {'layer': _by_layer, 'global': _globally}[distribution]
  choose = divide(where.shapes, total)

  def end_task(ending: Ending, phi, state: packing.Packing):
    # Nothing that is rounded: XLA may compute a rank twice, and then masks with
    # numbers that differ in the last bit have an entry too few.
    least = jnp.finfo(jnp.float32).tiny  # free weights at zero rank above used
    stored = packing.governed(where, phi)
    if distribution == 'global':
      stored = masked.in_phi(stored, ending.psi)
    ranks = {
      n: jnp.where(state.used[n], 0, jnp.maximum(trees.wide(jnp.abs(x)), least))
      for n, x in stored.items()
    }
    new = choose(ranks, state.used, ending.task)
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


def _parts(number: int, total: int) -> np.ndarray:
  """What T tasks get of so many weights: int32 [T], all of them in the end."""
  ends = np.floor(number * np.arange(total + 1) / total)
  return np.diff(ends).astype(np.int32)


def _by_layer(
  shapes: dict[str, tuple[int, ...]], total: int
) -> Callable[..., packing.Layers]:
  """(ranks, used, task) -> masks of 1/T of each layer, full after T tasks."""
  counts = {n: _parts(int(np.prod(s)), total) for n, s in shapes.items()}

  def choose(ranks, used, task):
    del used
    number = {n: jnp.asarray(c)[task] for n, c in counts.items()}
    return trees.top_k_masks(ranks, number)

  return choose


def _globally(
  shapes: dict[str, tuple[int, ...]], total: int
) -> Callable[..., packing.Layers]:
  """The same of all layers together, but for what is kept back of each."""
  sizes = {n: int(np.prod(s)) for n, s in shapes.items()}
  counts = _parts(sum(sizes.values()), total)
  to_come = np.arange(total)[::-1]
  kept_back = {
    n: np.floor(_KEPT_BACK * size * to_come / total).astype(np.int32)
    for n, size in sizes.items()
  }

  def choose(ranks, used, task):
    def most(name):
      free = jnp.sum(~used[name], dtype=jnp.int32)
      return jnp.maximum(free - jnp.asarray(kept_back[name])[task], 0)

    may = trees.top_k_masks(ranks, {n: most(n) for n in ranks})
    row = packing.flat({n: jnp.where(may[n], x, 0) for n, x in ranks.items()})
    mask: jax.Array = trees.top_k_masks(row, jnp.asarray(counts)[task])
    return packing.unflat(mask, shapes)

  return choose
