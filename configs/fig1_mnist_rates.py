"""Figure 1(a) of the paper with a learning rate chosen for every α.

fig1_mnist has one rate, 0.1, for every α, as the authors' release does. Here
each α has four, and takes the one whose nets, pruned once to a density, are
best on validation data: for each density by itself, and all with equal
budgets. The output layer is pruned as the others are, where fig1_mnist leaves
it twice as many weights.

  python -m experiments.sparse_training --config=configs/fig1_mnist_rates.py

Time and numbers to expect: docs/results/fig1_mnist_rates.
"""

import ml_collections

from configs import fig1_mnist
from configs import fig2_cifar10


def get_config() -> ml_collections.ConfigDict:
  """fig1_mnist's net, data, optimiser and length; the rates are ours."""
  config = fig2_cifar10.get_config()
  figure = fig1_mnist.get_config()
  with config.ignore_type():
    for name in (
      'dataset',
      'network',
      'network_kwargs',
      'optimizer',
      'optimizer_kwargs',
      'alphas',
      'seeds',
      'steps',
      'batch_size',
      'chunk_steps',
    ):
      config[name] = figure[name]
    config.learning_rate = (0.03, 0.1, 0.3, 1.0)
    config.learning_rate_schedule = {'kind': 'constant'}
    config.l2 = 0.0
    config.augment = 'none'
    config.densities = (*figure.densities[:17:2], 0.01)
    config.distributions = ('uniform',)
  return config
