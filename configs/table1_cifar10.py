"""Table 1 of the paper on CIFAR-10 instead of ImageNet: WRN-22-2, all methods.

50 to 95% sparsity, ERK, 3 seeds, with and without Powerprop. For a GPU: a net
takes 97,656 steps. What of it was run: docs/results.

  python -m experiments.sparse_training --config=configs/table1_cifar10.py
"""

import ml_collections

_WINDOW = {'begin': 0, 'end': 75_000, 'every': 100, 'fraction': 0.3}


def get_config() -> ml_collections.ConfigDict:
  """Source of values: RigL's CIFAR-10 protocol; α are defaults of ours.

  Deviations: the protocol's code standardises each picture, this net normalises
  what comes out of its first convolution; iterative pruning's window has the
  proportions of the one on ImageNet. Nets run one after the other: convolutions
  with many kernels at once are slow.
  """
  return ml_collections.ConfigDict(
    {
      'dataset': 'cifar10',
      'network': 'wide_resnet',
      'network_kwargs': {},
      'optimizer': 'sgd',
      'optimizer_kwargs': {'momentum': 0.9, 'nesterov': True},
      'learning_rate': (0.1,),
      'learning_rate_schedule': {
        'kind': 'piecewise',
        'boundaries': (30_000, 60_000, 90_000),
        'factor': 0.2,
      },
      'l2': 5e-4,
      'label_smoothing': 0.0,
      'augment': 'reflect_crop_flip',
      'transforms': ('powerprop',),
      'transform_kwargs': {},
      'alphas': (1.0, 1.25, 1.5, 2.0),
      'seeds': 3,
      'steps': 97_656,
      'batch_size': 128,
      'methods': (
        'dense',
        'static',
        'snip',
        'set',
        'dsr',
        'snfs',
        'rigl',
        'iterative',
        'top_kast',
        'top_kast_half',
      ),
      'method_kwargs': {
        **dict.fromkeys(('set', 'snfs', 'rigl'), _WINDOW),
        'dsr': {**_WINDOW, 'begin': 100},
        'iterative': {'begin': 30_000, 'end': 75_000, 'every': 1_000},
        'top_kast': {'backward_density': 1.0},
        'top_kast_half': {'method': 'top_kast', 'backward_density': 0.5},
      },
      'densities': (0.5, 0.2, 0.1, 0.05),
      'distributions': ('erk',),
      'layer_densities': (),
      'exclude': (),
      'patterns': (),
      'training_multiplier': 1.0,
      'executor': 'map',
      'chunk_steps': 500,
      'checkpoint_seconds': 60.0,
      'near_zero': 0.01,
    }
  )
