"""What every continual-learning method is compared with: three baselines."""

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


def joint(tasks: sequential.Tasks) -> Method:
  """Fine-tuning on batches from all tasks so far: nothing is ever gone.

  Each batch is of one of them, each as likely as another; where tasks differ in
  size its examples are drawn with replacement.

  Args:
    tasks: of the sequence.

  Returns:
    A method without state; the upper bound for one net.

  Reference: Hsu et al. 2018, Offline (all tasks at once).
  """
  del tasks
  return sequential.method(joint=True)


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
