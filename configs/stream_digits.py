"""Change points: 10 permuted tasks of digits, which nobody announces.

EfficientPackNet at α = 2, which finds the changes by its loss, against the same
with known boundaries. No download; all values are ours. Three seeds took 99 s
on two cores of a 2.8 GHz Xeon; expect 92.7% with either, and all 9 changes
found (docs/results/stream_digits). Unequal lengths: --config.unequal; tasks
that come back: --config.returns=5. 20 tasks, 182 s, 93.2% (stream_digits_20):
--config.num_tasks=20 --config.unequal --config.returns=10

  python -m experiments.stream --config=configs/stream_digits.py
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Every field of the experiment; all values are defaults of ours."""
  return ml_collections.ConfigDict(
    {
      'dataset': 'digits',
      'sequence': 'permuted',
      'num_tasks': 10,
      'epochs': 20.0,
      'retrain_epochs': 10.0,
      'network': 'mlp',
      'network_kwargs': {'hidden': (300, 100), 'init_scale': 0.2},
      'optimizer': 'sgd',
      'optimizer_kwargs': {'momentum': 0.9},
      'learning_rate': (0.1,),
      'l2': 0.0,
      'label_smoothing': 0.0,
      'augment': 'none',
      'clip_norm': 1.0,
      'reset_optimizer': True,
      'transforms': ('powerprop',),
      'transform_kwargs': {},
      'alphas': (2.0,),
      'seeds': 3,
      'batch_size': 60,
      'methods': ('efficient_packnet',),
      # With earlier tasks' weights in the first layer 20 cannot be learned.
      'method_kwargs': {
        'efficient_packnet': {'gamma': 0.9, 'without': ('hidden_0',)}
      },
      'window': 10,
      'hazard': 500.0,
      'threshold': 0.95,
      'boundaries': ('known', 'detected'),
      'order': (),
      'returns': 0,
      'lengths': (),
      'unequal': False,
      'recognise': 0.5,
      'checkpoint_seconds': 30.0,
    }
  )
