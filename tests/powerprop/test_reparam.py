"""Ψ, its inverse, its derivatives and its maps over trees."""

import functools

import haiku as hk
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerprop import reparam

# Every branch: the identity, products, square roots (2.625 takes three of
# them), exp and log; α − 1 below, at and above 1.
ALPHAS = (1.0, 1.125, 1.3, 1.5, 2.0, 2.625, 3.0, 3.7, 5.0)
DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
# Units in the last place, at a condition number of 1. float32 needs the most:
# the α-th root, whose error is then raised to the power α.
ULP = 4

_settings = settings(deadline=None, max_examples=20)
_alphas = st.one_of(st.sampled_from(ALPHAS), st.floats(1, 5, width=32))
# Signed positions within the range of magnitudes; 0 stands for itself.
_positions = hnp.arrays(np.float64, 16, elements=st.floats(-1, 1))


def _precision(dtype):
  """A context in which JAX has the dtype."""
  return jax.enable_x64(dtype == jnp.float64)


def _spread(positions, dtype, root):
  """Magnitudes log-uniform between the dtype's smallest normal and largest.

  Those are of x^root, so that no result over- or underflows. The margin of 10%
  leaves room for rounding.
  """
  info = jnp.finfo(dtype)
  low = np.log(1.1 * float(info.tiny)) / root
  high = np.log(0.9 * float(info.max)) / root
  x = np.exp(low + np.abs(positions) * (high - low))
  return jnp.asarray(np.sign(positions) * x, dtype)


def _alpha(alpha, traced, dtype):
  """α as the tested function gets it, and the value that it then has."""
  if not traced:
    return alpha, np.longdouble(alpha)
  # Half precision is computed in float32, α included.
  array = jnp.asarray(alpha, jnp.promote_types(dtype, jnp.float32))
  return array, np.longdouble(np.asarray(array))


def _eps(dtype):
  """The precision of the computation, and the rounding of the result."""
  eps = float(jnp.finfo(jnp.promote_types(dtype, jnp.float32)).eps)
  rounding = 0.0 if jnp.finfo(dtype).bits >= 32 else 0.5
  return np.longdouble(eps), np.longdouble(
    rounding * float(jnp.finfo(dtype).eps)
  )


def _exact(x):
  """The values of an array, with more digits than any dtype here."""
  return np.asarray(x).astype(np.float64).astype(np.longdouble)


def _log(x):
  """log|x|, and 0 at 0."""
  return np.log(np.where(x == 0, 1, np.abs(x)))


def _assert_within(actual, expected, bound):
  """|actual − expected| ≤ bound·|expected|, elementwise; zero is exact."""
  actual = _exact(actual)
  assert np.all(np.isfinite(actual))
  worst = np.abs(actual - expected) - bound * np.abs(expected)
  assert np.all(worst <= 0), (actual, expected)


# A relative error of ε in p·log|x| is a relative error of ε·|p·log|x|| in
# exp(p·log|x|): whatever goes through a logarithm is off by a few units in the
# last place times 1 + |(α−1)·log|φ||. Half precision adds half a unit for the
# one rounding at the end.
def _bound(phi, alpha, dtype):
  eps, rounding = _eps(dtype)
  return ULP * eps * (1 + np.abs((alpha - 1) * _log(phi))) + rounding


@pytest.mark.parametrize('traced', [False, True], ids=['static', 'traced'])
@pytest.mark.parametrize('dtype', DTYPES, ids=lambda d: d.__name__)
@_settings
@given(alpha=_alphas, positions=_positions)
def test_values_against_more_digits(dtype, traced, alpha, positions):
  with _precision(dtype):
    phi = _spread(positions, dtype, root=alpha)
    given_alpha, a = _alpha(alpha, traced, dtype)
    x = _exact(phi)
    bound = _bound(x, a, dtype)

    theta = reparam.power(phi, given_alpha)
    assert theta.dtype == dtype
    _assert_within(theta, np.sign(x) * np.abs(x) ** a, bound)
    steep = reparam.slope(phi, given_alpha)
    assert steep.dtype == dtype
    _assert_within(steep, a * np.abs(x) ** (a - 1), bound)
    same = reparam.power_straight_through(phi, given_alpha)
    np.testing.assert_array_equal(same, theta)


@pytest.mark.parametrize('traced', [False, True], ids=['static', 'traced'])
@pytest.mark.parametrize('dtype', DTYPES, ids=lambda d: d.__name__)
@_settings
@given(alpha=_alphas, positions=_positions)
def test_inverse_and_round_trip(dtype, traced, alpha, positions):
  with _precision(dtype):
    theta = _spread(positions, dtype, root=1)
    given_alpha, a = _alpha(alpha, traced, dtype)
    y = _exact(theta)
    eps, rounding = _eps(dtype)
    bound = ULP * eps * (1 + np.abs(_log(y) / a)) + rounding

    phi = reparam.inverse_power(theta, given_alpha)
    assert phi.dtype == dtype
    _assert_within(phi, np.sign(y) * np.abs(y) ** (1 / a), bound)
    # An error in φ comes back α times as large (and a little more, as 1.01
    # allows for, from the higher powers of bfloat16's error).
    back = reparam.power(phi, given_alpha)
    _assert_within(back, y, 1.01 * a * bound + _bound(_exact(phi), a, dtype))


@pytest.mark.parametrize('dtype', DTYPES, ids=lambda d: d.__name__)
@_settings
@given(alpha=_alphas, positions=_positions)
def test_derivatives_against_more_digits(dtype, alpha, positions):
  with _precision(dtype):
    phi = _spread(positions, dtype, root=alpha)
    traced, a = _alpha(alpha, True, dtype)
    x = _exact(phi)
    bound = _bound(x, a, dtype)
    one = jnp.ones_like(phi)
    in_phi = a * np.abs(x) ** (a - 1)
    _, d = jax.jvp(lambda x: reparam.power(x, traced), (phi,), (one,))
    _assert_within(d, in_phi, bound)
    _, d = jax.jvp(lambda x: reparam.power(x, alpha), (phi,), (one,))
    _assert_within(d, in_phi, bound)
    # The dtype may not carry θ·log|φ| at the ends of its range.
    in_alpha = np.sign(x) * np.abs(x) ** a * _log(x)
    _, d = jax.jvp(
      lambda a: reparam.power(phi, a), (traced,), (jnp.ones_like(traced),)
    )
    info = jnp.finfo(dtype)
    fits = (np.abs(in_alpha) < 0.9 * float(info.max)) & (
      (np.abs(in_alpha) > float(info.tiny)) | (x == 0)
    )
    _assert_within(np.asarray(d)[fits], in_alpha[fits], bound[fits])


@pytest.mark.parametrize('alpha', ALPHAS)
def test_derivatives_against_finite_differences(alpha):
  with jax.enable_x64(True):
    phi = jnp.array([-1.9, -0.3, -1e-3, 1e-4, 0.2, 1.0, 3.0])
    a = jnp.asarray(max(alpha, 1 + 1e-5))  # room for a step to the left
    h = 1e-6
    one = jnp.ones(())

    def difference(fn, x, step):
      return (fn(x + step) - fn(x - step)) / (2 * step)

    for fn in (reparam.power, reparam.inverse_power):
      _, d = jax.jvp(lambda a, fn=fn: fn(phi, a), (a,), (one,))
      expected = difference(functools.partial(fn, phi), a, h)
      np.testing.assert_allclose(d, expected, rtol=1e-6, atol=1e-9)
      for given_alpha in (alpha, jnp.asarray(alpha)):
        in_phi = functools.partial(fn, alpha=given_alpha)
        _, d = jax.jvp(in_phi, (phi,), (jnp.ones_like(phi),))
        expected = difference(in_phi, phi, h * jnp.abs(phi))
        np.testing.assert_allclose(d, expected, rtol=1e-6)


@pytest.mark.parametrize('traced', [False, True], ids=['static', 'traced'])
@pytest.mark.parametrize(
  'alpha, first, second',
  # Second derivative at zero, by our convention where it does not exist: the
  # mean of both sides.
  [
    (1.0, 1.0, 0.0),
    (1.25, 0.0, 0.0),
    (1.3, 0.0, 0.0),
    (2.0, 0.0, 0.0),
    (2.5, 0.0, 0.0),
    (4.0, 0.0, 0.0),
  ],
)
def test_derivatives_at_zero(alpha, first, second, traced):
  a = jnp.float32(alpha) if traced else alpha

  @jax.jit
  def at(zero):
    d = jax.grad(reparam.power)
    seconds = jax.grad(d)(zero, a), jax.grad(reparam.slope)(zero, a)
    if not traced:
      return reparam.power(zero, a), d(zero, a), seconds, (), ()
    in_alpha = jax.grad(reparam.power, argnums=1)(zero, a)
    hessian = jax.hessian(reparam.power, argnums=(0, 1))(zero, a)
    return reparam.power(zero, a), d(zero, a), seconds, in_alpha, hessian

  for zero in (0.0, -0.0):
    value, d, seconds, in_alpha, hessian = at(zero)
    assert value == 0
    assert d == first
    assert seconds == (second, second)
    assert not np.any(in_alpha)
    assert np.all(np.isfinite(np.array(hessian)))


@pytest.mark.parametrize('alpha', ALPHAS)
def test_second_derivative(alpha):
  x = np.array([-2.0, -0.1, -1e-6, 1e-6, 0.5, 3.0], np.float32)
  wide = x.astype(np.float64)
  expected = np.sign(wide) * alpha * (alpha - 1) * np.abs(wide) ** (alpha - 2)
  for a in (alpha, jnp.float32(alpha)):
    actual = jax.vmap(jax.grad(jax.grad(reparam.power)), (0, None))(x, a)
    # α − 1 of a rounded α is off by a few units: 1e-6 in place of one unit.
    tolerance = 8e-6 * (1 + np.abs(np.log(np.abs(wide))))
    assert np.all(np.abs(actual - expected) <= tolerance * np.abs(expected))


def test_inverse_has_an_infinite_derivative_at_zero_but_only_there():
  d = jax.vmap(jax.grad(reparam.inverse_power), (0, None))
  x = jnp.array([0.0, 4.0])
  np.testing.assert_array_equal(d(x, 2.0), [np.inf, 0.25])
  np.testing.assert_array_equal(d(x, 1.0), [1.0, 1.0])


@pytest.mark.parametrize('dtype', DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize('traced', [False, True], ids=['static', 'traced'])
def test_alpha_one_is_the_identity_bit_for_bit(traced, dtype):
  with _precision(dtype):
    positions = np.random.default_rng(0).uniform(-1, 1, 4096)
    positions[:2] = 0
    x = _spread(positions, dtype, root=1).at[1].set(-0.0)
    a = jnp.asarray(1.0, jnp.float32) if traced else 1
    for fn in (
      reparam.power,
      reparam.inverse_power,
      reparam.power_straight_through,
    ):
      for run in (fn, jax.jit(fn, static_argnums=() if traced else 1)):
        y = run(x, a)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(jnp.signbit(y), jnp.signbit(x))
    np.testing.assert_array_equal(reparam.slope(x, a), np.ones(4096))


@pytest.mark.parametrize('alpha', ALPHAS)
def test_straight_through_hands_back_the_gradient_at_theta(alpha):
  phi = jnp.array([-2.0, -0.5, 0.0, 1e-20, 3.0])
  target = jnp.array([1.0, -2.0, 3.0, -4.0, 5.0])
  for a in (alpha, jnp.float32(alpha)):
    theta, pullback = jax.vjp(
      lambda x, a=a: reparam.power_straight_through(x, a), phi
    )
    np.testing.assert_array_equal(theta, reparam.power(phi, a))
    np.testing.assert_array_equal(pullback(target)[0], target)


def test_vmapped_over_alpha_is_looped():
  phi = jnp.linspace(-2, 2, 11)
  alphas = jnp.array([1.0, 1.3, 2.0, 4.5])
  for fn in (reparam.power, reparam.inverse_power, reparam.slope):
    mapped = jax.vmap(fn, (None, 0))(phi, alphas)
    looped = jnp.stack([fn(phi, a) for a in alphas])
    np.testing.assert_allclose(mapped, looped, rtol=1e-6)


@pytest.mark.parametrize(
  'fn',
  [
    reparam.power,
    reparam.power_straight_through,
    reparam.inverse_power,
    reparam.slope,
    reparam.to_theta,
    reparam.to_phi,
  ],
  ids=lambda f: f.__name__,
)
@pytest.mark.parametrize(
  'alpha',
  [
    0.99,
    0,
    -2,
    float('nan'),
    float('inf'),
    np.float32(0.5),
    np.array(0.5),
    jnp.float32(0.5),
  ],
  ids=repr,
)
def test_alpha_out_of_range_is_refused(fn, alpha):
  with pytest.raises(ValueError, match='must be a finite number') as error:
    fn(jnp.ones((2, 2)), alpha)
  assert str(error.value).startswith('alpha is ')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('dtype', [jnp.int32, jnp.bool_, jnp.complex64])
def test_dtypes_that_do_not_float_are_refused(dtype):
  for fn in (
    reparam.power,
    reparam.power_straight_through,
    reparam.inverse_power,
    reparam.slope,
  ):
    with pytest.raises(TypeError, match='floating-point') as error:
      fn(jnp.ones(3, dtype), 2)
    assert jnp.dtype(dtype).name in str(error.value)


def test_a_number_is_static_and_an_array_is_traced():
  assert reparam.check_alpha(2) == 2 and type(reparam.check_alpha(2)) is float
  assert type(reparam.check_alpha(np.float32(1.5))) is float
  array = jnp.float32(1.5)
  assert reparam.check_alpha(array) is array
  # 3 is products; an array is one logarithm.
  static = str(jax.make_jaxpr(lambda x: reparam.power(x, 3))(1.0))
  traced = str(jax.make_jaxpr(lambda x: reparam.power(x, array))(1.0))
  assert 'log' not in static and 'exp' not in static
  assert traced.count('log ') == traced.count('exp ') == 1


def _flax_like():
  rng = np.random.default_rng(0)
  weight = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {
    'Conv_0': {'kernel': weight(3, 3, 1, 4), 'bias': weight(4)},
    'Attention_0': {'query': {'kernel': weight(4, 2, 2), 'bias': weight(2, 2)}},
    'BatchNorm_0': {'scale': weight(1, 1, 1, 4), 'bias': weight(1, 1, 1, 4)},
    'layers': [{'kernel': weight(4, 4)}, (weight(2, 2),)],
    'step': np.array([[3]]),
  }


@pytest.mark.parametrize('traced', [False, True], ids=['static', 'traced'])
def test_trees_of_any_library(traced):
  alpha = jnp.float32(2.5) if traced else 2.5
  theta = _flax_like()
  phi = reparam.to_phi(theta, alpha)
  back = reparam.to_theta(phi, alpha)
  assert jax.tree.structure(phi) == jax.tree.structure(theta)
  under = {
    'Conv_0/kernel',
    'Attention_0/query/kernel',
    'layers/0/kernel',
    'layers/1/0',
  }
  flat = lambda tree: jax.tree_util.tree_flatten_with_path(tree)[0]
  for (path, t), (_, p), (_, b) in zip(
    flat(theta), flat(phi), flat(back), strict=True
  ):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    assert np.shape(p) == np.shape(t) and p.dtype == t.dtype
    if name in under:
      np.testing.assert_allclose(p, np.sign(t) * np.abs(t) ** 0.4, rtol=1e-5)
      np.testing.assert_allclose(b, t, rtol=1e-5)
    else:
      assert p is t and b is t, name


def test_haiku_batch_norm_is_left_alone():
  net = hk.transform_with_state(
    lambda x: hk.BatchNorm(True, True, 0.9)(hk.Conv2D(2, 3)(x), True)
  )
  theta, _ = net.init(jax.random.key(0), jnp.ones((1, 4, 4, 1)))
  assert theta['batch_norm']['scale'].ndim == 4
  phi = reparam.to_phi(theta, 3)
  assert phi['batch_norm'] is not theta['batch_norm']
  assert phi['batch_norm']['scale'] is theta['batch_norm']['scale']
  assert phi['conv2_d']['b'] is theta['conv2_d']['b']
  assert not np.array_equal(phi['conv2_d']['w'], theta['conv2_d']['w'])


def test_where_chooses_by_path_and_value():
  tree = {'a': jnp.full((2, 2), 4.0), 'b': jnp.full(3, 4.0)}
  phi = reparam.to_phi(tree, 2, where=lambda path, leaf: leaf.ndim == 1)
  np.testing.assert_array_equal(phi['a'], tree['a'])
  np.testing.assert_array_equal(phi['b'], jnp.full(3, 2.0))
  phi = reparam.to_phi(tree, 2, where=lambda path, leaf: path == 'a')
  np.testing.assert_array_equal(phi['a'], jnp.full((2, 2), 2.0))


def test_value_and_grad_is_the_gradient_at_theta():
  phi = {'w': jnp.array([[2.0, -1.0]]), 'b': jnp.array([3.0])}

  def loss(theta, scale, shift=0.0):
    total = jnp.sum(theta['w'] ** 2) + jnp.sum(theta['b'])
    return scale * total + shift, 'aux'

  fn = reparam.value_and_grad(loss, 3, has_aux=True)
  (value, aux), grads = fn(phi, 2.0, shift=1.0)
  assert value == 2 * (64 + 1 + 3) + 1 and aux == 'aux'
  np.testing.assert_allclose(grads['w'], [[32.0, -4.0]])  # 2·2·θ
  np.testing.assert_allclose(grads['b'], [2.0])
  value, _ = reparam.value_and_grad(lambda t: loss(t, 1.0)[0], 3)(phi)
  assert value == 68
