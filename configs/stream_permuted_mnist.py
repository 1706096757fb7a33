"""Change points: 10 permuted tasks of MNIST that nobody announces.

784-300-300, EfficientPackNet at α = 2, which finds the changes by its loss,
against the same with known boundaries. All values are ours. 20 tasks:
--config.num_tasks=20; lengths from half to three halves: --config.unequal;
tasks that come back: --config.returns=5

  python -m experiments.stream --config=configs/stream_permuted_mnist.py
"""

import ml_collections

from configs import stream_digits


def get_config() -> ml_collections.ConfigDict:
  """stream_digits, larger."""
  config = stream_digits.get_config()
  with config.ignore_type():
    config.dataset = 'mnist'
    config.sequence_kwargs = {'padded': False}
    config.epochs = 2.0
    config.retrain_epochs = 1.0
    config.network_kwargs = {'hidden': (300, 300), 'init_scale': 0.05}
    config.batch_size = 128
    config.method_kwargs.efficient_packnet = {
      'gamma': 0.9,
      'without': ('hidden_0',),
      'search': 'binary',
      'biases': 'per_task',
    }
    config.hazard = 1_000.0
  return config
