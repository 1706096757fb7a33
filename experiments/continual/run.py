"""Sequences of tasks: search, train, evaluate, report.

Every cell of the population lives by itself, in a folder of its own below the
run's `cells/`: checkpoints, metrics, and a file for each task that it has
learned. Results of all cells are put together at the end.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 4 and 6.3.1.
"""

from collections.abc import Callable, Iterator, Mapping
import functools
import pathlib
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.continual import analysis as continual_analysis
from experiments.continual import cells as continual_cells
from experiments.continual import records as continual_records
from experiments.continual import search as continual_search
from experiments.continual import settings as continual_settings
from experiments.continual.cells import Course
from experiments.continual.learner import Learner
from experiments.continual.learner import Lessons
from experiments.continual.learner import live
from experiments.continual.settings import ContinualSettings
from experiments.engine import estimates
from experiments.engine import feed
from experiments.engine import fit
from experiments.engine import folder as engine_folder
from experiments.engine import host
from experiments.engine import making
from experiments.engine import population
from experiments.engine import runs
from experiments.engine.population import Cell
from experiments.report import files
from experiments.report.weights import Weights
from powerprop import train


class Prepared(NamedTuple):
  """What a run is made of.

  Attributes:
    sequence: of tasks.
    plans: by method.
    splits: the data on the device.
  """

  sequence: data.Sequence
  plans: dict[str, Course]
  splits: dict[str, data.Split]


def run(
  s: ContinualSettings, workdir: pathlib.Path, data_dir: str | None = None
) -> dict[str, Any]:
  """Searches, trains and evaluates; goes on where an earlier call stopped.

  Args:
    s: checked settings.
    workdir: the run's folder, already opened with `folder.open_folder`.
    data_dir: where TFDS's prepared data lie; None for TFDS's default.

  Returns:
    What results.json holds.

  Raises:
    experiments.data.DataError: if the data are missing or damaged.
    settings.ConfigError: if the settings do not fit the data or the net.
    runs.RunError: if a file of the run is damaged, or the disk is full.
    runs.Interrupted: if a signal came; what is done is saved.
  """
  begun = time.monotonic()
  sequence, plans, splits = _prepare(s, data_dir)
  for name in continual_cells.forgetting(plans):
    logging.warning(
      "method_kwargs.%s masks tasks' nets, but lets the rest of them go on (as"
      " biases = 'free' does): earlier tasks' nets change, and are forgotten.",
      name,
    )
  estimates.check(_estimate(s, sequence, plans, exact=False))
  lessons = Lessons(sequence, splits, workdir / 'cells')
  with runs.held(workdir) as signals:
    before = time.monotonic() - begun
    world = host.World(signals, host.Clock())
    results, records = learn(s, plans, lessons, world)
    results = {'experiment': 'continual', **results}
    results['environment'] = environment(
      s, workdir, 'continual', plans, (results['rows'], before, world)
    )
    results['summary'] = continual_records.summary(results, records)
    fit.write_results(workdir, results, records)
  return results


def learn(
  s: ContinualSettings,
  plans: Mapping[str, Course],
  lessons: Lessons,
  world: host.World,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Searches, and learns all sequences, each from where it was.

  Args:
    s: checked settings.
    plans: by method.
    lessons: what is learned.
    world: of the run, whose folder is held.

  Returns:
    What results.json holds, but for the experiment, its summary and where it
    was run; and what records.npz holds. metrics.jsonl is written.

  Raises:
    runs.RunError: if a file of the run is damaged, or no task was learned.
    runs.Interrupted: if a signal came; what is done is saved.
  """
  sequence = lessons.sequence
  cells_of = functools.partial(
    continual_cells.make_cells,
    plans,
    executor=population.choose_executor(s.training.executor),
    lives={},
  )
  contests = continual_search.contests(s, plans)
  candidates = continual_cells.make_members(
    s, plans, continual_search.candidates(contests), True
  )
  search = _live_all(
    cells_of(members=candidates, tasks=s.search_tasks),
    lessons,
    world,
    'searching',
  )
  searched = [r for lived in search for r in lived.rows]
  chosen = continual_search.chosen(s, contests, searched)
  members = continual_cells.make_members(s, plans, chosen, False)
  cells = cells_of(members=members, tasks=sequence.num_tasks)
  lives = _live_all(cells, lessons, world, 'learning')
  rows = [r for lived in lives for r in lived.rows]
  if not rows:
    raise runs.RunError('no task was learned; lower learning_rate or alphas.')
  join_metrics(lessons.folder.parent, [*search, *lives])
  results = {
    'rows': rows + searched,
    'chosen': [
      {**key._asdict(), 'coefficients': value} for key, value in chosen.items()
    ],
    'defaults': {
      name: continual_settings.coefficients(s, name)[0] for name in s.methods
    },
    'default_rates': {
      name: plan.settings.training.learning_rate[0]
      for name, plan in plans.items()
      if s.choose_learning_rate
    },
    'efforts': continual_cells.efforts(plans),
    'selected': continual_analysis.select(rows + searched, s.choose_margin),
    'choose_margin': s.choose_margin,
    'sequence': s.sequence,
    'scenario': s.scenario,
    'num_tasks': sequence.num_tasks,
    'dataset': s.training.dataset,
    'network': s.training.network,
    'masks': {
      name: {
        'of': plan.masks_of,
        'layers': dict(zip(plan.layers, plan.layer_sizes, strict=True)),
      }
      for name, plan in plans.items()
      if plan.layers
    },
    'layers': next((p.layers for p in plans.values() if p.layers), ()),
    'layer_sizes': next(
      (p.layer_sizes for p in plans.values() if p.layers), ()
    ),
    'stopped': [x for lived in lives for x in lived.stopped],
  }
  records = {k: v for lived in lives for k, v in lived.arrays.items()}
  return results, records


def environment(
  s: ContinualSettings,
  workdir: pathlib.Path,
  experiment: str,
  plans: Mapping[str, Course],
  done: tuple[list[dict[str, Any]], float, host.World],
) -> dict[str, Any]:
  """Where and how fast a run was made; see `fit.environment`.

  Args:
    s: checked settings.
    workdir: the run's folder.
    experiment: its name.
    plans: by method.
    done: its rows, the seconds before its world began, and that world.
  """
  rows, before, world = done
  spent = world.clock.seconds()
  seconds = fit.Seconds(spent, before + spent)
  return fit.environment(s.training, seconds, experiment, workdir) | _speed(
    plans, rows, spent
  )


def dry_run(s: ContinualSettings, data_dir: str | None = None) -> str:
  """What a run will take, in Markdown; trains and writes nothing."""
  sequence, plans, _ = _prepare(s, data_dir)
  return _estimate(s, sequence, plans, exact=True).markdown()


def _estimate(
  s: ContinualSettings,
  sequence,
  plans,
  exact: bool,
  measured: Callable[[Course], float] = lambda plan: 0.0,
) -> estimates.Estimate:
  """Of searches and of as many sequences as can follow.

  Args:
    s: checked settings.
    sequence: of tasks.
    plans: by method.
    exact: as `_of_cells` has it.
    measured: FLOPs of what is measured of a sequence besides.
  """
  contests = continual_search.contests(s, plans)
  number = sum(len(c) for contest in contests for c in contest.values())
  seeds = s.training.seeds
  estimates.few(number * seeds, 'seeds', seeds)
  estimates.few(number * s.search_seeds, 'search_seeds', s.search_seeds)
  executor = population.choose_executor(s.training.executor)
  lives: dict[Any, Any] = {}
  every = []
  for chosen, tasks, search in (
    (continual_search.candidates(contests), s.search_tasks, True),
    (continual_search.at_most(s, contests), sequence.num_tasks, False),
  ):
    members = continual_cells.make_members(s, plans, chosen, search)
    every += continual_cells.make_cells(plans, members, executor, tasks, lives)
  # The last members are those that are not of a search.
  more = sum(measured(plans[m.variant.method]) for m in members)
  return _of_cells(every, sequence, exact)._replace(measured=more)


def _of_cells(
  cells: list[Cell], sequence: data.Sequence, exact: bool
) -> estimates.Estimate:
  """What learning the sequences of cells will take.

  Args:
    cells: of the searches and of the sequences.
    sequence: that they learn.
    exact: whether states and records are traced, which takes a while; else
      their bytes are those of the parameters, the least that they can be.
  """
  splits = {name: getattr(sequence.dataset, name) for name in data.SPLITS}
  number: Any = jax.ShapeDtypeStruct((), jnp.int32)
  known: dict[tuple[int, int], tuple[int, int, int, float]] = {}
  on_device, on_disk = [], 0
  steps, flops = 0, 0.0
  for cell in cells:
    # One life is a program for each number of members.
    which, plan = (id(cell.programs), len(cell.members)), cell.plan
    if which not in known:
      state, record = plan.shapes, ()
      if exact:
        tables = jax.vmap(sequence.tables) if cell.stacked else sequence.tables
        tables = jax.eval_shape(tables, cell.hyper.seed)
        source = data.Source(splits, tables, number, number)
        state = jax.eval_shape(cell.programs.start, cell.hyper, source)
        _, record = jax.eval_shape(
          cell.programs.archive, state, cell.hyper, source
        )
      forward = plan.recipe.problem.flops(plan.shapes, plan.net_state)
      known[which] = (
        estimates.size_of(state),
        estimates.size_of(state, {'bool': 1 / 8}),
        estimates.size_of(record),
        sum(forward.values()),
      )
    state_bytes, packed, record_bytes, cost = known[which]
    records = record_bytes * cell.plan.num_tasks
    # The state, that of the task's start, and the next; both of them on disk.
    on_device.append(3 * state_bytes + records)
    on_disk += 2 * 2 * packed + records
    members = population.count([cell])
    of_tasks = np.add(plan.steps, plan.retrain_steps)[: cell.plan.num_tasks]
    of_tasks = of_tasks + plan.trial_steps
    mine = int(of_tasks.sum()) * members
    steps += mine
    draws = plan.method.continual.draws
    times = 1 if draws is None else draws.number
    flops += 3.0 * cost * times * plan.recipe.batch_size * mine
  at_once = sorted(on_device)[-population.workers() :]
  return estimates.Estimate(
    trainings=population.count(cells),
    programs=len(known),
    parameters=max(
      sum(x.size for x in jax.tree.leaves(c.plan.shapes)) for c in cells
    ),
    steps=steps,
    flops=flops,
    device_bytes=estimates.size_of(splits) + sum(at_once),
    disk_bytes=on_disk,
  )


def _prepare(s: ContinualSettings, data_dir: str | None):
  """The sequence, a plan for every method, and the data on the device."""
  dataset = feed.in_memory(
    making.dataset(s.training.dataset, data_dir, s.training.dataset_kwargs),
    'continual',
  )
  return prepared(s, dataset)


def prepared(
  s: ContinualSettings,
  dataset: data.Dataset,
  make_recipe: Callable[..., train.Recipe] = continual_cells.of_pictures,
) -> Prepared:
  """What a run makes of its data before it learns."""
  sequence = continual_settings.make_sequence(s, dataset)
  plans = {
    name: continual_cells.make_plan(s, name, sequence, make_recipe)
    for name in s.methods
  }
  return Prepared(sequence, plans, on_device(sequence))


def on_device(sequence: data.Sequence) -> dict[str, data.Split]:
  """The pictures of a sequence, by split."""
  return {
    name: jax.tree.map(jnp.asarray, getattr(sequence.dataset, name))
    for name in data.SPLITS
  }


def weights(
  workdir: pathlib.Path, name: str, task: int, data_dir: str | None = None
) -> Weights:
  """The net that a finished run has for a task.

  See `experiments.report.weights.of_run`.

  Args:
    workdir: the run's folder.
    name: of `report.naming.net_name`, as the keys of records.npz begin.
    task: from 0.
    data_dir: as in `run`.

  Raises:
    runs.RunError: if there is no such member or task, or a file is damaged.
  """
  names = lambda cell: [m.name for m in cell.members]
  return of_member(
    learned(workdir, lambda cell: name in names(cell), data_dir),
    workdir,
    name,
    task,
  )


def of_member(
  learners: Iterator[Learner], workdir: pathlib.Path, name: str, task: int
) -> Weights:
  """The net for a task of the first learner; RunError where there is none."""
  for learner in learners:
    names = [m.name for m in learner.cell.members]
    return learner.weights(names.index(name), task)
  raise runs.RunError(
    f'{workdir} has no sequence {name!r}; its records.npz has their names.'
  )


def learned(
  workdir: pathlib.Path,
  wanted: Callable[[Cell], bool],
  data_dir: str | None = None,
) -> Iterator[Learner]:
  """Cells of a finished run, one by one, as they were at its end.

  Args:
    workdir: the run's folder.
    wanted: which of them.
    data_dir: as in `run`.

  Raises:
    runs.RunError: if the run is not finished, or a file of it is missing or
      damaged.
  """
  config, results = engine_folder.finished(workdir, continual_settings.resolved)
  s = continual_settings.check(config)
  yield from learners(s, _prepare(s, data_dir), results, (workdir, wanted))


def learners(
  s: ContinualSettings,
  it: Prepared,
  results: Mapping[str, Any],
  which: tuple[pathlib.Path, Callable[[Cell], bool]],
) -> Iterator[Learner]:
  """Cells of a finished run, as `learned` gives them.

  Args:
    s: of the run.
    it: made of its data.
    results: of the run.
    which: the run's folder, and which cells are wanted.

  Raises:
    runs.RunError: as `learned` does.
  """
  workdir, wanted = which
  sequence, plans, splits = it
  chosen = {
    continual_cells.Key(*(c[name] for name in continual_cells.Key._fields)): c[
      'coefficients'
    ]
    for c in results['chosen']
  }
  cells = continual_cells.make_cells(
    plans,
    continual_cells.make_members(s, plans, chosen, False),
    s.training.executor,
    sequence.num_tasks,
  )
  lessons = Lessons(sequence, splits, workdir / 'cells')
  for cell in filter(wanted, cells):
    runs.require_checkpoint(lessons.folder / cell.name)
    learner = Learner(cell, lessons, host.World([], host.Clock()))
    learner.life.close()
    yield learner
    del learner  # before there is another


def _live_all(
  cells: list[Cell], lessons: Lessons, world: host.World, what: str
) -> list[continual_records.Lived]:
  """Lives all cells, each from where it was."""
  return host.side_by_side(
    [functools.partial(live, cell, lessons) for cell in cells],
    world,
    what,
    sum(c.plan.num_tasks for c in cells),
    'task',
  )


def _speed(plans, rows, seconds: float) -> dict[str, Any]:
  """Steps and floating-point operations of all trainings, by the second.

  A step is three forward passes of a batch; evaluations, searches and Fisher
  informations are in the seconds, but not among the operations.
  """
  total, operations = 0, 0.0
  for name, plan in plans.items():
    forward = plan.recipe.problem.flops(plan.shapes, plan.net_state)
    steps = sum(
      r['attempts'] * plan.steps[r['task']]
      + plan.retrain_steps[r['task']]
      + plan.trial_steps
      for r in rows
      if r['method'] == name
    )
    total += steps
    operations += 3 * sum(forward.values()) * plan.recipe.batch_size * steps
  return {
    'steps_per_second': total / seconds if seconds else None,
    'training_flops': operations,
    'flops_per_second': operations / seconds if seconds else None,
  }


def join_metrics(
  workdir: pathlib.Path, lives: list[continual_records.Lived]
) -> None:
  """metrics.jsonl of the run: those of its cells, one after the other."""
  logs = [workdir / 'cells' / x.name / 'metrics.jsonl' for x in lives]
  text = b''.join(f.read_bytes() for f in logs if f.exists())
  files.write_atomically(workdir / 'metrics.jsonl', text)
