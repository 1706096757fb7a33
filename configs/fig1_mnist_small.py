"""Figure 1, short: 3 seeds, 10,000 steps. No record is kept.

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
