"""The plan of ResNet-50 on ImageNet: Table 1's methods, and their FLOPs.

Nothing is trained. The numbers: docs/results.

  python -m experiments.plan --config=configs/plan_resnet50.py
"""

import ml_collections

_WINDOW = {'begin': 0, 'end': 25_000, 'every': 100, 'fraction': 0.3}


def get_config() -> ml_collections.ConfigDict:
  """Source of values: RigL's ImageNet protocol, 32,000 steps."""
  return ml_collections.ConfigDict(
    {
      'network': 'resnet50',
      'network_kwargs': {},
      'num_classes': 1_000,
      'image_shape': (224, 224, 3),
      'steps': 32_000,
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
        'top_kast_half',
        'ac_dc',
      ),
      'method_kwargs': {
        **dict.fromkeys(('set', 'snfs', 'rigl'), _WINDOW),
        'dsr': {**_WINDOW, 'begin': 100},
        'iterative': {'begin': 10_000, 'end': 25_000, 'every': 1_000},
        'top_kast': {'backward_density': 1.0},
        'top_kast_half': {'method': 'top_kast', 'backward_density': 0.5},
      },
      'densities': (0.2, 0.1, 0.05),
      'distributions': ('uniform', 'erdos_renyi', 'erk', 'global'),
      'layer_densities': (),
      'exclude': (),
      'patterns': (),
      'training_multiplier': 1.0,
    }
  )
