"""Figure 1 of the paper in full: LeNet-300-100 on MNIST, a to d from one run.

5 α × 5 seeds × 50,000 steps. Settings are those of the authors' release, but
that here every α of a seed starts from the same θ, as the paper says.

  python -m experiments.one_shot --config=configs/fig1_mnist.py

Time and numbers to expect: docs/results/fig1_mnist.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Source of each value: the authors' release; the paper for seeds."""
  return ml_collections.ConfigDict(
    {
      'dataset': 'mnist',
      'network': 'mlp',
      'network_kwargs': {'hidden': (300, 100)},
      'optimizer': 'sgd',
      'optimizer_kwargs': {},
      'learning_rate': (0.1,),
      'transforms': ('powerprop',),
      'transform_kwargs': {},
      'alphas': (1.0, 2.0, 3.0, 4.0, 5.0),
      'seeds': 5,
      'steps': 50_000,
      'batch_size': 60,
      'densities': tuple(0.01 ** (i / 19) for i in range(20)),
      'output_density_factor': 2.0,
      'executor': 'auto',
      'chunk_steps': 2_000,
      'checkpoint_seconds': 60.0,
      'near_zero': 0.01,
    }
  )
