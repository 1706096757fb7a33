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

from powerprop import data
from powerprop import methods
from powerprop import reparam
from powerprop import settings
from powerprop import transforms
from powerprop import trees
from powerprop.methods import step as steps_lib
from powerprop.settings import Settings
from powerprop.types import Hyper, Method, Params, TrainState, Work

_EVALUATION_BATCH = 2_000


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
    schedule: step -> factor on the learning rate.
    augment: (key, images) -> images, applied in the training step.
    l2: coefficient of ½‖w‖² over the kernels, as part of the loss.
    label_smoothing: in [0, 1).
    layer_flops: by parameter path, FLOPs of a dense forward pass, from
      `powerprop.flops`; {} where work is not counted.
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
    weights: state -> w, the weights that the net computes with: θ, masked.
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
  image = jnp.zeros((1, *recipe.image_shape))
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

  def loss_fn(w, net_state, key, image, label):
    logits, net_state = recipe.net.apply(
      w, net_state, key, image, is_training=True
    )
    if recipe.label_smoothing:
      target = jax.nn.one_hot(label, logits.shape[-1])
      target = optax.smooth_labels(target, recipe.label_smoothing)
      losses = optax.softmax_cross_entropy(logits, target)
    else:
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.mean(losses), net_state

  def batch(hyper, train: data.Split, step, rows):
    image = train.image[rows]
    if recipe.augment is not None:
      image = recipe.augment(jax.random.fold_in(keys(hyper)[2], step), image)
    return data.normalise(image, recipe.scale), train.label[rows]

  def begin(hyper: Hyper, train: data.Split, theta, net_state) -> TrainState:
    now = hyper.alpha if alpha is None else alpha
    batch_key, net_key, _, _, init_key = keys(hyper)

    def gradient(w):
      rows = data.batch_indices(
        batch_key, 0, 1, recipe.num_train, recipe.batch_size
      )[0]
      examples = batch(hyper, train, 0, rows)
      return jax.grad(loss_fn, has_aux=True)(w, net_state, net_key, *examples)[
        0
      ]

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

  def chunk(state, hyper, train: data.Split, start, num_steps: int):
    batch_key, net_key, _, method_key, _ = keys(hyper)
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
        *batch(hyper, train, step, rows),
      )
      if recipe.l2:
        dense = trees.map_where(
          lambda g, x: g + recipe.l2 * x, trees.is_weight, dense, w
        )
      event = steps_lib.make_event(
        tx, jax.random.fold_in(method_key, step), step, now, dense
      )
      (phi, opt, seen), work = steps_lib.take_step(
        method,
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
        due = False if method.due is None else method.due(step)
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

  def init(hyper: Hyper, train: data.Split) -> TrainState:
    return begin(hyper, train, *initial_theta(recipe, hyper.seed))

  return Training(
    init=init,
    begin=begin,
    chunk=chunk,
    read=read,
    weights=lambda state: method.weights(read(state), state.method),
    evaluate=functools.partial(evaluate, recipe),
    near_zero=functools.partial(
      transforms.near_zero_share, epsilon=recipe.epsilon
    ),
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
