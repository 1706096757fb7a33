"""A cell that learns a sequence: what is done with each of its tasks."""

from collections.abc import Callable, Mapping
import functools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.continual import log
from experiments.continual import records
from experiments.continual.cells import Course
from experiments.engine import host
from experiments.engine import population
from experiments.engine import runs
from experiments.engine.population import Cell
from experiments.report.weights import Weights
from powerprop import transforms
from powerprop import trees
from powerprop.psi import Psi
from powerprop.types import Params, Score, TrainState


class Measures(NamedTuple):
  """What an experiment measures beside the score of its problem.

  Each function is given the `Learner` and gives arrays by name, whose first
  axis is the cell's members. Trainings of a search are not measured.

  Attributes:
    after_task: after each task; arrays of the same shapes every time.
    at_end: after the last.
    names: what rows call what those of `experiments.continual` call otherwise.
    unit: of the problem's score, '' or such as ' nats'.
  """

  after_task: Callable[[Any], dict[str, np.ndarray]]
  at_end: Callable[[Any], dict[str, np.ndarray]]
  names: Mapping[str, str]
  unit: str = ''


class Lessons(NamedTuple):
  """What the cells of a run learn from.

  Attributes:
    sequence: of tasks.
    splits: its data on the device.
    folder: of the cells.
    measures: what is measured besides; None is nothing.
  """

  sequence: data.Sequence
  splits: Mapping[str, Any]
  folder: pathlib.Path
  measures: Measures | None = None


class Alone(NamedTuple):
  """What one member has learned.

  Attributes:
    theta: θ after the last task.
    records: of each task, as `lifetime.Life.archive` gives them.
    source: of its first task.
  """

  theta: Params
  records: list[Any]
  source: data.Source


def live(cell: Cell, lessons: Lessons, world: host.World) -> records.Lived:
  """One cell's whole sequence, from its last checkpoint if there is one.

  Args:
    cell: of `cells.make_cells`.
    lessons: that it learns from.
    world: of the run.

  Returns:
    Its rows and records.

  Raises:
    runs.Interrupted: if a signal came; the state is saved.
    runs.RunError: if a task's file is missing or damaged.
  """
  folder = lessons.folder / cell.name
  if (lived := records.read_lived(folder, cell.name)) is not None:
    world.progress.skip(cell.plan.num_tasks)
    world.clock.after(lived.wall_seconds)
    return lived
  return Learner(cell, lessons, world).live()


class Learner:
  """A cell that learns its sequence of tasks.

  Attributes:
    cell: that it is.
    sequence: of tasks.
    life: on the host, with the state and how far it is.
    tables: of the sequence, for every member.
    records: what is kept of each task.
    log: of what is known of them.
  """

  def __init__(self, cell: Cell, lessons: Lessons, world: host.World):
    """From the cell's last checkpoint, if there is one."""
    self.cell, self.world = cell, world
    self.sequence, self._splits = lessons.sequence, lessons.splits
    self._plan = cell.plan
    self._s = self._plan.settings
    self._search = cell.members[0].variant.search
    self._measures = None if self._search else lessons.measures
    self._names = lessons.measures.names if lessons.measures else {}
    self._unit = lessons.measures.unit if lessons.measures else ''
    tables = lessons.sequence.tables
    self.tables = jax.jit(jax.vmap(tables) if cell.stacked else tables)(
      cell.hyper.seed
    )
    self.log = log.Log(cell, lessons.sequence)
    state = cell.programs.start(cell.hyper, self.source(0))
    self.life = host.Host(
      world,
      lessons.folder / cell.name,
      state,
      self._s.training,
      self.log.to_json,
      restarts=True,
    )
    self.records: list[Any] = []
    if self.life.remembered is not None:
      self.log.restore(self.life.remembered)
      like = jax.eval_shape(
        cell.programs.archive, state, cell.hyper, self.source(0)
      )[1]
      self.records = [
        records.read_task(self.life.folder, t, like)
        for t in range(self.life.task)
      ]

  def source(self, task: int, now: int | None = None) -> data.Source:
    """A task as the programs want it."""
    number = lambda x: jnp.asarray(x, jnp.int32)
    now = task if now is None else now
    return data.Source(self._splits, self.tables, number(task), number(now))

  def live(self) -> records.Lived:
    """From where it is to the last task."""
    life, programs, num_tasks = (
      self.life,
      self.cell.programs,
      self._plan.num_tasks,
    )
    with life:
      self.world.progress.skip(life.task)
      untrained = not life.task and life.start is None
      if self._s.forward_transfer and not self._search and untrained:
        self.log.at_start(
          [
            programs.live(life.state, self.source(t), 'test').value
            for t in range(num_tasks)
          ]
        )
      while life.task < num_tasks and not self.log.stuck().all():
        life.stop_if_asked()
        self._learn()
        life.save_if_due()
      life.save()
      lived = self.log.lived(self.cell.name, self.records, life.seconds)
      lived.arrays.update(self._measured())
      lived = lived._replace(wall_seconds=self.world.clock.seconds())
      records.write_lived(life.folder, lived)
      if self._search:  # it has said what it was for
        life.forget()
      return lived

  def nets(self, task: int) -> list[Params]:
    """The members' nets for a task that they have learned."""
    record = self.records[task]
    w = self.cell.programs.params_for(self.life.state, record)
    return [
      jax.tree.map(jnp.asarray, one) for one in population.unstack(self.cell, w)
    ]

  def _measured(self) -> dict[str, np.ndarray]:
    """What was measured after each task and at the end, by member and name."""
    if self._measures is None:
      return {}
    tasks = [
      records.read_measured(self.life.folder, t) for t in range(self.life.task)
    ]
    at_end = self._measures.at_end(self)
    out = {}
    for m, member in enumerate(self.cell.members):
      for name in tasks[0]:
        out[f'{member.name}/{name}'] = np.stack([t[name][m] for t in tasks])
      for name, found in at_end.items():
        out[f'{member.name}/{name}'] = found[m]
    return out

  def weights(self, member: int, task: int) -> Weights:
    """A member's net for a task."""
    learned = self.log.ends()[member]
    if not 0 <= task < learned:
      raise runs.RunError(
        f'task is {task} but {self.cell.members[member].name} has learned'
        f' {learned} tasks, which count from 0.'
      )
    return weights_of(self.cell, self.life.state, self.records[task], member)

  def _of(self, member: int, tree: Any) -> Any:
    """What a member has of a tree."""
    return jax.tree.map(
      lambda x: jnp.asarray(population.per_member(self.cell, x)[member]), tree
    )

  def theta(self, member: int) -> Params:
    """A member's θ as it is now."""
    psi = Psi(_alpha(self.life.state, member))
    return psi.to_theta(self._of(member, self.life.state.phi))

  def alone(self, member: int) -> Alone:
    """What a member has learned, without the others of its program."""
    pick = functools.partial(self._of, member)
    end = self.log.ends()[member]
    return Alone(
      theta=self.theta(member),
      records=[pick(record) for record in self.records[:end]],
      source=self.source(0)._replace(tables=pick(self.tables)),
    )

  def _learn(self) -> None:
    """One task: train, end, archive, evaluate, write down."""
    life, programs, t = self.life, self.cell.programs, self.life.task
    begun = time.monotonic()
    source = self.source(t)
    if life.start is None:
      if self._s.forward_transfer and not self._search:
        self.log.before(t, programs.live(life.state, source, 'test').value)
      state = programs.begin(life.state, self.cell.hyper)
      if programs.choose is not None:
        state = programs.choose(state, self.cell.hyper, source)
      life.start = life.state = state
    tries = self._train(source)
    dense = {}
    if self._plan.layers:
      dense['validation'] = tries.score.value
      if not self._search:
        dense['test'] = programs.live(life.state, source, 'test').value
    state, record, report, failed = self._end(source, tries)
    life.state, life.start = state, None
    life.task, life.step = t + 1, 0
    self.records.append(record)
    records.write_task(life.folder, t, record)
    found = {
      split: programs.recall(state, record, source, split)
      for split in (('validation',) if self._search else ('validation', 'test'))
    }
    self.log.learned(
      t, found, dense, report, failed, tries.number, tries.factor
    )
    last_task = life.task == self._plan.num_tasks or bool(
      self.log.stuck().all()
    )
    if last_task or life.task % self._s.evaluate_every == 0:
      self._recall_all(last_task)
    if self._measures is not None:
      found = self._measures.after_task(self)
      records.write_measured(life.folder, t, found)
    rows = self.log.rows_of(t, time.monotonic() - begun)
    done = sum(self._plan.steps[: life.task])
    named = lambda row: {self._names.get(k, k): v for k, v in row.items()}
    life.write([{'step': done, **named(row)} for row in rows])
    self.world.progress.add(1, _told(self.cell, t, rows, self._unit))

  def _train(self, source: data.Source) -> host.Tries:
    """The task's steps."""
    programs, steps = self.cell.programs, self._plan.steps

    def judge(state):
      score = programs.live(state, source, 'validation')
      return score, self.failures(state, score)

    return self.life.train(
      self.cell,
      lambda state, hyper, step, number: programs.chunk(
        state, hyper, source, np.int32(step), self._window(number, steps)
      ),
      steps[self.life.task],
      judge,
      self.log.loss,
      self._s.retries,
      self._s.retry_factor,
    )

  def _window(self, number: int, steps: tuple[int, ...]) -> int:
    """The number of steps that a program is made for, to do so many.

    Where tasks differ it is the same for all, and the task's end is known to
    the program.
    """
    if min(steps) == max(steps):
      return number
    return min(self._s.training.chunk_steps, max(steps))

  def _end(self, source: data.Source, tries: host.Tries):
    """The task's end: state, record of the task, report, who failed."""
    cell, life, programs = self.cell, self.life, self.cell.programs
    hyper = host.slower(cell, tries.factor)
    state, report = programs.end(life.state, hyper, source)
    failed, steps = tries.failed, self._plan.retrain_steps
    if programs.rechunk is not None:
      # A signal comes back to here, unless there was more than one try.
      state = life.steps(
        lambda state, step, number: programs.rechunk(
          state, hyper, source, np.int32(step), self._window(number, steps)
        ),
        state,
        (0, steps[life.task]),
        self.log.loss,
        keeps=False,
        saves=tries.number.max() == 1,
      )
      failed = failed | ~population.per_member(cell, state.finite)
    state, record = programs.archive(state, hyper, source)
    if failed.any():
      # It leaves no trace, and is answered with the net of the task before.
      last = jax.tree.map(jnp.zeros_like, record)
      last = self.records[-1] if self.records else last
      state = population.choose(cell, failed, life.start, state)
      record = population.choose(cell, failed, last, record)
    return state, record, report, failed

  def _recall_all(self, last: bool) -> None:
    """Evaluates all tasks so far."""
    now = self.life.task - 1
    splits: tuple[str, ...] = ('validation',) if self._search else ('test',)
    if last and not self._search:
      splits = ('validation', 'test')
    for split in splits:
      scores = [
        self.cell.programs.recall(
          self.life.state, record, self.source(j, now), split
        )
        for j, record in enumerate(self.records)
      ]
      self.log.recalled(now, split, jax.device_get(scores))

  def failures(self, state: TrainState, score: Score) -> list[str]:
    """By member: how a task's training failed; '' where it did not."""
    per = functools.partial(population.per_member, self.cell)
    finite = per(state.finite) & np.isfinite(per(score.loss))
    accuracy, least = per(score.value), self._s.failure_accuracy
    out = []
    for m, stuck in enumerate(self.log.stuck()):
      if stuck:  # without free weights it cannot learn, whatever is tried
        out.append('')
      elif not finite[m]:
        out.append('diverged')
      elif least and accuracy[m] <= least:
        out.append(
          f'learned too little (validation accuracy {accuracy[m]:.3f}, and'
          f' failure_accuracy is {least:g})'
        )
      else:
        out.append('')
    return out


def weights_of(
  cell: Cell, state: TrainState, record: Any, member: int
) -> Weights:
  """A member's net for the task that left a record."""
  pick = lambda tree: jax.tree.map(
    lambda x: population.per_member(cell, x)[member], tree
  )
  kept, net_state, _ = record
  own = jax.tree.leaves(kept)  # where a task keeps its net, its state as well
  return Weights(
    params=pick(cell.programs.params_for(state, record)),
    masks=_masks(cell.plan, pick(kept)),
    state=pick(net_state if own else state.net),
    phi=pick(state.phi),
    alpha=_alpha(state, member),
  )


def _alpha(state: TrainState, member: int) -> float:
  alpha = np.ravel(transforms.current_alpha(state.opt))
  return float(alpha[member if alpha.size > 1 else 0])


def _masks(plan: Course, kept: Any) -> dict[str, np.ndarray]:
  """By layer, which weights a task has: of all ones, those that are left."""
  if not plan.layers:
    return {}
  ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), plan.shapes)
  masked = plan.method.continual.predict(ones, kept)
  every = trees.weights(masked, lambda *_: True)
  # Where layers are of units (CLNP), masks are of the weights that make them.
  governed = set(plan.layers) & set(every) or trees.weights(masked)
  return {n: np.asarray(x) != 0 for n, x in every.items() if n in governed}


def _told(cell: Cell, task: int, rows: list[dict[str, Any]], unit: str) -> str:
  """What is said of a task that was just learned."""
  mean = lambda name: float(
    np.mean([np.nan if r[name] is None else r[name] for r in rows])
  )
  told = f'{cell.name} task {task + 1}'
  if rows:
    told += f': validation {mean("validation_accuracy"):.3f}{unit}'
    if rows[0]['used_weights'] is not None:
      told += f', used {mean("used_weights"):.1%}'
  return told
