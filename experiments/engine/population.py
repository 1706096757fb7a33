"""Populations of trainings: which run as one program, on which devices."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import functools
import itertools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.engine import estimates
from experiments.engine import making
from experiments.engine.settings import Settings
from experiments.report import naming
from experiments.report.weights import Weights
from powerprop import methods
from powerprop import transforms
from powerprop.methods import magnitude
from powerprop.psi import Psi
from powerprop.train import evaluate
from powerprop.train import initial_theta
from powerprop.train import make_training
from powerprop.train import Recipe
from powerprop.types import Hyper, Method, Params, TrainState


class Member(NamedTuple):
  """One training of a population, or one sequence of them, by name.

  Attributes:
    transform: of `powerprop.transforms`.
    alpha: α ≥ 1, at the start.
    learning_rate: at the start.
    seed: from 0.
    variant: what else of an experiment tells it apart, a NamedTuple.
  """

  transform: str
  alpha: float
  learning_rate: float
  seed: int
  variant: Any = ()

  @property
  def name(self) -> str:
    """A path that is this member's alone."""
    return naming.net_name(self.row())

  def row(self) -> dict[str, Any]:
    """The names as fields of a record."""
    fields = self._asdict()
    del fields['variant']
    return fields | (self.variant._asdict() if self.variant else {})


class Cell(NamedTuple):
  """Members that run as one program call: all of a program, or just one.

  Attributes:
    name: a path that is this cell's alone.
    members: M of them.
    programs: jitted functions, a `Training` or a `Life`, over the member axis
      where `stacked`.
    hyper: their hyperparameters on the device, [M, ...] where stacked.
    stacked: whether arrays have a leading member axis.
    plan: what else the experiment has to know of its members.
  """

  name: str
  members: tuple[Any, ...]
  programs: Any
  hyper: Hyper
  stacked: bool
  plan: Any = None


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


# Which arguments have a member axis, as `jax.vmap` has it; a last `STATIC` is a
# static argument.
STATIC = 'static'
_AXES: dict[str, tuple[Any, ...]] = {
  'init': (0, None),
  'begin': (0, None, 0, 0),
  'chunk': (0, 0, None, None, STATIC),
  'read': (0,),
  'weights': (0,),
  'evaluate': (0, 0, None),
  'near_zero': (0,),
}


def make_cells(
  recipe: Recipe,
  psis: Mapping[str, Psi],
  members: list[Member],
  executor: str,
  sparse: Mapping[Any, Method] | None = None,
) -> list[Cell]:
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

  cells = arrange(
    members, executor, lambda m: (m.transform, m.variant), build, _AXES, {}
  )
  if executor == 'map':
    shared = {
      id(c.programs): c.programs._replace(evaluate=evaluate_one) for c in cells
    }
    cells = [c._replace(programs=shared[id(c.programs)]) for c in cells]
  return cells


def arrange(
  members: list[Any],
  executor: str,
  key: Callable[[Any], tuple[Any, ...]],
  build: Callable[[Any, float | None], Any],
  axes: Mapping[str, tuple[Any, ...]],
  made: dict[Any, Any],
) -> list[Cell]:
  """Members as cells, and the programs that these share.

  Args:
    members: of a population, those of a program one after the other.
    executor: 'vmap': one program for each key, α traced, the member axis
      sharded over all local devices (padded with copies of the last member to
      fill them). 'map': one call per member, α static, one program for each key
      and α.
    key: member -> what tells programs apart.
    build: (key, static α or None) -> functions of one member.
    axes: of these functions' arguments, as `_AXES`.
    made: programs of earlier calls with the same executor, to which new ones
      are added: what one call's cells compile, another's need not.

  Returns:
    Cells that cover the members, each once but for padding.
  """
  cells = []
  if executor == 'map':
    for m in members:
      which = (key(m), m.alpha)
      if which not in made:
        made[which] = _compiled(build(*which), axes, False)
      hyper = jax.tree.map(lambda x: x[0], hypers([m]))
      cells.append(Cell(m.name, (m,), made[which], hyper, False))
    return cells
  sharding = member_sharding()
  for which, group in itertools.groupby(members, key):
    ms = list(group)
    ms += [ms[-1]] * (-len(ms) % sharding.num_devices)
    if which not in made:
      made[which] = _compiled(build(which, None), axes, True)
    hyper = jax.device_put(hypers(ms), sharding)
    name = '/'.join(str(x) for x in which)
    cells.append(Cell(name, tuple(ms), made[which], hyper, True))
  return cells


def hypers(members: Sequence[Any]) -> Hyper:
  """The hyperparameters of members, [M] each."""
  column = lambda name, dtype: np.array(
    [m.row().get(name, 0.0) for m in members], dtype
  )
  return Hyper(
    seed=column('seed', np.int32),
    alpha=column('alpha', np.float32),
    learning_rate=column('learning_rate', np.float32),
    coefficient=column('coefficient', np.float32),
  )


def _compiled(
  functions: Any, axes: Mapping[str, tuple[Any, ...]], stacked: bool
) -> Any:
  """The same functions, jitted, and over the member axis where stacked."""

  def over(fn, its, count):
    def mapped(*args):
      one = lambda *batched: fn(*batched, *args[count:])
      return jax.vmap(one, its[:count])(*args[:count])

    return mapped

  out = {}
  for name, its in axes.items():
    fn = getattr(functions, name)
    if fn is not None:
      count = len(its) - (its[-1] == STATIC)
      fn = over(fn, its, count) if stacked else fn
      static = None if count == len(its) else count
      out[name] = jax.jit(fn, static_argnums=static)
  return functions._replace(**out)


def member_sharding() -> jax.sharding.NamedSharding:
  """The member axis over all local devices."""
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ('runs',))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('runs'))


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
    return cell.programs.begin(cell.hyper, train, *drawn)

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


def every_member(
  cells: list[Cell], states: list[TrainState]
) -> Iterator[tuple[Any, TrainState, Params]]:
  """Every member once, without padding: it, its state and θ in NumPy arrays."""
  done = set()
  for cell, state in zip(cells, states, strict=True):
    theta = cell.programs.read(state)
    parts = zip(
      cell.members, unstack(cell, state), unstack(cell, theta), strict=True
    )
    for m, member_state, member_theta in parts:
      if m not in done:
        done.add(m)
        yield m, member_state, member_theta


def choose(cell: Cell, which: np.ndarray, yes: Any, no: Any) -> Any:
  """A tree with the members of `which` from `yes` and the rest from `no`.

  Args:
    cell: whose trees they are.
    which: bool [M].
    yes: a tree.
    no: a tree of the same shapes.

  Returns:
    A tree.
  """
  if not which.any():
    return no
  if which.all():
    return yes
  return _merge(jnp.asarray(which), yes, no)


@jax.jit
def _merge(which, yes, no):
  def leaf(a, b):
    return jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b)

  return jax.tree.map(leaf, yes, no)


def per_member(cell: Cell, x: Any) -> np.ndarray:
  """An array of the device as NumPy [M, ...]."""
  host = np.asarray(x)
  return host if cell.stacked else host[None]


def pack(tree: Any, codes: bool = False) -> Any:
  """Masks as bits, as checkpoints keep them.

  Args:
    tree: of arrays.
    codes: whether uint8 arrays are two masks in one, as Top-KAST's.

  Returns:
    The same as NumPy arrays, every mask as uint8 [⌈n/8⌉], and two of them as
    uint8 [2, ⌈n/8⌉].
  """

  def bits(x):
    host = np.asarray(x)
    if host.dtype == bool and host.ndim:
      return np.packbits(host)
    if codes and host.dtype == np.uint8:
      return np.stack([np.packbits(host & 1), np.packbits(host >> 1)])
    return host

  return jax.tree.map(bits, tree)


def unpack(packed: Any, like: Any, codes: bool = False) -> Any:
  """The inverse of `pack`; `like` has the shapes and the devices."""

  def unbits(x, old):
    bits = lambda row: np.unpackbits(row, count=old.size).reshape(old.shape)
    if old.dtype == bool and old.ndim:
      x = bits(x).astype(bool)
    elif codes and old.dtype == np.uint8:
      x = bits(x[0]) + 2 * bits(x[1])
    return jax.device_put(x, old.sharding)

  return jax.tree.map(unbits, packed, like)
