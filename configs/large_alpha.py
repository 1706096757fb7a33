"""Why a large α diverges with momentum, and what prevents it: four ways.

A step of θ is about Ψ'(φ)² = α²|θ|^(2−2/α) times what the optimiser asks for:
below 1 for small weights, above it for large ones, which so grow unstable at a
rate that α = 1 bears. Beside Powerprop as published: the gradient's norm
clipped; the slope bounded, min(Ψ', 1); the slope over its layer's mean at the
start; and the step of θ bounded, `powerprop(step_bound=1)`. All are dense
trainings, pruned once to 10%. On three nets:

  python -m experiments.sparse_training --config=configs/large_alpha.py
  python -m experiments.sparse_training --config=configs/large_alpha.py \
    --config.network_kwargs.norm=False --workdir=runs/large_alpha_conv_plain
  python -m experiments.sparse_training --config=configs/large_alpha.py \
    --config.dataset=mnist --config.network=mlp --config.network_kwargs="{}" \
    --config.augment=none --workdir=runs/large_alpha_mlp
"""

import ml_collections

from configs import table1_cifar10_small


def get_config() -> ml_collections.ConfigDict:
  """table1_cifar10_small's net and data; all values are defaults of ours."""
  config = table1_cifar10_small.get_config()
  tried = 'benchmarks.slopes:'
  with config.ignore_type(), config.unlocked():
    config.network_kwargs = {'norm': True}
    config.learning_rate = (0.03, 0.1, 0.3, 1.0)
    config.learning_rate_schedule = {'kind': 'constant'}
    config.l2 = 0.0
    config.transforms = (
      'powerprop',
      tried + 'clipped',
      tried + 'bounded_slope',
      tried + 'normalised_slope',
      'bounded_step',
    )
    config.transform_kwargs = {
      'bounded_step': {'transform': 'powerprop', 'step_bound': 1.0}
    }
    config.labels = {
      'clipped': 'gradient clipped to norm 1',
      'bounded_slope': 'slope bounded by 1',
      'normalised_slope': "slope over its layer's first mean",
      'bounded_step': 'step_bound = 1',
    }
    config.alphas = (1.0, 2.0, 3.0)
    config.seeds = 2
    config.steps = 1_000
    config.methods = ('dense', 'one_shot')
    config.method_kwargs = {}
    config.densities = (1.0, 0.1)
    config.distributions = ('uniform',)
    config.average_examples = 2_000
  return config
