"""CLNP on three tasks of permuted MNIST: clnp_table1 in a few minutes.

The paper's net, two epochs a task, one seed, α = 1 and 1.5.

  python -m experiments.continual --config=configs/clnp_small.py
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
    config.method_kwargs.clnp.coefficient = 1e-5
    config.method_training = {}
    config.choose_learning_rate = False
    config.choose_margin = 0.0
    config.epochs = 2.0
    config.seeds = 1
    config.evaluate_every = 1
  return config
