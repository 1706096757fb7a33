"""A cell's whole sequence on the host: checkpoints, retries, evaluations."""

from collections.abc import Callable, Mapping
import functools
import pathlib
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.continual import cells as continual_cells
from experiments.continual import records as continual_records
from experiments.engine import population
from experiments.engine import runs
from experiments.engine.population import Cell
from experiments.report.weights import Weights
from powerprop import transforms
from powerprop import trees
from powerprop.types import Hyper, Score, TrainState


class Clock:
  """Wall time over all starts of a run, without what was lost by kills.

  Cells run side by side, so their own times add up to more. Each saves the time
  of the run with its state, and the latest that is read again counts.
  """

  def __init__(self) -> None:
    """Starts at 0."""
    self._begun = time.monotonic()
    self._before = 0.0

  def after(self, seconds: float) -> None:
    """An earlier start has gone on for so long."""
    self._before = max(self._before, seconds)

  def seconds(self) -> float:
    """What has passed."""
    return self._before + time.monotonic() - self._begun


class World(NamedTuple):
  """What all cells share.

  Attributes:
    sequence: that they learn.
    splits: its data on the device.
    folder: of the cells.
    signals: filled when the run is to stop.
    progress: a Progress, which counts the tasks that are learned.
    clock: of the run.
  """

  sequence: data.Sequence
  splits: Mapping[str, Any]
  folder: pathlib.Path
  signals: list[int]
  progress: Any
  clock: Clock


def live(cell: Cell, world: World) -> continual_records.Lived:
  """One cell's whole sequence, from its last checkpoint if there is one.

  Args:
    cell: of `continual_cells.make_cells`.
    world: what all cells share.

  Returns:
    Its rows and records.

  Raises:
    runs.Interrupted: if a signal came; the state is saved.
    runs.RunError: if a task's file is missing or damaged.
  """
  folder = world.folder / cell.name
  if (lived := continual_records.read_lived(folder, cell.name)) is not None:
    world.progress.skip(cell.plan.num_tasks)
    world.clock.after(lived.wall_seconds)
    return lived
  return Sequence(cell, world, folder).live()


class Tries(NamedTuple):
  """How the training of a task went; NumPy arrays [members].

  Attributes:
    number: of tries.
    failed: whether the last failed as well.
    factor: on the learning rate in the last.
    validation: Score of the net after it.
  """

  number: np.ndarray
  failed: np.ndarray
  factor: np.ndarray
  validation: Score


class Sequence:
  """The host's side of a cell's sequence."""

  def __init__(self, cell: Cell, world: World, folder: pathlib.Path):
    self.cell, self.world, self.folder = cell, world, folder
    self.plan = cell.plan
    s = self.plan.settings
    self.s = s
    self.search = cell.members[0].search
    tables = world.sequence.tables
    self.tables = jax.jit(jax.vmap(tables) if cell.stacked else tables)(
      cell.hyper.seed
    )
    self.state = cell.programs.start(cell.hyper, self.source(0))
    self.begun = time.monotonic()
    self.spent = 0.0
    self.task = 0
    self.step = 0  # within the task
    self.records: list[Any] = []
    self.log = continual_records.Log(cell, world.sequence)
    self.checkpoints = runs.Checkpoints(folder)
    self.start: TrainState | None = None  # of the task, while it is learned
    self.saved: int | None = None  # the last checkpoint's number
    self.written = self._restore()
    self.saved_at = time.monotonic()

  def source(self, task: int, now: int | None = None) -> data.Source:
    """A task as the programs want it."""
    number = lambda x: jnp.asarray(x, jnp.int32)
    now = task if now is None else now
    return data.Source(
      self.world.splits, self.tables, number(task), number(now)
    )

  def _restore(self) -> tuple[int, int]:
    packed = population.pack((self.state, self.state))
    got = self.checkpoints.restore(packed)
    if got is None:
      return 0, 0
    step, tree, extra = got
    state, start = population.unpack(tree, (self.state, self.state))
    self.state, self.saved = state, step
    self.task, self.step = extra['task'], extra['step']
    self.start = start if self.step else None
    self.spent = extra['seconds']
    self.world.clock.after(extra.get('wall_seconds', 0.0))
    self.log.restore(extra['log'])
    like = jax.eval_shape(
      self.cell.programs.archive, self.state, self.cell.hyper, self.source(0)
    )[1]
    self.records = [
      continual_records.read_task(self.folder, t, like)
      for t in range(self.task)
    ]
    return extra['metrics_offset'], step

  def _save(self) -> None:
    start = self.state if self.start is None else self.start
    total = self.plan.steps + 1
    number = self.task * total + self.step
    if number == self.saved:
      return
    self.checkpoints.save(
      number,
      population.pack((self.state, start)),
      {
        'task': self.task,
        'step': self.step,
        'seconds': self.spent + time.monotonic() - self.begun,
        'wall_seconds': self.world.clock.seconds(),
        'metrics_offset': self.metrics.offset,
        'log': self.log.to_json(),
      },
    )
    self.saved, self.saved_at = number, time.monotonic()

  def _due(self) -> bool:
    waited = time.monotonic() - self.saved_at
    return waited >= self.s.training.checkpoint_seconds

  def live(self) -> continual_records.Lived:
    """From where it is to the last task."""
    self.metrics = runs.Metrics(self.folder, *self.written)
    self.world.progress.skip(self.task)
    try:
      untrained = not self.task and self.start is None
      if self.s.forward_transfer and not self.search and untrained:
        self.log.at_start(
          [
            self.cell.programs.live(self.state, self.source(t), 'test').value
            for t in range(self.cell.plan.num_tasks)
          ]
        )
      while self.task < self.cell.plan.num_tasks and not self.log.stuck().all():
        self._learn()
        if self._due():
          self._save()
      self._save()
      return self._finish()
    finally:
      self.metrics.close()
      self.checkpoints.close()

  def weights(self, member: int, task: int) -> Weights:
    """A member's net for a task."""
    learned = self.log.ends()[member]
    if not 0 <= task < learned:
      raise runs.RunError(
        f'task is {task} but {self.cell.members[member].name} has learned'
        f' {learned} tasks, which count from 0.'
      )
    pick = lambda tree: jax.tree.map(
      lambda x: continual_cells.per_member(self.cell, x)[member], tree
    )
    kept, net_state = record = self.records[task]
    own = jax.tree.leaves(kept)  # where a task keeps its net, its state as well
    alpha = np.ravel(transforms.current_alpha(self.state.opt))
    return Weights(
      params=pick(self.cell.programs.params_for(self.state, record)),
      masks=self._masks(pick(kept)),
      state=pick(net_state if own else self.state.net),
      phi=pick(self.state.phi),
      alpha=float(alpha[member if alpha.size > 1 else 0]),
    )

  def _masks(self, kept: Any) -> dict[str, np.ndarray]:
    """By layer, which weights a task has: of all ones, those that are left."""
    if not self.plan.layers:
      return {}
    ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), self.plan.shapes)
    masked = self.plan.method.continual.predict(ones, kept)
    return {
      name: np.asarray(x) != 0
      for name, x in trees.weights(masked, lambda *_: True).items()
      if name in self.plan.layers
    }

  def _stop_if_asked(self, save: bool) -> None:
    if self.world.signals:
      if save:
        self._save()
      raise runs.Interrupted(self.world.signals[0] or 15)

  def _learn(self) -> None:
    """One task: train, end, archive, evaluate, write down."""
    cell, life, t = self.cell, self.cell.programs, self.task
    self._stop_if_asked(save=True)
    begun = time.monotonic()
    source = self.source(t)
    if self.start is None:
      if self.s.forward_transfer and not self.search:
        self.log.before(t, life.live(self.state, source, 'test').value)
      self.start = self.state = life.begin(self.state, cell.hyper)
    tries = self._train(source)
    dense = {}
    if self.plan.layers:
      dense['validation'] = tries.validation.value
      if not self.search:
        dense['test'] = life.live(self.state, source, 'test').value
    hyper = self._hyper(tries.factor)
    state, report = life.end(self.state, hyper, source)
    failed = tries.failed
    if life.rechunk is not None:
      # A signal comes back to here, unless there was more than one try.
      state = self._steps(
        life.rechunk,
        (state, hyper, source),
        (0, self.plan.retrain_steps),
        stop=functools.partial(
          self._stop_if_asked, save=tries.number.max() == 1
        ),
      )
      failed = failed | ~continual_cells.per_member(cell, state.finite)
    state, record = life.archive(state, hyper, source)
    if failed.any():
      # It leaves no trace, and is answered with the net of the task before.
      last = jax.tree.map(jnp.zeros_like, record)
      last = self.records[-1] if self.records else last
      state = continual_cells.choose(cell, failed, self.start, state)
      record = continual_cells.choose(cell, failed, last, record)
    self.state, self.start, self.step = state, None, 0
    self.records.append(record)
    continual_records.write_task(self.folder, t, record)
    found = {
      split: life.recall(state, record, source, split)
      for split in (('validation',) if self.search else ('validation', 'test'))
    }
    self.log.learned(
      t, found, dense, report, failed, tries.number, tries.factor
    )
    self.task += 1
    last_task = self.task == cell.plan.num_tasks or bool(self.log.stuck().all())
    if last_task or self.task % self.s.evaluate_every == 0:
      self._recall_all(last_task)
    rows = self.log.rows_of(t, time.monotonic() - begun)
    done = (t + 1) * self.plan.steps
    self.metrics.write({'step': done, **row} for row in rows)
    self.world.progress.add(1, _told(cell, t, rows))

  def _recall_all(self, last: bool) -> None:
    """Evaluates all tasks so far."""
    life, now = self.cell.programs, self.task - 1
    splits: tuple[str, ...] = ('validation',) if self.search else ('test',)
    if last and not self.search:
      splits = ('validation', 'test')
    for split in splits:
      scores = [
        life.recall(self.state, record, self.source(j, now), split)
        for j, record in enumerate(self.records)
      ]
      self.log.recalled(now, split, jax.device_get(scores))

  def _train(self, source: data.Source) -> Tries:
    """Until no member fails, or tries are used up; sets the state."""
    cell, s = self.cell, self.s
    count = len(cell.members)
    pending, number = np.ones(count, bool), np.zeros(count, int)
    factor = np.ones(count)
    merged, step, start = self.state, self.step, self.start or self.state
    for attempt in range(s.retries + 1):
      factor = np.where(pending, s.retry_factor**attempt, factor)
      state = self._steps(
        cell.programs.chunk,
        (start if attempt else self.state, self._hyper(factor), source),
        (0 if attempt else step, self.plan.steps),
        stop=functools.partial(self._stop_if_asked, save=not attempt),
        saving=not attempt,
      )
      merged = continual_cells.choose(cell, pending, state, merged)
      number += pending
      score = cell.programs.live(merged, source, 'validation')
      why = self._failures(merged, score)
      pending = pending & np.array([bool(x) for x in why])
      lost = {
        m: x for m, x, p in zip(cell.members, why, pending, strict=True) if p
      }
      for m, reason in lost.items():
        logging.warning(
          '%s %s in task %d at learning rate %g: %s.',
          m.name,
          reason,
          self.task + 1,
          m.learning_rate * s.retry_factor**attempt,
          'it is tried again with a lower one'
          if attempt < s.retries
          else 'it is given up, and the sequence goes on',
        )
      if not pending.any():
        break
    self.state = merged
    return Tries(number, pending, factor, score)

  def _hyper(self, factor: np.ndarray) -> Hyper:
    """Hyperparameters with a factor [members] on the learning rate."""
    rates = np.asarray(self.cell.hyper.learning_rate)
    rates = rates * factor.reshape(rates.shape).astype(np.float32)
    return self.cell.hyper._replace(learning_rate=jnp.asarray(rates))

  def _failures(self, state: TrainState, score: Score) -> list[str]:
    """By member: how a task's training failed; '' where it did not."""
    per = functools.partial(continual_cells.per_member, self.cell)
    finite = per(state.finite) & np.isfinite(per(score.loss))
    accuracy, least = per(score.value), self.s.failure_accuracy
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

  def _steps(
    self,
    chunk: Callable[..., Any],
    args: tuple[TrainState, Hyper, data.Source],
    span: tuple[int, int],
    stop: Callable[[], None],
    saving: bool = False,
  ) -> TrainState:
    """The steps of a span, in chunks; may save and stop between them."""
    state, hyper, source = args
    step, end = span
    while step < end:
      number = min(self.s.training.chunk_steps, end - step)
      state, loss = chunk(state, hyper, source, np.int32(step), number)
      step += number
      self.log.loss(loss)
      if saving:
        self.state, self.step = state, step
      if step < end:
        stop()
        if saving and self._due():
          self._save()
    return state

  def _finish(self) -> continual_records.Lived:
    seconds = self.spent + time.monotonic() - self.begun
    lived = self.log.lived(self.cell.name, self.records, seconds)
    lived = lived._replace(wall_seconds=self.world.clock.seconds())
    continual_records.write_lived(self.folder, lived)
    if self.search:  # it has said what it was for
      self.checkpoints.clear()
    return lived


def _told(cell: Cell, task: int, rows: list[dict[str, Any]]) -> str:
  """What is said of a task that was just learned."""
  mean = lambda name: float(
    np.mean([np.nan if r[name] is None else r[name] for r in rows])
  )
  told = f'{cell.name} task {task + 1}'
  if rows:
    told += f': validation {mean("validation_accuracy"):.3f}'
    if rows[0]['used_weights'] is not None:
      told += f', used {mean("used_weights"):.1%}'
  return told
