"""Does Adam on ∂L/∂φ weaken Powerprop? The slope before Adam, and after it.

The paper argues that it does (section 2) and shows it in an appendix that could
not be had: learning rates, steps and seeds are defaults of ours. Both learning
rates are shown, none is chosen.

  python -m experiments.one_shot --config=configs/naive_adam.py

Time and numbers to expect: docs/results/naive_adam.
"""

import ml_collections

from configs import fig1_mnist


def get_config() -> ml_collections.ConfigDict:
  """Figure 1's net and pruning, with Adam under both transformations."""
  config = fig1_mnist.get_config()
  config.optimizer = 'adam'
  config.learning_rate = (3e-4, 1e-3)
  config.transforms = ('powerprop', 'chain_rule')
  config.alphas = (1.0, 2.0, 4.0)
  config.seeds = 3
  config.steps = 20_000
  return config
