"""Populations of trainings: which run as one program, on which devices."""

from collections.abc import Iterator, Mapping
from concurrent import futures
import functools
import itertools
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import data
from experiments.engine import estimates
from experiments.engine import settings
from experiments.engine.settings import Settings
from experiments.report.weights import Weights
from powerprop import methods
from powerprop import transforms
from powerprop.methods import magnitude
from powerprop.train import evaluate
from powerprop.train import initial_theta
from powerprop.train import make_training
from powerprop.train import Recipe
from powerprop.train import Training
from powerprop.types import Hyper, Method, Params, TrainState


class Variant(NamedTuple):
  """A sparse method and what it aims at, by name."""

  method: str
  distribution: str
  sparsity: float


class Member(NamedTuple):
  """One training of a population, by name; without a variant it is dense."""

  transform: str
  alpha: float
  learning_rate: float
  seed: int
  variant: Variant | tuple[()] = ()

  def row(self) -> dict[str, Any]:
    """The names as fields of a record."""
    fields = self._asdict()
    del fields['variant']
    return fields | (self.variant._asdict() if self.variant else {})


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


def choose_executor(executor: str) -> str:
  """Resolves 'auto': `map` on CPU, where it was faster, else `vmap`."""
  if executor == 'auto':
    return 'map' if jax.default_backend() == 'cpu' else 'vmap'
  return executor


def make_cells(
  recipe: Recipe,
  members: list[Member],
  executor: str,
  sparse: Mapping[Variant, Method] | None = None,
) -> list[Cell]:
  """Arranges a population into programs.

  Args:
    recipe: what the members share.
    members: the population.
    executor: 'vmap': one program per transform and variant, α traced, the
      member axis sharded over all local devices (padded with copies of the last
      member to fill them). 'map': one call per member, α static, one program
      per transform, variant and α.
    sparse: the methods of the members' variants.

  Returns:
    Cells that cover the members, each once but for padding.
  """
  methods_of: dict[Any, Method] = {(): methods.dense(), **(sparse or {})}
  # One program for all: it depends neither on α nor on the method.
  evaluate_one = jax.jit(functools.partial(evaluate, recipe))
  if executor == 'map':
    compiled: dict[tuple[Any, ...], Training] = {}
    cells = []
    for m in members:
      which = (m.transform, m.alpha, m.variant)
      if which not in compiled:
        adapts = settings.adapts(recipe.transforms[m.transform])
        static = None if adapts else m.alpha
        one = make_training(recipe, m.transform, static, methods_of[m.variant])
        compiled[which] = _jit(one)._replace(evaluate=evaluate_one)
      cells.append(Cell((m,), compiled[which], _hyper([m], False), False))
    return cells

  sharding = member_sharding()
  cells = []
  program = lambda m: (m.transform, m.variant)
  for (name, variant), group in itertools.groupby(members, program):
    ms = list(group)
    ms += [ms[-1]] * (-len(ms) % sharding.num_devices)
    hyper = jax.device_put(_hyper(ms, True), sharding)
    one = make_training(recipe, name, method=methods_of[variant])
    training = _jit(_vmap(one))
    cells.append(Cell(tuple(ms), training, hyper, True))
  return cells


def member_sharding() -> jax.sharding.NamedSharding:
  """The member axis over all local devices."""
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ('runs',))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('runs'))


def _hyper(members: list[Member], stacked: bool) -> Hyper:
  columns = Hyper(
    seed=np.array([m.seed for m in members], np.int32),
    alpha=np.array([m.alpha for m in members], np.float32),
    learning_rate=np.array([m.learning_rate for m in members], np.float32),
    coefficient=np.zeros(len(members), np.float32),
  )
  return columns if stacked else jax.tree.map(lambda x: x[0], columns)


def _vmap(t: Training) -> Training:
  def chunk(state, hyper, train, start, num_steps):
    one = lambda s, h: t.chunk(s, h, train, start, num_steps)
    return jax.vmap(one)(state, hyper)

  return Training(
    init=jax.vmap(t.init, in_axes=(0, None)),
    begin=jax.vmap(t.begin, in_axes=(0, None, 0, 0)),
    chunk=chunk,
    read=jax.vmap(t.read),
    weights=jax.vmap(t.weights),
    evaluate=jax.vmap(t.evaluate, in_axes=(0, 0, None)),
    near_zero=jax.vmap(t.near_zero),
  )


def _jit(t: Training) -> Training:
  return Training(
    init=jax.jit(t.init),
    begin=jax.jit(t.begin),
    chunk=jax.jit(t.chunk, static_argnums=4),
    read=jax.jit(t.read),
    weights=jax.jit(t.weights),
    evaluate=jax.jit(t.evaluate),
    near_zero=jax.jit(t.near_zero),
  )


def initial_states(
  recipe: Recipe, cells: list[Cell], train: data.Split
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
    return cell.training.begin(cell.hyper, train, *drawn)

  with futures.ThreadPoolExecutor(workers()) as pool:
    return list(pool.map(state, cells))


def workers() -> int:
  """Threads that advance cells: small nets do not fill the cores of a CPU."""
  return os.cpu_count() or 1 if jax.default_backend() == 'cpu' else 1


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
  # All members have done as many steps as any of them.
  start = np.max(np.asarray(state.step))
  state, loss = cell.training.chunk(state, cell.hyper, train, start, num_steps)
  w = cell.training.weights(state)
  accuracy, _ = cell.training.evaluate(w, state.net, validation)
  near_zero = cell.training.near_zero(cell.training.read(state))
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
  with futures.ThreadPoolExecutor(workers()) as pool:
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
  cells: list[Cell],
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
    which = id(cell.training)
    if which not in sizes:
      draw = jax.vmap(one) if cell.stacked else one
      state = jax.eval_shape(
        cell.training.begin,
        cell.hyper,
        dataset.train,
        *jax.eval_shape(draw, cell.hyper.seed),
      )
      packed = estimates.size_of(state._replace(method=()))
      packed += estimates.size_of(state.method, {'bool': 1 / 8, 'uint8': 1 / 4})
      sizes[which] = estimates.size_of(state), packed
    states += sizes[which][0]
    kept += sizes[which][1]
  count = len({m for c in cells for m in c.members})
  at_once = min(count, workers()) if not cells[0].stacked else count
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


def unstack(cell: Cell, tree: Any) -> list[Any]:
  """One tree of NumPy arrays per member of a cell, padding included."""
  host = jax.tree.map(np.asarray, tree)
  if not cell.stacked:
    return [host]
  return [
    jax.tree.map(lambda x, i=i: x[i], host) for i in range(len(cell.members))
  ]


def weights_of(
  state: TrainState, theta: Params, masks: Mapping[str, Any]
) -> Weights:
  """A member's net.

  Args:
    state: of `unstack`.
    theta: likewise.
    masks: by layer path.

  Returns:
    NumPy arrays: w is θ under the masks.
  """
  host = functools.partial(jax.tree.map, np.asarray)
  return Weights(
    params=host(magnitude.prune(theta, masks)),
    masks=host(dict(masks)),
    state=host(state.net),
    phi=host(state.phi),
    alpha=float(transforms.current_alpha(state.opt)),
  )


def pack(states: list[TrainState]) -> list[TrainState]:
  """Masks as bits, as checkpoints keep them.

  Args:
    states: of a population.

  Returns:
    The same with every boolean array of the methods' states as uint8 [⌈n/8⌉],
    and every uint8 array, two masks in one, as uint8 [2, ⌈n/8⌉].
  """
  return [s._replace(method=jax.tree.map(_bits, s.method)) for s in states]


def unpack(
  packed: list[TrainState], like: list[TrainState]
) -> list[TrainState]:
  """The inverse of `pack`; `like` has the shapes."""

  def unbits(x, old):
    bits = lambda row: np.unpackbits(row, count=old.size).reshape(old.shape)
    if old.dtype == bool:
      return bits(x).astype(bool)
    return bits(x[0]) + 2 * bits(x[1]) if old.dtype == np.uint8 else x

  return [
    s._replace(method=jax.tree.map(unbits, s.method, old.method))
    for s, old in zip(packed, like, strict=True)
  ]


def _bits(x: jax.Array) -> np.ndarray | jax.Array:
  if x.dtype == bool:
    return np.packbits(np.asarray(x))
  if x.dtype == np.uint8:
    host = np.asarray(x)
    return np.stack([np.packbits(host & 1), np.packbits(host >> 1)])
  return x
