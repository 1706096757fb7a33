"""The report's conv net on CIFAR-10: accuracy, pruning curves, histograms.

The report has 0.50 without Powerprop and 0.58 with it, and no settings: net,
SGD 0.05, batch 64 and 10 epochs are defaults of ours.

  python -m experiments.one_shot --config=configs/cifar10_conv.py

Time and numbers to expect: docs/results/cifar10_conv.
"""

import ml_collections

from configs import mnist_conv

_EPOCH = 45_000 // 64


def get_config() -> ml_collections.ConfigDict:
  """mnist_conv's config with CIFAR-10 and a five-layer conv net."""
  config = mnist_conv.get_config()
  config.dataset = 'cifar10'
  config.network = 'cifar10_conv'
  config.learning_rate = (0.05,)
  config.batch_size = 64
  config.steps = 10 * _EPOCH
  config.chunk_steps = _EPOCH
  return config
