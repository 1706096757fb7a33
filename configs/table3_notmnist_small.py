r"""Table 3 on a sample of notMNIST in few steps, for two cores.

As `table3_mnist_small`, 40 epochs a task. It is meant for a sample of 10,000
pictures, about 800 for training and 100 for testing of each letter, where the
paper has many more: its numbers are not to be expected. The pictures are
prepared data, or a folder:

  python -m experiments.generative --config=configs/table3_notmnist_small.py \
    --config.dataset_kwargs.folder=notMNIST_small

66 minutes on two cores of an AMD EPYC (docs/results/table3_notmnist_small); it
may be stopped and resumed at any time.
"""

import ml_collections

from configs import table3_mnist_small


def get_config() -> ml_collections.ConfigDict:
  """That of `table3_mnist_small`, smaller."""
  config = table3_mnist_small.get_config()
  config.dataset = 'notmnist'
  config.dataset_kwargs = ml_collections.ConfigDict({'folder': ''})
  config.epochs = 40.0
  config.method_training.efficient_packnet.retrain_epochs = 20.0
  return config
