"""Populations of trainings: their programs, their chunks, what they take."""

from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.engine import estimates
from experiments.engine import making
from experiments.engine import population
from experiments.engine.settings import Settings
from experiments.report.weights import Weights
from powerprop import methods
from powerprop import train
from powerprop import transforms
from powerprop.methods import magnitude
from powerprop.psi import Psi
from powerprop.train import evaluate
from powerprop.train import initial_theta
from powerprop.train import make_training
from powerprop.train import Recipe
from powerprop.types import Method, Params, TrainState


class Report(NamedTuple):
  """What the host hears of a member after a chunk; NumPy scalars.

  Attributes:
    loss: mean over the chunk's steps, nats.
    validation_accuracy: in [0, 1].
    alpha: the current α.
    near_zero: share of weights in (−ε, ε).
    finite: whether every loss so far was finite.
    density: share of the governed weights in the forward pass.
    inference_flops_ratio: FLOPs of a forward pass, relative to dense.
    training_flops_ratio: FLOPs of the steps so far, relative to dense.
  """

  loss: Any
  validation_accuracy: Any
  alpha: Any
  near_zero: Any
  finite: Any
  density: Any
  inference_flops_ratio: Any
  training_flops_ratio: Any


_AVERAGES = 6  # after the keys of a training
# Which arguments have a member axis, as `jax.vmap` has it.
_AXES: dict[str, tuple[Any, ...]] = {
  'init': (0, None),
  'begin': (0, None, 0, 0),
  'chunk': (0, 0, None, None, population.STATIC),
  'read': (0,),
  'weights': (0,),
  'evaluate': (0, 0, None),
  'near_zero': (0,),
}


def make_cells(
  recipe: Recipe,
  psis: Mapping[str, Psi],
  members: list[population.Member],
  executor: str,
  sparse: Mapping[Any, Method] | None = None,
) -> list[population.Cell]:
  """Arranges a population into programs.

  Args:
    recipe: what the members share.
    psis: by transform, of `making.psis`.
    members: the population.
    executor: as in `arrange`: a program for each transform and variant.
    sparse: the methods of the members' variants.

  Returns:
    Cells that cover the members, each once but for padding.
  """
  methods_of: dict[Any, Method] = {(): methods.dense(), **(sparse or {})}
  # One program for all: it depends neither on α nor on the method.
  evaluate_one = jax.jit(functools.partial(evaluate, recipe))

  def build(key, alpha):
    transform, variant = key
    if alpha is not None and making.adapts(psis[transform]):
      return build(
        key, None
      )  # it keeps its α as an array, whatever it is given
    psi = psis[transform]._replace(alpha=alpha)
    return make_training(recipe, psi, methods_of[variant])

  cells = population.arrange(
    members, executor, lambda m: (m.transform, m.variant), build, _AXES, {}
  )
  if executor == 'map':
    shared = {
      id(c.programs): c.programs._replace(evaluate=evaluate_one) for c in cells
    }
    cells = [c._replace(programs=shared[id(c.programs)]) for c in cells]
  return cells


def initial_states(
  recipe: Recipe, cells: list[population.Cell], train: data.Split
) -> list[TrainState]:
  """The population before its first step.

  Args:
    recipe: what the members share.
    cells: of `make_cells`.
    train: training split on the device; some methods look at a batch.

  Returns:
    One state per cell.
  """
  one = jax.jit(functools.partial(initial_theta, recipe))
  several = jax.jit(jax.vmap(functools.partial(initial_theta, recipe)))

  def state(cell):
    drawn = (several if cell.stacked else one)(cell.hyper.seed)
    return cell.programs.begin(cell.hyper, train, *drawn)

  with futures.ThreadPoolExecutor(population.workers()) as pool:
    return list(pool.map(state, cells))


def _advance(
  cell: population.Cell,
  state: TrainState,
  num_steps: int,
  train: data.Split,
  validation: data.Split,
) -> tuple[TrainState, Report]:
  """One chunk of one cell, and what the host wants to know after it."""
  if not np.any(np.asarray(state.finite)):
    return state, _report(cell, state, np.nan, np.nan, np.nan)
  # All members have done as many steps as any of them.
  start = np.max(np.asarray(state.step))
  state, loss = cell.programs.chunk(state, cell.hyper, train, start, num_steps)
  w = cell.programs.weights(state)
  accuracy, _ = cell.programs.evaluate(w, state.net, validation)
  near_zero = cell.programs.near_zero(cell.programs.read(state))
  return state, _report(cell, state, loss, accuracy, near_zero)


def _report(cell, state, loss, accuracy, near_zero) -> Report:
  count = len(cell.members)
  alpha = transforms.current_alpha(state.opt)
  return Report(
    *(
      np.broadcast_to(np.asarray(x), (count,))
      for x in (
        loss,
        accuracy,
        alpha,
        near_zero,
        state.finite,
        state.work.density,
        state.work.forward,
        state.work.training,
      )
    )
  )


def advance(
  cells: list[population.Cell],
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
  with futures.ThreadPoolExecutor(population.workers()) as pool:
    jobs = {
      pool.submit(_advance, cell, state, num_steps, train, validation): i
      for i, (cell, state) in enumerate(zip(cells, states, strict=True))
    }
    try:
      for job in futures.as_completed(jobs):
        yield jobs[job], *job.result()
    finally:
      pool.shutdown(cancel_futures=True)


def estimate(
  recipe: Recipe,
  cells: list[population.Cell],
  dataset: data.Dataset,
  s: Settings,
  forward: float,
) -> estimates.Estimate:
  """What training a population will take; nothing is computed.

  Args:
    recipe: what the members share.
    cells: of `make_cells`.
    dataset: on the host.
    s: the run's settings.
    forward: FLOPs of a forward pass of one picture.

  Returns:
    An estimate.
  """
  one = functools.partial(initial_theta, recipe)
  sizes: dict[int, tuple[int, int]] = {}
  states = kept = 0
  for cell in cells:
    which = id(cell.programs)
    if which not in sizes:
      draw = jax.vmap(one) if cell.stacked else one
      state = jax.eval_shape(
        cell.programs.begin,
        cell.hyper,
        dataset.train,
        *jax.eval_shape(draw, cell.hyper.seed),
      )
      packed = estimates.size_of(state._replace(method=()))
      packed += estimates.size_of(state.method, {'bool': 1 / 8, 'uint8': 1 / 4})
      sizes[which] = estimates.size_of(state), packed
    states += sizes[which][0]
    kept += sizes[which][1]
  count = population.count(cells)
  at_once = min(count, population.workers()) if not cells[0].stacked else count
  rows = 4 * min(s.chunk_steps, s.steps) * recipe.batch_size * at_once
  params, _ = jax.eval_shape(lambda: one(0))
  return estimates.Estimate(
    trainings=count,
    programs=len(sizes),
    parameters=sum(x.size for x in jax.tree.leaves(params)),
    steps=count * s.steps,
    flops=3.0 * forward * recipe.batch_size * count * s.steps,
    # A chunk's states of before are kept until it has been done by all.
    device_bytes=(
      estimates.size_of((dataset.train, dataset.validation)) + 2 * states + rows
    ),
    disk_bytes=2 * kept,
  )


def own_states(
  s: Settings, recipe: Recipe, dataset: data.Dataset
) -> Callable[..., Any]:
  """What state a net is measured with: see `train.averaged`.

  Args:
    s: the run's settings.
    recipe: of the training.
    dataset: that it trained on.

  Returns:
    (w, net state, seed) -> the net state; as it is unless the settings have
    `average_examples`.
  """
  if not s.average_examples:
    return lambda w, net_state, seed: net_state
  source = jax.tree.map(jnp.asarray, dataset.train)

  @jax.jit
  def averaged(w, net_state, seed, source):
    key = jax.random.fold_in(jax.random.key(seed), _AVERAGES)
    number = s.average_examples
    return train.averaged(recipe, w, net_state, key, source, number)

  return lambda w, net_state, seed: averaged(w, net_state, seed, source)


def weights_of(
  state: TrainState,
  theta: Params,
  masks: Mapping[str, Any],
  own_state: Callable[..., Any],
  seed: int,
) -> Weights:
  """A member's net.

  Args:
    state: of `unstack`.
    theta: likewise.
    masks: by layer path.
    own_state: of `own_states`.
    seed: the member's.

  Returns:
    NumPy arrays: w is θ under the masks.
  """
  host = functools.partial(jax.tree.map, np.asarray)
  w = magnitude.prune(theta, masks)
  return Weights(
    params=host(w),
    masks=host(dict(masks)),
    state=host(own_state(w, state.net, seed)),
    phi=host(state.phi),
    alpha=float(transforms.current_alpha(state.opt)),
  )


def every_member(
  cells: list[population.Cell], states: list[TrainState]
) -> Iterator[tuple[Any, TrainState, Params]]:
  """Every member once, without padding: it, its state and θ in NumPy arrays."""
  done = set()
  for cell, state in zip(cells, states, strict=True):
    theta = cell.programs.read(state)
    parts = zip(
      cell.members,
      population.unstack(cell, state),
      population.unstack(cell, theta),
      strict=True,
    )
    for m, member_state, member_theta in parts:
      if m not in done:
        done.add(m)
        yield m, member_state, member_theta
