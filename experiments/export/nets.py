"""A net of a finished run, and what has to be known to make it again."""

import os
import pathlib
from typing import Any, NamedTuple

from experiments import data
from experiments.continual import settings as continual_settings
from experiments.engine import feed
from experiments.engine import folder
from experiments.engine import making
from experiments.engine import settings as engine_settings
from experiments.engine.settings import Settings
from experiments.report import files
from experiments.report import naming
from experiments.report import weights
from experiments.report.weights import Weights
import powerprop


class Run(NamedTuple):
  """What a finished run says of one of its nets.

  Attributes:
    settings: what all experiments have of a config, for the net's method.
    dataset: of the settings.
    num_outputs: width of the output layer.
    rows: of the results, those of the net: one, or one for each task.
    experiment: of which the run is.
  """

  settings: Settings
  dataset: data.Dataset | data.Streamed
  num_outputs: int
  rows: list[dict[str, Any]]
  experiment: str


def of_run(
  workdir: str | os.PathLike[str], name: str, data_dir: str | None = None
) -> Run:
  """Reads the config and the rows of a net.

  Args:
    workdir: the run's folder.
    name: of `weights.names`.
    data_dir: where prepared data lie; None for the default.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: a file cannot be read, or the run has no such net.
    runs.RunError: the run is not finished.
  """
  results, _ = files.load(workdir)
  rows = [r for r in results['rows'] if naming.net_name(r) == name]
  if not rows:
    raise ValueError(
      f'{workdir} has no net {name!r}; python -m experiments.export --workdir='
      f'{workdir} lists them.'
    )
  experiment = files.experiment(results)
  lib: Any = engine_settings  # which one_shot has
  if experiment != 'one_shot':
    lib = files.part_of(results, 'settings')
  config, _ = folder.finished(pathlib.Path(workdir), lib.resolved)
  s: Any = lib.check(config)
  if experiment == 'sparse_training':
    s = s.training
  if isinstance(s, Settings):
    dataset = making.dataset(s.dataset, data_dir, s.dataset_kwargs)
    return Run(s, dataset, dataset.num_classes, rows, experiment)
  if not isinstance(s, continual_settings.ContinualSettings):
    s = s.training  # of a stream
  s = continual_settings.of_method(s, rows[0]['method'])
  t = s.training
  dataset = feed.in_memory(
    making.dataset(t.dataset, data_dir, t.dataset_kwargs), experiment
  )
  sequence = continual_settings.make_sequence(s, dataset)
  return Run(t, dataset, sequence.num_outputs, rows, experiment)


def meta(
  run: Run, name: str, task: int | None, found: Weights
) -> dict[str, Any]:
  """What a file says of a net; all of it is JSON."""
  s = run.settings
  return {
    'net': name,
    'task': task,
    'experiment': run.experiment,
    'method': run.rows[0].get('method', 'one_shot'),
    'alpha': found.alpha,
    'network': s.network,
    'network_kwargs': dict(s.network_kwargs),
    'num_classes': run.num_outputs,
    'image_shape': list(run.dataset.image_shape),
    'compute_dtype': s.compute_dtype,
    'dataset': s.dataset,
    'scale': float(run.dataset.scale),
    'powerprop': powerprop.__version__,
  }


def made(about: dict[str, Any]) -> Any:
  """The net that a file's meta is of, as those of `engine.networks`.

  Raises:
    ValueError: if the file does not say which net it is.
  """
  try:
    return making.network(
      about['network'],
      about['network_kwargs'],
      about['num_classes'],
      about['compute_dtype'],
    )
  except KeyError as e:
    raise ValueError(
      f'the file does not say its {e.args[0]!r}, which python -m'
      ' experiments.export writes: name a file of that.'
    ) from None


def exported(
  workdir: str | os.PathLike[str],
  name: str,
  task: int | None = None,
  data_dir: str | None = None,
) -> tuple[Weights, dict[str, Any]]:
  """A net of a finished run, and its meta.

  Args:
    workdir: the run's folder, with its checkpoints.
    name: of `weights.names`.
    task: from 0, of a run that learned several; None elsewhere.
    data_dir: as in `of_run`.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: there is no such net or task, or a file cannot be read.
    RuntimeError: a checkpoint is missing or damaged.
  """
  found = weights.of_run(workdir, name, task, data_dir)
  return found, meta(of_run(workdir, name, data_dir), name, task, found)
