"""Table 3 on MNIST in few epochs, for two cores: all rows, two seeds.

The net, the data, the batches and the candidates of `table3_mnist`; ours are 8
epochs a task instead of 200, with Adam's rates around 1e-3 instead of 1e-4, one
α above 1, and a log-likelihood of 1,000 samples of the first 100 test pictures
of each digit. So the numbers to expect are not the paper's; the order of
methods may be compared.

88 minutes on two cores of an AMD EPYC (docs/results/table3_mnist_small); it may
be stopped and resumed at any time.

  python -m experiments.generative --config=configs/table3_mnist_small.py
"""

import ml_collections

from configs import table3_mnist


def get_config() -> ml_collections.ConfigDict:
  """That of `table3_mnist`, smaller."""
  config = table3_mnist.get_config()
  config.epochs = 8.0
  config.learning_rate = (1e-3, 3e-4, 3e-3)
  config.alphas = (1.0, 1.5)
  config.seeds = 2
  rates = (1e-3, 1e-4, 2e-4, 3e-4, 6e-4, 2e-3, 3e-3, 6e-3, 1e-2)
  for name in table3_mnist.ALONE:
    config.method_training[name].learning_rate = rates
  for name in table3_mnist.IN_PHI:
    config.method_training[name].alphas = (1.5,)
  config.method_training.efficient_packnet.retrain_epochs = 4.0
  config.likelihood_samples = 1_000
  config.likelihood_pictures = 100
  config.matrix_samples = 20
  return config
