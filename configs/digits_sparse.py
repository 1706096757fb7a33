"""Every method on scikit-learn's digits: 95% sparse, ERK, no download.

All methods at α = 1 and 2 with five seeds; the tests run it smaller. Time and
numbers to expect: docs/results.

  python -m experiments.sparse_training --config=configs/digits_sparse.py
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Every field of the experiment; all values are defaults of ours."""
  return ml_collections.ConfigDict(
    {
      'dataset': 'digits',
      'network': 'mlp',
      'network_kwargs': {'hidden': (300, 100)},
      'optimizer': 'sgd',
      'optimizer_kwargs': {'momentum': 0.9},
      'learning_rate': (0.03,),
      'learning_rate_schedule': {'kind': 'constant'},
      'l2': 1e-4,
      'label_smoothing': 0.0,
      'augment': 'none',
      'transforms': ('powerprop',),
      'transform_kwargs': {},
      'alphas': (1.0, 2.0),
      'seeds': 5,
      'steps': 1_000,
      'batch_size': 60,
      'methods': (
        'dense',
        'one_shot',
        'fine_tune',
        'lottery',
        'iterative',
        'static',
        'snip',
        'set',
        'rigl',
        'snfs',
        'dsr',
        'top_kast',
        'ac_dc',
      ),
      'method_kwargs': {
        'iterative': {'every': 50},
        'set': {'every': 50},
        'rigl': {'every': 50},
        'snfs': {'every': 50},
        'dsr': {'every': 50},
        'top_kast': {'backward_density': 1.0},
      },
      'densities': (0.05,),
      'distributions': ('erk',),
      'layer_densities': (),
      'exclude': (),
      'patterns': (),
      'training_multiplier': 1.0,
      'executor': 'auto',
      'chunk_steps': 250,
      'checkpoint_seconds': 30.0,
      'near_zero': 0.01,
    }
  )
