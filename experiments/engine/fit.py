"""A population that is trained, on the host: its life, log and results."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import io
import pathlib
import shlex
import sys
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import numpy as np

from experiments.engine import feed as feed_lib
from experiments.engine import folder
from experiments.engine import host
from experiments.engine import hosts
from experiments.engine import population
from experiments.engine import runs
from experiments.engine import trainings
from experiments.engine.settings import Settings
from experiments.report import files
from experiments.report import progress
from powerprop import train
from powerprop.types import TrainState

_WORK = ('density', 'inference_flops_ratio', 'training_flops_ratio')


class Seconds(NamedTuple):
  """Time spent, over all starts of a run, without what was lost by kills.

  Attributes:
    train: from the first step to the last, checkpoints among them.
    wall: in all.
  """

  train: float
  wall: float


def fit(
  s: Settings,
  recipe: train.Recipe,
  cells: list[population.Cell],
  feed: feed_lib.Feed,
  workdir: pathlib.Path,
) -> tuple[list[TrainState], Seconds]:
  """Trains a population to its last step, from its last checkpoint if any.

  All members keep step: the population is one life.

  Args:
    s: checked settings.
    recipe: what the members share.
    cells: the population, from `trainings.make_cells`.
    feed: what they learn from.
    workdir: the run's folder, which this process holds.

  Returns:
    One state per cell, and the time that it took.

  Raises:
    runs.RunError: if every member diverged.
    runs.Interrupted: if a signal came; the state is saved.
  """
  clock = host.Clock()
  states = trainings.initial_states(recipe, cells, feed.some(1))
  count = population.count(cells)
  with runs.stop_signals() as signals:
    world = host.World(signals, clock)
    # A CPU has its hands full: what it writes meanwhile would hold it back.
    background = hosts.several() or jax.default_backend() != 'cpu'
    life = host.Host(
      world, workdir, states, s, cells=cells, background=background
    )
    hosts.require_same({'last checkpoint': life.saved, 'data': feed.sizes()})
    if life.saved is not None:
      print(
        f'Resuming {workdir} at step {life.step:,} of {s.steps:,}.', flush=True
      )
    bar = progress.Progress(
      f'training {count} nets', count * s.steps, 'step', count * life.step
    )
    told: set[population.Member] = set()

    # Several hosts stop at the same place, at a chunk's end.
    stopped = lambda: bool(signals) and not hosts.several()

    def chunk(states, step, number):
      new: list[Any] = [None] * len(cells)
      reports: list[Any] = [None] * len(cells)
      for i, state, report in trainings.advance(
        cells, states, (step, number), feed, stopped
      ):
        new[i], reports[i] = state, report
        bar.add(number * population.own(cells[i]), _means([report]))
        if stopped():
          break
      if stopped():
        return None  # what it has done so far is done again
      return new, (step + number, reports)

    def heard(report):
      step, reports = report
      rows, alive = _rows(cells, reports, step, told)
      life.write(rows)
      if not alive:
        raise runs.RunError(
          'every training diverged (the loss is not finite) by step'
          f' {step:,}; lower learning_rate'
          f' (now {", ".join(f"{r:g}" for r in s.learning_rate)}) or alphas.'
        )

    with bar, life:
      life.steps(chunk, life.state, (life.step, s.steps), heard)
      life.save()
      life.stop_if_asked()
  return life.state, Seconds(life.seconds, clock.seconds())


def run_population(
  s: Settings,
  recipe: train.Recipe,
  cells: list[population.Cell],
  feed: feed_lib.Feed,
  workdir: pathlib.Path,
  experiment: str,
  measure: Callable[..., tuple[dict[str, Any], dict[str, np.ndarray]]],
) -> dict[str, Any]:
  """Trains, measures and writes a population, in a folder that it locks.

  Args:
    s: as of `fit`, and so are recipe, cells, feed and workdir.
    recipe: of all members.
    cells: the population.
    feed: what they learn from; it is closed.
    workdir: the run's folder.
    experiment: its name.
    measure: states of the cells -> results and records.

  Returns:
    What results.json holds.
  """
  if s.compute_dtype != 'float32':
    print(
      f'Nets compute in {s.compute_dtype}; φ, moments and averages are'
      ' float32.',
      flush=True,
    )
  with (
    runs.disk_errors(workdir),
    runs.lock(workdir) if hosts.first() else contextlib.nullcontext(),
    contextlib.closing(feed),
  ):
    states, seconds = fit(s, recipe, cells, feed, workdir)
    trained_at = time.monotonic()
    results, records = measure(states)
    seconds = seconds._replace(
      wall=seconds.wall + time.monotonic() - trained_at
    )
    steps = s.steps * population.count(cells)
    results['environment'] = environment(s, seconds, experiment, workdir) | {
      'steps_per_second': steps / seconds.train if steps else None
    }
    if hosts.first():
      write_results(workdir, results, records)
    hosts.meet()
  return results


def last_states(
  s: Settings,
  recipe: train.Recipe,
  cells: list[population.Cell],
  feed: feed_lib.Feed,
  workdir: pathlib.Path,
) -> list[TrainState]:
  """The states of a finished run; the arguments are those of `fit`.

  Raises:
    runs.RunError: if the checkpoint of the last step is missing or damaged.
  """
  states = trainings.initial_states(recipe, cells, feed.some(1))
  life = None
  if (workdir / 'checkpoints').is_dir():
    world = host.World([], host.Clock())
    life = host.Host(world, workdir, states, s, cells=cells)
    life.close()
  if life is None or life.step != s.steps:
    raise runs.RunError(
      f'{workdir} has no checkpoint of the last step, {s.steps:,}: put it back'
      ' from a copy, or delete results.json and start the run again.'
    )
  return life.state


def environment(
  s: Settings,
  seconds: Seconds,
  experiment: str,
  workdir: pathlib.Path,
) -> dict[str, Any]:
  """Where, with what, how fast and by which command a run was made.

  Args:
    s: checked settings.
    seconds: that it took in all.
    experiment: the binary's name in `experiments`.
    workdir: the run's folder.

  Returns:
    What results.json has under "environment".
  """
  return {
    **runs.environment(),
    'executor': population.choose_executor(s.executor),
    'config_changes': folder.changes(workdir),
    'train_seconds': seconds.train,
    'wall_seconds': seconds.wall,
    # Not sys.argv[0]: a path of the machine, which records do not need.
    'command': ' '.join(
      [
        f'python -m experiments.{experiment}',
        *map(shlex.quote, sys.argv[1:]),
      ]
    ),
  }


def write_results(
  workdir: pathlib.Path,
  results: Mapping[str, Any],
  records: Mapping[str, np.ndarray],
) -> None:
  """Writes records.npz, then results.json: where it is, a run is finished."""
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **records)  # type: ignore[arg-type]
  files.write_atomically(workdir / 'records.npz', buffer.getvalue())
  files.write_atomically(workdir / 'results.json', files.to_json(results))


def closing_line(
  results: Mapping[str, Any], drawn: Sequence[pathlib.Path]
) -> str:
  """How long a finished run trained, and where its figures are."""
  e = results['environment']
  figures = ', '.join(str(p) for p in drawn if p.suffix == '.png')
  return (
    f'Trained in {e["train_seconds"]:.0f} s on {e["device"]}'
    f' ({e["processor"]}).\nFigures: {figures}'
  )


def _means(reports):
  """Loss and validation accuracy over the members that have not diverged."""
  loss, accuracy = (
    np.concatenate(x)
    for x in zip(
      *((r.loss, r.validation_accuracy) for r in reports), strict=True
    )
  )
  alive = np.isfinite(loss)
  mean = lambda x: f'{x[alive].mean():.3f}' if alive.any() else 'nan'
  return f'loss {mean(loss)}, validation {mean(accuracy)}'


def _rows(cells, reports, step, told):
  """Log rows of a chunk; says once of each member that it diverged."""
  rows, alive = [], False
  seen = set()
  for cell, report in zip(cells, reports, strict=True):
    for i, m in enumerate(cell.members):
      if m in seen:
        continue  # a copy that fills a device
      seen.add(m)
      finite = bool(report.finite[i])
      alive |= finite
      if not finite and m not in told:
        told.add(m)
        logging.warning(
          '%s diverged by step %d: it is left out of the means.', m.name, step
        )
      rows.append(
        {
          'step': step,
          **m.row(),
          'loss': float(report.loss[i]),
          'validation_accuracy': float(report.validation_accuracy[i]),
          'current_alpha': float(report.alpha[i]),
          'near_zero': float(report.near_zero[i]),
          **(
            {name: float(getattr(report, name)[i]) for name in _WORK}
            if m.variant
            else {}
          ),
        }
      )
  return rows, alive
