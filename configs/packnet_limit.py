"""Where PackNet breaks: permuted digits, PackNet planned for more and more T.

PackNet gives each of T tasks 1/T of the weights: of every layer, as published,
or the largest of all layers together, which is ours. On 300 tasks that is
0.33%, which the paper calls too little (section 6.3.1); here it is the quota of
each layer that is. Only the first 10 tasks of a plan for T are learned, for T =
10, 30, 100 and 300, and beside it EfficientPackNet, which needs no plan.
Numbers: docs/results/packnet_limit.

  python -m experiments.continual --config=configs/packnet_limit.py
"""

from typing import Any

import ml_collections

from configs import digits_continual


def get_config() -> ml_collections.ConfigDict:
  """digits_continual with PackNet planned for several numbers of tasks."""
  config = digits_continual.get_config()
  planned = (10, 30, 100, 300)
  with config.ignore_type():
    recipe = config.method_training.efficient_packnet.to_dict()
    config.seeds = 3
    kwargs: dict[str, dict[str, Any]] = {}
    labels: dict[str, str] = {}
    for t in planned:
      name, mine = f'packnet_{t}', {'method': 'packnet', 'planned': t}
      kwargs |= {
        name: mine,
        f'{name}_global': mine | {'distribution': 'global'},
      }
      labels |= {
        name: f'PackNet, T = {t}',
        f'{name}_global': f'PackNet, T = {t}, global',
      }
    config.methods = (*kwargs, 'efficient_packnet')
    config.method_kwargs = kwargs | {'efficient_packnet': {'gamma': 0.9}}
    config.labels = labels
    config.method_training = dict.fromkeys(config.methods, recipe)
  return config
