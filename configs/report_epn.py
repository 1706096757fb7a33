"""The adaptive-powerpropagation report's section 4: EPN with one rate.

Three tasks of permuted MNIST at the single rate 0.2, α = 1 and 1.5. The report
says "marginally better accuracy" with α = 1.5 and gives no numbers, no net and
no training: those are fig4_permuted_mnist's.

  python -m experiments.continual --config=configs/report_epn.py
"""

import ml_collections

from configs import fig4_permuted_mnist


def get_config() -> ml_collections.ConfigDict:
  """fig4_permuted_mnist with three tasks and one rate."""
  config = fig4_permuted_mnist.get_config()
  with config.ignore_type():
    config.num_tasks = 3
    config.epochs = 2.0
    config.seeds = 3
    config.alphas = (1.0, 1.5)
    config.methods = ('efficient_packnet',)
    config.method_kwargs.efficient_packnet = {
      'gamma': 0.9,
      'search': 'linear',
      'rates': (0.2,),
    }
    config.method_training.efficient_packnet.evaluate_every = 1
    config.forward_transfer = True
  return config
