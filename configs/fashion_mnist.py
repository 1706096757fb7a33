"""Figure 1's experiment on Fashion-MNIST, all settings unchanged.

The paper does not have it. As long as fig1_mnist.

  python -m experiments.one_shot --config=configs/fashion_mnist.py
"""

import ml_collections

from configs import fig1_mnist


def get_config() -> ml_collections.ConfigDict:
  """Figure 1's config on another data set."""
  config = fig1_mnist.get_config()
  config.dataset = 'fashion_mnist'
  return config
