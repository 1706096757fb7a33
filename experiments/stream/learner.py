"""A learner that finds out by itself when a stream changes its task.

It sees windows of steps and their mean losses. On an alarm it goes back to the
most probable change, ends the task there, and looks whether a stored net
explains what comes next; if none does it opens a new task.
"""

from collections.abc import Callable, Mapping
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.continual import cells as continual_cells
from experiments.continual import records as continual_records
from experiments.continual.cells import Course
from experiments.engine import host
from experiments.engine import population
from experiments.engine.population import Cell
from experiments.stream import analysis as stream_analysis
from experiments.stream import streams
from experiments.stream.settings import StreamSettings
from powerprop import changepoints
from powerprop.types import TrainState

RECENT = 4  # windows that an alarm may go back: as many states are kept
# Of the logarithm of the loss: a loss that has come to rest after a fall is a
# change as well, but none of the task.
_LEAST_RISE = 0.25


class Way(NamedTuple):
  """What tells learners apart, beside transform, α, learning rate and seed.

  Attributes:
    method: its name in the config.
    coefficient: of the penalty.
    boundaries: 'known' or 'detected'.
  """

  method: str
  coefficient: float
  boundaries: str


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


class Programs(NamedTuple):
  """Pure functions of a learner; those of the same names are a `Life`'s.

  Attributes:
    start: of a life.
    begin: of a life.
    window: (state, hyper, source, rows, tasks, first step, count) -> state,
      mean loss of `count` ≤ w steps on these rows, int32 [w, B], of these true
      tasks, likewise; each loss is from before its step.
    rewindow: the same in the retraining phase; None where there is none.
    end: of a life.
    archive: of a life.
    params_for: of a life.
    recall: of a life.
  """

  start: Callable[..., Any]
  begin: Callable[..., Any]
  window: Callable[..., Any]
  rewindow: Callable[..., Any] | None
  end: Callable[..., Any]
  archive: Callable[..., Any]
  params_for: Callable[..., Any]
  recall: Callable[..., Any]


# Of `population.arrange`, which has a member a cell here: no axis is mapped.
AXES: dict[str, tuple[Any, ...]] = {
  **dict.fromkeys(Programs._fields, (None, None, None)),
  'recall': (None, None, None, population.STATIC),
}


def make_programs(
  plan: Course, transform: str, alpha: float | None
) -> Programs:
  """The functions of one member, not jitted; see `cells.make_life`."""
  life = continual_cells.make_life(plan, transform, alpha)
  again = life.rechunk if max(plan.retrain_steps) else None
  return Programs(
    start=life.start,
    begin=life.begin,
    window=functools.partial(_window, life.chunk),
    rewindow=again and functools.partial(_window, again),
    end=life.end,
    archive=life.archive,
    params_for=life.params_for,
    recall=life.recall,
  )


def _window(chunk, state, hyper, source, rows, tasks, first, count):
  def one(i, carry):
    state, total = carry
    tables = source.tables | {'train': (rows[i], tasks[i])}
    seen = source._replace(tables=tables)
    state, loss = chunk(state, hyper, seen, first + i, 1)
    return state, total + loss.astype(jnp.float32)

  zero = jnp.zeros((), jnp.float32)
  state, total = jax.lax.fori_loop(0, count, one, (state, zero))
  return state, total / count


@functools.cache
def _detector(hazard: float) -> changepoints.Detector:
  made = changepoints.of_losses(hazard, recent=RECENT)
  return made._replace(update=jax.jit(made.update))


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
      "returning", the record that explains it, or None; "segments", "alarms",
      "ended", by record its loss when its task ended; "losses", "recent" and
      "posterior", by window as first seen.
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
    self.book: dict[str, Any] = {
      'position': 0,
      'returning': None,
      **{name: [] for name in ('segments', 'alarms', 'ended')},
      **{name: [] for name in ('losses', 'recent', 'posterior')},
    }
    self.life = host.Host(
      world,
      lessons.folder / cell.name,
      state,
      training,
      lambda: self.book,
      restarts=False,
    )
    if self.life.remembered is not None:
      self.book = self.life.remembered
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
        [],
        self.world.clock.seconds(),
      )
      continual_records.write_lived(life.folder, lived)
      return lived

  def _segment(self) -> None:
    """From one change to the next: learns a task, or watches a known one."""
    book, life, first = self.book, self.life, self.book['position']
    record = self._told(first) if self._is_told() else book['returning']
    if record is None:
      record = len(self.records)
      end = self._learn(first)
    else:
      kept = self.records[record]
      end, _ = self._until_change(
        first,
        life.state,
        lambda state, step, count: (state, self._loss(kept, step, count)),
      )
    book['segments'].append({'first': first, 'end': end, 'record': record})
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
          **book['segments'][-1],
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
    return None

  def _learn(self, first: int) -> int:
    """Opens a task, learns it until the stream changes, and ends it."""
    cell, life, programs = self.cell, self.life, self.cell.programs
    state = programs.begin(life.state, cell.hyper)
    now = self._source(0)  # examples and noise go by the stream's step alone
    size = self._s.window

    def learn(state, step, count):
      rows = np.resize(self.stream.rows(step, count), (size, self._batch))
      tasks = np.zeros((size, self._batch), np.int32)
      tasks[:count] = self.stream.tasks[step : step + count, None]
      return programs.window(
        state, cell.hyper, now, rows, tasks, np.int32(step), np.int32(count)
      )

    end, state = self._until_change(first, state, learn)
    number = len(self.records)
    source = self._of_segment(number, first, end)
    state, _ = programs.end(state, cell.hyper, source)
    state = self._retrained(state, number, first, end)
    state, record = programs.archive(state, cell.hyper, source)
    life.state = state
    self.records.append(record)
    continual_records.write_task(life.folder, number, record)
    held_out = self._source(number, validation=source.tables['validation'])
    found = programs.recall(state, record, held_out, 'validation')
    self.book['ended'].append(float(found.loss))
    return end

  @property
  def _batch(self) -> int:
    return self.stream.batch_size

  def _retrained(
    self, state: TrainState, number: int, first: int, end: int
  ) -> TrainState:
    """After training on under the new mask, on what is kept of the segment."""
    programs, size = self.cell.programs, self._s.window
    if programs.rewindow is None:
      return state
    total = self._plan.retrain_steps[0]
    rows, tasks = self.stream.kept(first, end, 'train', total * self._batch)
    shape = (-1, self._batch)
    rows, tasks = rows.reshape(shape), tasks.reshape(shape)
    for step in range(0, total, size):
      count = min(size, total - step)
      take = lambda x: np.resize(x[step : step + count], (size, self._batch))  # noqa: B023
      state, _ = programs.rewindow(
        state,
        self.cell.hyper,
        self._source(number),
        take(rows),
        take(tasks),
        np.int32(step),
        np.int32(count),
      )
    return state

  def _loss(self, record: Any, step: int, count: int) -> float:
    """Of a stored net, on the examples of a window; nothing is learned."""
    size = self._s.window * self._batch
    rows = np.resize(self.stream.rows(step, count), size)
    tasks = np.repeat(self.stream.tasks[step : step + count], self._batch)
    source = self._source(0, window=(rows, np.resize(tasks, size)))
    found = self.cell.programs.recall(self.life.state, record, source, 'window')
    return float(found.loss)

  def _recognised(self, step: int) -> int | None:
    """Which stored net explains the window after an alarm, if one does."""
    if not self._layers or not self._s.recognise:
      return None
    count = min(self._s.window, self.stream.steps - step)
    if not count:  # the stream ends with the alarm's own window
      count = self._s.window
      step -= count
    losses = np.array([self._loss(r, step, count) for r in self.records])
    above = losses - np.array(self.book['ended'])
    best = int(np.nanargmin(np.append(above, np.inf)))
    return (
      best if best < len(above) and above[best] <= self._s.recognise else None
    )

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
    told, size, end = self._is_told(), self._s.window, self.stream.steps
    if told:
      end = min([b for b in self.stream.begins if b > first] + [end])
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
      likely = float(report.recent) >= self._s.threshold
      if likely and float(report.rise) > _LEAST_RISE:
        change, state = kept[-int(report.since)]
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
    """The member's row, and its records."""
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
