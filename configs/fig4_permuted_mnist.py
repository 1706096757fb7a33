"""Figure 4: up to 300 tasks of permuted MNIST in one net, one α a run.

EfficientPackNet on all tasks, as published (γ = 0.9) and with a lower γ and a
retraining under each mask, which takes fewer weights; EWC, its online version
(the paper's Laplace) and SI on the first 51. The paper: about 86% average
accuracy after 300 tasks, Laplace 85.61% after 51. α: 1, 1.25, 1.5, 2, 3, as far
as training is stable; the paper does not say which it has.

  python -m experiments.continual --config=configs/fig4_permuted_mnist.py \
    --config.alphas="(1.5,)"

10 seeds at 10 epochs a task are 2.2e16 floating-point operations for one α and
method: for a GPU. On a CPU (docs/results): --config.seeds=1 --config.epochs=1
--config.method_training.epn_retrained.retrain_epochs=0.5
"""

from typing import Any

import ml_collections

# Our recipe for EfficientPackNet: moments anew for each task, small weights.
RECIPE: dict[str, Any] = {
  'network_kwargs': {'init_scale': 0.05, 'with_bias': False},
  'optimizer': 'sgd',
  'optimizer_kwargs': {'momentum': 0.9},
  'learning_rate': (0.1,),
  'learning_rate_schedule': {'kind': 'cosine'},
  'clip_norm': 1.0,
  'reset_optimizer': True,
}
# Shares of the weights that are kept, in steps of 2.5% from 0.1% to 98%.
RATES = tuple(round(0.001 * 1.025**i, 7) for i in range(280))
# With a retraining the search may ask for less, which takes fewer weights. The
# rest is a guess (docs/results has the pilots): what is never changed again is
# noise to all later tasks, which have to outdo it. L2 keeps it small; larger
# steps and each task's own biases (2,010 numbers) are to learn in spite of it.
RETRAINED: dict[str, Any] = {
  'method': 'efficient_packnet',
  'gamma': 0.85,
  'search': 'binary',
  'rates': RATES,
  'biases': 'per_task',
}
RETRAINED_RECIPE: dict[str, Any] = RECIPE | {
  'network_kwargs': {'init_scale': 0.05},
  'learning_rate': (0.3,),
  'l2': 3e-4,
}


def get_config() -> ml_collections.ConfigDict:
  """Tasks, net, batch, epochs and rivals: Hsu et al. 2018, which it follows.

  EfficientPackNet's γ and number of tasks are the paper's. It gives neither
  optimiser nor rates nor initialisation nor whether to retrain: those here are
  ours, and how many tasks fit depends on them (docs/continual_learning.md).
  """
  return ml_collections.ConfigDict(
    {
      'dataset': 'mnist',
      'sequence': 'permuted',
      'scenario': 'domain',
      'num_tasks': 300,
      'epochs': 10.0,
      'retrain_epochs': 0.0,
      'network': 'mlp',
      'network_kwargs': {'hidden': (1000, 1000)},
      'optimizer': 'adam',
      'optimizer_kwargs': {},
      'learning_rate': (1e-4,),
      'learning_rate_schedule': {'kind': 'constant'},
      'l2': 0.0,
      'label_smoothing': 0.0,
      'augment': 'none',
      'clip_norm': 0.0,
      'reset_optimizer': False,
      'transforms': ('powerprop',),
      'transform_kwargs': {},
      'alphas': (1.5,),
      'seeds': 10,
      'batch_size': 128,
      'methods': (
        'efficient_packnet',
        'epn_retrained',
        'online_ewc',
        'ewc',
        'si',
      ),
      'method_kwargs': {
        'efficient_packnet': {
          'gamma': 0.9,
          'search': 'binary',
          'rates': RATES,
        },
        'epn_retrained': RETRAINED,
      },
      'labels': {'epn_retrained': 'EfficientPackNet, retrained'},
      'method_training': {
        'efficient_packnet': RECIPE | {'evaluate_every': 50},
        'epn_retrained': RETRAINED_RECIPE
        | {'evaluate_every': 50, 'retrain_epochs': 5.0},
        'online_ewc': {'num_tasks': 51, 'alphas': (1.0,)},
        'ewc': {'num_tasks': 51, 'alphas': (1.0,)},
        'si': {'num_tasks': 51, 'alphas': (1.0,)},
      },
      'search_tasks': 3,
      'search_seeds': 1,
      'evaluate_every': 10,
      'forward_transfer': False,
      'retries': 2,
      'retry_factor': 0.3,
      'failure_accuracy': 0.2,
      'executor': 'auto',
      'chunk_steps': 429,
      'checkpoint_seconds': 60.0,
    }
  )
