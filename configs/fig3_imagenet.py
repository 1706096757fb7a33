"""Figure 3 of the paper: ResNet-50 on ImageNet at 95 to 99% sparsity.

Iterative pruning and Top-KAST, with and without Powerprop. Not run. A net is
what it is in table1_imagenet; there are 20 for each seed.

  python -m experiments.sparse_training --config=configs/fig3_imagenet.py
"""

import ml_collections

from configs import table1_imagenet


def get_config() -> ml_collections.ConfigDict:
  """table1_imagenet, sparser, with two of its methods; ERK is a guess.

  The stem is dense, as RigL has it at 99%.
  """
  config = table1_imagenet.get_config()
  config.methods = ('iterative', 'top_kast')
  kwargs = config.method_kwargs
  config.method_kwargs = {name: kwargs[name] for name in config.methods}
  config.densities = (0.05, 0.04, 0.03, 0.02, 0.01)
  config.distributions = ('erk',)
  config.exclude = ('^conv/w',)
  return config
