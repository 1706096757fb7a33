"""Drawing three digits in seconds: `tiny`, for the autoencoder."""

import pathlib
from typing import Any

import ml_collections

from configs import digits_generative
from experiments.generative import run as generative_run
from experiments.generative import settings as generative_settings
from tests import tiny


def config(**fields: Any) -> ml_collections.ConfigDict:
  """configs/digits_generative.py, made tiny: a task is two chunks of 15 steps.

  Args:
    **fields: of the config, which replace what is there.
  """
  out = digits_generative.get_config()
  small = {
    'num_tasks': 3,
    'seeds': 1,
    'epochs': 5.0,
    'encoder': (16,),
    'latent': 2,
    'head': (16,),
    'decoder': (16,),
    'alphas': (1.0,),
    'methods': ('naive', 'ewc', 'efficient_packnet'),
    'method_kwargs': {
      'ewc': {'labels': 'true', 'coefficient': (1.0,)},
      'efficient_packnet': {
        **{'gamma': None, 'coefficient': (0.9,)},
        'rates': (0.1, 0.2, 0.3),
      },
    },
    'method_training': {'naive': {'num_tasks': 2}},
    'likelihood_samples': 7,
    'likelihood_pictures': 5,
    'matrix_samples': 3,
    'executor': 'map',
    'chunk_steps': 15,
    'checkpoint_seconds': 0.0,
  }
  with out.ignore_type(), out.unlocked():
    for name, value in (small | fields).items():
      out[name] = value
  return out


def run(workdir: pathlib.Path, **fields: Any) -> dict[str, Any]:
  """A run in this process, without its figures."""
  return tiny.run_of(
    generative_run, generative_settings, config(**fields), workdir
  )
