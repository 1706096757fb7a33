"""Figure 4, small: 20 tasks of permuted MNIST, 2 seeds, α = 1 and 2.

EfficientPackNet and online EWC as in fig4_permuted_mnist, with a smaller net
and 2 epochs a task instead of 10. Time and numbers to expect: docs/results.

  python -m experiments.continual --config=configs/fig4_small.py
"""

import ml_collections

from configs import fig4_permuted_mnist


def get_config() -> ml_collections.ConfigDict:
  """fig4_permuted_mnist, smaller."""
  config = fig4_permuted_mnist.get_config()
  with config.ignore_type():
    config.num_tasks = 20
    config.epochs = 2.0
    config.network_kwargs.hidden = (400, 400)
    config.alphas = (1.0, 2.0)
    config.seeds = 2
    config.methods = ('efficient_packnet', 'online_ewc')
    del config.method_training.online_ewc['alphas']
    for name in config.methods:
      config.method_training[name].evaluate_every = 5
  return config
