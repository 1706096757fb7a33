"""Figure 4 by Algorithm 1 as it is printed, on a CPU, as far as 100 tasks.

EfficientPackNet with a dense forward pass and without a retraining, γ = 0.9, at
α = 1 and 1.5, in the net and with the optimiser of fig4_permuted_mnist, one
epoch a task instead of 10. It is what fig4_without is to be laid beside.

  python -m experiments.continual --config=configs/fig4_published.py

Not run yet; a guess is 50 minutes on two idle cores.
"""

import ml_collections

from configs import fig4_permuted_mnist


def get_config() -> ml_collections.ConfigDict:
  """fig4_permuted_mnist with EfficientPackNet as published alone."""
  config = fig4_permuted_mnist.get_config()
  with config.ignore_type():
    config.num_tasks = 100
    config.epochs = 1.0
    config.seeds = 2
    config.alphas = (1.0, 1.5)
    config.methods = ('efficient_packnet',)
    config.labels = {}
  return config
