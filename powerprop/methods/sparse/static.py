"""Static random masks."""

from powerprop.methods import masked
from powerprop.types import Method


def static(brief: masked.Brief) -> Method:
  """A random mask, drawn before the first step and never changed.

  Args:
    brief: target and length of the training.

  Returns:
    A method; training costs 3 f_S.

  Reference: Evci et al., RigL, ICML 2020, section 4, 'Static'.
  """
  return masked.fixed(brief, 'random')
