"""Nets: sizes, initialisation, and the convolution made of slices."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerprop import networks
from powerprop import trees

_SHAPES = {
  'mlp': (28, 28, 1),
  'mnist_conv': (28, 28, 1),
  'cifar10_conv': (32, 32, 3),
}
# Weights without biases, layer by layer.
_LAYERS = {
  'mlp': [784 * 300, 300 * 100, 100 * 10],
  'mnist_conv': [25 * 16, 25 * 16 * 32, 7 * 7 * 32 * 10],
  'cifar10_conv': [25 * 3 * 6, 25 * 6 * 16, 8 * 8 * 16 * 120, 120 * 84, 840],
}
_TOTALS = {'mlp': 266_200, 'mnist_conv': 28_880, 'cifar10_conv': 136_650}


@functools.cache
def _init(name):
  net = networks.NETWORKS[name](10)
  image = jnp.zeros((1, *_SHAPES[name]))
  init = functools.partial(net.init, is_training=True)
  return net, *jax.jit(init)(jax.random.key(0), image)


def test_every_network_is_in_the_table():
  assert set(networks.NETWORKS) == set(_SHAPES)


@pytest.mark.parametrize('name', _SHAPES)
def test_sizes_names_and_output(name):
  net, params, state = _init(name)
  weights = trees.weights(params)
  assert [w.size for w in weights.values()] == _LAYERS[name]
  assert sum(_LAYERS[name]) == _TOTALS[name]
  # One-shot pruning finds the output layer by its name.
  assert [n for n in weights if n.startswith('output/')] == ['output/w']
  image = jnp.ones((3, *_SHAPES[name]))
  apply = functools.partial(net.apply, is_training=False)
  logits, _ = jax.eval_shape(apply, params, state, None, image)
  assert logits.shape == (3, 10) and logits.dtype == jnp.float32


@pytest.mark.parametrize('name', _SHAPES)
def test_initial_weights(name):
  """Zero biases; truncated normal weights of standard deviation √(1/fan-in)."""
  _, params, _ = _init(name)
  weights = trees.weights(params)
  for path, x in jax.tree_util.tree_flatten_with_path(params)[0]:
    if trees.path_name(path) not in weights:
      assert not np.any(x)
  for w in map(np.asarray, weights.values()):
    fan_in = np.prod(w.shape[:-1])
    n = w.size
    std = np.sqrt(1 / fan_in)
    # The error of a standard deviation of n values is below std/√(2n).
    assert abs(w.std() - std) < 5 * std / np.sqrt(2 * n)
    assert abs(w.mean()) < 5 * std / np.sqrt(n)
    # Truncated at two of the parent's standard deviations.
    assert np.abs(w).max() <= 2 * std / 0.87962566 * (1 + 1e-6)


@pytest.mark.parametrize(
  'kernel, stride, size, channels',
  [
    (1, 1, (5, 5), 1),
    (3, 2, (8, 7), 3),
    (5, 2, (28, 28), 1),
    (2, 3, (7, 7), 2),
    (5, 1, (3, 3), 2),  # larger than the picture
  ],
)
def test_sliced_convolution_is_haikus(kernel, stride, size, channels):
  def net(make):
    return hk.without_apply_rng(hk.transform(lambda x: make()(x)))

  ours = net(lambda: networks.SlicedConv2D(4, kernel, stride, name='c'))
  theirs = net(
    lambda: hk.Conv2D(4, kernel, stride, w_init=networks._INIT, name='c')
  )
  x_key, key = jax.random.split(jax.random.key(0))
  x = jax.random.normal(x_key, (2, *size, channels))
  params = jax.jit(ours.init)(key, x)
  wanted = jax.jit(theirs.init)(key, x)
  jax.tree.map(np.testing.assert_array_equal, params, wanted)

  def loss(net):
    # A loss whose gradient differs from pixel to pixel.
    def fn(params, x):
      y = net.apply(params, x)
      return jnp.sum(jnp.sin(y) * jnp.arange(y.size).reshape(y.shape)), y

    return jax.value_and_grad(fn, argnums=(0, 1), has_aux=True)

  (_, y), grads = jax.jit(loss(ours))(params, x)
  (_, y_theirs), grads_theirs = jax.jit(loss(theirs))(params, x)
  assert y.shape == y_theirs.shape
  np.testing.assert_allclose(y, y_theirs, rtol=1e-5, atol=1e-5)
  for g, h in zip(
    jax.tree.leaves(grads), jax.tree.leaves(grads_theirs), strict=True
  ):
    np.testing.assert_allclose(g, h, rtol=1e-4, atol=1e-4 * np.abs(h).max())
