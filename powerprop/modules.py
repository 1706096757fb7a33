"""Haiku under Ψ: any net, or single modules that are drop-ins for Haiku's.

Both store φ and compute with θ = Ψ(φ). θ is drawn by the usual initialiser and
φ is its inverse, so the function at initialisation is that of the plain net.
"""

import contextlib
import contextvars
import functools
from typing import Any, TypeVar

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from powerprop import checks
from powerprop import reparam
from powerprop import trees
from powerprop import units
from powerprop.types import Alpha, Where

_TRANSFORMED = (
  hk.Transformed,
  hk.TransformedWithState,
  hk.MultiTransformed,
  hk.MultiTransformedWithState,
)
_Net = TypeVar('_Net', bound=Any)

# Whether a net is being run under `reparameterise`.
_tree_level = contextvars.ContextVar('_tree_level', default=False)


def reparameterise(
  net: _Net,
  alpha: Alpha,
  where: Where = trees.is_weight,
  chain_rule: bool = False,
) -> _Net:
  """Puts a Haiku net under Ψ without touching it.

  Args:
    net: what `hk.transform`, `hk.transform_with_state`, `hk.multi_transform` or
      `hk.multi_transform_with_state` returned.
    alpha: scalar ≥ 1, static or traced.
    where: which parameters live under Ψ, by path and value; by default matrices
      and kernels but no biases and no norms.
    chain_rule: False: the gradient of `apply` is ∂L/∂θ, for
      `powerprop.powerprop(inner, alpha)`. True: it is ∂L/∂φ, for a plain
      optimiser.

  Returns:
    The same type: `init` returns φ, `apply` takes φ.

  Raises:
    ValueError: if α is no power, `where` no function or `net` none of these.

  Warns:
    UserWarning: at `init`, unless it is traced, if a leaf under Ψ is zero all
      over and α > 1: it would never move.

  Example:
    >>> import haiku as hk, jax, jax.numpy as jnp
    >>> net = hk.transform(lambda x: hk.nets.MLP([30, 10])(x))
    >>> net = reparameterise(net, alpha=3.)
    >>> phi = net.init(jax.random.key(0), jnp.ones([1, 8]))
    >>> net.apply(phi, None, jnp.ones([1, 8])).shape
    (1, 10)
  """
  given: Any = net
  if not isinstance(given, _TRANSFORMED):
    raise ValueError(
      f'net is {checks.brief(net)} but must be what hk.transform returned (or'
      ' hk.transform_with_state, or one of their multi_ kin); for nets of other'
      ' libraries use powerprop.to_phi and powerprop.value_and_grad.'
    )
  alpha = reparam.check_alpha(alpha)
  checks.check_where(where)
  psi = reparam.power if chain_rule else reparam.power_straight_through
  has_state = isinstance(
    net, hk.TransformedWithState | hk.MultiTransformedWithState
  )

  def run(fn, *args, **kwargs):
    token = _tree_level.set(True)
    try:
      return fn(*args, **kwargs)
    finally:
      _tree_level.reset(token)

  @functools.wraps(net.init)  # Haiku keeps notes in the function's __dict__
  def init(*args, **kwargs):
    out = run(net.init, *args, **kwargs)
    theta, *state = out if has_state else (out,)
    checks.warn_of_stuck(theta, alpha, where)
    phi = reparam.to_phi(theta, alpha, where)
    return (phi, *state) if has_state else phi

  def under_psi(apply):
    @functools.wraps(apply)
    def apply_phi(phi, *args, **kwargs):
      theta = trees.map_where(lambda x: psi(x, alpha), where, phi)
      return run(apply, theta, *args, **kwargs)

    return apply_phi

  return net._replace(init=init, apply=jax.tree.map(under_psi, net.apply))


def _under_psi(alpha: Alpha, chain_rule: bool) -> contextlib.ExitStack:
  """Within it, every parameter named `w` is Ψ of a stored φ."""
  psi = reparam.power if chain_rule else reparam.power_straight_through

  def creator(next_creator, shape, dtype, init, context):
    value = next_creator(shape, dtype, init)
    if context.name != 'w':
      return value
    checks.warn_of_stuck({context.full_name: value}, alpha, lambda *_: True)
    return reparam.inverse_power(value, alpha)

  def getter(next_getter, value, context):
    return next_getter(psi(value, alpha) if context.name == 'w' else value)

  stack = contextlib.ExitStack()
  stack.enter_context(hk.custom_creator(creator))
  stack.enter_context(hk.custom_getter(getter))
  return stack


class _PowerProp:
  """Mixin: the module's weights `w` are stored as φ and used as θ = Ψ(φ).

  Beside the arguments of its Haiku counterpart, a module takes by keyword

  * alpha: scalar ≥ 1, static or traced (default 2, the paper's smallest above
    the baseline);
  * chain_rule: False: its backward pass hands back ∂L/∂θ, for
    `powerprop.powerprop(inner, alpha)`; True: ∂L/∂φ, for a plain optimiser.
  """

  def __init__(
    self,
    *args: Any,
    alpha: Alpha = 2.0,
    chain_rule: bool = False,
    **kwargs: Any,
  ):
    super().__init__(*args, **kwargs)
    self.alpha = reparam.check_alpha(alpha)
    self.chain_rule = chain_rule

  def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
    if _tree_level.get():
      raise ValueError(
        f'{type(self).__name__} stands in a net under reparameterise,'
        ' so that Ψ would be applied twice; use one of the two.'
      )
    with _under_psi(self.alpha, self.chain_rule):
      return super().__call__(*args, **kwargs)  # type: ignore


class PowerPropLinear(_PowerProp, hk.Linear):
  """`hk.Linear` with weights θ = Ψ(φ); takes also `alpha`, `chain_rule`."""


class PowerPropConv1D(_PowerProp, hk.Conv1D):
  """`hk.Conv1D` with weights θ = Ψ(φ); takes also `alpha`, `chain_rule`."""


class PowerPropConv2D(_PowerProp, hk.Conv2D):
  """`hk.Conv2D` with weights θ = Ψ(φ); takes also `alpha`, `chain_rule`."""


class PowerPropConv3D(_PowerProp, hk.Conv3D):
  """`hk.Conv3D` with weights θ = Ψ(φ); takes also `alpha`, `chain_rule`."""


class PowerPropConv1DTranspose(_PowerProp, hk.Conv1DTranspose):
  """`hk.Conv1DTranspose` with θ = Ψ(φ); takes also `alpha`, `chain_rule`."""


class PowerPropConv2DTranspose(_PowerProp, hk.Conv2DTranspose):
  """`hk.Conv2DTranspose` with θ = Ψ(φ); takes also `alpha`, `chain_rule`."""


class PowerPropConv3DTranspose(_PowerProp, hk.Conv3DTranspose):
  """`hk.Conv3DTranspose` with θ = Ψ(φ); takes also `alpha`, `chain_rule`."""


class PowerPropDepthwiseConv1D(_PowerProp, hk.DepthwiseConv1D):
  """`hk.DepthwiseConv1D` with θ = Ψ(φ); takes also `alpha`, `chain_rule`."""


class PowerPropDepthwiseConv2D(_PowerProp, hk.DepthwiseConv2D):
  """`hk.DepthwiseConv2D` with θ = Ψ(φ); takes also `alpha`, `chain_rule`."""


class PowerPropDepthwiseConv3D(_PowerProp, hk.DepthwiseConv3D):
  """`hk.DepthwiseConv3D` with θ = Ψ(φ); takes also `alpha`, `chain_rule`."""


class PowerPropSeparableDepthwiseConv2D(
  _PowerProp, hk.SeparableDepthwiseConv2D
):
  """`hk.SeparableDepthwiseConv2D` with θ = Ψ(φ); both kernels are under Ψ."""


class _Average(hk.ExponentialMovingAverage):
  """A moving average that stays as it is where its state has 'frozen'."""

  def goes_on(self, value: jax.Array, grouped: bool) -> jax.Array:
    """Takes in a batch's value.

    Args:
      value: [..., C], or of several groups [G, ..., C].
      grouped: whether it is of several.

    Returns:
      What to normalise the batch by: the value, and where it is frozen the
      average.
    """
    mean = jnp.mean(value, 0) if grouped else value
    try:
      frozen = hk.get_state('frozen')
    except ValueError:  # no method has put it there
      self(mean)
      return value
    before = {name: hk.get_state(name) for name in ('hidden', 'average')}
    self(mean)
    for name, old in before.items():
      hk.set_state(name, jnp.where(frozen, old, hk.get_state(name)))
    return jnp.where(frozen, before['average'].astype(value.dtype), value)

  def kept(self) -> jax.Array:
    """The average."""
    units.freezes(self.module_name)
    return self.average


class BatchNorm(hk.Module):
  """`hk.BatchNorm` over all axes but the last, of which channels can be frozen.

  A frozen channel is normalised by its moving averages in training too, and
  these stay as they are: it answers an input as it did when it was frozen. What
  is frozen is in the net's state, where a method has put it (CLNP does).
  Otherwise it computes what `hk.BatchNorm` does, and its state is the same.

  With several groups each part of a batch is normalised by itself in training,
  as it is where each of several devices has one; averages are of the groups'
  means, and of the groups' variances.
  """

  def __init__(
    self,
    create_scale: bool,
    create_offset: bool,
    decay_rate: float,
    eps: float = 1e-5,
    name: str | None = None,
    groups: int = 1,
    scale_init: Any = jnp.ones,
  ):
    """Constructs the module.

    Args:
      create_scale: whether channels have a scale, which starts at 1.
      create_offset: whether they have an offset, which starts at 0.
      decay_rate: of the moving averages, in [0, 1).
      eps: what is added to a variance, > 0.
      name: the module's name.
      groups: G ≥ 1, parts of the batch that follow one another in it.
      scale_init: (shape, dtype) -> scales at the start.

    Raises:
      ValueError: if G is below 1; when called, if it does not divide the batch.
    """
    if groups < 1:
      raise ValueError(f'groups is {groups} but must be at least 1')
    super().__init__(name)
    self._groups, self._scale_init = groups, scale_init
    self._scale, self._offset, self._eps = create_scale, create_offset, eps
    self.mean_ema = _Average(decay_rate, name='mean_ema')
    self.var_ema = _Average(decay_rate, name='var_ema')

  def __call__(self, inputs: jax.Array, is_training: bool) -> jax.Array:
    """[..., C] -> [..., C]."""
    # A net is made with one example, whatever it learns from.
    groups = self._groups if is_training and not hk.running_init() else 1
    x = inputs if groups == 1 else _divided(inputs, groups)
    axis = [*range(x.ndim - inputs.ndim, x.ndim - 1)]
    if is_training:
      mean = jnp.mean(x, axis, keepdims=True)
      squares = jnp.mean(jnp.square(x), axis, keepdims=True)
      var = squares - jnp.square(mean)
      mean = self.mean_ema.goes_on(mean, groups > 1)
      var = self.var_ema.goes_on(var, groups > 1)
    else:
      mean = self.mean_ema.kept().astype(inputs.dtype)
      var = self.var_ema.kept().astype(inputs.dtype)
    shape, dtype = (1,) * len(axis) + inputs.shape[-1:], inputs.dtype
    scale: Any = np.ones([], dtype)
    offset: Any = np.zeros([], dtype)
    if self._scale:
      scale = hk.get_parameter('scale', shape, dtype, self._scale_init)
    if self._offset:
      offset = hk.get_parameter('offset', shape, dtype, jnp.zeros)
    eps = jax.lax.convert_element_type(self._eps, var.dtype)
    inv = scale * jax.lax.rsqrt(var + eps)
    out = (x - mean) * inv + offset
    return out if groups == 1 else out.reshape(inputs.shape)


def _divided(x: jax.Array, groups: int) -> jax.Array:
  """[B, ..., C] -> [groups, B/groups, ..., C]."""
  if x.shape[0] % groups:
    raise ValueError(
      f'batch normalisation is over {groups} groups, which must divide the'
      f' examples that go through the net at once, but these are {x.shape[0]}'
    )
  return x.reshape(groups, -1, *x.shape[1:])
