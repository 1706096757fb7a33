"""EfficientPackNet's parts, one at a time, on 10 permuted digits tasks.

γ; linear, binary and Taylor search; free weights drawn anew or left; reuse of
earlier tasks' weights or not; retraining or not; what happens to biases.

  python -m experiments.continual --config=configs/epn_ablation.py
"""

from typing import Any

import ml_collections

from configs import digits_continual


def get_config() -> ml_collections.ConfigDict:
  """digits_continual with EfficientPackNet alone, in 11 variants."""
  config = digits_continual.get_config()
  base: dict[str, Any] = {'method': 'efficient_packnet', 'gamma': 0.9}
  variants: dict[str, dict[str, Any]] = {
    'epn': {},
    'gamma_80': {'gamma': 0.8},
    'gamma_95': {'gamma': 0.95},
    'gamma_99': {'gamma': 0.99},
    'binary': {'search': 'binary'},
    'taylor': {'search': 'taylor', 'compare': True},
    'leave': {'reinitialise': False},
    'no_reuse': {'reuse': False},
    'retrain': {},
    'per_task_biases': {'biases': 'per_task'},
    'free_biases': {'biases': 'free'},
  }
  with config.ignore_type():
    recipe = config.method_training.efficient_packnet.to_dict()
    config.seeds = 3
    config.methods = tuple(variants)
    config.method_kwargs = {n: base | v for n, v in variants.items()}
    config.method_training = {
      n: recipe | {'retrain_epochs': 15.0 if n == 'retrain' else 0.0}
      for n in variants
    }
    config.forward_transfer = False
    config.labels = {
      'epn': 'EfficientPackNet, γ = 0.9',
      'gamma_80': 'γ = 0.8',
      'gamma_95': 'γ = 0.95',
      'gamma_99': 'γ = 0.99',
      'binary': 'binary search',
      'taylor': 'Taylor search',
      'leave': 'free weights left',
      'no_reuse': 'no reuse',
      'retrain': 'retrained',
      'per_task_biases': 'biases per task',
      'free_biases': 'free biases',
    }
  return config
