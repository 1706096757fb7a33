"""Figure 2 of the paper on CIFAR-10: one-shot pruning of a small AlexNet.

α × learning rate × 5 seeds, trained densely and pruned once, without training
again. The rate of every α is chosen on validation accuracy. For a GPU: a net
takes 39,000 steps, and there are 75 of them. What of it was run:
docs/results.

  python -m experiments.sparse_training --config=configs/fig2_cifar10.py
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Source of values: the paper for seeds, method and data; else guesses.

  The paper's small AlexNet, learning rates, schedule and α could not be had:
  what is here are defaults of ours.
  """
  return ml_collections.ConfigDict(
    {
      'dataset': 'cifar10',
      'network': 'small_alexnet',
      'network_kwargs': {},
      'optimizer': 'sgd',
      'optimizer_kwargs': {'momentum': 0.9},
      'learning_rate': (0.01, 0.03, 0.1),
      'learning_rate_schedule': {'kind': 'cosine', 'warmup': 1_000},
      'l2': 1e-4,
      'label_smoothing': 0.0,
      'augment': 'crop_flip',
      'transforms': ('powerprop',),
      'transform_kwargs': {},
      'alphas': (1.0, 1.5, 2.0, 3.0, 4.0),
      'seeds': 5,
      'steps': 39_000,
      'batch_size': 128,
      'methods': ('dense', 'one_shot'),
      'method_kwargs': {},
      'densities': tuple(0.01 ** (i / 15) for i in range(16)),
      'distributions': ('uniform', 'global'),
      'layer_densities': (),
      'exclude': (),
      'patterns': (),
      'training_multiplier': 1.0,
      'executor': 'auto',
      'chunk_steps': 500,
      'checkpoint_seconds': 60.0,
      'near_zero': 0.01,
    }
  )
