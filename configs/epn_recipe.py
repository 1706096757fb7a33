"""What the recipe is worth: 15 tasks of permuted MNIST, one part changed each.

The retrained EfficientPackNet of fig4_permuted_mnist at 1 epoch a task, in a
net of 400 and 400 units, and then with one of its parts another. Most variants
are within Algorithm 1; `without` and `trial` are not: there a new task does
without earlier tasks' weights of one layer. `tied` draws large weights anew.
Watch the accuracy before pruning from task to task, and the share in use. Some
variants take more steps: the table says how many.

  python -m experiments.continual --config=configs/epn_recipe.py
"""

from typing import Any

import ml_collections

from configs import fig4_permuted_mnist


def get_config() -> ml_collections.ConfigDict:
  """fig4_permuted_mnist with 15 tasks and EfficientPackNet alone."""
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
    'alpha_1': ({'alphas': (1.0,)}, {}),
    'alpha_125': ({'alphas': (1.25,)}, {}),
    'init_scale_1': ({'network_kwargs': {'init_scale': 1.0}}, {}),
    'adam': (adam, {}),
    'no_l2': ({'l2': 0.0}, {}),
    'no_clipping': ({'clip_norm': 0.0}, {}),
    'small_steps': ({'learning_rate': (0.1,)}, {}),
    'large_steps': ({'learning_rate': (1.0,)}, {}),
    'three_epochs': ({'epochs': 3.0, 'retrain_epochs': 1.5}, {}),
    'shared_biases': ({}, {'biases': 'frozen'}),
    'coarse_rates': ({}, {'rates': coarse}),
    'not_retrained': ({'retrain_epochs': 0.0}, {}),
    'tied': ({}, {'fresh_scale': 0.1}),
    'without': ({}, {'without': ('hidden_0',)}),
    'trial': ({}, {'without': ('.',), 'trial_steps': 50}),
  }
  with config.ignore_type():
    config.network_kwargs = {'hidden': (400, 400)}
    config.num_tasks = 15
    config.epochs = 1.0
    config.seeds = 3
    config.methods = tuple(variants)
    config.method_training = {n: recipe | v[0] for n, v in variants.items()}
    config.method_kwargs = {n: kwargs | v[1] for n, v in variants.items()}
    config.labels = {
      'recipe': 'the recipe, α = 1.5',
      'alpha_1': 'α = 1',
      'alpha_125': 'α = 1.25',
      'init_scale_1': 'initial variance 20 times',
      'adam': 'Adam 1e-3',
      'no_l2': 'no L2',
      'no_clipping': 'no clipping',
      'small_steps': 'rate 0.1',
      'large_steps': 'rate 1.0',
      'three_epochs': '3 epochs',
      'shared_biases': "the first task's biases",
      'coarse_rates': 'coarse rates',
      'not_retrained': 'not retrained',
      'tied': 'fresh weights a tenth of those in use',
      'without': 'without earlier first weights',
      'trial': 'without a layer that a trial chooses',
    }
    config.evaluate_every = 5
  return config
