"""All tasks of split CIFAR at once: the upper bound of CLNP's appendix A.

Ten tasks, 54,000 steps with batches of 50 examples of CIFAR-10 and 10 of each
other task: 120 epochs that end with the smaller tasks. What counts is found
after the last task: of those before it each takes but one step. The paper
prints no numbers.

  python -m experiments.continual --config=configs/split_cifar_joint.py

The paper's figure 5a has it beside CLNP and a net for each task, which are in
split_cifar_wide: with both runs,

  python -m experiments.continual.tasks runs/split_cifar_wide \
    runs/split_cifar_joint

A batch costs 0.8 TFLOP, and one seed 4.4e16 floating-point operations: about
nine days on two cores. For a GPU. Not run yet.
"""

import ml_collections

from configs import split_cifar_wide

_TASKS, _EPOCH = 10, 450  # 450 steps of 10 of a task's 4,500 examples
# The last task has 4,488 examples: 32 batches of 140.
_OWN_EPOCHS = 120 * _EPOCH / 32


def get_config() -> ml_collections.ConfigDict:
  """Net, batches, Adam's rate, its schedule, epochs and seeds: the paper.

  It cuts the last hidden layer into ten parts, one for each task, and stops
  early on validation data: here every task has a head that reads the whole
  layer, and none stops.
  """
  config = split_cifar_wide.get_config()
  with config.ignore_type():
    config.scenario = 'task'
    config.num_tasks = _TASKS
    config.methods = ('joint',)
    config.method_kwargs = {'joint': {'shares': (5.0, 1.0)}}
    config.method_training = {}
    config.task_epochs = (0.001,) * (_TASKS - 1) + (_OWN_EPOCHS,)
    config.learning_rate = (1e-3,)
    config.batch_size = 140
    config.learning_rate_schedule = {
      'kind': 'piecewise',
      'boundaries': (50 * _EPOCH, 90 * _EPOCH),
      'factor': 0.05,
    }
    config.choose_learning_rate = False
    config.evaluate_every = _TASKS
    config.chunk_steps = _EPOCH
  return config
