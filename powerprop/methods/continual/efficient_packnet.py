"""EfficientPackNet: as many weights as a task needs, old ones among them."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import trees
from powerprop.methods import magnitude
from powerprop.methods import masked
from powerprop.methods.continual import fisher
from powerprop.methods.continual import packing
from powerprop.methods.continual import sequential
from powerprop.psi import Psi
from powerprop.types import Ending, Method, Params

SEARCHES = ('linear', 'binary', 'taylor')
RATES = tuple(round(0.001 * 1.1**i, 6) for i in range(73)) + (1.0,)


def efficient_packnet(
  tasks: sequential.Tasks,
  *,
  gamma: float | None = 0.9,
  rates: tuple[float, ...] = RATES,
  search: str = 'linear',
  reuse: bool = True,
  reinitialise: bool = True,
  fresh_scale: float = 0.0,
  biases: str = 'frozen',
  without: tuple[str, ...] = (),
  trial_steps: int = 0,
  curvature_examples: int = 256,
  compare: bool = False,
  average_examples: int = packing.AVERAGE_EXAMPLES,
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
    gamma: γ in (0, 1]. None: it is the training's coefficient, so that one
      program is searched for it.
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
    fresh_scale: c ≥ 0, an option of ours: weights are drawn so large that in
      each layer their root mean square θ is at least c times that of the
      weights in use, which else outgrow them. 0 is the net's own law.
    biases: of 'frozen', 'per_task', 'free'; see `packing.layout`.
    without: regular expressions for paths of layers. A new task is trained and
      ranked without the weights that earlier tasks use there, and none of them
      is in its mask: ('.',) is without any. Algorithm 1, which is (), computes
      with all weights: this option is ours.
    trial_steps: ≥ 0. Above 0, before each task the net is trained for so many
      steps with all weights, and without the earlier ones of each of these
      layers in turn; the task is learned in the way that has the lowest mean
      loss there. So nobody has to know the layer: ('.',) tries them all.
    curvature_examples: validation examples for h, > 0.
    compare: run the linear search as well and report its rate, `linear_rate`.
    average_examples: as in `packing.method`.

  Returns:
    A method.

  Raises:
    ValueError: if a value is out of range, or the rates are out of order.

  Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 4 and
    Algorithm 1. The form of the Taylor estimate is ours: the paper names LeCun
    et al., Optimal brain damage, 1989, for it.
  """
  options = Options(
    gamma,
    rates,
    search,
    reuse,
    curvature_examples,
    compare,
    average_examples,
  )
  _check(options)
  where = packing.layout(tasks, biases, without, trial_steps)
  counts_of(rates, where.size)
  return packing.method(
    where,
    functools.partial(end_task, tasks, where, options),
    tasks.retrain_steps > 0,
    reinitialise,
    average_examples,
    fresh_scale,
  )


class Options(NamedTuple):
  """How a mask is found; see `efficient_packnet`."""

  gamma: float | None
  rates: tuple[float, ...]
  search: str
  reuse: bool
  curvature_examples: int
  compare: bool
  average_examples: int = 0


def _check(options: Options) -> None:
  """Raises ValueError if an option is out of range."""
  gamma, rates, search, _, examples, *_ = options
  if gamma is not None and not 0 < gamma <= 1:
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
  if examples < 1:
    raise ValueError(f'curvature_examples is {examples} but must be at least 1')


def counts_of(rates: tuple[float, ...], size: int) -> np.ndarray:
  """How many of all weights each rate keeps, int32 ⌊s·n⌋.

  Raises:
    ValueError: if the first keeps none.
  """
  counts = np.array([math.floor(r * size + 1e-9) for r in rates], np.int32)
  if counts[0] < 1:
    raise ValueError(
      f'rates begins with {rates[0]:g}, which keeps none of {size:,} weights:'
      f' begin with {1 / size:.2g} or more'
    )
  return counts


class Ranking(NamedTuple):
  """All governed weights in one row, from which a task's mask takes the first.

  Attributes:
    ranks: float [n]: the largest come first.
    used: bool [n], the weights in some earlier task's mask.
    left_out: bool [n], those of them that are in no mask of a new task; None
      where all may be.
    spare: int32, how many are ranked.
    reuse: whether those in use are ranked too; else they are in every mask.
  """

  ranks: jax.Array
  used: jax.Array
  left_out: jax.Array | None
  spare: jax.Array
  reuse: bool


def rank(
  where: packing.Layout,
  phi: Params,
  psi: Psi,
  state: packing.Packing,
  reuse: bool,
) -> Ranking:
  """Ranks the weights by |φ|; of those in use, what is not reused has 0."""
  stored = masked.in_phi(packing.governed(where, phi), psi)
  magnitudes = jnp.abs(packing.flat(stored))
  used, left_out = packing.flat(state.used), None
  if where.without:
    nothing = {n: jnp.zeros(s, bool) for n, s in where.shapes.items()}
    left_out = packing.flat(nothing | packing.left_out(where, state))
  unranked = left_out if reuse else used
  if unranked is None:
    return Ranking(magnitudes, used, None, jnp.int32(where.size), reuse)
  return Ranking(
    jnp.where(unranked, 0, magnitudes),
    used,
    left_out,
    jnp.sum(~unranked, dtype=jnp.int32),
    reuse,
  )


def mask_of(ranking: Ranking, count: jax.Array) -> jax.Array:
  """The mask of so many weights, bool [n]; see `efficient_packnet`."""
  if ranking.reuse and ranking.left_out is None:
    return trees.top_k_masks(ranking.ranks, count)
  # Free weights at zero tie with those that are not ranked: these are in, or
  # out, anyway.
  mask = trees.top_k_masks(ranking.ranks, jnp.minimum(count, ranking.spare))
  mask = mask if ranking.reuse else mask | ranking.used
  return mask if ranking.left_out is None else mask & ~ranking.left_out


def end_task(
  tasks: sequential.Tasks,
  where: packing.Layout,
  options: Options,
  ending: Ending,
  phi: Params,
  state: packing.Packing,
) -> tuple[Params, packing.Packing, dict[str, jax.Array]]:
  """Finds the task's mask: (φ as it is, the state with the mask, a report)."""
  theta = packing.computing(where, ending.psi.to_theta(phi), state)
  ranking = rank(where, phi, ending.psi, state, options.reuse)
  counts, search = counts_of(options.rates, where.size), options.search
  last = len(counts) - 1

  def mask_at(i):
    row = mask_of(ranking, jnp.asarray(counts)[i])
    return packing.unflat(row, where.shapes)

  def accuracy_of(mask):
    w = magnitude.prune(theta, mask)
    return ending.score(w, options.average_examples)

  accuracy_at = lambda i: accuracy_of(mask_at(i))
  dense = ending.score(theta)
  gamma = ending.coefficient if options.gamma is None else options.gamma
  target = ending.least(dense, gamma)
  passes = lambda accuracy: accuracy >= target
  if search == 'linear' or options.compare:
    linear = _linear(accuracy_at, passes, last)
  if search == 'linear':
    chosen, tried = linear
  elif search == 'binary':
    chosen, tried = _binary(accuracy_at, passes, last)
  else:
    examples = options.curvature_examples
    added = added_loss(ending, tasks, where, theta, ranking, examples)[counts]
    chosen, tried = _taylor(accuracy_at, added, dense, target, gamma, last)
  reached = chosen <= last
  chosen = jnp.minimum(chosen, last)
  mask = mask_at(chosen)
  accuracy = accuracy_of(mask)
  if search == 'taylor':  # an estimate is no proof
    reached = passes(accuracy)
  report = packing.report(where, state, mask) | {
    'rate': jnp.asarray(options.rates, jnp.float32)[chosen],
    'reached': reached,
    'pruned_accuracy': accuracy,
    'target': target,
    'evaluations': tried,
  }
  if options.compare:
    true = jnp.minimum(linear[0], last)
    report['linear_rate'] = jnp.asarray(options.rates, jnp.float32)[true]
  return phi, state._replace(mask=mask), report


def added_loss(
  ending: Ending,
  tasks: sequential.Tasks,
  where: packing.Layout,
  theta: Params,
  ranking: Ranking,
  num_examples: int,
) -> jax.Array:
  """δL of keeping the k first, for k = 0, …, n.

  Args:
    ending: of the task.
    tasks: of the sequence.
    where: of `packing.layout`.
    theta: Ψ(φ).
    ranking: of `rank`.
    num_examples: validation examples, > 0.

  Returns:
    float32 [n + 1], or wider; see `efficient_packnet`.
  """
  h = fisher.diagonal(
    ending,
    tasks,
    theta,
    kind='example',
    labels='sampled',
    num_examples=num_examples,
    split='validation',
  )

  def loss(w):
    rows = jnp.arange(num_examples, dtype=jnp.int32)
    some = ending.batch('validation', rows)
    return -ending.log_likelihood(w, some, ending.key, 'true')

  g = packing.flat(packing.governed(where, jax.grad(loss)(theta)))
  h, x = (packing.flat(packing.governed(where, t)) for t in (h, theta))
  g, x = trees.wide(g), trees.wide(x)
  terms = 0.5 * h * x * x - g * x
  if not ranking.reuse:  # what is in use is in every mask
    terms = jnp.where(ranking.used, 0, terms)
  # Pruned are the smallest: what is added up from the largest down is kept.
  terms = terms[jnp.argsort(-ranking.ranks)]
  kept = jnp.concatenate([jnp.zeros(1, terms.dtype), jnp.cumsum(terms)])
  return kept[-1] - kept


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
  return sequential.lowest(lambda i: passes(accuracy_at(i)), last + 1)


def _taylor(accuracy_at, added, dense, target, gamma, last):
  """The lowest index whose estimated accuracy is enough: (index, 1)."""
  lowest = lambda ok: jnp.argmax(ok).astype(jnp.int32)
  close = added <= -jnp.log(jnp.asarray(gamma, added.dtype))
  at = jnp.where(jnp.any(close), lowest(close), last)
  lost = dense - accuracy_at(at)
  factor = jnp.maximum(lost, 0) / jnp.maximum(added[at], 1e-12)
  # What costs no loss is enough.
  ok = jnp.maximum(added, 0) * factor <= dense - target
  chosen = jnp.where(jnp.any(ok), lowest(ok), last + 1)
  # Where nothing was lost there is no factor: not below what was tried.
  chosen = jnp.where(lost > 0, chosen, at)
  return chosen, jnp.ones((), jnp.int32)
