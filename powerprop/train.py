"""Trainings as pure functions of (key, hyperparameters).

The one place where problem, method, Ψ and optimiser meet.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from powerprop import batches
from powerprop import costs
from powerprop import methods
from powerprop import parts
from powerprop import transforms
from powerprop import trees
from powerprop.methods import step as steps_lib
from powerprop.psi import Psi
from powerprop.types import Hyper, Method, Params, Problem, TrainState


class Recipe(NamedTuple):
  """What all members of a population share; static.

  Attributes:
    problem: what is learned.
    optimizer: learning rate -> optax transformation.
    batch_size: examples per step.
    num_train: number of training examples, of the largest task.
    unequal: whether some tasks have fewer: each then goes by `Problem.size`.
    epsilon: weights in (−epsilon, epsilon) count as near zero.
    schedule: step -> factor on the learning rate.
    l2: coefficient of ½‖w‖² over the kernels, as part of the loss.
    layer_flops: by parameter path, FLOPs of a dense forward pass, from
      `Problem.flops`; {} where work is not counted.
    streamed: whether a source has the batches of some steps and no others, in
      their order: its rows are then the numbers of these batches, one a step.
    task_steps: by task, its number of steps ≥ 1, where they differ: a chunk
      ends with its task, and the schedule, which is that of the largest number,
      is compressed to the task's; () where the caller says how many.
    accumulate: into how many parts a batch is divided; see `parts.gradient`.
    start: θ and the net's state that every seed starts from, with None for the
      leaves that are drawn; None is no leaf of them.
  """

  problem: Problem
  optimizer: Callable[[Any], optax.GradientTransformation]
  batch_size: int
  num_train: int
  epsilon: float
  schedule: Callable[[jax.Array], jax.Array] | None = None
  l2: float = 0.0
  layer_flops: Mapping[str, float] = {}
  unequal: bool = False
  streamed: bool = False
  task_steps: tuple[int, ...] = ()
  accumulate: int = 1
  start: Any = None


class Training(NamedTuple):
  """The pure functions of one member's training; `source` is the problem's.

  Attributes:
    init: (hyper, source) -> TrainState; some methods look at a batch.
    begin: (hyper, source, θ, net state) -> TrainState, for a population:
      `initial_theta` is then a program of its own, the same for all methods.
    chunk: (state, hyper, source, first step, number of steps) -> state, mean
      loss. All members of a population have the same first step: it is not
      batched. With `Recipe.task_steps` the number is the most that are done.
    read: state -> θ.
    weights: state -> w, the weights to evaluate: θ, masked, or a mean where
      training draws them.
    evaluate: (w, net state, source) -> score, mean loss; of all of a source.
    near_zero: θ -> share of weights in (−ε, ε).
  """

  init: Callable[..., TrainState]
  begin: Callable[..., TrainState]
  chunk: Callable[..., tuple[TrainState, jax.Array]]
  read: Callable[[TrainState], Params]
  weights: Callable[[TrainState], Params]
  evaluate: Callable[..., tuple[jax.Array, jax.Array]]
  near_zero: Callable[[Params], jax.Array]


def initial_theta(recipe: Recipe, seed: Any) -> tuple[Params, Any]:
  """θ and the net's state as they are before training: those of the seed.

  Args:
    recipe: the population's recipe.
    seed: int32 scalar, may be traced.

  Returns:
    (θ, net state); every α of a seed starts from the same θ.
  """
  drawn = recipe.problem.init(jax.random.fold_in(jax.random.key(seed), 0))
  if recipe.start is None:
    return drawn
  return jax.tree.map(
    lambda given, x: x if given is None else jnp.asarray(given),
    recipe.start,
    drawn,
    is_leaf=lambda x: x is None,
  )


class _Member(NamedTuple):
  """What the functions of one training are about; all of it is static."""

  recipe: Recipe
  psi: Psi
  method: Method


class _Keys(NamedTuple):
  """The random keys of a training, from its seed."""

  batches: jax.Array
  net: jax.Array
  augment: jax.Array
  method: jax.Array
  init: jax.Array


def make_training(
  recipe: Recipe, psi: Psi, method: Method | None = None
) -> Training:
  """Builds the functions of one training.

  Args:
    recipe: what the population shares.
    psi: α, which leaves, and the transform; α is a number, or None to take it,
      traced, from the hyperparameters.
    method: how the net becomes sparse; None is dense training.

  Returns:
    Functions to be jitted, vmapped and sharded at will.

  Raises:
    ValueError: if the method draws weights and rehearses, which is not done.
  """
  it = _Member(recipe, psi, methods.dense() if method is None else method)
  continual = it.method.continual
  if continual.draws is not None and continual.rehearsal is not None:
    raise ValueError(
      'the method has draws and rehearsal but must have one of them at most'
    )
  return Training(
    init=lambda hyper, source: _begin(
      it, hyper, source, *initial_theta(recipe, hyper.seed)
    ),
    begin=functools.partial(_begin, it),
    chunk=functools.partial(_chunk, it),
    read=functools.partial(read, psi),
    weights=lambda state: (it.method.continual.expected or it.method.weights)(
      read(psi, state), state.method
    ),
    evaluate=functools.partial(evaluate, recipe),
    near_zero=functools.partial(
      transforms.near_zero_share, epsilon=recipe.epsilon, where=psi.where
    ),
  )


def read(psi: Psi, state: TrainState) -> Params:
  """θ of a state."""
  return psi.at(state.opt).to_theta(state.phi)


def evaluate(
  recipe: Recipe, w: Params, net_state: Any, source: Any
) -> tuple[jax.Array, jax.Array]:
  """The score and the mean loss on all of a source.

  Args:
    recipe: the population's recipe.
    w: weights as the forward pass uses them.
    net_state: the net's state.
    source: of the problem; of one that has no sequence, a split.

  Returns:
    Two float32 scalars: the score, such as an accuracy in [0, 1], and nats.
  """
  found = recipe.problem.score(w, net_state, source, '')
  return found.value, found.loss


def averaged(
  recipe: Recipe,
  w: Params,
  net_state: Any,
  key: jax.Array,
  source: Any,
  examples: int,
) -> Any:
  """A net's own state, its averages made anew for other weights.

  Batch normalisation evaluates with averages from training. Those of a dense
  net are wrong for what pruning leaves of it.

  Args:
    recipe: the population's recipe.
    w: weights as the forward pass uses them.
    net_state: the net's state.
    key: chooses the examples.
    source: of the problem, to train on.
    examples: at least so many, drawn with replacement, in whole batches (or
      parts of them, as they go through the net); 0 changes nothing.

  Returns:
    The net's state. One without arrays is as it was.

  Raises:
    ValueError: if the problem does not say how they are made.
  """
  problem = recipe.problem
  if not examples or not jax.tree.leaves(net_state):
    return net_state
  if problem.averages is None:
    raise ValueError(
      'the net has a state of its own, and its problem does not say which'
      ' averages in it (as those of batch normalisation) go with the weights:'
      ' a pruned net would be scored with those of the dense one; give Problem'
      ' its `averages`, or set average_examples to 0'
    )
  size = problem.size(source, 'train')
  at_once = recipe.batch_size // recipe.accumulate

  def batch(i):
    rows_key, augment_key = jax.random.split(jax.random.fold_in(key, i))
    rows = jax.random.randint(rows_key, (at_once,), 0, size)
    found = problem.batch(source, 'train', rows)
    if recipe.streamed:  # it is a whole batch, whatever the number of rows
      found = jax.tree.map(lambda x: x[:: recipe.accumulate], found)
    if problem.augment is None:
      return found
    return problem.augment(augment_key, found)

  number = -(-examples // at_once)
  return problem.averages(w, net_state, key, batch, number)


def _keys(hyper: Hyper) -> _Keys:
  key = jax.random.key(hyper.seed)
  return _Keys(*(jax.random.fold_in(key, i) for i in range(1, 6)))


def at_start(psi: Psi, hyper: Hyper) -> Psi:
  """Ψ before the first step: with the hyperparameters' α if it has none."""
  return psi if psi.alpha is not None else psi._replace(alpha=hyper.alpha)


def where_they_differ(steps: Sequence[int]) -> tuple[int, ...]:
  """`Recipe.task_steps` of tasks with so many steps each."""
  return tuple(steps) if min(steps) < max(steps) else ()


def _own_steps(recipe: Recipe, source: Any) -> jax.Array:
  """How many steps the source's task takes, of `task_steps`."""
  every = jnp.asarray(recipe.task_steps, jnp.int32)
  return every[recipe.problem.task(source)]


def _optimiser(it: _Member, hyper: Hyper, source: Any, step: Any) -> Any:
  rate, recipe = hyper.learning_rate, it.recipe
  if recipe.schedule is not None:
    # The rate of this very step: a step that changes masks instead of weights
    # does not hold the schedule back.
    at = it.method.clock(step)
    if recipe.task_steps:
      at = at * (max(recipe.task_steps) / _own_steps(recipe, source))
    rate = rate * recipe.schedule(at)
  return at_start(it.psi, hyper).optimizer(recipe.optimizer(rate))


def _rows(
  it: _Member, hyper: Hyper, source: Any, start: Any, num_steps: int
) -> jax.Array:
  """Which examples steps learn from; int32 [num_steps, batch_size]."""
  recipe = it.recipe
  if recipe.streamed:
    return jnp.arange(num_steps, dtype=jnp.int32)[:, None]
  size = recipe.problem.size(source, 'train') if recipe.unequal else None
  return batches.batch_indices(
    _keys(hyper).batches,
    start,
    num_steps,
    recipe.num_train,
    recipe.batch_size,
    size,
  )


def _batch(
  it: _Member, hyper: Hyper, source: Any, step: Any, rows: jax.Array
) -> Any:
  """What a step learns from."""
  problem, continual = it.recipe.problem, it.method.continual
  key = jax.random.fold_in(_keys(hyper).method, step)
  if continual.joint and not continual.shares:
    source = problem.any_task(source, key)
    if it.recipe.unequal:  # rows are of the task that is being learned
      size = problem.size(source, 'train')
      key = jax.random.fold_in(key, 1)
      rows = jax.random.randint(key, rows.shape, 0, size)
  if continual.shares:
    examples = batches.mixed(problem, continual.shares, source, key, len(rows))
  else:
    examples = problem.batch(source, 'train', rows)
  if problem.augment is None:
    return examples
  key = jax.random.fold_in(_keys(hyper).augment, step)
  return problem.augment(key, examples)


def _begin(
  it: _Member, hyper: Hyper, source: Any, theta: Params, net_state: Any
) -> TrainState:
  recipe, keys, psi = it.recipe, _keys(hyper), at_start(it.psi, hyper)

  def gradient(w):
    rows = _rows(it, hyper, source, 0, 1)[0]
    examples = _batch(it, hyper, source, 0, rows)
    of_batch = parts.gradient(recipe.problem.loss, recipe.accumulate)
    return of_batch(w, net_state, keys.net, examples)[1]

  phi, method_state = it.method.init(
    keys.init, psi.to_phi(theta), psi, gradient
  )
  if (freeze := it.method.continual.freeze) is not None:
    net_state = freeze(net_state, net_state, method_state)
  return TrainState(
    phi=phi,
    net=net_state,
    opt=_optimiser(it, hyper, source, 0).init(phi),
    method=method_state,
    work=costs.work(
      recipe.layer_flops, it.method.masks(method_state), jnp.zeros(())
    ),
    step=jnp.zeros((), jnp.int32),
    finite=jnp.asarray(True),
  )


def _chunk(
  it: _Member,
  state: TrainState,
  hyper: Hyper,
  source: Any,
  start: Any,
  num_steps: int,
) -> tuple[TrainState, jax.Array]:
  at_rest = _at_rest(it, source)
  rows = _rows(it, hyper, source, start, num_steps)
  steps = start + jnp.arange(num_steps, dtype=jnp.int32)
  step = functools.partial(_one_step, it, hyper, source, at_rest)
  if not it.recipe.task_steps:
    state, losses = jax.lax.scan(
      lambda state, xs: step(state, *xs), state, (steps, rows)
    )
    return _checked(state), jnp.mean(losses)

  def one(i, carry):
    state, loss = step(carry[0], steps[i], rows[i])
    return state, carry[1] + loss.astype(jnp.float32)

  # One program for all tasks, however many steps they take.
  count = jnp.clip(_own_steps(it.recipe, source) - start, 0, num_steps)
  zero = jnp.zeros((), jnp.float32)
  state, total = jax.lax.fori_loop(0, count, one, (state, zero))
  return _checked(state), total / jnp.maximum(count, 1)


def _checked(state: TrainState) -> TrainState:
  """Whether its numbers are finite, whatever the loss says.

  A ReLU may make zeros of NaN, as XLA's on a CPU does, and a net that answers
  the same for every input has a loss that is.
  """
  finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state.phi)]
  return state._replace(finite=state.finite & jnp.all(jnp.stack(finite)))


def _one_step(
  it: _Member,
  hyper: Hyper,
  source: Any,
  at_rest: Callable[[Params], Params],
  state: TrainState,
  step: jax.Array,
  rows: jax.Array,
) -> tuple[TrainState, jax.Array]:
  recipe, method, keys = it.recipe, it.method, _keys(hyper)
  tx = _optimiser(it, hyper, source, step)
  psi = it.psi.at(state.opt)
  theta = psi.to_theta(state.phi)
  key = jax.random.fold_in(keys.method, step)
  # The step's own examples have a key that is folded once.
  again = jax.random.fold_in(jax.random.fold_in(keys.augment, step), 1)

  given = state.net, jax.random.fold_in(keys.net, step)
  examples = _batch(it, hyper, source, step, rows)
  if method.continual.draws is None:
    w = method.weights(theta, state.method)
    (loss, net_state), dense = parts.gradient(
      recipe.problem.loss, recipe.accumulate
    )(w, *given, examples)
    plain = dense = _rehearsed(it, dense, w, state, key, again, source)
    if recipe.l2:
      dense = trees.map_where(
        lambda g, x: g + recipe.l2 * x, trees.is_weight, dense, at_rest(w)
      )
  else:
    # ∂L/∂w is that by a shift of all draws alike, without the L2 term.
    shift = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(method.weights, theta, state.method),
    )
    drawn = functools.partial(_drawn_loss, it, at_rest, state.method)
    (loss, net_state), (pulled, plain) = parts.gradient(
      drawn, recipe.accumulate
    )((theta, shift), *given, examples)
    dense = plain
    method = method._replace(gradients=lambda *_: pulled)
  coefficient = hyper.coefficient
  penalty = method.continual.penalty
  if recipe.unequal and penalty is not None and penalty.per_example:
    own = recipe.problem.size(source, 'train')
    coefficient = coefficient * (recipe.num_train / own)
  event = steps_lib.make_event(tx, key, step, psi, dense, coefficient, plain)
  (phi, opt, seen), work = steps_lib.take_step(
    method._replace(
      constrain=lambda updates, kept: at_rest(method.constrain(updates, kept))
    ),
    tx,
    event,
    theta,
    (state.phi, state.opt, state.method),
    (
      lambda s: costs.work(
        recipe.layer_flops, method.masks(s), state.work.training
      ),
      state.work,
    ),
  )
  if recipe.layer_flops:
    # What the step cost goes by the masks that it was done with.
    due = False if method.change is None else method.change.due(step)
    cost = method.cost(state.work.forward, state.work.backward, due)
    mean = state.work.training
    # Not a sum: float32 would lose what is added to a large one.
    work = work._replace(training=mean + (cost / 3 - mean) / (step + 1))
  state = TrainState(
    phi=phi,
    net=net_state,
    opt=opt,
    method=seen,
    work=work,
    step=state.step + 1,
    finite=state.finite & jnp.isfinite(loss),
  )
  return state, loss


def _drawn_loss(
  it: _Member,
  at_rest: Callable[[Params], Params],
  kept: Any,
  params: tuple[Params, Params],
  net_state: Any,
  key: jax.Array,
  examples: Any,
) -> tuple[jax.Array, Any]:
  """The mean loss of a method's draws; see `Draws`."""
  theta, shift = params
  draws = it.method.continual.draws
  assert draws is not None
  losses, held = [], []
  for i in range(draws.number):  # a loop of XLA's takes half as long again
    w = it.method.weights(theta, draws.state(kept, jnp.int32(i)))
    loss, net_state = it.recipe.problem.loss(
      jax.tree.map(jnp.add, w, shift),
      net_state,
      jax.random.fold_in(key, i),
      examples,
    )
    losses.append(loss)
    if it.recipe.l2:
      squares = jax.tree.map(lambda x, y: x * y, w, at_rest(w))
      held += [jnp.sum(x) for x in trees.weights(squares).values()]
  loss = jnp.mean(jnp.stack(losses))
  if held:  # what is reported is the loss alone
    decay = it.recipe.l2 / 2 * sum(held) / draws.number
    loss += decay - jax.lax.stop_gradient(decay)
  return loss, net_state


def _rehearsed(
  it: _Member,
  dense: Params,
  w: Params,
  state: TrainState,
  key: jax.Array,
  augment_key: jax.Array,
  source: Any,
) -> Params:
  """The gradient, changed by what it is on remembered examples."""
  rehearsal, problem = it.method.continual.rehearsal, it.recipe.problem
  if rehearsal is None:
    return dense
  remembered = problem.recalled(rehearsal.draw(state.method, key), source)
  if problem.augment is not None:
    remembered = problem.augment(augment_key, remembered)
  old, _ = jax.grad(problem.loss, has_aux=True)(w, state.net, key, remembered)
  return rehearsal.combine(dense, old, state.method)


def _at_rest(it: _Member, source: Any) -> Callable[[Params], Params]:
  """tree -> tree, zero in what belongs to tasks that are not learned now."""
  resting = it.recipe.problem.resting
  if resting is None:
    return lambda tree: tree
  continual = it.method.continual
  earlier = continual.joint or continual.rehearsal is not None
  return resting(source, earlier)
