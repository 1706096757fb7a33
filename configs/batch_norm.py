r"""Pruned nets with batch normalisation: by whose averages they are measured.

A small convolutional net on scikit-learn's digits: pruned once, and pruned 20
steps before the end of training. Every net is measured with averages of its
own, or, by the second command, with those that training left.

  python -m experiments.sparse_training --config=configs/batch_norm.py
  python -m experiments.sparse_training --config=configs/batch_norm.py \
    --config.average_examples=0 --workdir=runs/batch_norm_left

All values are ours. Time and numbers: docs/results.
"""

import ml_collections

from configs import digits_sparse


def get_config() -> ml_collections.ConfigDict:
  """digits_sparse with a convolutional net, and two ways to prune it."""
  config = digits_sparse.get_config()
  with config.ignore_type(), config.unlocked():
    config.network = 'small_conv'
    config.network_kwargs = {'channels': (16, 32), 'hidden': (64,)}
    config.alphas = (1.0, 1.5)
    config.seeds = 3
    config.steps = 400
    config.methods = ('dense', 'one_shot', 'fine_tune')
    config.method_kwargs = {'fine_tune': {'at': 380}}
    config.densities = (0.3, 0.1)
    config.distributions = ('global',)
    config.chunk_steps = 200
    config.average_examples = 2_000
  return config
