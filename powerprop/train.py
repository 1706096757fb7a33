"""Trainings as pure functions of (key, hyperparameters), and populations.

The one place where net, transform, optimiser and data meet.
"""

from collections.abc import Callable, Iterator
from concurrent import futures
import functools
import itertools
import os
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from powerprop import data
from powerprop import reparam
from powerprop import transforms
from powerprop.types import Hyper, Params, TrainState

_EVALUATION_BATCH = 2_000


class Member(NamedTuple):
  """One training of a population, by name."""

  transform: str
  alpha: float
  learning_rate: float
  seed: int


class Recipe(NamedTuple):
  """What all members of a population share; static.

  Attributes:
    net: a net of `powerprop.networks`.
    optimizer: learning rate -> optax transformation.
    transforms: by name, (inner, alpha) -> optax transformation.
    batch_size: examples per step.
    scale: factor from uint8 pixels to [0, 1].
    num_train: number of training examples.
    image_shape: (H, W, C).
    epsilon: weights in (−epsilon, epsilon) count as near zero.
  """

  net: hk.TransformedWithState
  optimizer: Callable[[Any], optax.GradientTransformation]
  transforms: dict[str, Callable[..., optax.GradientTransformation]]
  batch_size: int
  scale: float
  num_train: int
  image_shape: tuple[int, ...]
  epsilon: float


class Training(NamedTuple):
  """The pure functions of one member's training.

  Attributes:
    init: hyper -> TrainState.
    chunk: (state, hyper, train split, number of steps) -> state, mean loss.
    read: state -> θ.
    evaluate: (θ, net state, split) -> accuracy, mean negative log-likelihood.
    near_zero: θ -> share of weights in (−ε, ε).
  """

  init: Callable[[Hyper], TrainState]
  chunk: Callable[..., tuple[TrainState, jax.Array]]
  read: Callable[[TrainState], Params]
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
  key = jax.random.fold_in(jax.random.key(seed), 0)
  image = jnp.zeros((1, *recipe.image_shape))
  return recipe.net.init(key, image, is_training=True)


def make_training(
  recipe: Recipe, transform: str, alpha: float | None = None
) -> Training:
  """Builds the functions of one training.

  Args:
    recipe: what the population shares.
    transform: a name in recipe.transforms.
    alpha: a static α, or None to take it, traced, from the hyperparameters.

  Returns:
    Functions to be jitted, vmapped and sharded at will.
  """

  def optimiser(hyper: Hyper) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(
      recipe.transforms[transform](
        recipe.optimizer(hyper.learning_rate),
        alpha=hyper.alpha if alpha is None else alpha,
      )
    )

  def init(hyper: Hyper) -> TrainState:
    theta, net_state = initial_theta(recipe, hyper.seed)
    phi = reparam.to_phi(theta, hyper.alpha if alpha is None else alpha)
    return TrainState(
      phi=phi,
      net=net_state,
      opt=optimiser(hyper).init(phi),
      step=jnp.zeros((), jnp.int32),
      finite=jnp.asarray(True),
    )

  def loss_fn(theta, net_state, key, image, label):
    logits, net_state = recipe.net.apply(
      theta, net_state, key, image, is_training=True
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.mean(losses), net_state

  def chunk(state, hyper, train: data.Split, num_steps: int):
    key = jax.random.key(hyper.seed)
    batch_key = jax.random.fold_in(key, 1)
    net_key = jax.random.fold_in(key, 2)
    tx = optimiser(hyper)
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def step(state: TrainState, rows: jax.Array):
      image = data.normalise(train.image[rows], recipe.scale)
      now = transforms.current_alpha(state.opt)
      theta = reparam.to_theta(state.phi, now)
      (loss, net_state), grads = grad_fn(
        theta,
        state.net,
        jax.random.fold_in(net_key, state.step),
        image,
        train.label[rows],
      )
      updates, opt = tx.update(grads, state.opt, state.phi)
      state = TrainState(
        phi=optax.apply_updates(state.phi, updates),
        net=net_state,
        opt=opt,
        step=state.step + 1,
        finite=state.finite & jnp.isfinite(loss),
      )
      return state, loss

    rows = data.batch_indices(
      batch_key, state.step, num_steps, recipe.num_train, recipe.batch_size
    )
    state, losses = jax.lax.scan(step, state, rows)
    return state, jnp.mean(losses)

  def read(state: TrainState) -> Params:
    return reparam.to_theta(state.phi, transforms.current_alpha(state.opt))

  return Training(
    init=init,
    chunk=chunk,
    read=read,
    evaluate=functools.partial(evaluate, recipe),
    near_zero=functools.partial(
      transforms.near_zero_share, epsilon=recipe.epsilon
    ),
  )


def evaluate(
  recipe: Recipe, theta: Params, net_state: Any, split: data.Split
) -> tuple[jax.Array, jax.Array]:
  """Accuracy and mean negative log-likelihood on a whole split.

  Args:
    recipe: the population's recipe.
    theta: weights as the forward pass uses them.
    net_state: the net's state.
    split: N examples, uint8 images.

  Returns:
    Two float32 scalars: the accuracy in [0, 1], and nats.
  """
  n = split.label.shape[0]
  batches = -(-n // _EVALUATION_BATCH)
  size = -(-n // batches)
  short = batches * size - n

  def cut(x):
    x = jnp.pad(x, [(0, short)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(batches, size, *x.shape[1:])

  def one(batch):
    image, label, counts = batch
    image = data.normalise(image, recipe.scale)
    logits, _ = recipe.net.apply(
      theta, net_state, None, image, is_training=False
    )
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    right = jnp.argmax(logits, axis=-1) == label
    return jnp.sum(right * counts), jnp.sum(nll * counts)

  counts = jnp.ones(n, jnp.float32)
  right, nll = jax.lax.map(
    one, (cut(split.image), cut(split.label), cut(counts))
  )
  return jnp.sum(right) / n, jnp.sum(nll) / n


class Cell(NamedTuple):
  """Members that run as one program call: all of a transform, or just one.

  Attributes:
    members: M of them.
    training: jitted functions over the member axis where `stacked`.
    hyper: their hyperparameters on the device, [M, ...] where stacked.
    stacked: whether arrays have a leading member axis.
  """

  members: tuple[Member, ...]
  training: Training
  hyper: Hyper
  stacked: bool


class Report(NamedTuple):
  """What the host hears of a member after a chunk; NumPy scalars.

  Attributes:
    loss: mean over the chunk's steps, nats.
    validation_accuracy: in [0, 1].
    alpha: the current α.
    near_zero: share of weights in (−ε, ε).
    finite: whether every loss so far was finite.
  """

  loss: Any
  validation_accuracy: Any
  alpha: Any
  near_zero: Any
  finite: Any


def choose_executor(executor: str) -> str:
  """Resolves 'auto': `map` on CPU, where it was faster, else `vmap`."""
  if executor == 'auto':
    return 'map' if jax.default_backend() == 'cpu' else 'vmap'
  return executor


def make_cells(
  recipe: Recipe, members: list[Member], executor: str
) -> list[Cell]:
  """Arranges a population into programs.

  Args:
    recipe: what the members share.
    members: the population.
    executor: 'vmap': one program per transform, α traced, the member axis
      sharded over all local devices (padded with copies of the last member to
      fill them). 'map': one call per member, α static, one program per
      transform and α.

  Returns:
    Cells that cover the members, each once but for padding.
  """
  if executor == 'map':
    compiled: dict[tuple[str, float], Training] = {}
    cells = []
    for m in members:
      which = (m.transform, m.alpha)
      if which not in compiled:
        static = None if _adapts(recipe, m.transform) else m.alpha
        compiled[which] = _jit(make_training(recipe, m.transform, static))
      cells.append(Cell((m,), compiled[which], _hyper([m], False), False))
    return cells

  devices = jax.local_devices()
  mesh = jax.sharding.Mesh(np.array(devices), ('runs',))
  sharding = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec('runs')
  )
  cells = []
  for name, group in itertools.groupby(members, lambda m: m.transform):
    ms = list(group)
    ms += [ms[-1]] * (-len(ms) % len(devices))
    hyper = jax.device_put(_hyper(ms, True), sharding)
    training = _jit(_vmap(make_training(recipe, name)))
    cells.append(Cell(tuple(ms), training, hyper, True))
  return cells


def _adapts(recipe: Recipe, transform: str) -> bool:
  """Whether a transform keeps its α as an array, whatever it is given."""
  tx = recipe.transforms[transform](optax.identity(), alpha=2.0)
  state = jax.eval_shape(tx.init, {'w': jnp.zeros((1, 1))})
  return not isinstance(transforms.current_alpha(state), float)


def _hyper(members: list[Member], stacked: bool) -> Hyper:
  columns = Hyper(
    seed=np.array([m.seed for m in members], np.int32),
    alpha=np.array([m.alpha for m in members], np.float32),
    learning_rate=np.array([m.learning_rate for m in members], np.float32),
  )
  return columns if stacked else jax.tree.map(lambda x: x[0], columns)


def _vmap(t: Training) -> Training:
  def chunk(state, hyper, train, num_steps):
    return jax.vmap(lambda s, h: t.chunk(s, h, train, num_steps))(state, hyper)

  return Training(
    init=jax.vmap(t.init),
    chunk=chunk,
    read=jax.vmap(t.read),
    evaluate=jax.vmap(t.evaluate, in_axes=(0, 0, None)),
    near_zero=jax.vmap(t.near_zero),
  )


def _jit(t: Training) -> Training:
  return Training(
    init=jax.jit(t.init),
    chunk=jax.jit(t.chunk, static_argnums=3),
    read=jax.jit(t.read),
    evaluate=jax.jit(t.evaluate),
    near_zero=jax.jit(t.near_zero),
  )


def initial_states(cells: list[Cell]) -> list[TrainState]:
  """The population before its first step."""
  return [cell.training.init(cell.hyper) for cell in cells]


def _advance(
  cell: Cell,
  state: TrainState,
  num_steps: int,
  train: data.Split,
  validation: data.Split,
) -> tuple[TrainState, Report]:
  """One chunk of one cell, and what the host wants to know after it."""
  if not np.any(np.asarray(state.finite)):
    return state, _report(cell, state, np.nan, np.nan, np.nan)
  state, loss = cell.training.chunk(state, cell.hyper, train, num_steps)
  theta = cell.training.read(state)
  accuracy, _ = cell.training.evaluate(theta, state.net, validation)
  near_zero = cell.training.near_zero(theta)
  return state, _report(cell, state, loss, accuracy, near_zero)


def _report(cell, state, loss, accuracy, near_zero) -> Report:
  count = len(cell.members)
  alpha = transforms.current_alpha(state.opt)
  return Report(
    *(
      np.broadcast_to(np.asarray(x), (count,))
      for x in (loss, accuracy, alpha, near_zero, state.finite)
    )
  )


def advance(
  cells: list[Cell],
  states: list[TrainState],
  num_steps: int,
  train: data.Split,
  validation: data.Split,
) -> Iterator[tuple[int, TrainState, Report]]:
  """Trains every cell for a chunk, several at a time on CPU.

  Small nets do not fill the cores: two threads, each with a training of its
  own, did 1.4 times the steps of one after the other on two cores.

  Args:
    cells: the population.
    states: one per cell; not changed.
    num_steps: steps in the chunk.
    train: training split on the device.
    validation: validation split on the device.

  Yields:
    (index of the cell, its new state, its report), in the order in which they
    finish. Closing the iterator drops the cells that have not started.
  """
  workers = os.cpu_count() or 1 if jax.default_backend() == 'cpu' else 1
  with futures.ThreadPoolExecutor(workers) as pool:
    jobs = {
      pool.submit(_advance, cell, state, num_steps, train, validation): i
      for i, (cell, state) in enumerate(zip(cells, states, strict=True))
    }
    try:
      for job in futures.as_completed(jobs):
        yield jobs[job], *job.result()
    finally:
      pool.shutdown(cancel_futures=True)


def unstack(cell: Cell, tree: Any) -> list[Any]:
  """One tree of NumPy arrays per member of a cell, padding included."""
  host = jax.tree.map(np.asarray, tree)
  if not cell.stacked:
    return [host]
  return [
    jax.tree.map(lambda x, i=i: x[i], host) for i in range(len(cell.members))
  ]
