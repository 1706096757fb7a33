"""CLNP's split CIFAR, wide: one output layer for all (its figure 5, table 3).

CIFAR-10, then ten classes of CIFAR-100 in each task until the last layer is
full: in the paper after 10 tasks. It prints no accuracies; it says that
forgetting takes less than 2% of the first task's accuracy, that tasks 1 to 7
take about as many units of the last layer each, that more than 85% of it are
gone by task 8, and that the first layer takes no new channels after task 2.
Beside CLNP EfficientPackNet at α = 1 and 1.5, EWC, SI, and a net for each task.

  python -m experiments.continual --config=configs/split_cifar_wide.py

A batch of this net costs 1.5 TFLOP: one sequence at 30 epochs a task, 10,300
steps, is 1.5e16 floating-point operations, more than two days on two cores;
all, with the searches, is 7.2e17. For a GPU. Not run yet.
"""

import ml_collections

from configs import split_cifar_narrow


def get_config() -> ml_collections.ConfigDict:
  """Tasks, net and seeds: the paper.

  It prints neither learning rate nor L1, margin, batch or epochs of this net:
  they are ours, or the narrow one's. The paper searches for every task and
  stops early; here the search is on the first two, each method has six
  candidates, and CLNP's are chosen by its rule. EfficientPackNet's γ takes more
  than the margin, so that of its candidates the most accurate is chosen.
  """
  config = split_cifar_narrow.get_config()
  narrow = config.method_kwargs.to_dict()
  training = config.method_training.to_dict()
  with config.ignore_type():
    config.scenario = 'domain'
    config.num_tasks = 11
    config.network = 'fully_conv'
    config.epochs = 30.0
    config.methods = ('clnp', 'efficient_packnet', 'ewc', 'si', 'single')
    config.method_kwargs = {
      'clnp': {'margin': 0.02, 'coefficient': (5e-5, 1e-5, 2e-6)},
      **{n: narrow[n] for n in ('efficient_packnet', 'ewc', 'si')},
    }
    config.method_training = {
      n: training[n] for n in ('efficient_packnet', 'single')
    }
    config.labels = {}
    config.choose_margin = 0.02
  return config
