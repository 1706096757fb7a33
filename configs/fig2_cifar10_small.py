"""Figure 2(a) of the paper, small: one-shot pruning of a conv net on CIFAR-10.

α × learning rate × 3 seeds, trained densely for 5 epochs and pruned once,
without training again. The rate is chosen on validation accuracy: in the tables
at each sparsity, in the figure of all α for each of them over all sparsities.
Pruned nets are measured with averages of their own in the batch normalisation.
Whether the dense gap between the α closes with the length (docs/results: it
does not): 10 and 20 epochs, with rates up to 0.8, as at high sparsity 0.4 was
at the edge, are

  python -m experiments.sparse_training --config=configs/fig2_cifar10_small.py \
    --config.learning_rate="(0.1,0.2,0.4,0.8)" --config.training_multiplier=2 \
    --workdir=runs/fig2_cifar10_small_10

and 4. The best of several α > 1 has had more candidates than α = 1; each α has
as many. What α = 3 needs is the question of configs/large_alpha.py.
"""

import ml_collections

from configs import fig2_cifar10

_EPOCH = 45_000 // 64


def get_config() -> ml_collections.ConfigDict:
  """fig2_cifar10 with a smaller net and fewer steps; all of it is ours."""
  config = fig2_cifar10.get_config()
  with config.ignore_type():
    config.network = 'small_conv'
    config.network_kwargs = {'channels': (32, 64, 128), 'hidden': (256,)}
    config.learning_rate = (0.05, 0.1, 0.2, 0.4)
    config.learning_rate_schedule = {'kind': 'cosine', 'warmup': 200}
    config.l2 = 5e-4
    config.alphas = (1.0, 1.5, 2.0)
    config.seeds = 3
    config.batch_size = 64
    config.steps = 5 * _EPOCH
    config.densities = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
    config.distributions = ('uniform',)
    config.average_examples = 2_000
    config.chunk_steps = 250
  return config
