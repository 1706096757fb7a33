"""FLOPs: every rule of the walk against a hand count, and the formulas."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import convolution
from powerprop import costs
from powerprop import reparam


def _shape(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _convolution(x, w, stride=1, **kwargs):
  return jax.lax.conv_general_dilated(
    x,
    w,
    (stride, stride),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    **kwargs,
  )


def _haiku(make, x):
  net = hk.without_apply_rng(hk.transform(lambda x: make()(x)))
  params = jax.eval_shape(net.init, jax.random.key(0), x)
  return costs.flops(net.apply, params, x)


def test_dense_layers_with_biases_and_a_batch():
  params = {
    'a': {'w': _shape(7, 5), 'b': _shape(5)},
    'b': {'w': _shape(5, 3), 'b': _shape(3)},
  }

  def net(p, x):
    x = jax.nn.relu(x @ p['a']['w'] + p['a']['b'])
    return x @ p['b']['w'] + p['b']['b']

  found = costs.flops(net, params, _shape(2, 7))
  assert found == {'a/w': 2 * 2 * 7 * 5, 'b/w': 2 * 2 * 5 * 3}
  # In the order of use, so that the first layer can be told.
  assert list(found) == ['a/w', 'b/w']


@pytest.mark.parametrize(
  'make, shape, wanted',
  [
    # output pixels × kernel × channels in × channels out
    (lambda: hk.Conv2D(8, 3), (1, 6, 5, 4), 6 * 5 * 9 * 4 * 8),
    (lambda: hk.Conv2D(8, 3, stride=2), (1, 6, 5, 4), 3 * 3 * 9 * 4 * 8),
    (lambda: hk.Conv2D(8, 3, padding='VALID'), (1, 6, 5, 4), 4 * 3 * 9 * 4 * 8),
    (lambda: hk.Conv2D(8, 3, rate=2), (2, 6, 5, 4), 2 * 6 * 5 * 9 * 4 * 8),
    (
      lambda: hk.Conv2D(8, 3, feature_group_count=2),
      (1, 6, 5, 4),
      6 * 5 * 9 * 2 * 8,
    ),
    (
      lambda: hk.Conv2D(8, 3, data_format='NCHW'),
      (1, 4, 6, 5),
      6 * 5 * 9 * 4 * 8,
    ),
    (lambda: hk.DepthwiseConv2D(2, 3), (1, 6, 5, 4), 6 * 5 * 9 * 4 * 2),
    (lambda: hk.Conv1D(8, 3), (1, 6, 4), 6 * 3 * 4 * 8),
    (lambda: hk.Conv3D(8, 3), (1, 2, 6, 5, 4), 2 * 6 * 5 * 27 * 4 * 8),
    # Transposed: input pixels × kernel × channels in × channels out.
    (
      lambda: hk.Conv2DTranspose(8, 3, stride=2),
      (1, 6, 5, 4),
      6 * 5 * 9 * 4 * 8,
    ),
    (
      lambda: hk.Conv2DTranspose(8, 3, stride=1),
      (1, 6, 5, 4),
      6 * 5 * 9 * 4 * 8,
    ),
    (
      lambda: convolution.SlicedConv2D(8, 3, 2, name='c'),
      (1, 6, 5, 4),
      3 * 3 * 9 * 4 * 8,
    ),
  ],
)
def test_convolutions(make, shape, wanted):
  (count,) = _haiku(make, _shape(*shape)).values()
  assert count == 2 * wanted


def test_batch_groups():
  def net(p, x):
    return _convolution(x, p['w'], batch_group_count=2)

  # [4, 6, 5, 3] * [3, 3, 3, 8]: each half of the batch meets half of the
  # outputs, so the result is [2, 6, 5, 8].
  params = {'w': _shape(3, 3, 3, 8)}
  found = costs.flops(net, params, _shape(4, 6, 5, 3))
  assert found == {'w': 2 * (2 * 6 * 5 * 8) * 9 * 3}


def _power(w, alpha):
  return reparam.to_theta(w, alpha)['w']


@pytest.mark.parametrize(
  'kernel',
  [
    lambda p: p['w'].reshape(4, 3).T,
    lambda p: p['w'].astype(jnp.bfloat16).astype(jnp.float32),
    lambda p: jnp.broadcast_to(p['w'], (5, 3, 4))[2],
    lambda p: jnp.where(jnp.abs(p['w']) > 1, p['w'], 0.0),
    lambda p: p['w'] * p['scale'],
    lambda p: jnp.exp(p['scale']) * p['w'],
    lambda p: p['w'] * np.eye(3, 4),
    lambda p: _power(p, 2.5),
    lambda p: reparam.power_straight_through(p['w'], p['alpha']),
    lambda p: _power({'w': p['w']}, p['alpha']),
    jax.jit(lambda p: jax.checkpoint(jnp.tanh)(p['w'])),
    lambda p: jax.lax.optimization_barrier((p['scale'], p['w']))[1],
    lambda p: jax.lax.stop_gradient(p['w']),
    lambda p: jax.lax.cond(
      p['alpha'] > 1, lambda w: 2 * w, lambda w: w, p['w']
    ),
    lambda p: jax.lax.while_loop(
      lambda w: jnp.sum(w) > 1, lambda w: w / 2, p['w']
    ),
    lambda p: jax.lax.fori_loop(0, 3, lambda _, w: w / 2, p['w']),
    lambda p: jnp.concatenate([p['w'][:1], np.zeros((1, 4)), p['w'][2:]]),
    # A mask ranked over several leaves does not take the weight's name.
    lambda p: (
      p['w'] * jnp.concatenate([p['w'].ravel(), p['scale']])[:12].reshape(3, 4)
    ),
  ],
)
def test_a_parameter_is_followed_to_the_product(kernel):
  params = {'w': _shape(3, 4), 'scale': _shape(4), 'alpha': _shape()}

  def net(p, x):
    return x @ kernel(p)

  assert costs.flops(net, params, _shape(2, 3)) == {'w': 2 * 2 * 3 * 4}


def test_masks_and_alpha_may_be_arguments():
  params = {'a': {'w': _shape(3, 4), 'b': _shape(4)}, 'b': {'w': _shape(4, 4)}}

  def net(p, mask, alpha, x):
    p = reparam.to_theta(p, alpha)
    x = x @ (p['a']['w'] * mask) + p['a']['b']
    return jax.nn.relu(x) @ p['b']['w']

  found = costs.flops(net, params, _shape(3, 4), _shape(), _shape(1, 3))
  assert found == {'a/w': 2 * 3 * 4, 'b/w': 2 * 4 * 4}


def test_concatenated_parameters_pay_by_their_share():
  params = {'q': _shape(4, 2), 'v': _shape(4, 6)}

  def net(p, x):
    return x @ jnp.concatenate([p['q'], p['v']], axis=1)

  found = costs.flops(net, params, _shape(1, 4))
  assert found == {'q': 2 * 4 * 2, 'v': 2 * 4 * 6}


def test_low_rank_factors():
  params = {'u': _shape(6, 2), 'v': _shape(2, 5)}

  def net(p, x):
    return x @ (p['u'] @ p['v'])

  found = costs.flops(net, params, _shape(1, 6))
  assert sum(found.values()) == 2 * 6 * 2 * 5 + 2 * 6 * 5
  assert '' not in found


def test_a_parameter_used_twice_counts_twice():
  params = {'w': _shape(4, 4)}

  def net(p, x):
    return (x @ p['w']) @ p['w'].T

  assert costs.flops(net, params, _shape(1, 4)) == {'w': 2 * 2 * 16}


def test_vmapped_layers():
  params = {'w': _shape(5, 3, 4)}

  def net(p, x):
    return jax.vmap(jnp.dot, (None, 0))(x, p['w'])

  assert costs.flops(net, params, _shape(2, 3)) == {'w': 5 * 2 * 2 * 3 * 4}


def test_stacked_layers_in_a_scan():
  params = {'stack': _shape(5, 4, 4), 'last': _shape(4, 2)}

  def net(p, x):
    def layer(x, w):
      return jnp.tanh(x @ w), jnp.sum(x)

    x, _ = jax.lax.scan(jax.checkpoint(layer), x, p['stack'])
    return x @ p['last']

  found = costs.flops(net, params, _shape(2, 4))
  assert found == {'stack': 5 * 2 * 2 * 16, 'last': 2 * 2 * 4 * 2}


def test_a_recurrent_net_uses_its_weights_at_every_step():
  params = {'h': _shape(1, 4), 'w': _shape(3, 4), 'u': _shape(4, 4)}

  def net(p, xs):
    def cell(h, x):
      h = jnp.tanh(x @ p['w'] + h @ p['u'])
      return h, h

    _, hs = jax.lax.scan(cell, p['h'], xs)
    return hs @ p['u']

  found = costs.flops(net, params, _shape(7, 1, 3))
  assert found == {'w': 7 * 2 * 3 * 4, 'u': 2 * 7 * 2 * 4 * 4}


def test_products_of_activations_are_no_parameters():
  params = {name: _shape(8, 8) for name in 'qkvo'} | {
    name: _shape(8) for name in ('bias_q', 'bias_k')
  }
  params |= {'position': _shape(6, 8), 'relative': _shape(6, 6)}

  def net(p, x):
    x = x + p['position']
    q = x @ p['q'] + p['bias_q']
    k = x @ p['k'] + p['bias_k']
    scores = jax.nn.softmax(q @ k.mT + p['relative'])
    return (scores @ (x @ p['v'])) @ p['o']

  found = costs.flops(net, params, _shape(2, 6, 8))
  projection, attention = 2 * 2 * 6 * 8 * 8, 2 * 2 * 6 * 6 * 8
  assert found == dict.fromkeys('qkvo', projection) | {'': 2 * attention}


def test_the_dearest_branch_counts():
  params = {'a': _shape(4, 4), 'b': _shape(4, 4)}

  def net(p, x):
    return jax.lax.cond(
      jnp.sum(x) > 0, lambda: x @ p['a'], lambda: (x @ p['b']) @ p['b']
    )

  assert costs.flops(net, params, _shape(1, 4)) == {'b': 2 * 2 * 16}


def test_constants_and_gradients():
  params = {'w': _shape(3, 4)}
  image = np.ones((2, 3), np.float32)  # captured, so not an argument

  def loss(p):
    return jnp.sum(jnp.sin(image @ p['w']) @ np.ones((4, 2), np.float32))

  assert costs.flops(loss, params) == {'w': 2 * 2 * 3 * 4, '': 2 * 2 * 4 * 2}
  # Backward: once more through the constant, and the gradient of w.
  found = costs.flops(jax.grad(loss), params)
  assert found == {'w': 2 * 2 * 3 * 4, '': 2 * (2 * 2 * 4 * 2) + 2 * 2 * 3 * 4}


def test_a_while_loop_with_products_is_refused():
  def net(p, x):
    return jax.lax.while_loop(lambda x: jnp.sum(x) > 1, lambda x: x @ p['w'], x)

  with pytest.raises(ValueError, match='while loop .* fori_loop fixed bounds'):
    costs.flops(net, {'w': _shape(4, 4)}, _shape(1, 4))


def test_an_operation_that_hides_products_is_refused():
  def net(p, x):
    return jax.lax.custom_linear_solve(
      lambda y: y @ p['w'], x, lambda _, b: b @ p['w']
    )

  with pytest.raises(ValueError, match="'custom_linear_solve' cannot"):
    costs.flops(net, {'w': _shape(4, 4)}, _shape(1, 4))


def test_relative():
  layers = {'a/w': 30.0, 'b/w': 60.0, '': 10.0}
  assert costs.relative(layers, {}) == 1
  assert costs.relative(layers, {'a/w': 0.1, 'b/w': 0.5}) == pytest.approx(0.43)
  with pytest.raises(ValueError, match='no layer has any FLOPs'):
    costs.relative({}, {})


def test_training_formulas():
  f_s, f_b, f_d = 0.2, 0.6, 1.0
  assert costs.masked_cost(f_s, f_s, False) == pytest.approx(3 * f_s)
  assert costs.masked_cost(f_s, f_b, True) == pytest.approx(2 * f_s + f_b)
  assert costs.snfs_cost(f_s, f_s, False) == pytest.approx(2 * f_s + f_d)
  assert costs.rigl_cost(f_s, f_s, False) == pytest.approx(3 * f_s)
  assert costs.rigl_cost(f_s, f_s, True) == pytest.approx(2 * f_s + f_d)
  for cost in (costs.masked_cost, costs.rigl_cost, costs.snfs_cost):
    assert cost(1.0, 1.0, True) == pytest.approx(3)  # dense


def test_rigls_average_over_an_interval():
  """(3 f_S·ΔT + 2 f_S + f_D)/(ΔT + 1): one step in ΔT + 1 is due."""
  f_s, interval = 0.2, 100
  due = jnp.arange(interval + 1) == 0
  cost = functools.partial(costs.rigl_cost, f_s, f_s)
  found = jnp.mean(jax.jit(jax.vmap(cost))(due))
  wanted = (3 * f_s * interval + 2 * f_s + 1) / (interval + 1)
  assert found == pytest.approx(wanted, rel=1e-5)
