"""Variational continual learning: the posterior is the next task's prior."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from powerprop import trees
from powerprop.methods.continual import replay
from powerprop.methods.continual import sequential
from powerprop.psi import Psi
from powerprop.types import Draws, Ending, Method, Params, Penalty, Updates

# nullprogram.com/blog/2018/07/31
_TRIPLE32 = (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB)


class Gaussian(NamedTuple):
  """Independent normal distributions of all weights and biases.

  Attributes:
    mean: a tree like the net's θ.
    log_std: the same structure, log σ.
  """

  mean: Params
  log_std: Params


class State(NamedTuple):
  """The state of `vcl`.

  Attributes:
    key: uint32, the data of a random key that stays the same.
    draws: int32, how many samples of the weights were drawn.
    prior: q of the task before; at first N(0, prior_std²).
    seen: bool [outputs], whether an output was trained yet; all where tasks
      have no outputs of their own.
    coreset: pictures of the tasks so far; () where there is none.
  """

  key: jax.Array
  draws: jax.Array
  prior: Gaussian
  seen: jax.Array
  coreset: Any


def posterior(theta: Params) -> Gaussian:
  """q as it stands in θ = {'mean': …, 'spread': …}."""
  structure = jax.tree.structure(theta['mean'])
  return Gaussian(
    theta['mean'],
    jax.tree.unflatten(structure, jax.tree.leaves(theta['spread'])),
  )


def noise(key: jax.Array, like: Params) -> Params:
  """ε ~ N(0, 1) for every parameter.

  The bits are a hash of their places, as those of `jax.random` take as long as
  the whole gradient does. |ε| is at most 5.2.
  """
  leaves, structure = jax.tree.flatten(like)
  start, stride = jax.random.bits(key, (2,))
  out, first = [], 0
  for x in leaves:
    place = jnp.arange(first, first + x.size, dtype=jnp.uint32)
    bits = _mixed(place * (stride | 1) + start)
    # Odd numbers between ±2²³, exact in float32.
    odd = 2 * (bits >> 9).astype(jnp.int32) + 1 - 2**23
    eps = math.sqrt(2) * jax.lax.erf_inv(odd.astype(jnp.float32) * 2.0**-23)
    out.append(eps.reshape(x.shape).astype(x.dtype))
    first += x.size
  # Else XLA computes it again for each of its uses.
  return jax.lax.optimization_barrier(jax.tree.unflatten(structure, out))


def _mixed(x: jax.Array) -> jax.Array:
  """A permutation of uint32 that looks random: triple32 of C. Wellons, 2018."""
  for shift, odd in zip((17, 11, 15), _TRIPLE32, strict=True):
    x = (x ^ (x >> shift)) * jnp.uint32(odd)
  return x ^ (x >> 14)


def sample(q: Gaussian, eps: Params) -> Params:
  """The weights μ + σ ε."""
  return jax.tree.map(
    lambda m, s, e: m + jnp.exp(s) * e, q.mean, q.log_std, eps
  )


def divergence(q: Gaussian, p: Gaussian, counts: Params) -> jax.Array:
  r"""KL(q ‖ p) of the parameters that count, in nats.

  .. math::
    \sum_i \log\frac{σ_{p,i}}{σ_{q,i}}
    + \frac{σ_{q,i}^2 + (μ_{q,i} - μ_{p,i})^2}{2 σ_{p,i}^2} - \frac12

  Args:
    q: a Gaussian.
    p: a Gaussian of the same structure.
    counts: bool arrays that broadcast against the leaves.

  Returns:
    A scalar ≥ 0.
  """

  def leaf(m, s, prior_m, prior_s, count):
    m, s, prior_m, prior_s = map(trees.wide, (m, s, prior_m, prior_s))
    ratio = s - prior_s
    # expm1: exactly zero, with slope zero, where q = p.
    spread = 0.5 * jnp.expm1(2 * ratio) - ratio
    shift = 0.5 * jnp.square((m - prior_m) * jnp.exp(-prior_s))
    return jnp.sum(jnp.where(count, spread + shift, 0.0))

  parts = jax.tree.map(leaf, q.mean, q.log_std, p.mean, p.log_std, counts)
  return jax.tree.reduce(jnp.add, parts)


def _outputs(tasks: sequential.Tasks) -> tuple[int, ...]:
  """The shape of the outputs that tasks have for themselves; () without."""
  if not tasks.heads:
    return ()
  every = trees.weights(tasks.shapes, lambda *_: True)
  return jnp.shape(every[tasks.heads[0]])[-1:]


def vcl(
  tasks: sequential.Tasks,
  *,
  initial_std: float = 0.05,
  prior_std: float = 1.0,
  samples: int = 1,
  reset_std: bool = False,
  coreset: int = 0,
  coreset_steps: int = 100,
  coreset_learning_rate: float = 1e-3,
) -> Method:
  r"""VCL: a Gaussian over θ, held to what it was at the end of the task before.

  .. math::
    L_t = \frac1{N} \sum_n E_{q_t}[-\log p(y_n | θ, x_n)]
    + \frac{λ}{N} KL(q_t ‖ q_{t-1}), \quad q_0 = N(0, σ_0^2)

  with λ the training's coefficient, and E by samples of all weights and biases
  in each step, which the batch shares (the authors: 10). φ becomes {'mean':
  φ of μ, 'spread': {…: {'var': log σ}}}: μ is under Ψ, and by its name log σ is
  not. The net predicts with μ (the authors: 100 samples of the weights).

  Where not all outputs are all tasks', an output counts in the KL from its
  first gradient on; until then it keeps q and prior of the start. It is new to
  the paper's net at that time; here it would drift to the prior, and under Adam
  as fast as if it had data.

  With a coreset, a copy of q is trained on the coresets of all tasks so far, by
  Adam in θ on the same loss, with q itself as the prior and λ = 1, at the end
  of each task; the net predicts with its mean, φ['refined'], until the
  next one ends. Coreset pictures are trained on as the others are, at their
  task (the paper leaves them out there), and each task has the same copy (the
  authors' code refines one for each where tasks have outputs of their own).

  Args:
    tasks: number of tasks, N, heads and shapes.
    initial_std: σ at the start, > 0; the authors' code has exp(−3), and exp(−6)
      for generative models.
    prior_std: σ_0 of the first prior, > 0.
    samples: of the weights in each step, ≥ 1; it costs as many.
    reset_std: whether σ starts anew after each task, with the prior as it was
      learned: the authors' code for generative models does so.
    coreset: pictures per task, ≥ 0; a task keeps no more than it has.
    coreset_steps: steps of the copy's training, ≥ 1.
    coreset_learning_rate: of its Adam, > 0.

  Returns:
    A method; its penalty is KL / N.

  Raises:
    ValueError: if a value is out of range.

  Reference: Nguyen et al., Variational continual learning, ICLR 2018,
    eq. (1)-(4) and algorithm 1.
  """
  setup = Setup(
    tasks,
    initial_std,
    prior_std,
    coreset,
    coreset_steps,
    coreset_learning_rate,
    samples,
    reset_std,
  )
  _check(setup)
  setup = setup._replace(share=min(coreset, tasks.num_train))
  bound = lambda fn: functools.partial(fn, setup)
  return sequential.method(
    bound(init),
    weights=weights,
    gradients=gradients,
    constrain=constrain,
    penalty=Penalty(bound(penalty), per_example=True),
    track=bound(track),
    end_task=bound(end_task),
    expected=lambda theta, state: theta['mean'],
    draws=None if samples == 1 else Draws(samples, draw),
    remembers=setup.share > 0,
    predict=lambda theta, record: theta.get('refined', theta['mean']),
  )


class Setup(NamedTuple):
  """What `vcl` is told.

  Attributes:
    tasks: of the sequence.
    initial_std: σ at the start.
    prior_std: σ of the first prior.
    share: pictures that a task keeps; 0 is no coreset.
    steps: of the training of the refined copy.
    learning_rate: of its Adam.
    samples: of the weights in a step.
    reset_std: whether σ starts anew after a task.
  """

  tasks: sequential.Tasks
  initial_std: float
  prior_std: float
  share: int
  steps: int
  learning_rate: float
  samples: int
  reset_std: bool


def _check(setup: Setup) -> None:
  """Raises ValueError if a value is out of range."""
  for name, value in (
    ('initial_std', setup.initial_std),
    ('prior_std', setup.prior_std),
    ('coreset_learning_rate', setup.learning_rate),
  ):
    if not 0 < value < np.inf:
      raise ValueError(f'{name} is {value} but must be finite and above 0')
  for name, value, least in (
    ('coreset', setup.share, 0),
    ('coreset_steps', setup.steps, 1),
    ('samples', setup.samples, 1),
  ):
    if value < least:
      raise ValueError(f'{name} is {value} but must be at least {least}')


def init(
  setup: Setup, key: jax.Array, phi: Params, psi: Psi, gradient: Any
) -> tuple[Params, State]:
  """φ with a spread, and with a copy to refine where there are coresets."""
  del psi, gradient
  log_std = float(np.log(setup.initial_std))
  new = {
    'mean': phi,
    'spread': jax.tree.map(lambda x: {'var': jnp.full_like(x, log_std)}, phi),
  }
  if setup.share:
    new['refined'] = trees.copied(phi)
  constant = lambda value: jax.tree.map(lambda x: jnp.full_like(x, value), phi)
  tasks = setup.tasks
  state = State(
    key=jnp.copy(jax.random.key_data(key)),
    draws=jnp.zeros((), jnp.int32),
    prior=Gaussian(constant(0.0), constant(float(np.log(setup.prior_std)))),
    seen=jnp.full(_outputs(tasks), not tasks.heads),
    coreset=(
      replay.empty(tasks, tasks.number * setup.share) if setup.share else ()
    ),
  )
  return new, state


def epsilon(theta: Params, state: State) -> Params:
  """The step's ε, the same for forward pass and gradient."""
  key = jax.random.wrap_key_data(state.key)
  return noise(jax.random.fold_in(key, state.draws), theta['mean'])


def weights(theta: Params, state: State) -> Params:
  """The step's sample μ + σ ε."""
  return sample(posterior(theta), epsilon(theta, state))


def draw(state: State, index: jax.Array) -> State:
  """The state of one of a step's samples."""
  return state._replace(draws=state.draws + index)


def gradients(dense: Updates, theta: Params, state: State) -> Updates:
  """∂L/∂μ = ∂L/∂w, and ∂L/∂log σ = ∂L/∂w · ε σ; 0 of the refined copy."""
  q = posterior(theta)
  grads = {
    'mean': dense,
    'spread': jax.tree.map(
      lambda g, s, e: {'var': g * e * jnp.exp(s)},
      dense,
      q.log_std,
      epsilon(theta, state),
    ),
  }
  if 'refined' in theta:
    grads['refined'] = jax.tree.map(jnp.zeros_like, theta['refined'])
  return grads


def constrain(updates: Updates, state: State) -> Updates:
  """Zeros for the refined copy, which decay would move."""
  del state
  if 'refined' in updates:
    still = jax.tree.map(jnp.zeros_like, updates['refined'])
    updates = {**updates, 'refined': still}
  return updates


def counted(tasks: sequential.Tasks, like: Params, seen: jax.Array) -> Params:
  """What counts in the KL: of heads, the columns of outputs that were seen."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: (
      seen if trees.path_name(path) in tasks.heads else jnp.asarray(True)
    ),
    like,
  )


def penalty(setup: Setup, theta: Params, state: State) -> jax.Array:
  """KL / N."""
  q = posterior(theta)
  kl = divergence(q, state.prior, counted(setup.tasks, q.mean, state.seen))
  return kl / setup.tasks.num_train


def track(
  setup: Setup, plain: Updates, before: Params, after: Params, state: State
) -> State:
  """Counts the draws, and the outputs that have had a gradient."""
  del before, after
  seen = state.seen
  heads = trees.weights(plain, lambda path, _: path in setup.tasks.heads)
  for x in heads.values():
    seen = seen | jnp.any(x != 0, axis=tuple(range(x.ndim - 1)))
  return state._replace(draws=state.draws + setup.samples, seen=seen)


def end_task(
  setup: Setup, ending: Ending, phi: Params, state: State
) -> tuple[Params, State, dict[str, jax.Array]]:
  """The posterior becomes the prior; a copy of it is refined on coresets."""
  tasks = setup.tasks
  q = posterior(ending.psi.to_theta(phi))
  choose = lambda new, old: jax.tree.map(
    jnp.where, counted(tasks, new, state.seen), new, old
  )
  state = state._replace(prior=Gaussian(*map(choose, q, state.prior)))
  if setup.reset_std:
    start = float(np.log(setup.initial_std))
    anew = jax.tree.map(lambda x: jnp.full_like(x, start), phi['spread'])
    phi = phi | {'spread': anew}
  if setup.share:
    store_key, refine_key = jax.random.split(ending.key)
    kept = replay.store(state.coreset, tasks, ending, store_key, setup.share)
    state = state._replace(coreset=kept)
    mean = refined(setup, ending, q, state, refine_key)
    # Named as in φ, for Ψ's `where`.
    phi = phi | ending.psi.to_phi({'refined': mean})
  return phi, state, {}


def refined(
  setup: Setup, ending: Ending, q: Gaussian, state: State, key: jax.Array
) -> Params:
  """The mean of a copy of q that was trained on the coresets.

  Args:
    setup: of `vcl`.
    ending: of the task.
    q: where the copy starts, and its prior.
    state: with the coresets of all tasks so far.
    key: a random key.

  Returns:
    A tree like q's mean, in its dtypes.
  """
  tasks = setup.tasks
  optimiser = optax.adam(setup.learning_rate)
  dtypes = jax.tree.map(lambda x: x.dtype, q.mean)
  q = jax.tree.map(trees.wide, q)  # Adam's ε is zero in half precision
  count = counted(tasks, q.mean, state.seen)

  def loss(copy, key):
    rows_key, eps_key = jax.random.split(key)
    batch = replay.draw(state.coreset, rows_key, tasks.batch_size)
    batch = ending.augment(jax.random.fold_in(key, 2), batch)
    w = sample(copy, noise(eps_key, copy.mean))
    fit = ending.log_likelihood(w, ending.recalled(batch), None, 'true')
    return divergence(copy, q, count) / state.coreset.stored - fit

  def step(carry, key):
    copy, opt = carry
    updates, opt = optimiser.update(jax.grad(loss)(copy, key), opt)
    return (optax.apply_updates(copy, updates), opt), None

  keys = jax.random.split(key, setup.steps)
  (copy, _), _ = jax.lax.scan(step, (q, optimiser.init(q)), keys)
  return jax.tree.map(lambda x, d: x.astype(d), copy.mean, dtypes)
