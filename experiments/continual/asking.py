"""Which task a test picture is of: the nets of a finished run are asked.

See `powerprop.inference` for the ways, which are ours. Nothing is chosen by
what comes out.
"""

from collections.abc import Iterator
import functools
import itertools
import json
import math
import pathlib
import shlex
import sys
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.continual import run
from experiments.continual.cells import Course
from experiments.continual.learner import Alone
from experiments.data import Examples
from experiments.engine import runs
from experiments.engine.population import Member
from experiments.engine.settings import ConfigError
from experiments.report import files
from experiments.report import progress
from powerprop import inference
from powerprop.types import Params

# With what is asked in one go: single pictures, or batches of one task.
WAYS = {
  'moments': 'likelihood of the inputs',
  'energy': 'every net, by energy',
  'entropy': 'every net, by entropy',
  'halving': 'halves, by mixtures',
  'gradient': 'gradient, once',
  'binary': 'gradient, by halves',
}
_EXHAUSTIVE = ('energy', 'entropy')
# They cost as much for one picture as for a batch: a few are asked.
_BY_GRADIENT = ('gradient', 'binary')
MOST = 32  # single pictures, or batches, that are asked in these
_BYTES = 1 << 28  # of gradients at a time
_AT_ONCE = 100  # pictures that run on a mixture at a time
_KEPT = 2_000  # training pictures of a task whose moments are kept
_NUMBERS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Asked(NamedTuple):
  """What is measured.

  Attributes:
    ways: of `WAYS`.
    batches: numbers of pictures that are known to be of one task; each divides
      the largest.
    tasks: numbers of tasks to choose from, the first ones; () is as many as fit
      of 2, 5, 10, 20, …, and all.
    examples: test pictures for each number of tasks.
  """

  ways: tuple[str, ...] = tuple(WAYS)
  batches: tuple[int, ...] = (1, 10, 100)
  tasks: tuple[int, ...] = ()
  examples: int = 1_000


def check(asked: Asked) -> None:
  """Raises ConfigError naming the first value that cannot be.

  Args:
    asked: as the command line has it.

  Raises:
    ConfigError: with the remedy.
  """
  for way in asked.ways:
    if way not in WAYS:
      raise ConfigError(f'ways has {way!r} but knows {", ".join(WAYS)}.')
  if not asked.ways:
    raise ConfigError(f'ways is empty; name some of {", ".join(WAYS)}.')
  largest = max(asked.batches, default=0)
  if any(b < 1 or largest % b for b in asked.batches) or not asked.batches:
    raise ConfigError(
      f'batches is {asked.batches} but must be whole numbers of at least 1,'
      ' each a divisor of the largest: 1,10,100.'
    )
  if any(t < 2 for t in asked.tasks):
    raise ConfigError(
      f'tasks is {asked.tasks} but of fewer than 2 tasks there is none to'
      ' infer.'
    )
  if asked.examples < largest:
    raise ConfigError(
      f'examples is {asked.examples} but must be at least {largest}, the'
      ' largest of batches.'
    )


class Pool(NamedTuple):
  """Pictures whose task is to be found, among the first `number`.

  Attributes:
    number: of tasks.
    examples: the pictures, those of a task in groups.
    task: int32, of each.
  """

  number: int
  examples: Examples
  task: np.ndarray


def passes(way: str, number: int, size: int, pictures: int) -> float:
  """What a picture costs, in dense forward passes of one picture.

  To take a net out of its record and add it to a mixture, or multiply it by a
  gradient, is about one. To take it out alone, once for all pictures, is free.

  Args:
    way: of `WAYS`, but for 'moments', which asks no net.
    number: of tasks, T.
    size: of a batch, B.
    pictures: that are asked together.

  Returns:
    T; or of 'halving', a mixture of every half of a level, 2 and T / pictures a
    level; of 'gradient', forward, backward, the mixture and the products, 3 +
    2 T / B; of 'binary' the same a level.

  >>> passes('gradient', 300, 100, 2000), passes('halving', 256, 1, 2048)
  (9.0, 17.0)
  """
  levels = math.ceil(math.log2(number))
  gradient = 3 + 2 * number / size
  return {
    'halving': levels * (2 + number / pictures),
    'gradient': gradient,
    'binary': levels * gradient,
  }.get(way, float(number))


class Asker:
  """Asks the nets of one method, whose programs are compiled once."""

  def __init__(self, plan: Course, asked: Asked, sequence: data.Sequence):
    """Of members that share a plan."""
    self._plan, self._asked, self._sequence = plan, asked, sequence
    self._compiled: dict[Any, Any] = {}

  def numbers(self, learned: int) -> list[int]:
    """How many tasks to choose from; ConfigError if too few were learned."""
    wanted = set(self._asked.tasks)
    if learned < 2:
      raise ConfigError(
        f'{learned} task was learned but to infer one takes at least 2: let the'
        ' run go on.'
      )
    if wanted and max(wanted) > learned:
      raise ConfigError(
        f'tasks has {max(wanted)} but {learned} were learned; lower it.'
      )
    return sorted(wanted or {n for n in _NUMBERS if n < learned} | {learned})

  def pairs(self) -> list[tuple[str, int]]:
    """Ways and sizes of batches."""
    return list(itertools.product(self._asked.ways, self._asked.batches))

  def rows(self, member: Alone, number: int) -> Iterator[dict[str, Any]]:
    """What each way finds among so many tasks, one after the other."""
    pool = self._pool(member, number)
    image = pool.examples.image
    records = jax.tree.map(lambda *x: jnp.stack(x), *member.records[:number])
    nets = member.theta, records
    answers, seconds = self._timed('answers', self._answers, nets, image)
    right = np.asarray(answers.label) == np.asarray(pool.examples.label)
    tasks = jnp.arange(number)
    kept, _ = self._timed('kept', self._moments, member.source, tasks)
    for way, size in self.pairs():
      which = np.arange(len(image)).reshape(-1, size)
      if way in _EXHAUSTIVE:
        # One pass for both; the means over batches are next to nothing.
        found, spent = inference.chosen(getattr(answers, way), size), seconds
      elif way == 'moments':
        of = functools.partial(self._likely, size)
        found, spent = self._timed((way, size), of, kept, image)
      else:
        if way in _BY_GRADIENT and len(which) > MOST:
          every = np.linspace(0, len(which) - 1, MOST)
          which = which[every.astype(np.int32)]
        of = getattr(self, f'_{way}')
        found, spent = self._timed((way, size), of, nets, image[which])
      guess = np.broadcast_to(np.asarray(found)[:, None], which.shape)
      yield {
        'way': way,
        'tasks': number,
        'batch': size,
        'batches': len(which),
        'identified': float(np.mean(guess == pool.task[which])),
        'accuracy': float(np.mean(right[guess, which])),
        'true_task_accuracy': float(np.mean(right[pool.task[which], which])),
        'seconds': spent / which.size,
        'passes': self._passes(way, number, size, image),
      }

  def _pool(self, member: Alone, number: int) -> Pool:
    """Test pictures of the first tasks, as many of each as can be."""
    size = max(self._asked.batches)
    sizes = self._sequence.sizes['test'][:number]
    if (least := int(sizes.min())) < size:
      raise ConfigError(
        f'batches has {size} but a task has {least} test pictures; lower it.'
      )
    groups = min(self._asked.examples // size, number * (least // size))
    tasks = np.arange(groups) * number // groups
    pieces = []
    for task in dict.fromkeys(tasks.tolist()):
      rows = np.random.default_rng(task).permutation(int(sizes[task]))
      rows = rows[: size * int((tasks == task).sum())]
      at = member.source._replace(task=jnp.int32(task), now=jnp.int32(task))
      pieces.append(
        self._plan.recipe.problem.batch(at, 'test', jnp.asarray(rows))
      )
    examples = jax.tree.map(lambda *x: jnp.concatenate(x), *pieces)
    return Pool(number, examples, np.repeat(tasks, size))

  def _nets(self, nets: tuple[Params, Any]) -> inference.Nets:
    problem, sequence = self._plan.recipe.problem, self._sequence

    def outputs(w, net_state, image):
      blank = Examples(
        image, jnp.zeros(len(image), jnp.int32), jnp.ones(1, bool)
      )
      return problem.outputs(w, net_state, blank)[0]

    theta, records = nets
    number = jax.tree.leaves(records)[0].shape[0]
    seen = jax.vmap(lambda t: data.visible_outputs(sequence, t, t))
    return inference.of_records(
      self._plan.method.continual,
      theta,
      records,
      outputs,
      seen(jnp.arange(number)),
    )

  def _answers(self, nets, image) -> inference.Answers:
    return inference.answers(self._nets(nets), image)

  def _halving(self, nets, units) -> jax.Array:
    block = max(1, _AT_ONCE // units.shape[1])
    return inference.by_halves(self._nets(nets), units, block)

  def _gradient(self, nets, units, halve: bool = False) -> jax.Array:
    bytes_of = sum(x.size * 4 for x in jax.tree.leaves(nets[0]))
    there = self._nets(nets)
    return jax.lax.map(
      lambda unit: inference.by_gradient(there, unit, halve),
      units,
      batch_size=int(max(1, min(len(units), _BYTES // bytes_of))),
    )

  def _binary(self, nets, units) -> jax.Array:
    return self._gradient(nets, units, halve=True)

  def _inputs(self, image) -> jax.Array:
    """What moments are of: pixels in [0, 1]."""
    flat = image.reshape(len(image), -1)
    return data.normalise(flat, self._sequence.dataset.scale)

  def _moments(self, source, tasks) -> inference.Moments:
    problem = self._plan.recipe.problem
    number = min(_KEPT, int(self._sequence.sizes['train'].min()))
    rows = jnp.arange(number, dtype=jnp.int32)

    def one(task):
      at = source._replace(task=task, now=task)
      batch = problem.batch(at, 'train', rows)
      return inference.moments(self._inputs(batch.image))

    return jax.lax.map(one, tasks)

  def _likely(self, size, kept, image) -> jax.Array:
    scores = inference.log_likelihood(kept, self._inputs(image))
    return inference.chosen(scores, size)

  def _passes(self, way: str, number: int, size: int, image) -> float:
    """As `passes`, of all ways."""
    if way != 'moments':
      return passes(way, number, size, len(image))
    # A difference, a square, a quotient, a sum.
    plan = self._plan
    flops = plan.recipe.problem.flops(plan.shapes, plan.net_state)
    return 4 * number * math.prod(image.shape[1:]) / sum(flops.values())

  def _timed(self, key, fn, *args) -> tuple[Any, float]:
    """What a function gives, and the seconds of its compiled program."""
    shapes = tuple(x.shape for x in jax.tree.leaves(args))
    if (key, shapes) not in self._compiled:
      self._compiled[key, shapes] = jax.jit(fn).lower(*args).compile()
    begun = time.monotonic()
    found = jax.block_until_ready(self._compiled[key, shapes](*args))
    return found, time.monotonic() - begun


def measure(
  workdir: pathlib.Path, asked: Asked, data_dir: str | None = None
) -> dict[str, Any]:
  """Asks all nets of a finished run that have to be told the task.

  A sequence that has learned too few tasks is left out, with a warning.

  What is asked for a number of tasks is written to inference.json when it is
  answered; a call that asks the same goes on from there.

  Args:
    workdir: the run's folder.
    asked: what is measured.
    data_dir: where TFDS's prepared data lie; None for TFDS's default.

  Returns:
    What inference.json holds.

  Raises:
    ConfigError: if there is nothing to infer, no sequence has learned enough
      tasks, or a value cannot be.
    runs.RunError: if the run is not finished, or a file of it is damaged.
  """
  check(asked)
  begun = time.monotonic()
  path = workdir / 'inference.json'
  found = _earlier(path, asked)
  rows: list[dict[str, Any]] = found['rows']
  spent = found['environment']['wall_seconds']
  there = {(row['net'], row['tasks']) for row in rows}
  results, _ = files.load(workdir)
  if (kind := files.experiment(results)) != 'continual':
    raise ConfigError(
      f'{workdir} is a run of experiments.{kind} but only nets of'
      ' experiments.continual are asked: name a run of that.'
    )
  told = lambda cell: cell.plan.method.continual.needs_identity
  askers: dict[int, Asker] = {}
  short: dict[int, ConfigError] = {}  # by the number of tasks learned
  for learner in run.learned(workdir, told, data_dir):
    cell = learner.cell
    plan = cell.plan
    asker = askers.setdefault(
      id(plan.method), Asker(plan, asked, learner.sequence)
    )
    # A program may be filled up with copies of its last member.
    ends = dict(zip(cell.members, learner.log.ends(), strict=False))
    numbers: dict[Member, list[int]] = {}
    for member, end in ends.items():
      try:
        numbers[member] = asker.numbers(end)
      except ConfigError as error:
        short[end] = error
        logging.warning('%s is left out: %s', member.name, error)
    each, every = len(asker.pairs()), sum(map(len, numbers.values()))
    with progress.Progress(cell.name, each * every, 'measurement') as bar:
      for member, several in numbers.items():
        todo = [n for n in several if (member.name, n) not in there]
        bar.skip(each * (len(several) - len(todo)))
        if not todo:
          continue
        alone = learner.alone(cell.members.index(member))
        for number in todo:
          for row in asker.rows(alone, number):
            rows.append(member.row() | {'net': member.name} | row)
            bar.add(1, f'{row["way"]}, {number} tasks')
          seconds = spent + time.monotonic() - begun
          found['environment']['wall_seconds'] = seconds
          files.write_atomically(path, files.to_json(found))
        del alone
    del learner  # and its arrays, before the next is there
  if not rows and short:
    raise short[max(short)]
  if not rows:
    raise ConfigError(
      f'{workdir} has no net that has to be told the task, so there is none to'
      ' infer: name a run of packnet, efficient_packnet, clnp or single.'
    )
  return found


def _earlier(path: pathlib.Path, asked: Asked) -> dict[str, Any]:
  """What an earlier call has found that asked the same; else no rows yet."""
  mine = json.loads(files.to_json(asked._asdict()))
  if path.is_file():
    try:
      found: dict[str, Any] = json.loads(path.read_bytes())
      if found['asked'] == mine and isinstance(found['rows'], list):
        return found
    except (ValueError, KeyError, TypeError):
      pass  # damaged, and made again
  return {
    'asked': mine,
    'rows': [],
    'environment': {
      **runs.environment(),
      'wall_seconds': 0.0,
      'command': ' '.join(
        [
          'python -m experiments.continual.inference',
          *map(shlex.quote, sys.argv[1:]),
        ]
      ),
    },
  }
