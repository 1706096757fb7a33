r"""The report's adaptive α: a one-hidden-layer net on MNIST.

Fixed α = 1, 1.25, 1.5 and 4, as in the report's section 3.1, and adaptive from
1.25, 1.5 and 4, as in its section 5: α changes every 3 epochs, cr = 1.5,
cd = 0.1. The report's accuracies: 97.64, 97.66, 97.54 and 97.46%. Defaults of
ours, as it does not say: 128 hidden units, SGD 0.1, batch 60, 30 epochs,
ε = 0.01, where α starts.

  python -m experiments.one_shot --config=configs/adaptive_mnist.py

The report's rule has no upper bound, and with these defaults α grows until
training diverges. With our bound it does not:

  python -m experiments.one_shot --config=configs/adaptive_mnist.py \
    --config.transform_kwargs.adaptive_powerprop.max_alpha=4 \
    --workdir=runs/adaptive_mnist_bounded

Time and numbers to expect: docs/results/adaptive_mnist.
"""

import math

import ml_collections

from configs import fig1_mnist

_EPOCH = 55_000 // 60


def get_config() -> ml_collections.ConfigDict:
  """Figure 1's data and pruning with the report's net and transforms."""
  config = fig1_mnist.get_config()
  config.network_kwargs.hidden = (128,)
  config.transforms = ('powerprop', 'adaptive_powerprop')
  config.transform_kwargs = {
    'adaptive_powerprop': {
      'every': 3 * _EPOCH,
      'factor': 1.5,
      'increment': 0.1,
      'epsilon': 0.01,
      'max_alpha': math.inf,
    }
  }
  config.alphas = (1.0, 1.25, 1.5, 4.0)
  config.seeds = 3
  config.steps = 30 * _EPOCH
  config.chunk_steps = _EPOCH
  return config
