"""A life on the host: chunks of steps, signals, retries, checkpoints, metrics.

What lives is a state: of one cell that learns task after task, or of all cells
of a population, which then keep step.
"""

from collections.abc import Callable
from concurrent import futures
import contextlib
import functools
import pathlib
import signal
import time
from typing import Any, NamedTuple, Self

from absl import logging
import jax.numpy as jnp
import numpy as np

from experiments.engine import hosts
from experiments.engine import population
from experiments.engine import runs
from experiments.engine.population import Cell
from experiments.engine.settings import Settings
from experiments.report import progress
from powerprop.types import Hyper, Score, TrainState


class Clock:
  """Wall time over all starts of a run, without what was lost by kills.

  Lives run side by side, so their own times add up to more. Each saves the time
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
  """What all lives of a run share.

  Attributes:
    signals: filled when the run is to stop.
    clock: of the run.
    progress: a Progress, which counts what is done; None where nothing is.
  """

  signals: list[int]
  clock: Clock
  progress: Any = None


class Tries(NamedTuple):
  """How the training of a task went; NumPy arrays [members].

  Attributes:
    number: of tries.
    failed: whether the last failed as well.
    factor: on the learning rate in the last.
    score: of the net after it, on validation data.
  """

  number: np.ndarray
  failed: np.ndarray
  factor: np.ndarray
  score: Score


class Host:
  """One life, from its last checkpoint if there is one.

  As a context it writes metrics; without, what was saved is read and no more.

  Attributes:
    saved: the number of the last checkpoint; None where there is none.
    state: a tree of arrays.
    start: what it was before the task's first step; None between tasks.
    task: from 0.
    step: within the task.
    remembered: what `remember` gave at the checkpoint; None in a new life.
  """

  def __init__(
    self,
    world: World,
    folder: pathlib.Path,
    state: Any,
    s: Settings,
    remember: Callable[[], Any] = dict,
    restarts: bool = False,
    cells: list[Cell] | None = None,
    background: bool = False,
  ):
    """Reads the last checkpoint.

    Args:
      world: of the run.
      folder: of this life alone.
      state: at the beginning; of a resumed one, the same shapes.
      s: with the steps of the longest task, those of a chunk, and the seconds
        between checkpoints.
      remember: gives what else is to be saved, as JSON has it.
      restarts: whether a task may have to be started again: its first state is
        saved as well.
      cells: whose list of states it is, if it is one: see `population.pack`.
      background: as in `runs.Checkpoints`.

    Raises:
      runs.RunError: if the checkpoint is one of another program.
    """
    self.world, self.folder, self.state, self.s = world, folder, state, s
    self.start: Any = None
    self.task = self.step = 0
    self.remembered: Any = None
    self._remember, self._restarts = remember, restarts
    self._cells = cells
    self._begun, self._before = time.monotonic(), 0.0
    self._written = 0, 0
    self.saved: int | None = None
    self._metrics: runs.Metrics | None = None
    self._checkpoints = runs.Checkpoints(folder, background)
    self._restore()
    self._saved_at = time.monotonic()

  def _tree(self) -> Any:
    if not self._restarts:
      return self.state
    return self.state, self.state if self.start is None else self.start

  def _packed(self) -> Any:
    # Only methods that sparsify have two masks in one.
    codes = self._cells is not None
    return population.pack(self._tree(), codes, self._cells)

  def _restore(self) -> None:
    tree = self._tree()
    got = self._checkpoints.restore(self._packed())
    if got is None:
      return
    self.saved, packed, extra = got
    codes = self._cells is not None
    tree = population.unpack(packed, tree, codes, self._cells)
    self.task, self.step = extra['task'], extra['step']
    self.state, start = tree if self._restarts else (tree, None)
    self.start = start if self.step else None
    self._before = extra['seconds']
    self.world.clock.after(extra['wall_seconds'])
    self._written = extra['metrics_offset'], self.saved
    self.remembered = extra['remembered']

  def __enter__(self) -> Self:
    try:
      if hosts.first():
        self._metrics = runs.Metrics(self.folder, *self._written)
    except BaseException:
      self.close()
      raise
    return self

  def __exit__(self, *unused_exception: object) -> None:
    self.close()

  def close(self) -> None:
    """Closes what it has opened."""
    with contextlib.closing(self._checkpoints):
      if self._metrics is not None:
        self._metrics.close()

  @property
  def seconds(self) -> float:
    """That this life has taken, over all starts."""
    return self._before + time.monotonic() - self._begun

  def write(self, rows: list[dict[str, Any]]) -> None:
    """Appends to the metrics; see `runs.Metrics.write`."""
    if self._metrics is not None:  # the first host's, of several
      self._metrics.write(rows)

  def save(self) -> None:
    """Saves a checkpoint, if the last one is not of here."""
    number = self.task * (self.s.steps + 1) + self.step
    if number == self.saved:
      return
    hosts.check_replicas(self._tree())
    self._checkpoints.save(
      number,
      self._packed(),
      {
        'task': self.task,
        'step': self.step,
        'seconds': self.seconds,
        'wall_seconds': self.world.clock.seconds(),
        'metrics_offset': self._metrics.offset if self._metrics else 0,
        'remembered': self._remember(),
      },
    )
    self.saved, self._saved_at = number, time.monotonic()

  def save_if_due(self) -> None:
    """Saves where the last checkpoint is some time ago."""
    late = time.monotonic() - self._saved_at >= self.s.checkpoint_seconds
    if hosts.any_of(late):
      self.save()

  def forget(self) -> None:
    """Deletes the checkpoints: the life is over, and nothing asks for them."""
    self._checkpoints.clear()

  def stop_if_asked(self, save: bool = True) -> None:
    """Saves and ends it where a signal has come.

    Args:
      save: whether the state of now is one to go on from.

    Raises:
      runs.Interrupted: if a signal has come.
    """
    if hosts.any_of(bool(self.world.signals)):
      if save:
        self.save()
      # 0 where it was not a signal that asked, but another life that failed;
      # none where another host was asked.
      signum = next(iter(self.world.signals), 0) or signal.SIGTERM
      raise runs.Interrupted(signum)

  def steps(
    self,
    chunk: Callable[[Any, int, int], tuple[Any, Any] | None],
    state: Any,
    span: tuple[int, int],
    heard: Callable[[Any], None],
    keeps: bool = True,
    saves: bool = True,
  ) -> Any:
    """The steps of a span, in chunks; may stop between them.

    Args:
      chunk: (state, first step, number of steps) -> state, report; None where
        a signal has come in its midst, and it will be done again.
      state: to begin with.
      span: the first step, and that after the last.
      heard: is given the report of every chunk.
      keeps: whether the life goes on from these states, which then are saved
        from time to time.
      saves: whether a signal saves what the life goes on from.

    Returns:
      The state after the last step.
    """
    step, end = span
    while step < end:
      number = min(self.s.chunk_steps, end - step)
      if (done := chunk(state, step, number)) is None:
        self.stop_if_asked(saves)
        raise AssertionError('a chunk broke off, and no signal has come')
      state, report = done
      step += number
      heard(report)
      if keeps:
        self.state, self.step = state, step
      if step < end:
        self.stop_if_asked(saves)
        if keeps:
          self.save_if_due()
    return state

  def train(
    self,
    cell: Cell,
    chunk: Callable[[TrainState, Hyper, int, int], tuple[TrainState, Any]],
    steps: int,
    judge: Callable[[TrainState], tuple[Score, list[str]]],
    heard: Callable[[Any], None],
    retries: int,
    retry_factor: float,
  ) -> Tries:
    """A task's steps, until no member fails or tries are used up.

    The state becomes that of each member's last try. What is saved is the first
    try alone: a signal in a later one loses that.

    Args:
      cell: whose task it is.
      chunk: (state, hyperparameters, first step, number of steps) -> state,
        report.
      steps: of the task.
      judge: state -> score, and by member how it failed, '' where it did not.
      heard: as in `steps`.
      retries: how many more times a member may try.
      retry_factor: on the learning rate, each time.

    Returns:
      How it went.
    """
    count = len(cell.members)
    pending, number = np.ones(count, bool), np.zeros(count, int)
    factor = np.ones(count)
    merged, step = self.state, self.step
    first = self.state if self.start is None else self.start
    for attempt in range(retries + 1):
      factor = np.where(pending, retry_factor**attempt, factor)
      hyper = slower(cell, factor)
      state = self.steps(
        lambda state, *span, hyper=hyper: chunk(state, hyper, *span),
        first if attempt else self.state,
        (0 if attempt else step, steps),
        heard,
        keeps=not attempt,
        saves=not attempt,
      )
      merged = population.choose(cell, pending, state, merged)
      number += pending
      score, why = judge(merged)
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
          m.learning_rate * retry_factor**attempt,
          'it is tried again with a lower one'
          if attempt < retries
          else 'it is given up, and the sequence goes on',
        )
      if not pending.any():
        break
    self.state = merged
    return Tries(number, pending, factor, score)


def slower(cell: Cell, factor: np.ndarray) -> Hyper:
  """A cell's hyperparameters with a factor [members] on the learning rate."""
  rates = np.asarray(cell.hyper.learning_rate)
  rates = rates * factor.reshape(rates.shape).astype(np.float32)
  return cell.hyper._replace(learning_rate=jnp.asarray(rates))


def side_by_side(
  lives: list[Callable[[World], Any]],
  world: World,
  what: str,
  total: int,
  unit: str,
) -> list[Any]:
  """Lives that know nothing of each other, several at a time on CPU.

  Args:
    lives: each from where it was to its end.
    world: of the run.
    what: is being done, for the progress.
    total: of how many that they add to the progress.
    unit: of one of them.

  Returns:
    What each gives, in their order.

  Raises:
    Whatever one of them raises; the others stop at their next chunk, and what
    they have is saved.
  """
  if not lives:
    return []
  with progress.Progress(what, total, unit) as bar:
    world = world._replace(progress=bar)
    with futures.ThreadPoolExecutor(population.workers()) as pool:
      jobs = [pool.submit(functools.partial(live, world)) for live in lives]
      try:
        for job in futures.as_completed(jobs):
          job.result()
      except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        # The others stop at their next chunk; what they have is saved.
        if not world.signals:
          world.signals.append(0)
        raise
    return [job.result() for job in jobs]
