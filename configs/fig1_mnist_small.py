"""Figure 1 in at most 3 minutes on 2 CPU cores: 3 seeds, 10,000 steps.

  python -m experiments.one_shot --config=configs/fig1_mnist_small.py

The networks are trained a fifth as long as the paper's; all else is the same.
"""

import ml_collections

from configs import fig1_mnist


def get_config() -> ml_collections.ConfigDict:
  """Figure 1's config, shorter."""
  config = fig1_mnist.get_config()
  config.seeds = 3
  config.steps = 10_000
  return config
