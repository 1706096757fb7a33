"""Table 2 of the paper: ResNet-50 on ImageNet, trained for longer.

Twice the steps, with schedule and masks' window stretched alike; the paper's
best is 77.51% at 80% sparsity and 76.94 at 90% (Top-KAST with ERK), RigL has
77.1 and 76.4 at five times. Not run. Twice the time of table1_imagenet.

  python -m experiments.sparse_training --config=configs/table2_imagenet.py

With --config.training_multiplier=3 it is the paper's 3x: 77.64 and 77.16%. What
is called extended in iterative pruning is 1.5 times, with windows of its own:

  python -m experiments.sparse_training --config=configs/table2_imagenet.py \
    --config.methods=iterative --config.training_multiplier=1.5 \
    --config.distributions=uniform --config.densities=0.1
"""

import ml_collections

from configs import table1_imagenet


def get_config() -> ml_collections.ConfigDict:
  """table1_imagenet, twice as long, with three of its methods.

  Iterative pruning extended is RigL's, of 48,000 steps: at 90% it prunes from
  12,500 to 36,000 every 2,000, which here is said for 32,000. (At 80% it ends
  at 40,000, which is --config.method_kwargs.iterative.end=26666.)
  """
  config = table1_imagenet.get_config()
  config.methods = ('rigl', 'iterative', 'top_kast')
  kwargs = config.method_kwargs
  config.method_kwargs = {name: kwargs[name] for name in config.methods}
  config.method_kwargs.iterative = {
    'begin': 8_333,
    'end': 24_000,
    'every': 2_000,
  }
  config.densities = (0.2, 0.1)
  config.distributions = ('erk',)
  config.training_multiplier = 2.0
  return config
