"""Trainings as pure functions of (key, hyperparameters).

The one place where net, method, transform, optimiser and data meet.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from experiments import data
from experiments.engine import settings
from experiments.engine.settings import Settings
from powerprop import methods
from powerprop import reparam
from powerprop import transforms
from powerprop import trees
from powerprop.methods import step as steps_lib
from powerprop.types import Examples, Hyper, Method, Params, TrainState, Work

_EVALUATION_BATCH = 2_000
_NEVER = -1e9  # a logit that takes no part; −∞ would make NaN of 0 · ∞
_HASH = (0x9E3779B1, 0x85EBCA77)


class Recipe(NamedTuple):
  """What all members of a population share; static.

  Attributes:
    net: a net of `experiments.engine.networks`.
    optimizer: learning rate -> optax transformation.
    transforms: by name, (inner, alpha) -> optax transformation.
    batch_size: examples per step.
    scale: factor from uint8 pixels to [0, 1].
    num_train: number of training examples.
    image_shape: (H, W, C).
    epsilon: weights in (−epsilon, epsilon) count as near zero.
    schedule: step -> factor on the learning rate.
    augment: (key, images) -> images, applied in the training step.
    l2: coefficient of ½‖w‖² over the kernels, as part of the loss.
    label_smoothing: in [0, 1).
    layer_flops: by parameter path, FLOPs of a dense forward pass, from
      `powerprop.flops`; {} where work is not counted.
    sequence: of tasks; the training data are then a `data.Source`.
    heads: paths of the leaves whose columns are outputs, where not all outputs
      take part in all tasks.
  """

  net: hk.TransformedWithState
  optimizer: Callable[[Any], optax.GradientTransformation]
  transforms: dict[str, Callable[..., optax.GradientTransformation]]
  batch_size: int
  scale: float
  num_train: int
  image_shape: tuple[int, ...]
  epsilon: float
  schedule: Callable[[jax.Array], jax.Array] | None = None
  augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None
  l2: float = 0.0
  label_smoothing: float = 0.0
  layer_flops: Mapping[str, float] = {}
  sequence: data.Sequence | None = None
  heads: tuple[str, ...] = ()


class Training(NamedTuple):
  """The pure functions of one member's training.

  Attributes:
    init: (hyper, train split) -> TrainState; some methods look at a batch.
    begin: (hyper, train split, θ, net state) -> TrainState, for a population:
      `initial_theta` is then a program of its own, the same for all methods.
    chunk: (state, hyper, train split, first step, number of steps) -> state,
      mean loss. All members of a population have the same first step: it is
      not batched.
    read: state -> θ.
    weights: state -> w, the weights to evaluate: θ, masked, or a mean where
      training draws them.
    evaluate: (w, net state, split) -> accuracy, mean negative log-likelihood.
    near_zero: θ -> share of weights in (−ε, ε).
  """

  init: Callable[..., TrainState]
  begin: Callable[..., TrainState]
  chunk: Callable[..., tuple[TrainState, jax.Array]]
  read: Callable[[TrainState], Params]
  weights: Callable[[TrainState], Params]
  evaluate: Callable[..., tuple[jax.Array, jax.Array]]
  near_zero: Callable[[Params], jax.Array]


def make_recipe(s: Settings, dataset: data.Dataset) -> Recipe:
  """What the members of a run share.

  Args:
    s: checked settings.
    dataset: that they train on.

  Returns:
    A recipe; FLOPs are not counted with it as it is.
  """
  augment = None if s.augment == 'none' else data.AUGMENTATIONS[s.augment]
  return Recipe(
    net=settings.network(s, dataset.num_classes),
    optimizer=settings.optimizer(s),
    transforms=dict(settings.make_transforms(s)),
    batch_size=s.batch_size,
    scale=dataset.scale,
    num_train=len(dataset.train.label),
    image_shape=dataset.train.image.shape[1:],
    epsilon=s.near_zero,
    schedule=settings.schedule(s),
    augment=augment,
    l2=s.l2,
    label_smoothing=s.label_smoothing,
  )


def initial_theta(recipe: Recipe, seed: Any) -> tuple[Params, Any]:
  """θ and the net's state as they are before training: those of the seed.

  Args:
    recipe: the population's recipe.
    seed: int32 scalar, may be traced.

  Returns:
    (θ, net state); every α of a seed starts from the same θ.
  """
  key = jax.random.fold_in(jax.random.key(seed), 0)
  image = jnp.zeros((1, *recipe.image_shape), jnp.float32)
  return recipe.net.init(key, image, is_training=True)


def make_training(
  recipe: Recipe,
  transform: str,
  alpha: float | None = None,
  method: Method | None = None,
) -> Training:
  """Builds the functions of one training.

  Args:
    recipe: what the population shares.
    transform: a name in recipe.transforms.
    alpha: a static α, or None to take it, traced, from the hyperparameters.
    method: how the net becomes sparse; None is dense training.

  Returns:
    Functions to be jitted, vmapped and sharded at will.
  """
  method = methods.dense() if method is None else method

  def optimiser(hyper: Hyper, step: Any) -> Any:
    rate = hyper.learning_rate
    if recipe.schedule is not None:
      # The rate of this very step: a step that changes masks instead of
      # weights does not hold the schedule back.
      rate = rate * recipe.schedule(method.clock(step))
    return optax.with_extra_args_support(
      recipe.transforms[transform](
        recipe.optimizer(rate),
        alpha=hyper.alpha if alpha is None else alpha,
      )
    )

  def keys(hyper: Hyper) -> tuple[jax.Array, ...]:
    key = jax.random.key(hyper.seed)
    return tuple(jax.random.fold_in(key, i) for i in range(1, 6))

  def loss_fn(w, net_state, key, examples: Examples):
    image = normalised(recipe, examples.image)
    logits, net_state = recipe.net.apply(
      w, net_state, key, image, is_training=True
    )
    logits = trees.wide(logits)
    if recipe.sequence is not None:
      logits = jnp.where(examples.visible, logits, _NEVER)
    label = examples.label
    if recipe.label_smoothing:
      target = _smoothed(recipe, label, logits.shape[-1], examples.visible)
      losses = optax.softmax_cross_entropy(logits, target)
    else:
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.mean(losses), net_state

  def batch(hyper, train: Any, step, rows) -> Examples:
    if recipe.sequence is not None and method.continual.joint:
      key = jax.random.fold_in(keys(hyper)[3], step)
      task = jax.random.randint(key, (), 0, train.task + 1)
      train = train._replace(task=task)
    examples = pick(recipe, train, 'train', rows)
    if recipe.augment is None:
      return examples
    key = jax.random.fold_in(keys(hyper)[2], step)
    return examples._replace(image=recipe.augment(key, examples.image))

  def rehearsed(dense, w, state, key, train):
    """The gradient, changed by what it is on remembered examples."""
    rehearsal = method.continual.rehearsal
    if rehearsal is None:
      return dense
    remembered = rehearsal.draw(state.method, key)
    if recipe.sequence is not None and recipe.sequence.scenario == 'class':
      now = data.visible_outputs(recipe.sequence, train.task, train.now)
      remembered = remembered._replace(visible=remembered.visible | now)
    old, _ = jax.grad(loss_fn, has_aux=True)(w, state.net, key, remembered)
    return rehearsal.combine(dense, old, state.method)

  def begin(hyper: Hyper, train: Any, theta, net_state) -> TrainState:
    now = hyper.alpha if alpha is None else alpha
    batch_key, net_key, _, _, init_key = keys(hyper)

    def gradient(w):
      rows = data.batch_indices(
        batch_key, 0, 1, recipe.num_train, recipe.batch_size
      )[0]
      examples = batch(hyper, train, 0, rows)
      grads, _ = jax.grad(loss_fn, has_aux=True)(
        w, net_state, net_key, examples
      )
      return grads

    phi, method_state = method.init(
      init_key,
      reparam.to_phi(theta, now),
      now,
      gradient,
    )
    return TrainState(
      phi=phi,
      net=net_state,
      opt=optimiser(hyper, 0).init(phi),
      method=method_state,
      work=_measured(recipe, method, method_state, jnp.zeros(())),
      step=jnp.zeros((), jnp.int32),
      finite=jnp.asarray(True),
    )

  def chunk(state, hyper, train: Any, start, num_steps: int):
    batch_key, net_key, _, method_key, _ = keys(hyper)
    at_rest = _at_rest(recipe, method, train)
    stepping = method._replace(
      constrain=lambda updates, kept: at_rest(method.constrain(updates, kept))
    )
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def one_step(state: TrainState, xs):
      step, rows = xs
      tx = optimiser(hyper, step)
      now = transforms.current_alpha(state.opt)
      theta = reparam.to_theta(state.phi, now)
      w = method.weights(theta, state.method)
      (loss, net_state), dense = grad_fn(
        w,
        state.net,
        jax.random.fold_in(net_key, step),
        batch(hyper, train, step, rows),
      )
      key = jax.random.fold_in(method_key, step)
      dense = rehearsed(dense, w, state, key, train)
      if recipe.l2:
        dense = trees.map_where(
          lambda g, x: g + recipe.l2 * x, trees.is_weight, dense, at_rest(w)
        )
      event = steps_lib.make_event(tx, key, step, now, dense, hyper.coefficient)
      (phi, opt, seen), work = steps_lib.take_step(
        stepping,
        tx,
        event,
        theta,
        (state.phi, state.opt, state.method),
        (
          lambda s: _measured(recipe, method, s, state.work.training),
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

    rows = data.batch_indices(
      batch_key, start, num_steps, recipe.num_train, recipe.batch_size
    )
    steps = start + jnp.arange(num_steps, dtype=jnp.int32)
    state, losses = jax.lax.scan(one_step, state, (steps, rows))
    return state, jnp.mean(losses)

  def read(state: TrainState) -> Params:
    return reparam.to_theta(state.phi, transforms.current_alpha(state.opt))

  def init(hyper: Hyper, train: Any) -> TrainState:
    return begin(hyper, train, *initial_theta(recipe, hyper.seed))

  return Training(
    init=init,
    begin=begin,
    chunk=chunk,
    read=read,
    weights=lambda state: (method.continual.expected or method.weights)(
      read(state), state.method
    ),
    evaluate=functools.partial(evaluate, recipe),
    near_zero=functools.partial(
      transforms.near_zero_share, epsilon=recipe.epsilon
    ),
  )


def _smoothed(
  recipe: Recipe, label: jax.Array, outputs: int, visible: jax.Array
) -> jax.Array:
  """Labels smoothed over the outputs that take part; float32 [B, outputs].

  An output that takes no part has a log-probability of about `_NEVER`: any
  share of a label there would swamp the loss, and make the others drift.
  """
  target = jax.nn.one_hot(label, outputs)
  if recipe.sequence is None or recipe.sequence.scenario == 'domain':
    return optax.smooth_labels(target, recipe.label_smoothing)
  count = jnp.sum(visible, axis=-1, keepdims=True)
  share = jnp.where(visible, recipe.label_smoothing / count, 0)
  return (1 - recipe.label_smoothing) * target + share


def _at_rest(
  recipe: Recipe, method: Method, train: Any
) -> Callable[[Params], Params]:
  """tree -> tree, zero in the columns of outputs that take no part yet.

  What moves weights without a gradient of theirs, as decay does, must not move
  these: a task would find its outputs changed before it begins.
  """
  if not recipe.heads or recipe.sequence is None:
    return lambda tree: tree
  sequence = recipe.sequence
  if method.continual.joint or method.continual.rehearsal is not None:
    sequence = sequence._replace(scenario='class')  # they learn earlier tasks
  moving = data.visible_outputs(sequence, train.task, train.now)

  def is_head(path, leaf):
    # VCL's leaves have the net's paths within theirs.
    return leaf.shape[-1:] == moving.shape and any(
      f'/{head}/' in f'/{path}/' for head in recipe.heads
    )

  return lambda tree: trees.map_where(
    lambda x: jnp.where(moving, x, 0), is_head, tree
  )


def _measured(
  recipe: Recipe, method: Method, state: Any, training: jax.Array
) -> Work:
  """The FLOPs of a forward pass over the masks' sets, and their density."""
  sets = method.masks(state)
  total = sum(recipe.layer_flops.values())

  def relative(masks):
    saved = [
      recipe.layer_flops.get(name, 0.0) * (1 - jnp.mean(mask))
      for name, mask in masks.items()
    ]
    return jnp.asarray(1 - sum(saved) / total if total else 1.0, jnp.float32)

  kept = [jnp.sum(m, dtype=jnp.int32) for m in sets.forward.values()]
  size = sum(m.size for m in sets.forward.values())
  return Work(
    density=jnp.asarray(sum(kept) / size if size else 1.0, jnp.float32),
    forward=relative(sets.forward),
    backward=relative(sets.backward),
    training=jnp.asarray(training, jnp.float32),
  )


def pick(recipe: Recipe, source: Any, split: str, rows: jax.Array) -> Examples:
  """Examples of a split, or of a task.

  Args:
    recipe: of the population.
    source: a `data.Split`, or a `data.Source` where the recipe has a sequence.
    split: the split of a `data.Source`: 'train', 'validation' or 'test'.
    rows: int32 [B], which examples.

  Returns:
    uint8 pictures, labels, and the outputs that take part.
  """
  if recipe.sequence is not None:
    return data.examples(recipe.sequence, source, split, rows)
  image, label = map(jnp.asarray, source)
  return Examples(image[rows], label[rows], jnp.ones((), bool))


def normalised(recipe: Recipe, image: jax.Array) -> jax.Array:
  """Pixels as the net wants them, float32."""
  s = recipe.sequence
  return data.normalise(
    image, recipe.scale, *((s.mean, s.std) if s is not None else ())
  )


def apply(
  recipe: Recipe, w: Params, net_state: Any, examples: Examples
) -> jax.Array:
  """Logits as in evaluation, [B, outputs]; −∞ where not visible.

  They are float32, or wider where the net's are.

  Args:
    recipe: of the population.
    w: weights as the forward pass uses them.
    net_state: the net's state.
    examples: B of them.
  """
  image = normalised(recipe, examples.image)
  logits, _ = recipe.net.apply(w, net_state, None, image, is_training=False)
  logits = trees.wide(logits)
  if recipe.sequence is None:
    return logits
  return jnp.where(examples.visible, logits, -jnp.inf)


class Score(NamedTuple):
  """What an evaluation finds.

  Attributes:
    accuracy: in [0, 1], float32.
    nll: mean negative log-likelihood, nats.
    fingerprint: uint32 [2], a hash of the bits of all logits.
  """

  accuracy: jax.Array
  nll: jax.Array
  fingerprint: jax.Array


def score(
  recipe: Recipe,
  w: Params,
  net_state: Any,
  take: Callable[[jax.Array], Examples],
  size: int,
  count: Any,
) -> Score:
  """Evaluates examples in batches of one shape.

  Args:
    recipe: of the population.
    w: weights as the forward pass uses them.
    net_state: the net's state.
    take: rows -> examples.
    size: number of rows to walk through, static.
    count: how many of them count: the first ones.

  Returns:
    A score.
  """
  batches = -(-size // _EVALUATION_BATCH)
  rows = -(-size // batches)

  def one(start):
    index = start + jnp.arange(rows, dtype=jnp.int32)
    examples = take(jnp.minimum(index, size - 1))
    logits = apply(recipe, w, net_state, examples)
    label = examples.label
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    right = jnp.argmax(logits, axis=-1) == label
    counts = index < count
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    bits = bits.reshape(len(logits), -1)  # float64 has two words
    bits = jnp.where(counts[:, None], bits, 0)
    place = index[:, None].astype(jnp.uint32) * jnp.uint32(
      bits.shape[1]
    ) + jnp.arange(bits.shape[1], dtype=jnp.uint32)
    # Sums of bits times odd numbers that differ from place to place.
    hashes = [
      jnp.sum(bits * (2 * place * jnp.uint32(m) + 1), dtype=jnp.uint32)
      for m in _HASH
    ]
    return (
      jnp.sum(right * counts.astype(jnp.float32)),
      jnp.sum(nll * counts.astype(jnp.float32)),
      jnp.stack(hashes),
    )

  right, nll, hashes = jax.lax.map(one, rows * jnp.arange(batches))
  return Score(
    jnp.sum(right) / count,
    jnp.sum(nll) / count,
    jnp.sum(hashes, axis=0, dtype=jnp.uint32),
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
  take = lambda rows: pick(recipe, split, '', rows)
  found = score(recipe, theta, net_state, take, n, n)
  return found.accuracy, found.nll
