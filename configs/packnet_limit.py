"""Where PackNet breaks: permuted digits, PackNet planned for more and more T.

PackNet gives each of T tasks 1/T of the weights; on 300 tasks that is 0.33%,
which is too little for one (the paper, section 6.3.1). Here only the first 10
tasks of a plan for T are learned, for T = 10, 30, 100 and 300, and beside it
EfficientPackNet, which needs no plan.

  python -m experiments.continual --config=configs/packnet_limit.py
"""

import ml_collections

from configs import digits_continual


def get_config() -> ml_collections.ConfigDict:
  """digits_continual with PackNet planned for several numbers of tasks."""
  config = digits_continual.get_config()
  planned = (10, 30, 100, 300)
  with config.ignore_type():
    recipe = config.method_training.efficient_packnet.to_dict()
    config.seeds = 3
    config.methods = (
      *(f'packnet_{t}' for t in planned),
      'efficient_packnet',
    )
    config.method_kwargs = {
      'efficient_packnet': {'gamma': 0.9},
      **{f'packnet_{t}': {'method': 'packnet', 'planned': t} for t in planned},
    }
    config.labels = {f'packnet_{t}': f'PackNet, T = {t}' for t in planned}
    config.method_training = dict.fromkeys(config.methods, recipe)
  return config
