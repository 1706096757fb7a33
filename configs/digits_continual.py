"""The demo of continual learning: permuted digits, 10 tasks, no download.

EfficientPackNet at α = 1 and 2 against naive fine-tuning and EWC, two seeds.
All values are defaults of ours; time and numbers to expect: docs/results.

  python -m experiments.continual --config=configs/digits_continual.py
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Every field of the experiment; all values are defaults of ours."""
  return ml_collections.ConfigDict(
    {
      'dataset': 'digits',
      'sequence': 'permuted',
      'scenario': 'domain',
      'num_tasks': 10,
      'epochs': 30.0,
      'retrain_epochs': 0.0,
      'network': 'mlp',
      'network_kwargs': {'hidden': (300, 100)},
      'optimizer': 'adam',
      'optimizer_kwargs': {},
      'learning_rate': (0.001,),
      'learning_rate_schedule': {'kind': 'constant'},
      'l2': 0.0,
      'label_smoothing': 0.0,
      'augment': 'none',
      'clip_norm': 0.0,
      'reset_optimizer': False,
      'transforms': ('powerprop',),
      'transform_kwargs': {},
      'alphas': (1.0, 2.0),
      'seeds': 2,
      'batch_size': 60,
      'methods': ('naive', 'ewc', 'efficient_packnet'),
      'method_kwargs': {
        'ewc': {'coefficient': (150.0, 15.0, 1500.0)},
        'efficient_packnet': {'gamma': 0.9},
      },
      'method_training': {
        'efficient_packnet': {
          'network_kwargs': {'init_scale': 0.2},
          'optimizer': 'sgd',
          'optimizer_kwargs': {'momentum': 0.9},
          'learning_rate': (0.1,),
          'learning_rate_schedule': {'kind': 'cosine'},
          'clip_norm': 1.0,
          'reset_optimizer': True,
          'retrain_epochs': 15.0,
        },
      },
      'search_tasks': 3,
      'search_seeds': 1,
      'evaluate_every': 1,
      'forward_transfer': True,
      'retries': 2,
      'retry_factor': 0.3,
      'failure_accuracy': 0.2,
      'executor': 'auto',
      'chunk_steps': 1_000,
      'checkpoint_seconds': 30.0,
    }
  )
