"""Nets that compute in half precision, of parameters that stay float32."""

import contextlib

import haiku as hk
import jax
import jax.numpy as jnp
import jmp

from powerprop import modules
from powerprop import trees

DTYPES = ('auto', 'float32', 'bfloat16')
_NORMS = (
  modules.BatchNorm,
  hk.BatchNorm,
  hk.GroupNorm,
  hk.InstanceNorm,
  hk.LayerNorm,
  hk.RMSNorm,
)
_OF_NORMS = ('scale', 'offset')


def choose(dtype: str) -> str:
  """Resolves 'auto': float32 on a CPU, bfloat16 elsewhere."""
  if dtype == 'auto':
    return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  return dtype


def in_bfloat16(net: hk.TransformedWithState) -> hk.TransformedWithState:
  """The same net, which computes in bfloat16.

  Pictures and parameters are rounded when it is applied, so that gradients are
  those of the parameters, in their own dtype. Normalisation computes in
  float32, with scales and offsets that are not rounded: its averages are those
  of what comes in, and are float32. Logits are bfloat16.

  Args:
    net: called as apply(params, state, rng, image, is_training).

  Returns:
    A net with the same parameters and the same state; what is no net comes
    back as it is, for others to refuse.
  """
  if not isinstance(net, hk.TransformedWithState):
    return net
  half = jnp.bfloat16
  policy = jmp.Policy(jnp.float32, jnp.float32, half)

  def rounded(path, x):
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return floating and path.rpartition('/')[2] not in _OF_NORMS

  def apply(params, state, rng, image, **kwargs):
    with contextlib.ExitStack() as stack:
      for norm in _NORMS:
        stack.enter_context(hk.mixed_precision.push_policy(norm, policy))
      params = trees.map_where(lambda x: x.astype(half), rounded, params)
      return net.apply(params, state, rng, image.astype(half), **kwargs)

  return net._replace(apply=apply)
