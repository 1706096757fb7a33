"""A learner that finds out by itself when a stream changes its task.

It sees windows of steps and their mean losses. On an alarm it goes back to the
most probable change, ends the task there, and looks whether a stored net
explains what comes next; if none does it opens a new task.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import math
import pathlib
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.continual import log
from experiments.continual import records as continual_records
from experiments.engine import host
from experiments.engine.population import Cell
from experiments.stream import analysis as stream_analysis
from experiments.stream import streams
from experiments.stream.settings import StreamSettings
from powerprop import changepoints
from powerprop.types import TrainState

RECENT = 4  # windows that an alarm may go back: as many states are kept
# Of log(loss + 0.05): a loss that has come to rest after a fall is a change as
# well, but none of the task.
_LEAST_RISE = 0.25


class Lessons(NamedTuple):
  """What the learners of a run learn from.

  Attributes:
    settings: of the run.
    sequence: of the true tasks.
    splits: its data on the device.
    folder: of the cells.
  """

  settings: StreamSettings
  sequence: data.Sequence
  splits: Mapping[str, Any]
  folder: pathlib.Path


@functools.cache
def _detector(hazard: float) -> changepoints.Detector:
  made = changepoints.of_losses(hazard, recent=RECENT)
  return made._replace(update=jax.jit(made.update))


@jax.jit
def _are_finite(tree: Any) -> jax.Array:
  real = [
    x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)
  ]
  return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in real]))


def _is_sound(state: TrainState) -> bool:
  """Whether all losses so far were finite, and the weights are.

  A loss is from before its step, which may make the first NaN.
  """
  return bool(state.finite) and bool(_are_finite((state.phi, state.net)))


def go_back(
  kept: Sequence[tuple[int, TrainState]], since: int, first: int
) -> tuple[int, TrainState]:
  """Where an alarm leads to: the change, or what is sound before it.

  Args:
    kept: steps and the states before them, of the last windows.
    since: how many windows there are since the change; at most all of them.
    first: step of the segment, which is later than none of these.

  Returns:
    The step where the segment ends, which is after its first, and a state.
  """
  before = kept[: len(kept) - since + 1]
  change, state = before[-1]
  for step, earlier in reversed(before):
    if _is_sound(earlier):
      return (step if step > first else change), earlier
  return change, state


def live(
  cell: Cell, lessons: Lessons, world: host.World
) -> continual_records.Lived:
  """One member's whole stream, from its last checkpoint if there is one.

  Args:
    cell: of one member.
    lessons: that it learns from.
    world: of the run.

  Returns:
    Its row and records.

  Raises:
    runs.Interrupted: if a signal came; what is saved is of the last segment.
    runs.RunError: if a task's file is missing or damaged.
  """
  folder = lessons.folder / cell.name
  lived = continual_records.read_lived(folder, cell.name)
  if lived is not None:
    world.progress.skip(lived.rows[0]['steps'])
    world.clock.after(lived.wall_seconds)
    return lived
  return Learner(cell, lessons, world).live()


class Learner:
  """A member that learns a stream.

  Attributes:
    life: on the host, with the state between segments, and how many there were.
    stream: that it learns; its true tasks are for what is known, and measured.
    records: what is kept of each task that was opened.
    book: what else it knows, as JSON has it: "position", the next step;
      "returning", the record that explains it, or None; "diverged", whether a
      loss or weight was not finite, ever; "stopped", why no more tasks are
      opened, [] where they are; "segments", "alarms", "ended", by record its
      loss when its task ended; "losses", "recent" and "posterior", by window as
      first seen.
  """

  def __init__(self, cell: Cell, lessons: Lessons, world: host.World):
    """From the cell's last checkpoint, if there is one."""
    self.cell, self.world, self._lessons = cell, world, lessons
    self._s, self._plan = lessons.settings, cell.plan
    self._member = cell.members[0]
    self._layers = bool(self._plan.layers)
    base, training = lessons.sequence, self._plan.settings.training
    self._splits = {**lessons.splits, 'window': lessons.splits['train']}
    self._tables = jax.jit(base.tables)(cell.hyper.seed)
    self.stream = streams.make(
      self._s,
      self._plan.steps[0],
      int(base.sizes['train'].min()),
      self._member.seed,
    )
    zeros = jnp.zeros(training.batch_size, jnp.int32)
    state = cell.programs.start(
      cell.hyper, self._source(0, train=(zeros, zeros))
    )
    self.records: list[Any] = []
    # What saves it holds no more than the dict: with the learner it would be a
    # cycle, and keep the arrays of those that are finished.
    book: dict[str, Any] = {
      'position': 0,
      'returning': None,
      'diverged': False,
      **{name: [] for name in ('stopped', 'segments', 'alarms', 'ended')},
      **{name: [] for name in ('losses', 'recent', 'posterior')},
    }
    self.book = book
    self.life = host.Host(
      world,
      lessons.folder / cell.name,
      state,
      training,
      lambda: book,
      restarts=False,
    )
    if self.life.remembered is not None:
      book.update(self.life.remembered)
      source = self._of_segment(0, 0, 1)
      like = jax.eval_shape(cell.programs.archive, state, cell.hyper, source)[1]
      self.records = [
        continual_records.read_task(self.life.folder, t, like)
        for t in range(len(self.book['ended']))
      ]

  def _source(self, segment: int, **tables: Any) -> data.Source:
    """What the programs see: no more than these tables tell of true tasks."""
    number = jnp.asarray(segment, jnp.int32)
    base = {'base': self._tables}
    return data.Source(self._splits, base | tables, number, number)

  def _of_segment(self, segment: int, first: int, end: int) -> data.Source:
    """What is kept of a segment."""
    sizes = self._lessons.sequence.sizes
    kept = {
      split: self.stream.kept(first, end, split, int(sizes[split].min()))
      for split in ('train', 'validation')
    }
    return self._source(segment, **kept)

  def live(self) -> continual_records.Lived:
    """From where it is to the stream's end."""
    life, stream = self.life, self.stream
    with life:
      seen = len(self.book['losses']) * self._s.window
      done = max(self.book['position'], min(seen, stream.steps))
      self.world.progress.skip(done)
      while self.book['position'] < stream.steps:
        life.stop_if_asked()
        self._segment()
        life.save_if_due()
      life.save()
      row, arrays = self._measured()
      lived = continual_records.Lived(
        self.cell.name,
        [row],
        {f'{self._member.name}/{k}': v for k, v in arrays.items()},
        life.seconds,
        self.book['stopped'],
        self.world.clock.seconds(),
      )
      continual_records.write_lived(life.folder, lived)
      return lived

  def _segment(self) -> None:
    """From one change to the next: learns a task, or watches a known one."""
    book, life, first = self.book, self.life, self.book['position']
    record = self._told(first) if self._is_told() else book['returning']
    found: dict[str, Any] = {}
    if record is None:
      record = len(self.records)
      end, found = self._learn(first)
    elif self._is_told():  # nothing is learned, and no loss is watched
      end = self._next(first)
      self.world.progress.add(end - first)
    else:
      kept = self.records[record]
      end, _ = self._until_change(
        first,
        life.state,
        lambda state, step, count: (state, self._loss(kept, step, count)),
      )
    segment = {'first': first, 'end': end, 'record': record, **found}
    book['segments'].append(segment)
    book['position'] = end
    book['returning'] = None
    if not self._is_told() and end < self.stream.steps:
      book['returning'] = self._recognised(book['alarms'][-1]['step'])
    life.task += 1
    life.write(
      [
        {
          'step': end,
          **self._member.row(),
          **segment,
          'loss': book['ended'][record],
        }
      ]
    )

  def _is_told(self) -> bool:
    return self._member.variant.boundaries == 'known'

  def _told(self, first: int) -> int | None:
    """With known boundaries: the record of the task, if it was learned."""
    if not self._layers:
      return None
    tasks = self.stream.tasks
    for segment in self.book['segments']:
      if tasks[segment['first']] == tasks[first]:
        return segment['record']
    return self._recognised(first) if self.book['stopped'] else None

  def _next(self, step: int) -> int:
    """The first step of the true task's next visit, or the stream's end."""
    ends = [*self.stream.begins, self.stream.steps]
    return next(end for end in ends if end > step)

  def _learn(self, first: int) -> tuple[int, dict[str, Any]]:
    """Opens a task, learns it until the stream changes, and ends it.

    Returns:
      The step after its last, and what its row has of its mask.
    """
    cell, life, programs = self.cell, self.life, self.cell.programs
    state = programs.begin(life.state, cell.hyper)
    now = self._source(0)  # examples and noise go by the stream's step alone

    def learn(state, step, count):
      tasks = self.stream.tasks[step : step + count]
      return programs.window(
        state,
        cell.hyper,
        now,
        self._filled(self.stream.rows(step, count)),
        self._filled(np.repeat(tasks, self._batch)),
        np.int32(step),
        np.int32(count),
      )

    end, state = self._until_change(first, state, learn)
    number = len(self.records)
    source = self._of_segment(number, first, end)
    state, report = programs.end(state, cell.hyper, source)
    state = self._retrained(state, number, first, end)
    if not _is_sound(state):
      self._diverged(end)
    state, record = programs.archive(state, cell.hyper, source)
    life.state = state
    self.records.append(record)
    continual_records.write_task(life.folder, number, record)
    held_out = self._source(number, validation=source.tables['validation'])
    found = programs.recall(state, record, held_out, 'validation')
    self.book['ended'].append(float(found.loss))
    return end, self._mask(report, end)

  def _diverged(self, step: int) -> None:
    if not self.book['diverged']:
      logging.warning(
        '%s diverged by step %d: it is left out of the means.',
        self._member.name,
        step,
      )
    self.book['diverged'] = True

  def _mask(self, report: Mapping[str, Any], end: int) -> dict[str, Any]:
    """What a row has of a new task's mask; a full net is said, and stops."""
    if not self._layers:
      return {}
    used = np.asarray(report['used_by_layer']).tolist()
    if log.is_full(self._plan, used):
      self.book['stopped'] = [
        f'{self._member.name}: no free weights are left after task'
        f' {len(self.records)}, which ended at step {end}'
      ]
      logging.warning(
        '%s: from here on tasks have the stored net that is nearest to them.',
        *self.book['stopped'],
      )
    reached = report.get('reached')
    return {
      'used_weights': sum(used) / sum(self._plan.layer_sizes),
      'reached': None if reached is None else bool(reached),
    }

  @property
  def _batch(self) -> int:
    return self.stream.batch_size

  def _filled(self, x: np.ndarray) -> np.ndarray:
    """Of so many examples, a window [w, B]: what is too short starts again."""
    return np.resize(x, (self._s.window, self._batch))

  def _retrained(
    self, state: TrainState, number: int, first: int, end: int
  ) -> TrainState:
    """After training on under the new mask, on what is kept of the segment."""
    programs, size = self.cell.programs, self._s.window
    if programs.rewindow is None:
      return state
    total = self._plan.retrain_steps[0]
    rows, tasks = self.stream.kept(first, end, 'train', total * self._batch)
    for step in range(0, total, size):
      count = min(size, total - step)
      mine = slice(step * self._batch, (step + count) * self._batch)
      state, _ = programs.rewindow(
        state,
        self.cell.hyper,
        self._source(number),
        self._filled(rows[mine]),
        self._filled(tasks[mine]),
        np.int32(step),
        np.int32(count),
      )
    return state

  def _loss(self, record: Any, step: int, count: int) -> float:
    """Of a stored net, on the examples of a window; nothing is learned."""
    tasks = np.repeat(self.stream.tasks[step : step + count], self._batch)
    window = self.stream.rows(step, count), tasks
    source = self._source(
      0, window=tuple(self._filled(x).ravel() for x in window)
    )
    found = self.cell.programs.recall(self.life.state, record, source, 'window')
    return float(found.loss)

  def _recognised(self, step: int) -> int | None:
    """Which stored net explains the window from a step on, if one does.

    Of a full net the nearest does, as it can learn no other.
    """
    within = math.inf if self.book['stopped'] else self._s.recognise
    if not self._layers or not within:
      return None
    count = min(self._s.window, self.stream.steps - step)
    if not count:  # the stream ends with the alarm's own window
      count = self._s.window
      step -= count
    losses = np.array([self._loss(r, step, count) for r in self.records])
    above = losses - np.array(self.book['ended'])
    best = int(np.nanargmin(np.append(above, np.inf)))
    return best if best < len(above) and above[best] <= within else None

  def _until_change(
    self,
    first: int,
    state: Any,
    advance: Callable[[Any, int, int], tuple[Any, Any]],
  ) -> tuple[int, Any]:
    """Windows until the task changes: (the step after its last, state then).

    Args:
      first: step of the segment.
      state: before it.
      advance: (state, step, number of steps) -> state, mean loss.
    """
    told, size = self._is_told(), self._s.window
    end = self._next(first) if told else self.stream.steps
    detector = _detector(self._s.hazard / size)
    known, step = detector.init(), first
    kept: list[tuple[int, Any]] = []
    while step < end:
      # What was saved is the state at the segment's beginning.
      self.life.stop_if_asked()
      count = min(size, end - step)
      kept = [*kept, (step, state)][-RECENT:]
      state, loss = advance(state, step, count)
      step += count
      if told:
        self.world.progress.add(count)
        continue
      known, report = detector.update(known, loss)
      self._note(step, count, float(loss), report)
      if not math.isfinite(loss):
        self._diverged(step)
      likely = float(report.recent) >= self._s.threshold
      if likely and float(report.rise) > _LEAST_RISE:
        change, state = go_back(kept, int(report.since), first)
        self.book['alarms'].append({'step': step, 'change': change})
        return change, state
    return end, state

  def _note(self, step: int, count: int, loss: float, report: Any) -> None:
    """Writes a window down that was not seen before."""
    book = self.book
    if len(book['losses']) < -(-step // self._s.window):
      self.world.progress.add(count, f'{self.cell.name} step {step:,}')
      book['losses'].append(loss)
      book['recent'].append(float(report.recent))
      shares = np.asarray(report.posterior) * 255
      book['posterior'].append(np.rint(shares).astype(int).tolist())

  def _measured(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The member's row, and its records.

    Accuracies are on as many test pictures of each task as the smallest has.
    """
    book, stream = self.book, self.stream
    of_task = stream_analysis.record_by_task(book['segments'], stream.tasks)
    size = int(self._lessons.sequence.sizes['test'].min())
    rows = np.arange(size, dtype=np.int32)
    accuracies = []
    for task, record in enumerate(of_task):
      tasks = np.full(size, task, np.int32)
      source = self._source(record, test=(rows, tasks))
      found = self.cell.programs.recall(
        self.life.state, self.records[record], source, 'test'
      )
      accuracies.append(float(found.value))
    row = {
      **self._member.row(),
      'steps': stream.steps,
      'tasks': len(of_task),
      'opened': len(self.records),
      'diverged': book['diverged'],
      'segments': book['segments'],
      'order': list(stream.order),
      'changes': list(stream.begins[1:]),
      'alarms': book['alarms'],
      'accuracies': accuracies,
      'record_of_task': of_task,
      **stream_analysis.measures(
        stream.order,
        stream.begins,
        stream.steps,
        book['segments'],
        None if self._is_told() else book['alarms'],
      ),
      'average_accuracy': float(np.mean(accuracies)),
      'seconds': self.life.seconds,
    }
    if self._is_told():
      return row, {}
    return row, {
      'losses': np.array(book['losses'], np.float32),
      'recent': np.array(book['recent'], np.float32),
      'posterior': np.array(book['posterior'], np.uint8),
    }
