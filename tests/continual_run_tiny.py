"""Learning three tasks in seconds: `tiny`, for `experiments.continual`."""

import pathlib
from typing import Any

import ml_collections

from configs import digits_continual
from experiments.continual import run as continual_training
from experiments.continual import settings as continual_settings
from tests import tiny

# At most 30% of the weights for a task: three of them leave some free.
PACKING = {'gamma': 0.9, 'rates': (0.1, 0.2, 0.3)}
SGD = {'optimizer': 'sgd', 'optimizer_kwargs': {}, 'learning_rate': (0.1,)}


def config(**fields: Any) -> ml_collections.ConfigDict:
  """configs/digits_continual.py, made tiny.

  A task is six steps in two chunks, each a checkpoint.

  Args:
    **fields: of the config, which replace what is there.

  Returns:
    A config with a method that forgets and one that has masks.
  """
  out = digits_continual.get_config()
  small = {
    'num_tasks': 3,
    'epochs': 0.3,
    'network_kwargs': {'hidden': (8,)},
    **SGD,
    'seeds': 1,
    'methods': ('naive', 'efficient_packnet'),
    'method_kwargs': {'efficient_packnet': PACKING},
    'method_training': {},
    'failure_accuracy': 0.0,
    'executor': 'vmap',
    'chunk_steps': 3,
    'checkpoint_seconds': 0.0,
  }
  with out.ignore_type(), out.unlocked():
    for name, value in (small | fields).items():
      out[name] = value
  return out


def run(workdir: pathlib.Path, **fields: Any) -> dict[str, Any]:
  """A run in this process, without its figures."""
  return tiny.run_of(
    continual_training, continual_settings, config(**fields), workdir
  )


def flags(workdir: pathlib.Path, **fields: Any) -> list[str]:
  """The same run, for the binary."""
  given = [f'--config.{k}={v}' for k, v in config(**fields).to_dict().items()]
  # The environment has the cache of the tests.
  return [f'--workdir={workdir}', '--nocompilation_cache', *given]
