"""Powerpropagation (Schwarz et al., NeurIPS 2021) for JAX, Haiku and Optax."""

from powerprop import methods
from powerprop.costs import flops
from powerprop.learning import classifier
from powerprop.learning import Labelled
from powerprop.learning import learn
from powerprop.methods.sparse.pruning import prune
from powerprop.modules import BatchNorm
from powerprop.modules import PowerPropConv1D
from powerprop.modules import PowerPropConv1DTranspose
from powerprop.modules import PowerPropConv2D
from powerprop.modules import PowerPropConv2DTranspose
from powerprop.modules import PowerPropConv3D
from powerprop.modules import PowerPropConv3DTranspose
from powerprop.modules import PowerPropDepthwiseConv1D
from powerprop.modules import PowerPropDepthwiseConv2D
from powerprop.modules import PowerPropDepthwiseConv3D
from powerprop.modules import PowerPropLinear
from powerprop.modules import PowerPropSeparableDepthwiseConv2D
from powerprop.modules import reparameterise
from powerprop.planning import plan
from powerprop.psi import Psi
from powerprop.reparam import inverse_power
from powerprop.reparam import power
from powerprop.reparam import power_straight_through
from powerprop.reparam import slope
from powerprop.reparam import to_phi
from powerprop.reparam import to_theta
from powerprop.reparam import value_and_grad
from powerprop.sparse_file import load_sparse
from powerprop.sparse_file import save_sparse
from powerprop.sparse_file import Sparse
from powerprop.transforms import adaptive_powerprop
from powerprop.transforms import chain_rule
from powerprop.transforms import current_alpha
from powerprop.transforms import powerprop
from powerprop.trees import is_weight
from powerprop.trees import kth_largest
from powerprop.trees import top_k_masks
from powerprop.units import publish

__version__ = '0.1.0'

__all__ = (
  'BatchNorm',
  'Labelled',
  'PowerPropConv1D',
  'PowerPropConv1DTranspose',
  'PowerPropConv2D',
  'PowerPropConv2DTranspose',
  'PowerPropConv3D',
  'PowerPropConv3DTranspose',
  'PowerPropDepthwiseConv1D',
  'PowerPropDepthwiseConv2D',
  'PowerPropDepthwiseConv3D',
  'PowerPropLinear',
  'PowerPropSeparableDepthwiseConv2D',
  'Psi',
  'Sparse',
  'adaptive_powerprop',
  'chain_rule',
  'classifier',
  'current_alpha',
  'flops',
  'inverse_power',
  'is_weight',
  'kth_largest',
  'learn',
  'load_sparse',
  'methods',
  'plan',
  'power',
  'power_straight_through',
  'powerprop',
  'prune',
  'publish',
  'reparameterise',
  'save_sparse',
  'slope',
  'to_phi',
  'to_theta',
  'top_k_masks',
  'value_and_grad',
)
