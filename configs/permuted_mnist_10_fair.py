"""permuted_mnist_10, fair: each method with a learning rate of its own.

Every method at α = 1 and at α = 2 has nine candidates on validation data of the
first seven tasks (what three choose does not hold on ten, docs/results): three
learning rates with three coefficients, or nine rates where there is no
coefficient. What is chosen is run on ten tasks with three
seeds. All take 1,287 steps a task, those under a mask among them; those that
rehearse have a second batch in each, and joint training has the data of all
tasks so far.

  python -m experiments.continual --config=configs/permuted_mnist_10_fair.py

Sized for two cores: layers of 400 units and 3 epochs, where the protocol has
1,000 and 10 (--config.network_kwargs.hidden="(1000,1000)" --config.epochs=10;
of packing methods the epochs are in method_training). Other α:
--config.alphas="(1.5,)" in a --workdir of its own. Of permuted_mnist_10 it
leaves out penalties on φ, VCL with a coreset and EfficientPackNet without a
retraining. 1 h 41 min on two idle cores (docs/results/permuted_mnist_10_fair).
"""

import ml_collections

from configs import permuted_mnist_10

_EPOCHS = 3.0
# The first are the protocol's, as is the first rate.
COEFFICIENTS = {
  'l2': (0.02, 0.002, 0.2),
  'ewc': (150.0, 15.0, 1.5),
  'online_ewc': (250.0, 25.0, 2.5),
  'online_laplace': (1.0, 0.1, 10.0),
  'si': (10.0, 1.0, 100.0),
  'mas': (0.1, 0.01, 1.0),
  'vcl': (1.0,),  # the bound itself
}
_RATES = (1e-4, 1e-3, 3e-3)
_ALONE = (1e-4, 3e-5, 6e-5, 2e-4, 3e-4, 6e-4, 1e-3, 2e-3, 3e-3)
# By momentum; a third of their steps is under the mask.
_MOMENTUM = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.6, 1.0)
_PACKING = {'packnet': 0.1, 'epn_retrained': 0.3}


def get_config() -> ml_collections.ConfigDict:
  """permuted_mnist_10 with nine candidates each; all of them are ours."""
  config = permuted_mnist_10.get_config()
  training = config.method_training.to_dict()
  others = ('naive', 'experience_replay', 'a_gem', 'single', 'joint')
  with config.ignore_type():
    config.methods = (*COEFFICIENTS, *others, *_PACKING)
    config.epochs = _EPOCHS
    config.network_kwargs.hidden = (400, 400)
    config.learning_rate = _RATES
    config.seeds = 3
    for name, several in COEFFICIENTS.items():
      config.method_kwargs[name] = {'coefficient': several}
    config.method_training = {
      name: training[name]
      | {
        'learning_rate': (first, *(r for r in _MOMENTUM if r != first)),
        'epochs': _EPOCHS * 2 / 3,
        'retrain_epochs': _EPOCHS / 3,
      }
      for name, first in _PACKING.items()
    } | {name: {'learning_rate': _ALONE} for name in ('vcl', *others)}
    config.choose_learning_rate = True
    config.run_protocol = False
    config.search_tasks = 7
    config.evaluate_every = 5
    config.forward_transfer = False
  return config
