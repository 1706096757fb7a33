"""Why a large α diverges with momentum, and what prevents it: four ways.

A step of θ is about Ψ'(φ)² = α²|θ|^(2−2/α) times what the optimiser asks for:
below 1 for small weights, above it for large ones, which so grow unstable at a
rate that α = 1 bears. Beside Powerprop as published: the gradient's norm
clipped; the slope bounded, min(Ψ', 1); the slope over its layer's mean at the
start; and the step of θ bounded, `powerprop(step_bound=1)`. All are dense
trainings, pruned once to 10%. On three nets:

  python -m experiments.sparse_training --config=configs/large_alpha.py
  python -m experiments.sparse_training --config=configs/large_alpha.py \
    --config.network_kwargs.norm=False
  python -m experiments.sparse_training --config=configs/large_alpha.py \
    --config.dataset=mnist --config.network=mlp --config.network_kwargs="{}" \
    --config.augment=none
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """All values are defaults of ours."""
  tried = 'benchmarks.slopes:'
  return ml_collections.ConfigDict(
    {
      'dataset': 'cifar10',
      'network': 'small_conv',
      'network_kwargs': {'norm': True},
      'optimizer': 'sgd',
      'optimizer_kwargs': {'momentum': 0.9},
      'learning_rate': (0.03, 0.1, 0.3, 1.0),
      'learning_rate_schedule': {'kind': 'constant'},
      'l2': 0.0,
      'label_smoothing': 0.0,
      'augment': 'crop_flip',
      'transforms': (
        'powerprop',
        tried + 'clipped',
        tried + 'bounded_slope',
        tried + 'normalised_slope',
        'bounded_step',
      ),
      'transform_kwargs': {
        'bounded_step': {'transform': 'powerprop', 'step_bound': 1.0}
      },
      'labels': {
        'clipped': 'gradient clipped to norm 1',
        'bounded_slope': 'slope bounded by 1',
        'normalised_slope': "slope over its layer's first mean",
        'bounded_step': 'step_bound = 1',
      },
      'alphas': (1.0, 2.0, 3.0),
      'seeds': 2,
      'steps': 1_000,
      'batch_size': 64,
      'methods': ('dense', 'one_shot'),
      'method_kwargs': {},
      'densities': (1.0, 0.1),
      'distributions': ('uniform',),
      'layer_densities': (),
      'exclude': (),
      'patterns': (),
      'training_multiplier': 1.0,
      'executor': 'auto',
      'chunk_steps': 250,
      'checkpoint_seconds': 60.0,
      'near_zero': 0.01,
      'average_examples': 2_000,
    }
  )
