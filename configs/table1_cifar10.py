"""Table 1 of the paper on CIFAR-10 instead of ImageNet: WRN-22-2, all methods.

50 to 95% sparsity, 3 seeds, with and without Powerprop, each method twice: all
layers equally sparse, and ERK. For a GPU: a net takes 97,656 steps. What of it
was run: docs/results.

  python -m experiments.sparse_training --config=configs/table1_cifar10.py

Which of its settings are whose:

* RigL's paper (section 4.3): WRN-22-2, steps, batch, learning rate, momentum,
  L2, masks changed every 100 steps until 75,000, drop fraction 0.3 falling as a
  cosine, ERK, 3 seeds.
* RigL's public code (rigl/cifar_resnet), by default: Nesterov's momentum, the
  stem dense, the output layer sparse, dropout 0.3; iterative pruning from
  20,000 to 75,000 every 1,000, with one target for all layers ("uniform" here).
  Its other defaults are WRN-16-4, a constant drop fraction and, for all
  methods, uniform; ERK (erdos_renyi) and a sparse stem are on request.
* Ours: α; DSR and Top-KAST, which it has not; regrowth for α > 1; He's
  initialisation; 45,000 pictures to learn from, not 50,000, as 5,000 choose α.
  Their code standardises each picture; this net normalises what comes out of
  its stem.
"""

import ml_collections

_WINDOW = {'begin': 0, 'end': 75_000, 'every': 100, 'fraction': 0.3}


def get_config() -> ml_collections.ConfigDict:
  """Source of values: RigL's CIFAR-10 protocol, as said above.

  Nets run one after the other: convolutions with many kernels at once are slow.
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
        'iterative': {'begin': 20_000, 'end': 75_000, 'every': 1_000},
        'top_kast': {'backward_density': 1.0},
        'top_kast_half': {'method': 'top_kast', 'backward_density': 0.5},
      },
      'densities': (0.5, 0.2, 0.1, 0.05),
      'distributions': ('uniform', 'erk'),
      'layer_densities': (),
      'exclude': ('^conv/w',),  # the stem
      'patterns': (),
      'training_multiplier': 1.0,
      'executor': 'map',
      'chunk_steps': 500,
      'checkpoint_seconds': 60.0,
      'near_zero': 0.01,
    }
  )
