"""No sparsity: what the others are compared with."""

from powerprop.methods import masked
from powerprop.types import Masks, Method


def dense(brief: masked.Brief | None = None) -> Method:
  """Ordinary training of all weights.

  Args:
    brief: as other methods are told; it is not looked at.

  Returns:
    A method with no masks and no state.
  """
  del brief
  return masked.method(
    init=lambda key, phi, psi, gradient: (phi, ()),
    masks=lambda state: Masks({}, {}),
    progress=lambda step: (0.0, 0.0),
    constant_alpha=False,
  )
