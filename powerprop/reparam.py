"""Ψ(φ) = φ|φ|^(α−1), its inverse and its slope, on arrays and on pytrees.

A Python number α is static: small multiples of 1/8 are computed by products and
square roots. An array α is traced: it can be vmapped over, scheduled and
adapted, and costs one exp/log pair per weight, which XLA shares between θ and
the slope. Half precision is computed in float32 and rounded once.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 2, eq. (1).
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import checks
from powerprop import trees
from powerprop.types import Alpha, Params, Where


def check_alpha(alpha: Any) -> Any:
  """Returns α, as a float where it is static; raises where it is no power.

  Args:
    alpha: a Python or NumPy number, or an array with no axes, whose value is
      checked unless it is traced.

  Returns:
    A float for a number, else the array itself.

  Raises:
    ValueError: if α is not one finite number of at least 1.
  """
  scalar = (
    isinstance(alpha, int | float | np.generic | np.ndarray | jax.Array)
    and np.ndim(alpha) == 0
    and any(
      jnp.issubdtype(jnp.result_type(alpha), kind)
      for kind in (jnp.floating, jnp.integer)
    )
  )
  if scalar and isinstance(alpha, jax.core.Tracer):
    return alpha
  if not scalar or not np.isfinite(alpha) or np.asarray(alpha) < 1:
    if callable(alpha):
      remedy = 'give a schedule to powerprop.powerprop, and read current_alpha'
    elif type(alpha) in (list, tuple) or np.ndim(alpha):
      remedy = 'for several of them use jax.vmap'
    else:
      remedy = 'choose alpha >= 1'
    raise ValueError(
      f'alpha is {checks.brief(alpha)}, but the power α must be a finite number'
      f' of at least 1 (1 is ordinary training); {remedy}.'
    )
  if isinstance(alpha, int | float | np.number):
    return float(alpha)
  return alpha


def _eighths(p: float) -> int | None:
  """p in eighths where that is a small whole number, else None."""
  return int(8 * p) if (8 * p).is_integer() and p <= 8 else None


def _abs_power_value(x: jax.Array, p: Any) -> jax.Array:
  """|x|^p for p ≥ 0, with 0^0 = 1."""
  if isinstance(p, float):
    if (eighths := _eighths(p)) is not None:
      whole, rest = divmod(eighths, 8)
      x = jnp.abs(x)
      out = jax.lax.integer_pow(x, whole) if whole else None
      root = x
      for bit in (4, 2, 1):
        if not rest & (2 * bit - 1):
          break
        root = jnp.sqrt(root)
        if rest & bit:
          out = root if out is None else out * root
      return jnp.ones_like(x) if out is None else out
  zero = x == 0
  at_zero = jnp.where(jnp.asarray(p) == 0, 1.0, 0.0).astype(x.dtype)
  log = jnp.log(jnp.abs(jnp.where(zero, 1.0, x)))
  return jnp.where(zero, at_zero, jnp.exp(p * log)).astype(x.dtype)


def _log_abs(x: jax.Array) -> jax.Array:
  """log|x|, with 0 at 0: it only ever stands beside a factor |x|^p, p > 0.

  Multiply it by the tangent first: where that is zero, a huge |x|^p·log|x|
  would overflow and give inf·0.
  """
  return jnp.log(jnp.abs(jnp.where(x == 0, 1.0, x)))


def _wide(x: Any) -> jax.Array:
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(
      f'Ψ needs floating-point weights but got dtype {x.dtype}; convert the'
      ' array with .astype(float32).'
    )
  return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def _elementwise(
  static_or_traced: Callable[[jax.Array, Any], jax.Array],
  tangent: Callable[..., jax.Array],
) -> Callable[[Any, Alpha], jax.Array]:
  """Makes f(x, α) with derivatives given by hand, for static and traced α."""

  @functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
  def static(x, alpha):
    return static_or_traced(x, alpha)

  @static.defjvp
  def _(alpha, primals, tangents):
    (x,), (dx,) = primals, tangents
    out = static(x, alpha)
    return out, tangent(x, alpha, out, dx, None)

  @jax.custom_jvp
  def traced(x, alpha):
    return static_or_traced(x, alpha)

  @traced.defjvp
  def _(primals, tangents):
    (x, alpha), (dx, dalpha) = primals, tangents
    out = traced(x, alpha)
    return out, tangent(x, alpha, out, dx, dalpha)

  def fn(x, alpha):
    return (static if isinstance(alpha, float) else traced)(x, alpha)

  return fn


def _abs_power_tangent(x, p, out, dx, dp):
  # Only second derivatives of Ψ come here. At zero they are infinite for p < 1
  # and jump for p = 1; 0, the mean of both sides, keeps a Hessian finite.
  zero = x == 0
  d = jnp.where(zero, 0.0, p * out / jnp.where(zero, 1.0, x)) * dx
  return d if dp is None else d + out * (_log_abs(x) * dp)


_abs_power = _elementwise(_abs_power_value, _abs_power_tangent)


def _power_value(x, alpha):
  return (
    x
    if isinstance(alpha, float) and alpha == 1
    else (x * _abs_power(x, alpha - 1))
  )


def _power_tangent(x, alpha, out, dx, dalpha):
  d = slope(x, alpha) * dx
  return d if dalpha is None else d + out * (_log_abs(x) * dalpha)


def _straight_through_tangent(x, unused_alpha, out, dx, dalpha):
  return dx if dalpha is None else dx + out * (_log_abs(x) * dalpha)


def _inverse_value(x, alpha):
  if isinstance(alpha, float) and alpha == 1:
    return x
  return jnp.sign(x) * jnp.power(jnp.abs(x), 1 / alpha)


def _inverse_tangent(unused_x, alpha, out, dx, dalpha):
  d = dx / slope(out, alpha)
  return d if dalpha is None else d - out * (_log_abs(out) / alpha * dalpha)


_power = _elementwise(_power_value, _power_tangent)
_straight_through = _elementwise(_power_value, _straight_through_tangent)
_inverse = _elementwise(_inverse_value, _inverse_tangent)


def power(phi: Any, alpha: Alpha) -> jax.Array:
  """Ψ(φ) = φ|φ|^(α−1), the sign-preserving power.

  Its derivatives, α|φ|^(α−1) in φ and θ·log|φ| in α, are finite and right
  everywhere, zero included. α = 1 is exactly the identity.

  Args:
    phi: floating array of any shape; float16 and bfloat16 are computed in
      float32 and rounded once.
    alpha: scalar ≥ 1; a number is static, an array traced.

  Returns:
    θ, of phi's shape and dtype. The relative error is a few units in the last
    place, times 1 + |(α−1)·log|φ|| where α is no small multiple of 1/8.

  Raises:
    ValueError: if α is below 1 or not finite.
    TypeError: if phi is not floating.

  Reference: Schwarz et al. 2021, section 2.

  Example:
    >>> import jax.numpy as jnp
    >>> power(jnp.array([-2., 0., 3.]), 2).tolist()
    [-4.0, 0.0, 9.0]
  """
  alpha = check_alpha(alpha)
  wide = _wide(phi)
  return _power(wide, _match(alpha, wide)).astype(jnp.result_type(phi))


def power_straight_through(phi: Any, alpha: Alpha) -> jax.Array:
  """Ψ(φ) whose backward pass is the identity: it hands back ∂L/∂θ.

  The pairing for `powerprop.powerprop(inner, alpha)`, which multiplies by the
  slope itself, after the optimiser.

  Args:
    phi: as in `power`.
    alpha: as in `power`.

  Returns:
    θ, the same bits as `power`.

  Reference: Schwarz et al. 2021, section 2, the virtual targets.
  """
  alpha = check_alpha(alpha)
  wide = _wide(phi)
  out = _straight_through(wide, _match(alpha, wide))
  return out.astype(jnp.result_type(phi))


def inverse_power(theta: Any, alpha: Alpha) -> jax.Array:
  """Ψ⁻¹(θ) = sign(θ)|θ|^(1/α).

  For α > 1 its derivative is infinite at θ = 0, by nature: 1/(α·0^(α−1)). In
  float32, Ψ(Ψ⁻¹(θ)) is θ to rounding, not bit for bit.

  Args:
    theta: floating array of any shape.
    alpha: scalar ≥ 1; a number is static, an array traced.

  Returns:
    φ, of theta's shape and dtype.

  Raises:
    ValueError: if α is below 1 or not finite.
    TypeError: if theta is not floating.

  Reference: Schwarz et al. 2021, section 2, the initialisation.

  Example:
    >>> import jax.numpy as jnp
    >>> inverse_power(jnp.array([-4., 0., 9.]), 2).tolist()
    [-2.0, 0.0, 3.0]
  """
  alpha = check_alpha(alpha)
  wide = _wide(theta)
  return _inverse(wide, _match(alpha, wide)).astype(jnp.result_type(theta))


def slope(phi: Any, alpha: Alpha) -> jax.Array:
  """Ψ'(φ) = α|φ|^(α−1), ≥ 0; 0 at φ = 0 for α > 1, and 1 everywhere for α = 1.

  Args:
    phi: floating array of any shape.
    alpha: scalar ≥ 1; a number is static, an array traced.

  Returns:
    An array of phi's shape and dtype.

  Reference: Schwarz et al. 2021, eq. (1).

  Example:
    >>> import jax.numpy as jnp
    >>> slope(jnp.array([-2., 0., 3.]), 2).tolist()
    [4.0, 0.0, 6.0]
  """
  alpha = check_alpha(alpha)
  wide = _wide(phi)
  alpha = _match(alpha, wide)
  if isinstance(alpha, float) and alpha % 1 and _eighths(alpha - 1):
    # Roots are computed again, not shared with θ: shared, they would be written
    # to memory and read back, which costs more (a step on two CPU cores took
    # 1.12 times a dense one, against 1.22).
    wide = jax.lax.optimization_barrier(wide)
  return (alpha * _abs_power(wide, alpha - 1)).astype(jnp.result_type(phi))


def _match(alpha: Alpha, wide: jax.Array) -> Alpha:
  """A traced α in the dtype of the computation, so that nothing is promoted."""
  return alpha if isinstance(alpha, float) else jnp.asarray(alpha, wide.dtype)


def to_theta(
  phi: Params, alpha: Alpha, where: Where = trees.is_weight
) -> Params:
  """θ = Ψ(φ) on the leaves that `where` chooses; the others stay as they are.

  Args:
    phi: any pytree of arrays, from any library.
    alpha: scalar ≥ 1, static or traced.
    where: `where(path, leaf)`, by default matrices and kernels but no biases
      and no norms.

  Returns:
    A pytree of the same structure, shapes and dtypes.

  Raises:
    ValueError: if α is below 1 or not finite.
  """
  alpha = check_alpha(alpha)
  checks.check_where(where)
  return trees.map_where(lambda x: power(x, alpha), where, phi)


def to_phi(
  theta: Params, alpha: Alpha, where: Where = trees.is_weight
) -> Params:
  """φ = Ψ⁻¹(θ) on the leaves that `where` chooses: brings a net under Ψ.

  Args:
    theta: any pytree of arrays: fresh or pretrained, from any library.
    alpha: scalar ≥ 1, static or traced.
    where: as in `to_theta`.

  Returns:
    A pytree of the same structure, shapes and dtypes.

  Raises:
    ValueError: if α is below 1 or not finite.
  """
  alpha = check_alpha(alpha)
  checks.check_where(where)
  return trees.map_where(lambda x: inverse_power(x, alpha), where, theta)


def value_and_grad(
  fun: Callable[..., Any],
  alpha: Alpha,
  where: Where = trees.is_weight,
  has_aux: bool = False,
) -> Callable[..., Any]:
  """jax.value_and_grad for a loss of θ, called with φ: gives ∂L/∂θ.

  That is the gradient which `powerprop.powerprop` wants. The loss itself knows
  nothing of Ψ.

  Args:
    fun: fun(theta, *args) -> scalar loss, or (loss, aux) with `has_aux`.
    alpha: scalar ≥ 1, static or traced.
    where: as in `to_theta`.
    has_aux: whether fun returns auxiliary data beside the loss.

  Returns:
    A function of (phi, *args) that returns (value, ∂L/∂θ).
  """
  at_theta = jax.value_and_grad(fun, has_aux=has_aux)

  @functools.wraps(fun)
  def fn(phi, *args, **kwargs):
    return at_theta(to_theta(phi, alpha, where), *args, **kwargs)

  return fn
