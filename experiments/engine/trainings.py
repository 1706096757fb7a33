"""Populations of trainings: their programs, their chunks, what they take."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import data
from experiments.engine import estimates
from experiments.engine import feed as feed_lib
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
  data_devices: int = 1,
) -> list[population.Cell]:
  """Arranges a population into programs.

  Args:
    recipe: what the members share.
    psis: by transform, of `making.psis`.
    members: the population.
    executor: as in `arrange`: a program for each transform and variant.
    sparse: the methods of the members' variants.
    data_devices: devices for each member's batches, as of
      `population.make_mesh`.

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

  key = lambda m: (m.transform, m.variant)
  cells = population.arrange(
    members, executor, key, build, _AXES, {}, data_devices
  )
  if executor == 'map':
    shared = {
      id(c.programs): c.programs._replace(evaluate=evaluate_one) for c in cells
    }
    cells = [c._replace(programs=shared[id(c.programs)]) for c in cells]
  return cells


def devices(
  s: Settings, dataset: data.Dataset | data.Streamed
) -> tuple[str, int, Callable[[Any], Any]]:
  """How a run goes about its devices.

  Args:
    s: the run's settings.
    dataset: of the settings.

  Returns:
    The executor, how many devices share each batch, and `population.spread`.

  Raises:
    ConfigError: if there are not such devices, or no such batch.
  """
  executor = population.choose_executor(s.executor)
  streamed = isinstance(dataset, data.Streamed)
  shared = population.share_batches(
    s.data_devices, executor, streamed, s.batch_size, s.accumulate
  )
  spread = population.spread(population.make_mesh(executor, shared))
  return executor, shared, spread


def initial_states(
  recipe: Recipe, cells: list[population.Cell], source: Any
) -> list[TrainState]:
  """The population before its first step.

  Args:
    recipe: what the members share.
    cells: of `make_cells`.
    source: of the problem, to train on; some methods look at a batch.

  Returns:
    One state per cell.
  """

  def draw(start, seed):
    return initial_theta(recipe._replace(start=start), seed)

  # An argument: within the program it would be as large as the file.
  one, several = jax.jit(draw), jax.jit(jax.vmap(draw, (None, 0)))

  def state(cell):
    drawn = (several if cell.stacked else one)(recipe.start, cell.hyper.seed)
    return cell.programs.begin(cell.hyper, source, *drawn)

  with futures.ThreadPoolExecutor(population.workers(cells[0].mesh)) as pool:
    return list(pool.map(state, cells))


class _Going(NamedTuple):
  """A cell in the midst of a chunk.

  Attributes:
    state: after the windows so far.
    losses: of each of them the mean, on the device, and its number of steps.
  """

  state: TrainState
  losses: tuple[tuple[Any, int], ...] = ()


def _advance(
  cell: population.Cell, going: _Going, window: feed_lib.Window
) -> _Going:
  """One window of one cell; the devices are at it when this is over."""
  # Looked at once in a chunk: it waits for the steps before.
  if not going.losses and not np.any(population.to_host(going.state.finite)):
    return going
  state, loss = cell.programs.chunk(
    going.state, cell.hyper, window.source, window.start, window.steps
  )
  if going.losses:
    # One window waits while another is worked on, but no more: what is read
    # ahead of the devices would fill their memory.
    jax.block_until_ready(going.losses[-1][0])
  return _Going(state, (*going.losses, (loss, window.steps)))


def _evaluation(cell: population.Cell, going: _Going) -> Callable[[Any], Any]:
  """source -> what is measured of a cell's nets on it."""
  if not going.losses:  # all of them have diverged
    return lambda source: (np.float32(np.nan),) * 2
  state = going.state
  w = cell.programs.weights(state)
  return functools.partial(cell.programs.evaluate, w, state.net)


def _finish(
  cell: population.Cell, going: _Going, accuracy: Any
) -> tuple[TrainState, Report]:
  """A cell at the end of a chunk, and what the host wants to know of it."""
  state = going.state
  if not going.losses:
    return state, _report(cell, state, np.nan, np.nan, np.nan)
  near_zero = cell.programs.near_zero(cell.programs.read(state))
  loss = _mean((population.to_host(x), n) for x, n in going.losses)
  return state, _report(cell, state, loss, accuracy, near_zero)


def scored(
  evaluations: Sequence[Callable[[Any], Any]], parts: Iterable[tuple[Any, int]]
) -> list[tuple[Any, ...]]:
  """What is measured of a whole split, from its parts, which are read once.

  Args:
    evaluations: source -> means over its examples, arrays each.
    parts: of `Feed.parts`.

  Returns:
    Of each evaluation, the means over all examples.
  """
  found: list[list[Any]] = [[] for _ in evaluations]
  counts = []
  for source, count in parts:
    counts.append(count)
    for means, evaluation in zip(found, evaluations, strict=True):
      means.append(tuple(map(population.to_host, evaluation(source))))
  return [
    tuple(_mean(zip(x, counts, strict=True)) for x in zip(*means, strict=True))
    for means in found
  ]


def _mean(parts: Iterable[tuple[Any, int]]) -> Any:
  """The mean of means, each of so many; of one alone, as it is."""
  (first, count), *others = parts
  if not others:
    return first
  total = first * np.float64(count) + sum(x * np.float64(n) for x, n in others)
  return (total / (count + sum(n for _, n in others))).astype(first.dtype)


def _report(cell, state, loss, accuracy, near_zero) -> Report:
  count = len(cell.members)
  alpha = transforms.current_alpha(state.opt)
  return Report(
    *(
      np.broadcast_to(population.to_host(x), (count,))
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
  span: tuple[int, int],
  feed: feed_lib.Feed,
  stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, TrainState, Report]]:
  """Trains every cell for a chunk, several at a time on CPU.

  Small nets do not fill the cores: two threads, each with a training of its
  own, did 1.4 times the steps of one after the other on two cores.

  All cells learn from the same batches, window by window.

  Args:
    cells: the population.
    states: one per cell; not changed.
    span: the first step, and the number of steps in the chunk. All members have
      done as many before.
    feed: what they learn from.
    stopped: asked between windows, and before an evaluation: whether to stop
      there, and yield no more.

  Yields:
    (index of the cell, its new state, its report), in the order in which they
    finish. Closing the iterator drops the cells that have not started.
  """
  going = [_Going(state) for state in states]
  with futures.ThreadPoolExecutor(population.workers(cells[0].mesh)) as pool:

    def whole(cell, going, window):
      going = _advance(cell, going, window)
      [(accuracy, _)] = scored(
        [_evaluation(cell, going)], feed.parts('validation')
      )
      return _finish(cell, going, accuracy)

    for window in feed.windows(*span):
      if stopped():
        return
      if isinstance(feed, feed_lib.Held):
        jobs = {
          pool.submit(whole, cell, before, window): i
          for i, (cell, before) in enumerate(zip(cells, going, strict=True))
        }
        try:
          for job in futures.as_completed(jobs):
            yield jobs[job], *job.result()
        finally:
          pool.shutdown(cancel_futures=True)
        return
      step = functools.partial(_advance, window=window)
      going = list(pool.map(step, cells, going))
  if stopped():
    return
  # Pictures are read once for all cells.
  evaluations = [*map(_evaluation, cells, going)]
  found = scored(evaluations, feed.parts('validation'))
  for i, (accuracy, _) in enumerate(found):
    yield i, *_finish(cells[i], going[i], accuracy)


def estimate(
  recipe: Recipe,
  cells: list[population.Cell],
  dataset: data.Dataset | data.Streamed,
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
  source = feed_lib.shapes(s, dataset)
  mesh = cells[0].mesh
  shared = 1 if mesh is None else mesh.shape['data'] // jax.process_count()
  if isinstance(dataset, data.Dataset):
    learned = estimates.size_of((dataset.train, dataset.validation))
    learned *= 1 if mesh is None else len(mesh.local_devices)
    held = 2  # a chunk's states of before are kept until all have done it
  else:
    # One is worked on, one waits, and one is being read; and so are states.
    learned, held = 3 * estimates.size_of(source), 3
  for cell in cells:
    which = id(cell.programs)
    if which not in sizes:
      draw = jax.vmap(one) if cell.stacked else one
      state = jax.eval_shape(
        cell.programs.begin,
        cell.hyper,
        source,
        *jax.eval_shape(draw, cell.hyper.seed),
      )
      packed = estimates.size_of(state._replace(method=()))
      packed += estimates.size_of(state.method, {'bool': 1 / 8, 'uint8': 1 / 4})
      sizes[which] = estimates.size_of(state), packed
    states += sizes[which][0]
    kept += sizes[which][1]
  count = population.count(cells)
  workers = population.workers(cells[0].mesh)
  at_once = min(count, workers) if not cells[0].stacked else count
  rows = 4 * min(s.chunk_steps, s.steps) * recipe.batch_size * at_once
  params, _ = jax.eval_shape(lambda: one(0))
  return estimates.Estimate(
    trainings=count,
    programs=len(sizes),
    parameters=sum(x.size for x in jax.tree.leaves(params)),
    steps=count * s.steps,
    flops=3.0 * forward * recipe.batch_size * count * s.steps,
    device_bytes=learned + held * shared * states + rows,
    disk_bytes=2 * kept,
  )


def own_states(
  s: Settings, recipe: Recipe, feed: feed_lib.Feed
) -> Callable[..., Any]:
  """What state a net is measured with: see `train.averaged`.

  Args:
    s: the run's settings.
    recipe: of the training.
    feed: what it learned from.

  Returns:
    (w, net state, seed) -> the net state; as it is unless the settings have
    `average_examples`.
  """
  if not s.average_examples:
    return lambda w, net_state, seed: net_state
  source = feed.some(s.average_examples)

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
  host = functools.partial(jax.tree.map, population.to_host)
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
