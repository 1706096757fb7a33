"""Figure 4 to 300 tasks, with an option of ours: without earlier first weights.

EfficientPackNet on 300 tasks of permuted MNIST in the net of
fig4_permuted_mnist. A new task is trained and ranked without the weights that
earlier tasks use in the first layer, which to it are noise: not Algorithm 1,
whose forward pass is dense. One epoch a task and half an epoch under its mask.
Which α holds more tasks, and at what accuracy: one of them alone by

  python -m experiments.continual --config=configs/fig4_without.py \
    --config.alphas="(1.5,)"

The learning rate, 0.3, is what 20 tasks choose of three for both α. Over 300
α = 1 is better at 0.1 (docs/results/fig4_without_01):

  python -m experiments.continual --config=configs/fig4_without.py \
    --config.alphas="(1.0,)" \
    --config.method_training.epn_without.learning_rate=0.1 \
    --workdir=runs/fig4_without_01
"""

import ml_collections

from configs import fig4_permuted_mnist


def get_config() -> ml_collections.ConfigDict:
  """fig4_permuted_mnist with EfficientPackNet alone, retrained, `without`."""
  config = fig4_permuted_mnist.get_config()
  name = 'epn_without'
  recipe = fig4_permuted_mnist.RETRAINED_RECIPE
  with config.ignore_type():
    config.epochs = 1.0
    config.seeds = 2
    config.alphas = (1.0, 1.5)
    config.methods = (name,)
    config.method_kwargs = {
      name: fig4_permuted_mnist.RETRAINED
      | {'gamma': 0.9, 'without': ('hidden_0',)}
    }
    config.method_training = {
      name: recipe | {'evaluate_every': 50, 'retrain_epochs': 0.5}
    }
    config.labels = {name: 'EfficientPackNet, without earlier first weights'}
  return config
