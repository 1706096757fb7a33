"""What the recipe does to how many tasks fit: 10 tasks of permuted MNIST.

The retrained EfficientPackNet of fig4_permuted_mnist at 1 epoch a task, and
then with one of its parts another. Watch the share of weights in use, and how
the accuracy before pruning goes with the tasks. Not run yet.

  python -m experiments.continual --config=configs/epn_recipe.py
"""

from typing import Any

import ml_collections

from configs import fig4_permuted_mnist


def get_config() -> ml_collections.ConfigDict:
  """fig4_permuted_mnist with 10 tasks and EfficientPackNet alone."""
  config = fig4_permuted_mnist.get_config()
  kwargs = fig4_permuted_mnist.RETRAINED
  recipe = fig4_permuted_mnist.RETRAINED_RECIPE | {'retrain_epochs': 0.5}
  adam = {
    'optimizer': 'adam',
    'optimizer_kwargs': {},
    'learning_rate': (1e-3,),
  }
  coarse = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
  variants: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    'recipe': ({}, {}),
    'init_scale_1': ({'network_kwargs': {'init_scale': 1.0}}, {}),
    'adam': (adam, {}),
    'no_l2': ({'l2': 0.0}, {}),
    'small_steps': ({'learning_rate': (0.1,)}, {}),
    'shared_biases': ({}, {'biases': 'frozen'}),
    'coarse_rates': ({}, {'rates': coarse}),
    'not_retrained': ({'retrain_epochs': 0.0}, {}),
  }
  with config.ignore_type():
    config.num_tasks = 10
    config.epochs = 1.0
    config.seeds = 1
    config.methods = tuple(variants)
    config.method_training = {n: recipe | v[0] for n, v in variants.items()}
    config.method_kwargs = {n: kwargs | v[1] for n, v in variants.items()}
    config.labels = {}
    config.evaluate_every = 5
  return config
