"""Table 1 of the paper, small: a conv net on CIFAR-10 at 95% sparsity.

Dense, static, iterative, RigL and Top-KAST, each with and without Powerprop,
3 seeds; α and the learning rate, of five for every method and α, are chosen on
validation accuracy, so that Powerprop, of two α, has ten candidates where its
baseline has five. Nets are measured with averages of their own in the batch
normalisation. Numbers and time: docs/results.

  python -m experiments.sparse_training --config=configs/table1_cifar10_small.py
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """All values are defaults of ours but those of the methods."""
  return ml_collections.ConfigDict(
    {
      'dataset': 'cifar10',
      'network': 'small_conv',
      'network_kwargs': {},
      'optimizer': 'sgd',
      'optimizer_kwargs': {'momentum': 0.9},
      'learning_rate': (0.025, 0.05, 0.1, 0.2, 0.4),
      'learning_rate_schedule': {'kind': 'cosine', 'warmup': 200},
      'l2': 5e-4,
      'label_smoothing': 0.0,
      'average_examples': 2_000,
      'augment': 'crop_flip',
      'transforms': ('powerprop',),
      'transform_kwargs': {},
      'alphas': (1.0, 1.25, 1.5),
      'seeds': 3,
      'steps': 3_500,
      'batch_size': 64,
      'methods': ('dense', 'static', 'iterative', 'rigl', 'top_kast'),
      'method_kwargs': {
        'iterative': {'begin': 1_000, 'end': 2_600, 'every': 100},
        'rigl': {'begin': 0, 'end': 2_600, 'every': 100},
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
      'checkpoint_seconds': 60.0,
      'near_zero': 0.01,
    }
  )
