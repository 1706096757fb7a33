"""A sparse training of seconds: `tiny`, for `experiments.sparse_training`."""

import pathlib
from typing import Any

import ml_collections

from configs import digits_sparse
from experiments.sparse_training import run as sparse_training
from experiments.sparse_training import settings as sparse_settings
from tests import tiny


def config(**fields: Any) -> ml_collections.ConfigDict:
  """configs/digits_sparse.py, made tiny; four chunks, each a checkpoint.

  Args:
    **fields: of the config, which replace what is there.

  Returns:
    A config with one method of every kind: two that train densely, one that
    rewinds, one with two masks in a byte, one with a state beside its masks.
  """
  out = digits_sparse.get_config()
  small = {
    'network_kwargs': {'hidden': (8,)},
    'seeds': 2,
    'steps': 40,
    'chunk_steps': 10,
    'methods': ('dense', 'one_shot', 'lottery', 'top_kast', 'snfs'),
    'method_kwargs': {
      # Steps are given: a longer training is the same program.
      'lottery': {'rewind': 3, 'at': 20},
      'top_kast': {'every': 7, 'backward_density': 0.6},
      'snfs': {'every': 6, 'end': 30},
    },
    'densities': (0.3, 0.1),
    'executor': 'map',
    'checkpoint_seconds': 0.0,
  }
  with out.ignore_type(), out.unlocked():
    for name, value in (small | fields).items():
      out[name] = value
  return out


def run(workdir: pathlib.Path, **fields: Any) -> dict[str, Any]:
  """A run in this process, without its figures."""
  return tiny.run_of(
    sparse_training, sparse_settings, config(**fields), workdir
  )


def flags(workdir: pathlib.Path, **fields: Any) -> list[str]:
  """The same run, for the binary."""
  given = [f'--config.{k}={v}' for k, v in config(**fields).to_dict().items()]
  # The environment has the cache of the tests.
  return [f'--workdir={workdir}', '--nocompilation_cache', *given]
