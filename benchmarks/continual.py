"""Continual learning: steps, seeds, tasks and searches, on made-up pictures."""

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from benchmarks import timing
from configs import fig4_permuted_mnist
from configs import fig4_without
from experiments import data
from experiments.continual import cells as continual_cells
from experiments.continual import run as continual_run
from experiments.continual import settings as continual_settings
from experiments.engine import population
from experiments.engine.population import Cell

_LIMITS = {
  **dict.fromkeys(('efficient_packnet', 'packnet'), 1.05),
  **dict.fromkeys(('ewc', 'online_ewc', 'online_laplace', 'si'), 1.3),
}
_EPOCHS = 3  # of the task whose search is timed


class Size(NamedTuple):
  """What is trained.

  Attributes:
    hidden: widths of the net's hidden layers.
    num_train: training examples; validation and test sets are 1/11 and 2/11 of
      it, as MNIST's are.
    steps: of a program call.
    batch_size: examples of a step.
  """

  hidden: tuple[int, ...] = (256, 256)
  num_train: int = 5_500
  steps: int = 50
  batch_size: int = 128


SMALL = Size()
PROTOCOL = Size((1000, 1000), 55_000, 100)


def make_dataset(num_train: int) -> data.Dataset:
  """Noise, half of whose pixels are its class's own: it can be learned.

  Args:
    num_train: as in `Size`.

  Returns:
    Pictures of MNIST's shape, under its name.
  """
  rng = np.random.default_rng(0)
  noise = lambda n: rng.integers(0, 256, (n, 28, 28, 1), np.uint8)
  kinds = noise(10)

  def split(n):
    label = rng.integers(0, 10, n).astype(np.int32)
    other = noise(n)
    return data.Split(np.where(other % 2 == 0, kinds[label], other), label)

  return data.Dataset(
    name='mnist',
    train=split(num_train),
    validation=split(num_train // 11),
    test=split(2 * num_train // 11),
    num_classes=10,
    scale=1 / 255,
  )


class Learner(NamedTuple):
  """A cell, with its tasks on the device."""

  cell: Cell
  splits: Mapping[str, Any]
  tables: Any

  def source(self, task: int) -> data.Source:
    """A task as the programs want it."""
    number = jnp.asarray(task, jnp.int32)
    return data.Source(self.splits, self.tables, number, number)

  def start(self) -> Any:
    """The state before the first task."""
    return self.cell.programs.start(self.cell.hyper, self.source(0))

  def train(self, state: Any, task: int, steps: int, begin: int = 0) -> Any:
    """So many steps of a task."""
    return self.cell.programs.chunk(
      state, self.cell.hyper, self.source(task), np.int32(begin), steps
    )[0]

  def learn(self, state: Any, task: int, steps: int) -> tuple[Any, Any]:
    """A whole task: the state before the next one, and its record."""
    life, hyper = self.cell.programs, self.cell.hyper
    state = self.train(life.begin(state, hyper), task, steps)
    state, _ = life.end(state, hyper, self.source(task))
    return life.archive(state, hyper, self.source(task))


def make_learners(
  size: Size, methods: Sequence[str], executor: str = 'map', **changes: Any
) -> list[Learner]:
  """Figure 4's run, but for size and data: all methods under the same Adam.

  Args:
    size: of nets, data and steps.
    methods: their names.
    executor: 'map' or 'vmap', see `continual_cells.make_cells`.
    **changes: of fields of the config.

  Returns:
    One per cell, in the order of the methods.
  """
  config = fig4_permuted_mnist.get_config().to_dict() | {
    'methods': tuple(methods),
    'network_kwargs': {'hidden': size.hidden},
    'learning_rate': (1e-3,),
    'method_training': {},
    'labels': {},
    'batch_size': size.batch_size,
    'num_tasks': 2,
    'seeds': 1,
    **changes,
  }
  s = continual_settings.check(ml_collections.ConfigDict(config))
  it = continual_run.prepared(s, make_dataset(size.num_train))
  return learners_of(s, it, executor)


def learners_of(
  s: continual_settings.ContinualSettings,
  it: continual_run.Prepared,
  executor: str = 'map',
) -> list[Learner]:
  """What `make_learners` makes of settings and what is prepared of them."""
  sequence, plans, splits = it
  chosen = {
    key: continual_settings.coefficients(s, key.method)[:1]
    for key in continual_cells.keys(s, plans)
  }
  members = continual_cells.make_members(s, plans, chosen, False)
  tables = jax.jit(sequence.tables)
  stacked = jax.jit(jax.vmap(sequence.tables))
  return [
    Learner(
      cell, splits, (stacked if cell.stacked else tables)(cell.hyper.seed)
    )
    for cell in continual_cells.make_cells(
      plans, members, executor, sequence.num_tasks
    )
  ]


def _paired(
  programs: Mapping[str, Callable[[], Any]],
  base: str,
  rounds: int,
  say: timing.Say,
) -> dict[str, timing.Timing]:
  """Each program in turn with the base alone; the base with itself.

  What else the machine does changes within seconds: the two that are compared
  follow each other. The base's ratio to itself tells what noise is left.
  """
  out = {}
  for name, program in programs.items():
    pair = {base: programs[base], f'{name}, paired': program}
    out[name] = timing.compare(pair, base, rounds, say)[f'{name}, paired']
  return out


def _what(size: Size, rounds: int) -> str:
  widths = '-'.join(map(str, (1024, *size.hidden, 10)))
  return (
    f'Net {widths}, batch {size.batch_size}, Adam, made-up data'
    f' ({size.num_train:,} pictures of 28x28, padded to 32x32), {rounds}'
    ' rounds.'
  )


def method_step(
  say: timing.Say,
  size: Size = SMALL,
  rounds: int = 10,
  names: Sequence[str] = (),
) -> timing.Table:
  """Each method's step against fine-tuning's, in the second task.

  Args:
    say: told what is going on.
    size: of nets, data and steps.
    rounds: see `timing.compare`.
    names: of the methods; all where there are none.

  Returns:
    One row per method.
  """
  limited = (*_LIMITS, *continual_settings.method_names())
  names = tuple(dict.fromkeys(('naive', *(names or limited))))
  learners = make_learners(size, names, alphas=(1.0,), method_kwargs={})
  return timing.Table(
    'A step of the second task against fine-tuning',
    (
      _what(size, rounds),
      f'α = 1, {size.steps} steps per scan; ends of tasks are not in it. Every'
      ' method was timed in turn with fine-tuning; the row of fine-tuning, with'
      ' itself, tells the noise. Memories of pictures are those of 2 tasks.',
    ),
    second_task(
      say, dict(zip(names, learners, strict=True)), size.steps, rounds, _LIMITS
    ),
  )


def second_task(
  say: timing.Say,
  learners: Mapping[str, Learner],
  steps: int,
  rounds: int,
  limits: Mapping[str, float],
) -> list[dict[str, Any]]:
  """Steps of the second task against fine-tuning's.

  Args:
    say: told what is going on.
    learners: by method, 'naive' among them.
    steps: of a program call.
    rounds: see `timing.compare`.
    limits: by method, what the ratio may be at most.

  Returns:
    A row of a table per method.
  """
  programs = {}
  for name, learner in learners.items():
    say(f'first task of {name}')
    cell = learner.cell
    # Now there is something to hold on to: penalties, masks and memories.
    state, _ = learner.learn(learner.start(), 0, steps)
    state = jax.block_until_ready(cell.programs.begin(state, cell.hyper))
    programs[name] = functools.partial(learner.train, state, 1, steps)
  return [
    {
      'method': name,
      'steps/s': steps / t.seconds,
      **timing.ratio_cells(t, limits.get(name)),
    }
    for name, t in _paired(programs, 'naive', rounds, say).items()
  ]


def seeds(
  say: timing.Say, size: Size = SMALL, rounds: int = 5, number: int = 10
) -> timing.Table:
  """Several seeds of EfficientPackNet against one: model-steps per second.

  Args:
    say: told what is going on.
    size: of nets, data and steps.
    rounds: see `timing.compare`.
    number: of seeds, ≥ 2.

  Returns:
    One row per executor.
  """
  mapped, (vmapped,) = (
    make_learners(size, ('efficient_packnet',), executor, seeds=number)
    for executor in ('map', 'vmap')
  )

  def program(learner):
    # States are only read: every round starts from the same one.
    state = jax.block_until_ready(learner.start())
    return functools.partial(learner.train, state, 0, size.steps)

  alone = [program(learner) for learner in mapped]

  def by_threads():
    with futures.ThreadPoolExecutor(population.workers()) as pool:
      run = lambda one: jax.block_until_ready(one())
      return list(pool.map(run, alone))

  several = {
    f'map: {number} seeds, {population.workers()} threads': by_threads,
    f'vmap: {number} seeds, one program, α traced': program(vmapped),
  }
  base = 'map: 1 seed'
  times = _paired({base: alone[0], **several}, base, rounds, say)
  rows = []
  for name, t in times.items():
    n = number if name in several else 1
    speed = timing.Timing(t.seconds, n / t.ratio, n / t.high, n / t.low)
    rows.append(
      {
        'executor': name,
        'model-steps/s': n * size.steps / t.seconds,
        **timing.ratio_cells(speed),
      }
    )
  return timing.Table(
    f'EfficientPackNet: {number} seeds against one',
    (
      _what(size, rounds),
      f'α = 1.5, {size.steps} steps per call. The ratio is of model-steps per'
      ' second: above 1, several seeds together are faster than in turn.',
    ),
    rows,
  )


def growth(
  say: timing.Say,
  size: Size = SMALL,
  rounds: int = 10,
  numbers: tuple[int, ...] = (2, 10, 50, 100, 300),
) -> timing.Table:
  """EfficientPackNet's time and memory by the number of the task.

  Args:
    say: told what is going on.
    size: of nets, data and steps.
    rounds: see `timing.compare`.
    numbers: of tasks, from 1; the others are compared with the first.

  Returns:
    One row per number.
  """
  (learner,) = make_learners(
    size, ('efficient_packnet',), num_tasks=max(numbers)
  )
  state, record = learner.learn(learner.start(), 0, size.steps)
  after: dict[int, Any] = {}
  records: dict[int, list[Any]] = {}

  def learn(number):
    task, mine = number - 1, records[number]
    after[number], new = learner.learn(state, task, size.steps)
    mine[task:] = [new]
    recall = learner.cell.programs.recall
    return recall(after[number], new, learner.source(task), 'test')

  programs = {}
  for number in numbers:
    # Arrays of their own, as records of tasks are.
    records[number] = [
      jax.tree.map(jnp.copy, record) for _ in range(number - 1)
    ]
    programs[str(number)] = functools.partial(learn, number)
  times = _paired(programs, str(numbers[0]), rounds, say)
  size_of = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  mask = -(-sum(learner.cell.plan.layer_sizes) // 8)
  rows = []
  for number, t in zip(numbers, times.values(), strict=True):
    state_bytes = size_of(after[number])
    record_bytes = size_of(records[number])
    exact = state_bytes == size_of(state) and record_bytes == number * mask
    rows.append(
      {
        'task': number,
        'seconds per task': t.seconds,
        **timing.ratio_cells(t, 1.1),
        'MB of state': state_bytes / 1e6,
        'MB of records': record_bytes / 1e6,
        'bytes a record': record_bytes // number,
        'n/8': mask,
        'grows by n/8': 'yes' if exact else 'no',
      }
    )
  return timing.Table(
    'EfficientPackNet: seconds and bytes by the number of the task',
    (
      _what(size, rounds),
      f'α = 1.5, binary search. A task is begin, {size.steps} steps, end,'
      ' archive and recall of its own net; all start from the same weights,'
      ' with the records of all tasks so far on the device. Evaluating all'
      ' earlier tasks is not in it: its time grows with their number.',
    ),
    rows,
  )


def search(
  say: timing.Say,
  size: Size = SMALL,
  rounds: int = 5,
  kinds: Sequence[str] = ('linear', 'binary', 'taylor'),
) -> timing.Table:
  """EfficientPackNet's searches for a mask against an epoch of training.

  Args:
    say: told what is going on.
    size: of nets and data.
    rounds: see `timing.compare`.
    kinds: of searches.

  Returns:
    One row for an epoch, and one per search.
  """
  learners = make_learners(
    size,
    kinds,
    method_kwargs={
      kind: {'method': 'efficient_packnet', 'gamma': 0.9, 'search': kind}
      for kind in kinds
    },
  )
  first, epoch = learners[0], size.num_train // size.batch_size
  say('the first task, and training on the second')
  state, _ = first.learn(first.start(), 0, epoch)
  state = first.cell.programs.begin(state, first.cell.hyper)
  for i in range(_EPOCHS):
    state = first.train(state, 1, epoch, i * epoch)

  def end(learner):
    cell = learner.cell
    return cell.programs.end(state, cell.hyper, learner.source(1))

  base = 'an epoch of training'
  programs: dict[str, Callable[[], Any]] = {
    base: functools.partial(first.train, state, 1, epoch)
  }
  reports: dict[str, Any] = {}
  for kind, learner in zip(kinds, learners, strict=True):
    programs[kind] = functools.partial(end, learner)
    reports[kind] = end(learner)[1]
  times = _paired(programs, base, rounds, say)
  found = lambda kind, name, as_: (
    as_(reports[kind][name]) if kind in reports else ''
  )
  return timing.Table(
    'EfficientPackNet: a search against an epoch of training',
    (
      _what(size, rounds),
      f'At the end of the second task, after {_EPOCHS} epochs; γ = 0.9,'
      f' {size.num_train // 11:,} validation examples. Evaluations are those'
      ' that the search chose to do; all ends evaluate the dense net and the'
      " chosen one too. Taylor's curvature takes gradients of 256 examples,"
      ' however many there are.',
    ),
    [
      {
        'what': name,
        'seconds': t.seconds,
        **timing.ratio_cells(t),
        'evaluations': found(name, 'evaluations', int),
        'share of weights kept': found(name, 'rate', float),
      }
      for name, t in times.items()
    ],
  )


def parts(say: timing.Say, size: Size = SMALL, rounds: int = 5) -> timing.Table:
  """What a task of fig4_without spends its time on, by parts.

  Args:
    say: told what is going on.
    size: of nets, data and steps.
    rounds: see `timing.compare`.

  Returns:
    One row per part.
  """
  config = fig4_without.get_config().to_dict()
  (name,) = config['methods']
  # The same steps without masks, and without Ψ.
  plain = config['method_training'][name] | {'alphas': (1.0,)}
  mine = plain | {'alphas': (1.5,)}
  learner, naive = make_learners(
    size,
    (name, 'naive'),
    epochs=config['epochs'],
    method_kwargs=config['method_kwargs'],
    method_training={name: mine, 'naive': plain},
  )
  programs, hyper = learner.cell.programs, learner.cell.hyper
  say('the first task')
  state, record = learner.learn(learner.start(), 0, size.steps)
  state = programs.begin(state, hyper)
  source, base = learner.source(1), 'a step of plain training'
  others, _ = naive.learn(naive.start(), 0, size.steps)
  steps: dict[str, Callable[[], Any]] = {
    base: functools.partial(naive.train, others, 1, size.steps),
    'steps': functools.partial(learner.train, state, 1, size.steps),
    'steps under the mask': lambda: programs.rechunk(
      state, hyper, source, np.int32(0), size.steps
    )[0],
  }
  ends: dict[str, Callable[[], Any]] = {
    'the search for the mask': lambda: programs.end(state, hyper, source),
    'freezing and drawing anew': lambda: programs.archive(state, hyper, source),
    'evaluating, pruned and not': lambda: [
      (programs.live(state, *of), programs.recall(state, record, *of))
      for of in ((source, 'validation'), (source, 'test'))
    ],
  }
  times = timing.compare(steps | ends, base, rounds, say)
  plan = learner.cell.plan
  number = {
    'steps': plan.steps[1] / size.steps,
    'steps under the mask': plan.retrain_steps[1] / size.steps,
  }
  seconds = {n: times[n].seconds * number.get(n, 1) for n in (*number, *ends)}
  whole = sum(seconds.values())
  said = [
    f'{t.ratio:.2f} ({t.low:.2f} to {t.high:.2f})' for t in times.values()
  ]
  return timing.Table(
    'EfficientPackNet: where a task goes',
    (
      _what(size, rounds).replace('Adam', 'SGD with momentum'),
      f'The second task of fig4_without, alone on the machine: {whole:.3g} s. A'
      f' step takes {said[1]} times, under the mask {said[2]} times that of the'
      ' same net at α = 1 without masks.',
    ),
    [{'part': n, 'seconds': x, 'share': x / whole} for n, x in seconds.items()],
  )
