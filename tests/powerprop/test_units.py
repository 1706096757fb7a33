"""Hidden units: published, and found in the traced net."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import networks
from powerprop import units


def _found(net, shape=(6, 6, 2)):
  x = jnp.zeros((1, *shape))
  params, state = net.init(jax.random.key(0), x, is_training=True)
  apply = lambda w, s, x: net.apply(w, s, None, x, is_training=False)[0]
  return units.find(apply, params, state, x)


def _net(forward):
  return hk.transform_with_state(forward)


def test_a_perceptrons_units_are_its_hidden_layers():
  found = _found(networks.mlp(3, hidden=(4, 5)))
  assert found == units.Units(
    {
      'hidden_0': units.Layer(4, 'hidden_0/w', ('hidden_0/b',), ()),
      'hidden_1': units.Layer(5, 'hidden_1/w', ('hidden_1/b',), ()),
    },
    'output/w',
    ('output/b',),
  )


def test_layers_are_in_the_nets_order_whatever_their_names():
  found = _found(networks.mlp(3, hidden=(2,) * 11))
  assert list(found.layers) == [f'hidden_{i}' for i in range(11)]


def test_channels_have_their_normalisation():
  found = _found(networks.small_conv(3, channels=(4,), hidden=(5,)))
  assert list(found.layers) == ['conv_0', 'hidden_0']
  layer = found.layers['conv_0']
  assert (layer.size, layer.kernel) == (4, 'conv_0/w')
  assert layer.own == ('conv_0/b', 'conv_0_norm/offset', 'conv_0_norm/scale')
  assert layer.state == tuple(
    f'conv_0_norm/~/{x}_ema/average' for x in ('mean', 'var')
  )


def test_a_flattened_channel_is_read_at_every_place():
  """Input i of the next kernel is of channel i mod C."""
  net = networks.small_conv(3, channels=(4,), hidden=(5,), norm=False)
  x = jax.random.uniform(jax.random.key(1), (2, 6, 6, 2))
  params, state = net.init(jax.random.key(0), x, is_training=True)
  answer = units.with_activations(
    lambda w: net.apply(w, state, None, x, is_training=False)[0]
  )
  logits, found = answer(params)
  assert found['conv_0'].shape == (2, 3, 3, 4)
  assert found['hidden_0'].shape == (2, 5)
  channel = int(jnp.argmax(found['conv_0'].sum((0, 1, 2))))  # one that lives
  rows = np.arange(3 * 3 * 4) % 4 == channel
  cut = jax.tree.map(jnp.array, params)
  cut['hidden_0']['w'] = cut['hidden_0']['w'].at[rows].set(0)
  dead = jax.tree.map(jnp.array, params)
  dead['conv_0'] = {
    k: v.at[..., channel].set(0) for k, v in dead['conv_0'].items()
  }
  np.testing.assert_array_equal(answer(cut)[0], answer(dead)[0])
  assert not np.array_equal(answer(cut)[0], logits)


def test_an_output_layer_may_be_a_convolution():
  net = networks.fully_conv(3, channels=(4,), strides=(2,), paddings=(1,))
  found = _found(net, (9, 9, 2))
  assert {n: (x.size, x.kernel) for n, x in found.layers.items()} == {
    'conv_0': (4, 'conv_0/w')
  }
  assert (found.output, found.output_own) == ('output/w', ('output/b',))


def test_pools_and_dropout_lie_between_layers():
  found = _found(networks.block_conv(3, channels=(4, 5), hidden=(6,)))
  assert {n: (x.size, x.kernel) for n, x in found.layers.items()} == {
    'conv_0': (4, 'conv_0/w'),
    'conv_1': (5, 'conv_1/w'),
    'hidden_0': (6, 'hidden_0/w'),
  }


def test_publishing_changes_nothing_and_is_heard_once():
  x = jnp.arange(3.0)
  assert units.publish('a', x) is x
  both = units.with_activations(lambda: units.publish('a', x).sum())
  out, found = both()
  assert out == 3 and list(found) == ['a']
  with pytest.raises(ValueError, match="published as 'a'"):
    units.with_activations(
      lambda: (units.publish('a', x), units.publish('a', x))
    )()
  assert both()[0] == 3  # what failed is forgotten


def _linear(size, name):
  return hk.Linear(size, name=name)


def _short_cut(x, is_training):
  x = units.publish('a', jax.nn.relu(_linear(4, 'a')(x.reshape(len(x), -1))))
  y = units.publish('b', jax.nn.relu(_linear(4, 'b')(x)))
  return _linear(3, 'output')(x + y)


def _unpublished(x, is_training):
  x = jax.nn.relu(_linear(4, 'a')(x.reshape(len(x), -1)))
  x = units.publish('b', jax.nn.relu(_linear(4, 'b')(x)))
  return _linear(3, 'output')(x)


def _silent(x, is_training):
  return _linear(3, 'output')(x.reshape(len(x), -1))


def _twice(x, is_training):
  x = units.publish('a', jax.nn.relu(_linear(4, 'a')(x.reshape(len(x), -1))))
  again = _linear(4, 'b')
  x = units.publish('b', jax.nn.relu(again(x)))
  x = units.publish('c', jax.nn.relu(again(x)))
  return _linear(3, 'output')(x)


def _not_its_units(x, is_training):
  x = jax.nn.relu(_linear(4, 'a')(x.reshape(len(x), -1)))
  x = units.publish('a', x.reshape(len(x), 2, 2))
  return _linear(3, 'output')(x.reshape(len(x), -1))


def _channels_first(x, is_training):
  x = jax.nn.relu(hk.Conv2D(4, 3, padding='SAME', name='a')(x))
  x = jnp.moveaxis(units.publish('a', x), -1, 1)
  x = jax.nn.relu(_linear(5, 'b')(x.reshape(len(x), -1)))
  return _linear(3, 'output')(units.publish('b', x))


class _Leaf(hk.Module):
  """Multiplies by, or adds, a leaf of its own."""

  def __init__(self, name, times):
    super().__init__(name)
    self._times = times

  def __call__(self, x):
    leaf = hk.get_parameter('leaf', x.shape[-1:], init=jnp.zeros)
    return x * leaf if self._times else x + leaf


def _scaled_input(x, is_training):
  x = units.publish('a', jax.nn.relu(_linear(4, 'a')(x.reshape(len(x), -1))))
  x = _Leaf('scale', True)(x)
  x = units.publish('b', jax.nn.relu(_linear(4, 'b')(x)))
  return _linear(3, 'output')(x)


def _shared_bias(x, is_training):
  bias = _Leaf('bias', False)
  x = _linear(4, 'a')(x.reshape(len(x), -1))
  x = units.publish('a', jax.nn.relu(bias(x)))
  x = units.publish('b', jax.nn.relu(bias(_linear(4, 'b')(x))))
  return _linear(3, 'output')(x)


def _sigmoid(x, is_training):
  x = units.publish('a', jax.nn.sigmoid(_linear(4, 'a')(x.reshape(len(x), -1))))
  return _linear(3, 'output')(x)


def _input_published(x, is_training):
  x = units.publish('a', x)
  return _linear(3, 'output')(x.reshape(len(x), -1))


def test_leaves_beside_the_outputs_kernel_are_told():
  def forward(x, is_training):
    x = units.publish('z', jax.nn.relu(_linear(4, 'z')(x.reshape(len(x), -1))))
    return _Leaf('bias', False)(_linear(3, 'output')(x))

  assert _found(_net(forward)).output_own == ('bias/leaf', 'output/b')


@pytest.mark.parametrize(
  ('forward', 'message'),
  [
    (_scaled_input, "scale/leaf acts on what the kernel 'b/w' reads"),
    (_shared_bias, 'bias/leaf makes several layers'),
    (_sigmoid, "the layer 'a' do not answer 0"),
    (_input_published, "'a' is the input, or published twice"),
    (_short_cut, 'the output must be made .* but is made of output/w, units:a'),
    (_unpublished, "the layer 'b' must be made .* but is made of a/w, b/w"),
    (_silent, 'the net publishes no activations'),
    (_twice, 'b/w makes several layers'),
    (
      _channels_first,
      "144 inputs of the kernel 'b/w' are not .* the layer 'a'",
    ),
    (_not_its_units, "the layer 'a' has 2 units and the leaf 'a/w'"),
  ],
)
def test_a_net_whose_units_cannot_be_cut_off_is_refused(forward, message):
  with pytest.raises(ValueError, match=message):
    _found(_net(forward))


def test_residual_nets_are_refused():
  with pytest.raises(ValueError, match='publishes no activations'):
    _found(networks.wide_resnet(3, depth=10, width=1))


# Averages by which nothing is rounded: var + ε is 1.
_ONE = {'mean_ema': 2.0, 'var_ema': np.float32(1) - np.float32(1e-5)}


@pytest.mark.parametrize('norm', [False, True])
def test_a_net_with_dead_units_is_the_narrow_net(norm):
  """To the bit: with whole numbers no sum is rounded, in whatever order."""
  make = functools.partial(networks.small_conv, 3, norm=norm)
  net = make(channels=(4,), hidden=(5,))
  x = jnp.asarray(np.random.default_rng(0).integers(0, 4, (2, 6, 6, 2)), float)
  params, state = net.init(jax.random.key(0), x, is_training=True)
  rng = np.random.default_rng(1)
  whole = lambda a: jnp.asarray(rng.integers(-2, 3, a.shape), a.dtype)
  params = jax.tree.map(whole, params)
  # To divide by √1 rounds nothing either.
  state = {
    module: jax.tree.map(jnp.ones_like, leaves)
    | {
      'average': jnp.full_like(
        leaves['average'], _ONE[module.rpartition('/')[2]]
      )
    }
    for module, leaves in state.items()
  }
  found = _found(net)
  kept = {
    'conv_0': np.array([True, False, True, True]),
    'hidden_0': np.array([False, True, True, False, True]),
  }
  for name, layer in found.layers.items():
    for leaf in (layer.kernel, *layer.own):
      module, last = leaf.rsplit('/', 1)
      params[module][last] = jnp.where(kept[name], params[module][last], 0)
  smaller, its_state = units.narrow(found, kept, params, state)
  assert smaller['conv_0']['w'].shape == (3, 3, 2, 3)
  assert smaller['hidden_0']['w'].shape == (3 * 3 * 3, 3)
  other = make(channels=(3,), hidden=(3,))
  wide, thin = (
    n.apply(w, s, None, x, is_training=False)[0]
    for n, w, s in ((net, params, state), (other, smaller, its_state))
  )
  if norm and jax.jit(jax.lax.rsqrt)(jnp.ones(8))[0] != 1:
    np.testing.assert_allclose(wide, thin, rtol=1e-6)  # it is approximated here
  else:
    np.testing.assert_array_equal(wide, thin)
  thin = other.init(jax.random.key(0), x, is_training=True)
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  assert shapes((smaller, its_state)) == shapes(thin)
  assert np.ptp(wide) > 0
  with pytest.raises(ValueError, match='conv_0.* has no unit'):
    units.narrow(found, kept | {'conv_0': np.zeros(4, bool)}, params)


def test_what_is_frozen_is_held_in_arrays_of_its_own():
  frozen = jnp.array([True, False])
  old = {'a': {'average': jnp.array([[1.0, 2.0]]), 'count': jnp.int32(3)}}
  new = {'a': {'average': jnp.array([[5.0, 6.0]]), 'count': jnp.int32(9)}}
  held = units.hold_frozen(new, {'a': old['a'] | {'frozen': frozen}})
  assert held['a'].pop('frozen') is not frozen
  assert jax.tree.map(lambda a: np.asarray(a).tolist(), held) == {
    'a': {'average': [[1.0, 6.0]], 'count': 9}
  }
  assert units.hold_frozen(new, old) is new and units.hold_frozen((), ()) == ()
