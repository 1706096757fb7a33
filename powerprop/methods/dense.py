"""No sparsity: what the others are compared with."""

from powerprop import trees
from powerprop.methods import masked
from powerprop.types import Masks, Method


def dense(brief: masked.Brief | None = None) -> Method:
  """Ordinary training of all weights.

  Args:
    brief: which leaves live under Ψ; no more of it is looked at.

  Returns:
    A method with no masks and no state.
  """
  where = trees.is_weight if brief is None else brief.where
  return masked.method(
    init=lambda key, phi, alpha, gradient: (phi, ()),
    masks=lambda state: Masks({}, {}),
    progress=lambda step: (0.0, 0.0),
    where=where,
    constant_alpha=False,
  )
