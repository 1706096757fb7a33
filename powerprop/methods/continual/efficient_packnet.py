"""EfficientPackNet: as many weights as a task needs, old ones among them."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import trees
from powerprop.methods import magnitude
from powerprop.methods.continual import fisher
from powerprop.methods.continual import packing
from powerprop.methods.continual import sequential
from powerprop.types import Ending, Method

SEARCHES = ('linear', 'binary', 'taylor')
RATES = tuple(round(0.001 * 1.1**i, 6) for i in range(73)) + (1.0,)


def efficient_packnet(
  tasks: sequential.Tasks,
  *,
  gamma: float = 0.9,
  rates: tuple[float, ...] = RATES,
  search: str = 'linear',
  reuse: bool = True,
  reinitialise: bool = True,
  biases: str = 'frozen',
  curvature_examples: int = 256,
  compare: bool = False,
) -> Method:
  r"""EfficientPackNet: the smallest mask that is good enough for the task.

  At the end of task t the weights are ranked by |φ|, those of earlier tasks
  among them, and for each rate s the mask keeps the ⌊s·n⌋ largest of all n.
  The task's mask is that of the smallest rate at which the validation accuracy
  is at least γP, where P is that of the dense net. As the algorithm is printed
  its loop ends on the first mask that fails; the last that passes is kept.

  Where not even the largest rate reaches γP its mask is taken, and the report
  says `reached` = False.

  Args:
    tasks: of the sequence.
    gamma: γ in (0, 1].
    rates: shares of the weights that are kept, rising, each in (0, 1]. By
      default from 0.1% to 95.6% in steps of 10%, and 1.
    search: 'linear': from the largest rate down to the first that fails.
      'binary': by halves, which is the same where accuracy rises with the rate.
      'taylor': from an estimate of the loss that pruning adds,

      .. math::
        δL = Σ_{i \text{ pruned}} (½ h_i θ_i² − g_i θ_i)

      with the gradient g and the diagonal Gauss-Newton h on validation data.
      The loss in accuracy is taken as proportional to it; one evaluation, at
      the smallest rate where δL ≤ −log γ, gives the factor.
    reuse: rank all weights. Otherwise a task's mask is all earlier tasks' and
      the largest free weights (PackNet's way), ⌊s·n⌋ of them.
    reinitialise: draw weights in no mask anew before the next task, by the
      net's own law, φ = Ψ⁻¹(θ). Otherwise they go on from what they are.
    biases: of 'frozen', 'per_task', 'free'; see `packing.layout`.
    curvature_examples: validation examples for h, > 0.
    compare: run the linear search as well and report its rate, `linear_rate`.

  Returns:
    A method.

  Raises:
    ValueError: if a value is out of range, or the rates are out of order.

  Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 4 and
    Algorithm 1. The form of the Taylor estimate is ours: the paper names LeCun
    et al., Optimal brain damage, 1989, for it.
  """
  if not 0 < gamma <= 1:
    raise ValueError(f'gamma is {gamma} but must be in (0, 1]')
  if not rates or any(not 0 < r <= 1 for r in rates):
    raise ValueError(
      f'rates has {[r for r in rates if not 0 < r <= 1]} but every rate, the'
      ' share of weights kept, must be in (0, 1]'
    )
  if any(b <= a for a, b in zip(rates, rates[1:], strict=False)):
    raise ValueError(f'rates is {rates} but must rise from one to the next')
  if search not in SEARCHES:
    raise ValueError(
      f'search is {search!r} but must be one of {", ".join(SEARCHES)}'
    )
  if curvature_examples < 1:
    raise ValueError(
      f'curvature_examples is {curvature_examples} but must be at least 1'
    )
  where = packing.layout(tasks, biases)
  n = where.size
  counts = np.array([math.floor(r * n + 1e-9) for r in rates], np.int32)
  if counts[0] < 1:
    raise ValueError(
      f'rates begins with {rates[0]:g}, which keeps none of {n:,} weights:'
      f' begin with {1 / n:.2g} or more'
    )
  last = len(rates) - 1

  def end_task(ending: Ending, phi, state: packing.Packing):
    theta = packing.theta_of(where, ending, phi)
    magnitudes = jnp.abs(packing.flat(packing.governed(where, phi)))
    used = packing.flat(state.used)
    ranks = magnitudes if reuse else jnp.where(used, 0, magnitudes)
    spare = jnp.sum(~used, dtype=jnp.int32)

    def mask_at(i):
      k = jnp.asarray(counts)[i]
      if reuse:
        return trees.top_k_masks(ranks, k)
      # Free weights at zero tie with those in use: these are in anyway.
      return trees.top_k_masks(ranks, jnp.minimum(k, spare)) | used

    def accuracy_at(i):
      mask = packing.unflat(mask_at(i), where.shapes)
      return ending.score(magnitude.prune(theta, mask))

    dense = ending.score(theta)
    target = ending.least(dense, gamma)
    passes = lambda accuracy: accuracy >= target
    if search == 'linear' or compare:
      linear = _linear(accuracy_at, passes, last)
    if search == 'linear':
      chosen, tried = linear
    elif search == 'binary':
      chosen, tried = _binary(accuracy_at, passes, last)
    else:
      added = added_loss(ending, theta, ranks, used)
      chosen, tried = _taylor(
        accuracy_at, added[counts], dense, target, gamma, last
      )
    reached = chosen <= last
    chosen = jnp.minimum(chosen, last)
    mask = packing.unflat(mask_at(chosen), where.shapes)
    accuracy = ending.score(magnitude.prune(theta, mask))
    if search == 'taylor':  # an estimate is no proof
      reached = passes(accuracy)
    report = packing.report(where, state, mask) | {
      'rate': jnp.asarray(rates, jnp.float32)[chosen],
      'reached': reached,
      'pruned_accuracy': accuracy,
      'target': target,
      'evaluations': tried,
    }
    if compare:
      true = jnp.minimum(linear[0], last)
      report['linear_rate'] = jnp.asarray(rates, jnp.float32)[true]
    return phi, state._replace(mask=mask), report

  def added_loss(ending, theta, ranks, used):
    """δL of keeping the k largest, for k = 0, …, n; float32 [n + 1]."""
    h = fisher.diagonal(
      ending,
      tasks,
      theta,
      kind='example',
      labels='sampled',
      num_examples=curvature_examples,
      split='validation',
    )

    def loss(w):
      rows = jnp.arange(curvature_examples, dtype=jnp.int32)
      some = ending.batch('validation', rows)
      return -ending.log_likelihood(w, some, None, 'true')

    g = packing.flat(packing.governed(where, jax.grad(loss)(theta)))
    h, x = (packing.flat(packing.governed(where, t)) for t in (h, theta))
    g, x = trees.wide(g), trees.wide(x)
    terms = 0.5 * h * x * x - g * x
    if not reuse:  # what is in use is in every mask
      terms = jnp.where(used, 0, terms)
    # Pruned are the smallest: what is added up from the largest down is kept.
    terms = terms[jnp.argsort(-ranks)]
    kept = jnp.concatenate([jnp.zeros(1, terms.dtype), jnp.cumsum(terms)])
    return kept[-1] - kept

  retrain = tasks.retrain_steps > 0
  return packing.method(where, end_task, retrain, reinitialise)


def _linear(accuracy_at, passes, last):
  """From the last index down, until one fails: (the lowest that passed, tries).

  Where none passed the index is last + 1. Under vmap the loop runs until the
  last member is done.
  """

  def going(carry):
    i, ok = carry
    return ok & (i >= 0)

  def step(carry):
    i, _ = carry
    ok = passes(accuracy_at(jnp.maximum(i, 0)))
    return jnp.where(ok, i - 1, i), ok

  i, ok = jax.lax.while_loop(
    going, step, (jnp.asarray(last, jnp.int32), jnp.asarray(True))
  )
  return i + 1, last - i + jnp.where(ok, 0, 1)


def _binary(accuracy_at, passes, last):
  """By halves, as if all above one that passes passed: (index, tries)."""

  def step(_, bounds):
    low, high = bounds  # low fails or is −1, high passes or is last + 1
    middle = (low + high) // 2
    going = high - low > 1
    ok = passes(accuracy_at(jnp.clip(middle, 0, last)))
    return (
      jnp.where(going & ~ok, middle, low),
      jnp.where(going & ok, middle, high),
    )

  tries = math.ceil(math.log2(last + 2))
  start = (jnp.asarray(-1, jnp.int32), jnp.asarray(last + 1, jnp.int32))
  _, high = jax.lax.fori_loop(0, tries, step, start)
  return high, jnp.asarray(tries, jnp.int32)


def _taylor(accuracy_at, added, dense, target, gamma, last):
  """The lowest index whose estimated accuracy is enough: (index, 1)."""
  lowest = lambda ok: jnp.argmax(ok).astype(jnp.int32)
  close = added <= -math.log(gamma)
  at = jnp.where(jnp.any(close), lowest(close), last)
  lost = dense - accuracy_at(at)
  factor = jnp.maximum(lost, 0) / jnp.maximum(added[at], 1e-12)
  # What costs no loss is enough.
  ok = jnp.maximum(added, 0) * factor <= dense - target
  chosen = jnp.where(jnp.any(ok), lowest(ok), last + 1)
  # Where nothing was lost there is no factor: not below what was tried.
  chosen = jnp.where(lost > 0, chosen, at)
  return chosen, jnp.ones((), jnp.int32)
