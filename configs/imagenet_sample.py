"""The program of table1_imagenet on 1,000 pictures of ImageNet, 64 pixels wide.

A few minutes on two cores: a small residual net, 120 steps. It shows that the
parts fit together, and nothing else: with one picture for each class, no class
of the test set has been seen in training, and accuracies are those of chance.

  python -m experiments.sparse_training --config=configs/imagenet_sample.py

Any `imagenet2012` that TFDS has prepared will do, and so will a folder of
pictures: --config.dataset=DIR.
"""

import ml_collections

from configs import table1_imagenet


def get_config() -> ml_collections.ConfigDict:
  """table1_imagenet, with all its sizes and times divided; ours."""
  config = table1_imagenet.get_config()
  config.dataset_kwargs = {'size': 64}
  config.network = 'resnet'
  config.network_kwargs = {'blocks': (1, 1, 1, 1), 'width': 16, 'sliced': True}
  config.learning_rate = (0.05,)
  config.learning_rate_schedule = {
    'kind': 'piecewise',
    'warmup': 6,
    'boundaries': (36, 84, 108),
    'factor': 0.1,
  }
  config.alphas = (1.0, 1.375)
  config.seeds = 1
  config.steps = 120
  config.batch_size = 32
  config.methods = ('dense', 'one_shot', 'rigl', 'top_kast')
  kwargs = config.method_kwargs
  config.method_kwargs = {
    'rigl': {**kwargs.rigl, 'end': 90, 'every': 5},
    'top_kast': {**kwargs.top_kast, 'every': 5},
  }
  config.densities = (0.1,)
  config.distributions = ('erk',)
  config.chunk_steps = 10
  config.checkpoint_seconds = 5.0
  return config
