"""Figure 2 (b and c) of the paper: ResNet-50 on ImageNet, pruned once.

Trained densely, with and without Powerprop, and pruned without training again:
the paper has gains of up to 18 points at some sparsities, and the density of
the 100,000 smallest weights. Not run. A net is what it is in table1_imagenet;
there are nine.

  python -m experiments.sparse_training --config=configs/fig2_imagenet.py

The paper prints neither α nor learning rates, and says that α needs a schedule
of its own: both are swept, and chosen on validation accuracy.
"""

import ml_collections

from configs import table1_imagenet


def get_config() -> ml_collections.ConfigDict:
  """table1_imagenet, dense; rates and α are guesses.

  One seed, as the paper shows: repeated runs, it says, are almost identical.
  """
  config = table1_imagenet.get_config()
  config.methods = ('dense', 'one_shot')
  config.method_kwargs = {}
  config.learning_rate = (0.4, 0.8, 1.6)
  config.alphas = (1.0, 1.25, 1.5)
  config.seeds = 1
  config.densities = tuple(0.01 ** (i / 15) for i in range(16))
  config.distributions = ('uniform', 'global')
  return config
