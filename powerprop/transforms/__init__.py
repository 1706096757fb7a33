"""Optax gradient transformations, one per file; configs name them by string."""

from powerprop.transforms.adaptive import adaptive_powerprop
from powerprop.transforms.adaptive import near_zero_share
from powerprop.transforms.chain_rule import chain_rule
from powerprop.transforms.target_propagation import current_alpha
from powerprop.transforms.target_propagation import powerprop
from powerprop.transforms.target_propagation import PowerpropState

__all__ = (
  'PowerpropState',
  'adaptive_powerprop',
  'chain_rule',
  'current_alpha',
  'near_zero_share',
  'powerprop',
)
