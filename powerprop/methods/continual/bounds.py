"""What every continual-learning method is compared with: three baselines."""

import math

from powerprop.methods.continual import sequential
from powerprop.types import Method


def naive(tasks: sequential.Tasks) -> Method:
  """Fine-tuning: one task after the other, with nothing against forgetting.

  Args:
    tasks: of the sequence.

  Returns:
    A method without state; the lower bound.

  Reference: Hsu et al., Re-evaluating continual learning scenarios, NeurIPS
    Continual Learning Workshop 2018.
  """
  del tasks
  return sequential.method()


def joint(tasks: sequential.Tasks, *, shares: tuple[float, ...] = ()) -> Method:
  """Fine-tuning on batches from all tasks so far: nothing is ever gone.

  Each batch is of one of them, each as likely as another, or has examples of
  them all; where tasks differ in size, and in such mixtures, examples are drawn
  with replacement.

  Args:
    tasks: of the sequence.
    shares: > 0, by task, how many examples of each are in every batch, relative
      to one another; tasks after the last have its share. (5, 1) are 50 of the
      first task and 10 of each other in a batch of 140 with ten tasks. () is
      that a batch is of one task.

  Returns:
    A method without state; the upper bound for one net.

  Raises:
    ValueError: if a share is out of range, or there are more than tasks.

  Reference: Hsu et al. 2018, Offline (all tasks at once); for mixtures, Golkar
    et al., Continual learning via neural pruning, 2019, appendix A.
  """
  if len(shares) > tasks.number or not all(0 < x < math.inf for x in shares):
    raise ValueError(
      f'shares is {shares} but must be numbers above 0, for the {tasks.number}'
      ' tasks at most'
    )
  rest = (tasks.number - len(shares)) * shares[-1:]
  return sequential.method(joint=True, shares=(*shares, *rest))


def single(tasks: sequential.Tasks) -> Method:
  """A net of its own for each task, drawn anew, trained alone and kept whole.

  Neither forgetting nor transfer: the record of a task is its θ. The
  optimiser's moments and the net's own state start anew with the net.

  Args:
    tasks: of the sequence.

  Returns:
    A method without state, whose records are as large as the net.

  Reference: Rusu et al., Progressive neural networks, 2016, section 3,
    baseline 1 (there for one task): a column trained on its task alone.
  """
  del tasks

  def archive(ending, phi, state):
    record = ending.psi.to_theta(phi)
    return ending.psi.to_phi(ending.fresh()), state, record

  return sequential.method(
    anew=True,
    archive=archive,
    predict=lambda theta, record: record,
    needs_identity=True,
    zero_forgetting=True,
  )
