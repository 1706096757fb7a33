"""Ten characters in turn: search, train, draw, measure, report.

Every cell of the population lives by itself, as in `experiments.continual`,
whose search, cells and learner these are.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 6.3.2; Nguyen
et al., Variational continual learning, 2018, section 6.2.
"""

from collections.abc import Iterator
import functools
import pathlib
import time
from typing import Any

import numpy as np

from experiments import data
from experiments.continual import run as continual_run
from experiments.continual import settings as continual_settings
from experiments.continual.learner import Lessons
from experiments.continual.run import Prepared
from experiments.engine import autoencoder
from experiments.engine import classification
from experiments.engine import estimates
from experiments.engine import feed
from experiments.engine import fit
from experiments.engine import folder as engine_folder
from experiments.engine import host
from experiments.engine import making
from experiments.engine import runs
from experiments.engine import validation
from experiments.engine.autoencoder import Autoencoder
from experiments.engine.settings import ConfigError
from experiments.engine.settings import Settings
from experiments.generative import analysis as generative_analysis
from experiments.generative import measuring
from experiments.generative import settings as generative_settings
from experiments.generative.settings import GenerativeSettings
from experiments.report.weights import Weights
from powerprop import private
from powerprop import train


def run(
  s: GenerativeSettings, workdir: pathlib.Path, data_dir: str | None = None
) -> dict[str, Any]:
  """Searches, trains and measures; goes on where an earlier call stopped.

  Args:
    s: checked settings.
    workdir: the run's folder, already opened with `folder.open_folder`.
    data_dir: where TFDS's prepared data lie; None for TFDS's default.

  Returns:
    What results.json holds.

  Raises:
    experiments.data.DataError: if the data are missing or damaged.
    settings.ConfigError: if the settings do not fit the data.
    runs.RunError: if a file of the run is damaged, or the disk is full.
    runs.Interrupted: if a signal came; what is done is saved.
  """
  begun = time.monotonic()
  sequence, plans, splits = it = _prepare(s, data_dir)
  estimates.check(_estimate(s, it, exact=False))
  measures = measuring.measures(s, _net(s, sequence), sequence)
  lessons = Lessons(sequence, splits, workdir / 'cells', measures)
  with runs.held(workdir) as signals:
    before = time.monotonic() - begun
    world = host.World(signals, host.Clock())
    found, records = continual_run.learn(s.training, plans, lessons, world)
    environment = continual_run.environment(
      s.training, workdir, 'generative', plans, (found['rows'], before, world)
    )
    # What a class would be right is a bound on the likelihood here.
    records = {
      f'{k.removesuffix("/accuracy")}/elbo' if k.endswith('/accuracy') else k: v
      for k, v in records.items()
    }
    rows = generative_analysis.named(found['rows'])
    rows = generative_analysis.with_likelihoods(rows, records)
    held = [
      name.removesuffix('/importance')
      for name in records
      if name.endswith('/importance')
    ]
    counts = measuring.counts(s, sequence)
    span = lambda sizes: [int(np.min(sizes)), int(np.max(sizes))]
    results = {
      'experiment': 'generative',
      'rows': rows,
      'summary': generative_analysis.summarise(rows, records),
      'selected': generative_analysis.select(rows),
      'chosen': found['chosen'],
      'efforts': found['efforts'],
      'importance': {
        net: {
          'shares': records[f'{net}/importance'][-1],
          'sum': records[f'{net}/strength'][-1],
        }
        for net in held
      },
      'stands_for': {
        name: continual_settings.method_of(s.training, name)
        for name in s.training.methods
      },
      'num_tasks': found['num_tasks'],
      'dataset': found['dataset'],
      'pictures': {name: span(n) for name, n in sequence.sizes.items()}
      | {'measured': span(counts)},
      'layers': {
        'encoder': s.encoder,
        'latent': s.latent,
        'head': s.head,
        'decoder': s.decoder,
      },
      'powerprop_on': s.powerprop_on,
      'epochs': s.training.epochs,
      'likelihood_samples': s.likelihood_samples,
      'matrix_samples': s.matrix_samples,
      'masks': found['masks'],
      'stopped': found['stopped'],
      'environment': environment,
    }
    fit.write_results(workdir, results, records)
  return results


def dry_run(s: GenerativeSettings, data_dir: str | None = None) -> str:
  """What a run will take, in Markdown; trains and writes nothing."""
  return _estimate(s, _prepare(s, data_dir), exact=True).markdown()


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
  return continual_run.of_member(
    _learned(workdir, name, data_dir), workdir, name, task
  )


def _learned(
  workdir: pathlib.Path, name: str, data_dir: str | None
) -> Iterator[Any]:
  """The cells of a finished run that have this member."""
  config, results = engine_folder.finished(
    workdir, generative_settings.resolved
  )
  s = generative_settings.check(config)
  wanted = lambda cell: name in [m.name for m in cell.members]
  yield from continual_run.learners(
    s.training, _prepare(s, data_dir), results, (workdir, wanted)
  )


def _prepare(s: GenerativeSettings, data_dir: str | None) -> Prepared:
  """The sequence, a plan for every method, and the data on the device."""
  t = s.training.training
  dataset = feed.in_memory(
    making.dataset(t.dataset, data_dir, t.dataset_kwargs), 'generative'
  )
  channels, classes = dataset.image_shape[-1], dataset.num_classes
  validation.require(
    channels == 1,
    'dataset',
    f'{dataset.name!r}, whose pictures have {channels} channels,',
    'one of grey pictures',
  )
  validation.require(
    s.training.num_tasks <= classes,
    'num_tasks',
    f'{s.training.num_tasks}',
    f'at most {classes}: a task is a class of {dataset.name!r}',
  )
  it = continual_run.prepared(
    s.training, dataset, functools.partial(_recipe, s)
  )
  plans = {}
  for name, plan in it.plans.items():
    try:
      private.check(plan.method, plan.recipe.problem)
    except ValueError as e:
      raise ConfigError(f'methods has {name}, but {e}.') from None
    plans[name] = plan._replace(where=autoencoder.under_psi(s.powerprop_on))
  return it._replace(plans=plans)


def _net(s: GenerativeSettings, sequence: data.Sequence) -> Autoencoder:
  return Autoencoder(sequence, s.encoder, s.latent, s.head, s.decoder)


def _recipe(
  s: GenerativeSettings,
  training: Settings,
  dataset: data.Dataset,
  sequence: data.Sequence,
) -> train.Recipe:
  """What the members of a method share."""
  del dataset  # the sequence has it
  problem = autoencoder.autoencoder(_net(s, sequence))
  return classification.recipe_of(training, problem, sequence.sizes['train'])


def _estimate(
  s: GenerativeSettings, it: Prepared, exact: bool
) -> estimates.Estimate:
  """Of searches, as many sequences as can follow, and what is measured."""
  net = _net(s, it.sequence)
  each = functools.partial(measuring.flops, s, net, it.sequence)
  return continual_run._estimate(
    s.training, it.sequence, it.plans, exact, lambda plan: each(plan.num_tasks)
  )
