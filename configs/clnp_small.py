"""CLNP on three tasks of permuted MNIST: clnp_table1 in a few minutes.

The paper's net, six epochs a task, one seed, α = 1. Powerprop beside it takes
twice as long: --config.alphas="(1,1.5)". Time and numbers: docs/results.

  python -m experiments.continual --config=configs/clnp_small.py

Units die slowly: with fewer epochs a task takes more of them, and with twenty,
as clnp_table1 has, far fewer (docs/results/clnp_small_long).
"""

import ml_collections

from configs import clnp_table1


def get_config() -> ml_collections.ConfigDict:
  """clnp_table1 with three tasks, by what the paper settled on."""
  config = clnp_table1.get_config()
  with config.ignore_type():
    config.methods = ('clnp',)
    config.num_tasks = 3
    config.learning_rate = (0.002,)
    clnp = config.method_kwargs.clnp.to_dict()
    config.method_kwargs = {'clnp': clnp | {'coefficient': 1e-5}}
    config.method_training = {}
    config.labels = {}
    config.choose_learning_rate = False
    config.choose_margin = 0.0
    config.epochs = 6.0
    config.alphas = (1.0,)
    config.seeds = 1
    config.evaluate_every = 1
  return config
