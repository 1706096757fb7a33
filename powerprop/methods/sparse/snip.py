"""SNIP: masks by the saliency of a batch, before the first step."""

from powerprop.methods import masked
from powerprop.types import Method


def snip(brief: masked.Brief) -> Method:
  """Keeps the weights with the largest |w · ∂L/∂w| on the first batch.

  The paper ranks all layers together: that is the distribution 'global'. RigL's
  protocol keeps a share of each layer: 'uniform' or 'erk'.

  Args:
    brief: target and length of the training.

  Returns:
    A method; training costs 3 f_S, and one dense gradient before it.

  Reference: Lee et al., SNIP, ICLR 2019, eq. (6) and Algorithm 1.
  """
  return masked.fixed(brief, 'saliency')
