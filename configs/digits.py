"""The demo: Figure 1 on scikit-learn's digits, with no download.

Accuracy by the weights that are left, of the baseline and of three α. No record
is kept of it.

  python -m experiments.one_shot --config=configs/digits.py
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Every field that an experiment has; see experiments.engine.settings."""
  return ml_collections.ConfigDict(
    {
      'dataset': 'digits',
      'network': 'mlp',
      'network_kwargs': {'hidden': (300, 100)},
      'optimizer': 'sgd',
      'optimizer_kwargs': {},
      'learning_rate': (0.1,),
      'transforms': ('powerprop',),
      'transform_kwargs': {},
      'alphas': (1.0, 2.0, 3.0, 4.0),
      'seeds': 5,
      'steps': 4_000,
      'batch_size': 60,
      'densities': tuple(0.01 ** (i / 19) for i in range(20)),
      'output_density_factor': 2.0,
      'executor': 'auto',
      'chunk_steps': 500,
      'checkpoint_seconds': 30.0,
      'near_zero': 0.01,
    }
  )
