"""Streams: learn, measure, report.

Every member lives by itself, in a folder of its own below the run's `cells/`,
and is saved from segment to segment.
"""

import functools
import itertools
import pathlib
import time
from typing import Any

import jax

from experiments import data
from experiments.continual import cells as continual_cells
from experiments.continual import settings as continual_settings
from experiments.continual.learner import weights_of
from experiments.continual.run import join_metrics
from experiments.continual.run import on_device
from experiments.engine import estimates
from experiments.engine import feed
from experiments.engine import fit
from experiments.engine import folder as engine_folder
from experiments.engine import host
from experiments.engine import making
from experiments.engine import population
from experiments.engine import runs
from experiments.engine.population import Cell
from experiments.engine.population import Member
from experiments.report.weights import Weights
from experiments.stream import analysis as stream_analysis
from experiments.stream import settings as stream_settings
from experiments.stream import streams
from experiments.stream.cells import AXES
from experiments.stream.cells import make_programs
from experiments.stream.cells import Way
from experiments.stream.learner import Learner
from experiments.stream.learner import Lessons
from experiments.stream.learner import live
from experiments.stream.learner import RECENT
from experiments.stream.settings import StreamSettings


def run(
  s: StreamSettings, workdir: pathlib.Path, data_dir: str | None = None
) -> dict[str, Any]:
  """Learns and measures; goes on where an earlier call stopped.

  Args:
    s: checked settings.
    workdir: the run's folder, already opened with `folder.open_folder`.
    data_dir: where TFDS's prepared data lie; None for TFDS's default.

  Returns:
    What results.json holds.

  Raises:
    experiments.data.DataError: if the data are missing or damaged.
    settings.ConfigError: if the settings do not fit the data or the net.
    runs.RunError: if a file of the run is damaged, the disk is full, or every
      learner diverged.
    runs.Interrupted: if a signal came; what is done is saved.
  """
  begun = time.monotonic()
  sequence, cells = _prepare(s, data_dir)
  estimates.check(_estimate(s, sequence, cells))
  with runs.held(workdir) as signals:
    lessons = _lessons(s, sequence, workdir)
    prepared = time.monotonic() - begun
    world = host.World(signals, host.Clock())
    lives = host.side_by_side(
      [functools.partial(live, cell, lessons) for cell in cells],
      world,
      'learning',
      sum(_stream(s, sequence, cell).steps for cell in cells),
      'step',
    )
    rows = [row for lived in lives for row in lived.rows]
    join_metrics(workdir, lives)
    if all(row.get('diverged') for row in rows):
      rates = s.training.training.learning_rate
      raise runs.RunError(
        'every learner diverged (the loss is not finite); lower learning_rate'
        f' (now {", ".join(f"{r:g}" for r in rates)}) or alphas.'
      )
    spent = world.clock.seconds()
    results = {
      'experiment': 'stream',
      'rows': rows,
      'summary': stream_analysis.summarise(rows),
      'sequence': s.training.sequence,
      'num_tasks': s.training.num_tasks,
      'dataset': s.training.training.dataset,
      'network': s.training.training.network,
      'window': s.window,
      'hazard': s.hazard,
      'threshold': s.threshold,
      'recognise': s.recognise,
      'stopped': [x for lived in lives for x in lived.stopped],
      'environment': fit.environment(
        s.training.training,
        fit.Seconds(spent, prepared + world.clock.seconds()),
        'stream',
        workdir,
      )
      | {'steps_per_second': sum(r['steps'] for r in rows) / spent},
    }
    records = {k: v for lived in lives for k, v in lived.arrays.items()}
    fit.write_results(workdir, results, records)
  return results


def dry_run(s: StreamSettings, data_dir: str | None = None) -> str:
  """What a run will take, in Markdown; trains and writes nothing."""
  return _estimate(s, *_prepare(s, data_dir)).markdown()


def _prepare(s: StreamSettings, data_dir: str | None):
  """The sequence of the true tasks, and a cell for every member."""
  c = s.training
  dataset = feed.in_memory(
    making.dataset(c.training.dataset, data_dir, c.training.dataset_kwargs),
    'stream',
  )
  sequence = continual_settings.make_sequence(c, dataset)
  steps = continual_settings.steps(c, sequence, c.epochs)[0]
  visits = stream_settings.visits(s)
  longest = sum(s.lengths) if s.lengths else 2 * steps * visits
  untold = streams.untold(
    sequence,
    int(sequence.sizes['train'].min()),
    s.window * c.training.batch_size,
    longest // s.window + 2,
  )
  plans = {}
  for name in c.methods:
    plan = continual_cells.make_plan(c, name, untold)
    stream_settings.check_method(s, name, plan.method)
    # A step's batch is all that there is to draw from.
    recipe = plan.recipe._replace(num_train=c.training.batch_size)
    plans[name] = plan._replace(recipe=recipe)
  estimates.few(len(plans) * c.training.seeds, 'seeds', c.training.seeds)
  members = [
    Member(
      key.transform,
      key.alpha,
      key.learning_rate,
      seed,
      Way(
        key.method,
        continual_settings.coefficients(c, key.method)[0],
        boundaries,
      ),
    )
    for key in continual_cells.keys(c, plans)
    for boundaries, seed in itertools.product(
      s.boundaries, range(c.training.seeds)
    )
  ]
  cells = population.arrange(
    members,
    'map',
    lambda m: (m.variant.method, m.transform),
    lambda key, alpha: make_programs(plans[key[0]], key[1], alpha),
    AXES,
    {},
  )
  cells = [x._replace(plan=plans[x.members[0].variant.method]) for x in cells]
  for cell in cells:
    _stream(s, sequence, cell)
  return sequence, cells


def _stream(
  s: StreamSettings, sequence: data.Sequence, cell: Cell
) -> streams.Stream:
  size, seed = int(sequence.sizes['train'].min()), cell.members[0].seed
  return streams.make(s, cell.plan.steps[0], size, seed)


def _lessons(
  s: StreamSettings, sequence: data.Sequence, workdir: pathlib.Path
) -> Lessons:
  return Lessons(s, sequence, on_device(sequence), workdir / 'cells')


def _estimate(
  s: StreamSettings, sequence: data.Sequence, cells: list[Cell]
) -> estimates.Estimate:
  """What learning will take, if every task is opened once."""
  steps, flops = 0, 0.0
  opened = stream_settings.visits(s)
  for cell in cells:
    plan = cell.plan
    mine = _stream(s, sequence, cell).steps + opened * plan.retrain_steps[0]
    forward = plan.recipe.problem.flops(plan.shapes, plan.net_state)
    steps += mine
    flops += 3.0 * sum(forward.values()) * plan.recipe.batch_size * mine
  # The parameters and as many moments at most, for each state that is kept.
  state = 3 * max(estimates.size_of(cell.plan.shapes) for cell in cells)
  splits = [getattr(sequence.dataset, name) for name in data.SPLITS]
  return estimates.Estimate(
    trainings=len(cells),
    programs=len({id(cell.programs) for cell in cells}),
    parameters=max(
      sum(x.size for x in jax.tree.leaves(c.plan.shapes)) for c in cells
    ),
    steps=steps,
    flops=flops,
    device_bytes=estimates.size_of(splits)
    + state * (RECENT + 2) * min(len(cells), population.workers()),
    disk_bytes=2 * state * len(cells),
  )


def weights(
  workdir: pathlib.Path, name: str, task: int, data_dir: str | None = None
) -> Weights:
  """The net that a finished run has for a true task.

  See `experiments.report.weights.of_run`.

  Args:
    workdir: the run's folder.
    name: of `report.naming.net_name`, as the keys of records.npz begin.
    task: from 0.
    data_dir: as in `run`.

  Raises:
    runs.RunError: if there is no such member or task, or a file is damaged.
  """
  config, results = engine_folder.finished(workdir, stream_settings.resolved)
  s = stream_settings.check(config)
  sequence, cells = _prepare(s, data_dir)
  lessons = _lessons(s, sequence, workdir)
  for cell, row in zip(cells, results['rows'], strict=True):
    if cell.members[0].name == name:
      if not 0 <= task < row['tasks']:
        raise runs.RunError(
          f'task is {task} but the stream of {workdir} has'
          f' {row["tasks"]} tasks, which count from 0.'
        )
      runs.require_checkpoint(lessons.folder / cell.name)
      learner = Learner(cell, lessons, host.World([], host.Clock()))
      learner.life.close()
      record = learner.records[row['record_of_task'][task]]
      return weights_of(cell, learner.life.state, record, 0)
  raise runs.RunError(
    f'{workdir} has no learner {name!r}; its results.json has their names.'
  )
