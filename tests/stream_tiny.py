"""Streams of seconds: `continual_run_tiny`, for `experiments.stream`."""

import pathlib
from typing import Any

import jax.numpy as jnp
import ml_collections

from configs import stream_digits
from experiments import data
from experiments.stream import run as stream_run
from experiments.stream import settings as stream_settings
from tests import tiny

# The second of three tasks comes back; no change is at a window's end.
ORDER, LENGTHS = (0, 1, 2, 1), (83, 78, 91, 67)


def config(**fields: Any) -> ml_collections.ConfigDict:
  """configs/stream_digits.py, made tiny: 319 steps.

  Args:
    **fields: of the config, which replace what is there.
  """
  out = stream_digits.get_config()
  small = {
    'num_tasks': 3,
    'epochs': 4.0,
    'retrain_epochs': 1.0,
    'network_kwargs': {'hidden': (40,)},
    'alphas': (1.0,),
    'seeds': 1,
    'method_kwargs': {
      'efficient_packnet': {'gamma': 0.9, 'rates': (0.1, 0.2, 0.3)}
    },
    'window': 5,
    'hazard': 100.0,
    'order': ORDER,
    'lengths': LENGTHS,
    'checkpoint_seconds': 0.0,
  }
  with out.ignore_type(), out.unlocked():
    for name, value in (small | fields).items():
      out[name] = value
  return out


def alike(
  dataset: data.Dataset, num_tasks: int, scenario: str
) -> data.Sequence:
  """Tasks that are one and the same: plain digits."""
  made = data.SEQUENCES['permuted'](dataset, num_tasks, scenario)
  plain = lambda seed: jnp.tile(jnp.arange(64, dtype=jnp.int32), (num_tasks, 1))
  return made._replace(tables=plain)


def run(workdir: pathlib.Path, **fields: Any) -> dict[str, Any]:
  """A run in this process, without its figures."""
  c = config(**fields)
  return tiny.run_of(stream_run, stream_settings, c, workdir)
