"""Training steps against dense ones, and a population's executors."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from experiments import data
from experiments.engine import classification
from experiments.engine import feed
from experiments.engine import networks
from experiments.engine import population as populations
from experiments.engine import trainings
from powerprop import batches
from powerprop import reparam
from powerprop import train
from powerprop import trees
from powerprop.psi import Psi
from powerprop.transforms import target_propagation
from powerprop.types import Hyper, Params, TrainState, Work

_PICTURES = classification.Pictures(networks.mlp(10), (28, 28, 1), 1 / 255)
_TRACED = 2.3  # any α that is no multiple of 1/8


def make_split(n: int, shape: tuple[int, ...]) -> data.Split:
  """Noise of a data set's size: only the time counts here."""
  rng = np.random.default_rng(0)
  split = data.Split(
    image=rng.integers(0, 256, (n, *shape), np.uint8),
    label=rng.integers(0, 10, n).astype(np.int32),
  )
  return jax.device_put(split)


def _recipe(optimizer: Callable[[Any], Any], num_train: int) -> train.Recipe:
  return train.Recipe(
    problem=classification.classification(_PICTURES),
    optimizer=optimizer,
    batch_size=60,
    num_train=num_train,
    epsilon=0.01,
  )


class _Plain(NamedTuple):
  """A training by optax alone, and what may be put into it."""

  init: Callable[..., TrainState]
  chunk: Callable[..., tuple[TrainState, jax.Array]]


def _plain(
  recipe: train.Recipe,
  forward: Callable[[Params, Hyper], Params],
  optimizer: Callable[[Hyper], optax.GradientTransformation],
) -> _Plain:
  """`train.make_training` without Powerprop: the same data, net and loop.

  Args:
    recipe: as there.
    forward: (parameters, hyperparameters) -> the weights that the net uses.
    optimizer: hyperparameters -> optax transformation.

  Returns:
    `init` and `chunk` as there.
  """

  def init(hyper, split):
    del split
    params, net = train.initial_theta(recipe, hyper.seed)
    return TrainState(
      phi=params,
      net=net,
      opt=optimizer(hyper).init(params),
      method=(),
      work=Work(*jnp.ones(4)),
      step=jnp.zeros((), jnp.int32),
      finite=jnp.asarray(True),
    )

  def loss_fn(params, net, key, image, label):
    logits, net = _PICTURES.net.apply(params, net, key, image, is_training=True)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.mean(losses), net

  def chunk(state, hyper, split, start, num_steps):
    key = jax.random.key(hyper.seed)
    tx = optimizer(hyper)

    def step(state, rows):
      image = data.normalise(split.image[rows], _PICTURES.scale)
      (loss, net), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        forward(state.phi, hyper),
        state.net,
        jax.random.fold_in(key, state.step),
        image,
        split.label[rows],
      )
      updates, opt = tx.update(grads, state.opt, state.phi)
      state = state._replace(
        phi=optax.apply_updates(state.phi, updates),
        net=net,
        opt=opt,
        step=state.step + 1,
        finite=state.finite & jnp.isfinite(loss),
      )
      return state, loss

    rows = batches.batch_indices(
      jax.random.fold_in(key, 1),
      start,
      num_steps,
      recipe.num_train,
      recipe.batch_size,
    )
    state, losses = jax.lax.scan(step, state, rows)
    return state, jnp.mean(losses)

  return _Plain(init, chunk)


def _dense(recipe: train.Recipe) -> _Plain:
  return _plain(
    recipe,
    lambda params, hyper: params,
    lambda hyper: recipe.optimizer(hyper.learning_rate),
  )


def _forward_only(recipe: train.Recipe, alpha: float | None) -> _Plain:
  """Ψ in the forward pass; ∂L/∂θ goes to φ as it is (no algorithm)."""
  return _plain(
    recipe,
    lambda phi, h: reparam.to_theta(phi, h.alpha if alpha is None else alpha),
    lambda h: recipe.optimizer(h.learning_rate),
  )


def _slope_only(recipe: train.Recipe, alpha: float | None) -> _Plain:
  """The slope in the update; the net uses φ as it is (no algorithm)."""

  def optimizer(h: Hyper) -> optax.GradientTransformation:
    a = h.alpha if alpha is None else alpha
    scale = optax.stateless(
      lambda updates, phi: target_propagation.scale_by_slope(
        updates, phi, a, trees.is_weight
      )
    )
    return optax.chain(recipe.optimizer(h.learning_rate), scale)

  return _plain(recipe, lambda phi, h: phi, optimizer)


def _name(alpha: float | None) -> str:
  return 'α traced' if alpha is None else f'α = {alpha:g}'


def _target(alpha: float | None) -> float:
  if alpha is None:
    return 1.5
  return 1.1 if alpha == int(alpha) else 1.25


def _compiled(
  program: Any, split: data.Split, steps: int
) -> tuple[Callable[[], Any], dict[str, float]]:
  """A chunk as a function of nothing, and XLA's count of its costs."""
  hyper = Hyper(np.int32(0), np.float32(_TRACED), np.float32(1e-3))
  state = jax.jit(program.init)(hyper, split)
  chunk = jax.jit(program.chunk, static_argnums=4)
  run = chunk.lower(state, hyper, split, 0, steps).compile()
  # A list of one, and of nothing where a backend does not count.
  counts: Any = run.cost_analysis() or {}
  counts = counts[0] if isinstance(counts, list) else counts
  return lambda: run(state, hyper, split, 0)[1], counts


def step(
  say: timing.Say,
  num_train: int = 60_000,
  steps: int = 300,
  rounds: int = 20,
  alphas: tuple[float | None, ...] = (1.0, 2.0, 3.0, 4.0, 5.0, 1.5, 2.5, None),
  parts_of: tuple[float | None, ...] = (2.0, 1.5, None),
) -> timing.Table:
  """A Powerprop step against the same dense optax step, LeNet-300-100.

  Args:
    say: told what is going on.
    num_train: size of the made-up data set.
    steps: per program call, in one scan.
    rounds: see `timing.compare`.
    alphas: which to run with SGD; None is a traced α.
    parts_of: of which to run the two halves, and also Adam.

  Returns:
    One row per program; the dense ones have ratio 1.
  """
  split = make_split(num_train, (28, 28, 1))
  rows = []
  for name, optimizer, chosen in (
    ('SGD', optax.sgd, alphas),
    ('Adam', optax.adam, parts_of),
  ):
    recipe = _recipe(optimizer, num_train)
    sources: dict[str, Any] = {'dense': _dense(recipe)}
    targets = {}
    for alpha in chosen:
      sources[_name(alpha)] = train.make_training(recipe, Psi(alpha))
      if name == 'SGD' and alpha != 1:
        targets[_name(alpha)] = _target(alpha)
    for alpha in parts_of if name == 'SGD' else ():
      sources[f'{_name(alpha)}, θ only'] = _forward_only(recipe, alpha)
      sources[f'{_name(alpha)}, slope only'] = _slope_only(recipe, alpha)
    programs, counts = {}, {}
    for label, source in sources.items():
      say(f'compiling {name}, {label}')
      programs[label], counts[label] = _compiled(source, split, steps)
    theta, _ = jax.eval_shape(functools.partial(train.initial_theta, recipe), 0)
    weights = sum(x.size for x in trees.weights(theta).values())

    def more(what, label, counts=counts, weights=weights):
      extra = counts[label].get(what, 0) - counts['dense'].get(what, 0)
      return round(extra / weights, 1)

    times = timing.compare(programs, 'dense', rounds, say)
    for label, t in times.items():
      rows.append(
        {
          'optimiser': name,
          'program': label,
          'steps/s': steps / t.seconds,
          **timing.ratio_cells(t, targets.get(label)),
          '√, exp, log per weight': more('transcendentals', label),
          'more bytes per weight': more('bytes accessed', label),
        }
      )
  return timing.Table(
    'Powerprop step against the dense optax step, LeNet-300-100',
    (
      f'Batch 60, {steps} steps per scan, data made up ({num_train:,} pictures'
      f' of 28x28), {rounds} rounds.',
      'Where the rest goes: "θ only" has Ψ in the forward pass alone, "slope'
      ' only" the factor in the update alone. The last two columns are XLA\'s'
      ' counts per step beyond the dense one. With products or roots alone, θ'
      ' is one more pass over memory (read φ, write θ) and the slope joins the'
      ' pass of the update. A traced α writes log|φ| once more and reads it'
      ' twice, for θ and for the slope.',
    ),
    rows,
  )


def resnet50(
  say: timing.Say,
  batch: int = 16,
  side: int = 128,
  rounds: int = 6,
  net: Callable[[], Any] | None = None,
) -> timing.Table:
  """ResNet-50's step under Powerprop against the dense one.

  Args:
    say: told what is going on.
    batch: pictures per step.
    side: of a picture, in pixels.
    rounds: see `timing.compare`.
    net: makes another Haiku module, called as hk.nets.ResNet50 is.

  Returns:
    One row per program.
  """
  make = net or functools.partial(hk.nets.ResNet50, 1000)
  model = hk.transform_with_state(lambda x: make()(x, is_training=True))
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.normal(size=(batch, side, side, 3)), jnp.float32)
  label = jnp.asarray(rng.integers(0, 10, batch), jnp.int32)
  theta, net_state = jax.jit(model.init)(jax.random.key(0), image)
  inner = optax.sgd(1e-3, momentum=0.9)

  def loss_fn(params, net_state, image, label):
    logits, net_state = model.apply(params, net_state, None, image)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return jnp.mean(losses), net_state

  def program(tx, grad_fn, params):
    def step(state, image, label):
      params, net_state, opt = state
      (_, net_state), grads = grad_fn(params, net_state, image, label)
      updates, opt = tx.update(grads, opt, params)
      return optax.apply_updates(params, updates), net_state, opt

    # Outside a scan: inside one, XLA's CPU convolutions take 10 times longer.
    # The arrays are the program's own, as their memory is used again.
    run = jax.jit(step, donate_argnums=0)
    state = jax.tree.map(jnp.array, (params, net_state, tx.init(params)))

    def once():
      nonlocal state
      state = run(state, image, label)
      return state

    return once

  programs = {
    'dense': program(inner, jax.value_and_grad(loss_fn, has_aux=True), theta)
  }
  for alpha in (2.0, 3.0):
    psi = Psi(alpha)
    programs[_name(alpha)] = program(
      psi.optimizer(inner),
      psi.value_and_grad(loss_fn, has_aux=True),
      psi.to_phi(theta),
    )
  times = timing.compare(programs, 'dense', rounds, say)
  return timing.Table(
    "Powerprop step against the dense optax step, Haiku's ResNet-50",
    (
      f'Batch {batch}, pictures of {side}x{side}, SGD with momentum 0.9,'
      f' {rounds} rounds. What Powerprop adds depends on the number of weights'
      ' alone: at 224x224, or a larger batch, its share is smaller.',
    ),
    [
      {
        'program': name,
        'seconds per step': t.seconds,
        **timing.ratio_cells(t, None if name == 'dense' else 1.03),
      }
      for name, t in times.items()
    ],
  )


def population(
  say: timing.Say,
  alphas: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0),
  seeds: int = 5,
  num_train: int = 60_000,
  steps: int = 60,
  rounds: int = 3,
) -> timing.Table:
  """A population in one vmapped program, in turn, and by threads.

  Args:
    say: told what is going on.
    alphas: the members' powers.
    seeds: members per power.
    num_train: size of the made-up data set.
    steps: of each member per program call.
    rounds: see `timing.compare`.

  Returns:
    One row per executor.
  """
  split = make_split(num_train, (28, 28, 1))
  few = jax.tree.map(lambda x: x[:60], split)
  recipe = _recipe(optax.sgd, num_train)
  members = [
    populations.Member('powerprop', alpha, 1e-3, seed)
    for alpha in alphas
    for seed in range(seeds)
  ]
  cells = functools.partial(
    trainings.make_cells, recipe, {'powerprop': Psi(None)}, members
  )
  mapped, vmapped = cells('map'), cells('vmap')
  # States are only read: every round starts from the same ones.
  states = trainings.initial_states(recipe, mapped, split)
  stacked = trainings.initial_states(recipe, vmapped, split)

  dataset = data.Dataset('benchmark', split, few, few, 10, 1 / 255)
  source = feed.Held(dataset, None)

  def in_turn():
    return [
      jax.block_until_ready(cell.programs.chunk(s, cell.hyper, split, 0, steps))
      for cell, s in zip(mapped, states, strict=True)
    ]

  def together():
    return [
      cell.programs.chunk(s, cell.hyper, split, 0, steps)
      for cell, s in zip(vmapped, stacked, strict=True)
    ]

  def threads():
    for _ in trainings.advance(mapped, states, (0, steps), source):
      pass

  base = 'map: in turn, α static'
  programs = {
    base: in_turn,
    'map: trainings.advance, a thread per core': threads,
    'vmap: one program, α traced': together,
  }
  times = timing.compare(programs, base, rounds, say)
  return timing.Table(
    f'{len(members)} trainings of LeNet-300-100: executors',
    (
      f'{len(alphas)} α x {seeds} seeds, batch 60, {steps} steps per call,'
      f' {rounds} rounds. trainings.advance also evaluates each member on 60'
      ' pictures. A ratio below 1 is faster than in turn.',
    ),
    [
      {
        'executor': name,
        'model-steps/s': len(members) * steps / t.seconds,
        **timing.ratio_cells(t),
      }
      for name, t in times.items()
    ],
  )
