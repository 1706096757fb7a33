"""Nets: sizes, initialisation, and the convolution made of slices."""

import functools

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import convolution
from experiments.engine import networks
from experiments.engine import residual
from powerprop import trees
from powerprop import units

_SHAPES = {
  'mlp': (28, 28, 1),
  'mnist_conv': (28, 28, 1),
  'cifar10_conv': (32, 32, 3),
  'small_conv': (32, 32, 3),
  'small_alexnet': (32, 32, 3),
  'block_conv': (32, 32, 3),
}
# With residual blocks; their tests are apart.
_RESIDUAL = {
  'wide_resnet': (32, 32, 3),
  'resnet': (64, 64, 3),
  'resnet18': (32, 32, 3),
  'resnet50': (224, 224, 3),
}
_WIDE = {'fully_conv': (32, 32, 3)}  # too large to be made in a test
# Weights without biases, layer by layer.
_LAYERS = {
  'mlp': [784 * 300, 300 * 100, 100 * 10],
  'mnist_conv': [25 * 16, 25 * 16 * 32, 7 * 7 * 32 * 10],
  'cifar10_conv': [25 * 3 * 6, 25 * 6 * 16, 8 * 8 * 16 * 120, 120 * 84, 840],
  'small_conv': [
    9 * 3 * 16,
    9 * 16 * 32,
    9 * 32 * 64,
    4 * 4 * 64 * 128,
    128 * 10,
  ],
  'small_alexnet': [
    25 * 3 * 64,
    25 * 64 * 64,
    8 * 8 * 64 * 384,
    384 * 192,
    192 * 10,
  ],
  'block_conv': [
    9 * 3 * 32,
    9 * 32 * 32,
    9 * 32 * 64,
    9 * 64 * 64,
    8 * 8 * 64 * 512,
    512 * 10,
  ],
}
_TOTALS = {
  'mlp': 266_200,
  'mnist_conv': 28_880,
  'cifar10_conv': 136_650,
  'small_conv': 155_824,
  'small_alexnet': 1_755_712,
  'block_conv': 2_167_648,
}


def _key(seed):
  # XLA's own generator compiles in a fifth of the time of JAX's default.
  return jax.random.key(seed, impl='rbg')


@functools.cache
def _init(name):
  net = networks.NETWORKS[name](10)
  image = jnp.zeros((1, *_SHAPES[name]))
  init = functools.partial(net.init, is_training=True)
  return net, *jax.jit(init)(_key(0), image)


def test_every_network_is_in_the_table():
  assert set(networks.NETWORKS) == {*_SHAPES, *_RESIDUAL, *_WIDE}


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
  """No effect but of truncated normal weights with std √(1/fan-in)."""
  _, params, _ = _init(name)
  weights = trees.weights(params)
  for path, x in jax.tree_util.tree_flatten_with_path(params)[0]:
    if trees.path_name(path) not in weights:
      assert np.all(x == trees.path_name(path).endswith('/scale')), path
  for w in map(np.asarray, weights.values()):
    fan_in = np.prod(w.shape[:-1])
    n = w.size
    std = np.sqrt(1 / fan_in)
    # The error of a standard deviation of n values is below std/√(2n).
    assert abs(w.std() - std) < 5 * std / np.sqrt(2 * n)
    assert abs(w.mean()) < 5 * std / np.sqrt(n)
    # Truncated at two of the parent's standard deviations.
    assert np.abs(w).max() <= 2 * std / 0.87962566 * (1 + 1e-6)


@functools.cache
def _shapes(name, num_classes=10, **kwargs):
  """The net with the shapes of its parameters and state; nothing is made."""
  net = networks.NETWORKS[name](num_classes, **kwargs)
  shape = (_RESIDUAL | _WIDE)[name]
  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  init = functools.partial(net.init, is_training=True)
  return net, *jax.eval_shape(init, _key(0), image)


@pytest.mark.parametrize(
  'name, num_classes, layers, weights, parameters',
  [
    # The last two columns of ResNets are those that all quote.
    ('wide_resnet', 10, 23, 1_076_912, 1_079_642),
    ('resnet', 10, 18, 506_672, 511_514),
    ('resnet18', 10, 21, 11_164_352, 11_173_962),
    ('resnet50', 1000, 54, 25_502_912, 25_557_032),
  ],
)
def test_residual_nets(name, num_classes, layers, weights, parameters):
  net, params, state = _shapes(name, num_classes)
  found = trees.weights(params)
  assert len(found) == layers
  assert sum(w.size for w in found.values()) == weights
  assert sum(x.size for x in jax.tree.leaves(params)) == parameters
  # The stem comes first and the output last, as distributions expect it.
  assert list(found)[0] == 'conv/w' and list(found)[-1] == 'output/w'
  image = jax.ShapeDtypeStruct((3, *_RESIDUAL[name]), jnp.float32)
  for is_training, key in ((True, _key(0)), (False, None)):
    apply = functools.partial(net.apply, is_training=is_training)
    logits, after = jax.eval_shape(apply, params, state, key, image)
    assert logits.shape == (3, num_classes)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def _haikus_names(tree):
  """A residual net's parameters or state under the names that Haiku gives."""
  renamed = {
    'conv': 'initial_conv',
    'conv_norm': 'initial_batchnorm',
    'output': 'logits',
  }
  out = {}
  for path, leaves in tree.items():
    first, *rest = path.split('/')
    name = renamed.get(first, f'block_{first}')
    out['/'.join(['res_net/~', name, *rest])] = leaves
  return out


def _haikus(num_classes, blocks):
  return hk.transform_with_state(
    lambda x, is_training: hk.nets.ResNet(blocks, num_classes, name='res_net')(
      x, is_training
    )
  )


def test_resnet50_is_haikus():
  _, *ours = _shapes('resnet50', 1000)
  theirs = _haikus(1000, (3, 4, 6, 3))
  image = jax.ShapeDtypeStruct((1, *_RESIDUAL['resnet50']), jnp.float32)
  init = functools.partial(theirs.init, is_training=True)
  for mine, other in zip(
    ours, jax.eval_shape(init, _key(0), image), strict=True
  ):
    chex.assert_trees_all_equal_shapes_and_dtypes(_haikus_names(mine), other)


def test_a_resnet_computes_what_haikus_does():
  """On one block a group, which is as good and sooner compiled."""
  blocks = (1, 1, 1, 1)
  ours = networks.resnet(7, blocks, width=64)
  image = jax.random.normal(_key(0), (2, 32, 32, 3))
  init = jax.jit(functools.partial(ours.init, is_training=True))
  params, state = init(_key(1), image)
  assert float(jnp.std(params['output']['w'])) > 0  # Haiku's is zero
  for path in params:
    if path.endswith('batchnorm_2'):
      # Zero at the start, which would hide the blocks from this test.
      assert not np.any(params[path]['scale'])
      params[path]['scale'] += 0.5

  def run(net, *trees):
    apply = functools.partial(net.apply, is_training=True)
    return jax.jit(apply)(*trees, None, image)

  logits, after = run(ours, params, state)
  wanted = run(_haikus(7, blocks), _haikus_names(params), _haikus_names(state))
  chex.assert_trees_all_close(
    (logits, _haikus_names(after)), wanted, rtol=1e-4, atol=1e-4
  )


@pytest.mark.parametrize('bottleneck', [True, False])
@pytest.mark.parametrize('is_training', [True, False])
def test_residual_blocks_are_haikus_program(bottleneck, is_training):
  """The same steps on the same state, so that results are the same bits."""

  def theirs(image, is_training):
    x = hk.Conv2D(8, 3, 1, with_bias=False, name='conv')(image)
    x = residual.norm_relu(x, is_training, 'conv_norm')
    for i, number in enumerate((1, 2)):
      x = hk.nets.ResNet.BlockGroup(
        channels=2**i * 8 * (4 if bottleneck else 1),
        num_blocks=number,
        stride=2 if i else 1,
        bn_config=residual._NORM,
        resnet_v2=False,
        bottleneck=bottleneck,
        use_projection=bottleneck or i > 0,
        name=f'group_{i}',
      )(x, is_training, test_local_stats=False)
    x = jnp.mean(x, axis=(1, 2))
    return hk.Linear(10, w_init=convolution.INIT, name='output')(x)

  def programs(net):
    init = functools.partial(net.init, is_training=True)
    shapes = jax.eval_shape(init, _key(0), image)
    run = functools.partial(net.apply, is_training=is_training)
    made = jax.make_jaxpr(init)(_key(0), image)
    return shapes, str(made), str(jax.make_jaxpr(run)(*shapes, None, image))

  image = jnp.zeros((2, 8, 8, 3))
  ours = networks.resnet(10, (1, 2), 8, bottleneck=bottleneck, large=False)
  assert programs(ours) == programs(hk.transform_with_state(theirs))


def test_sliced_convolutions_make_the_same_residual_net():
  native, sliced = (
    networks.resnet(3, (1,), 8, large=False, sliced=sliced)
    for sliced in (False, True)
  )
  image = jax.random.normal(_key(0), (2, 6, 6, 3))
  trees_of = [
    jax.jit(functools.partial(net.init, is_training=True))(_key(1), image)
    for net in (native, sliced)
  ]
  chex.assert_trees_all_close(*trees_of, rtol=1e-4, atol=1e-6)
  logits = [
    jax.jit(functools.partial(net.apply, is_training=True))(
      *trees_of[0], None, image
    )[0]
    for net in (native, sliced)
  ]
  np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['resnet', 'wide_resnet'])
def test_groups_of_a_batch_reach_every_normalisation(name):
  small = {'resnet': {'width': 8}, 'wide_resnet': {'depth': 10, 'width': 1}}
  net, params, state = _shapes(name, batch_norm_groups=3, **small[name])
  shape = (16, 16, 3)
  run = functools.partial(net.apply, is_training=True)
  image = lambda number: jax.ShapeDtypeStruct((number, *shape), jnp.float32)
  program = jax.make_jaxpr(run)(params, state, _key(0), image(6))
  means = [
    eqn
    for eqn in program.jaxpr.eqns
    if eqn.primitive.name == 'reduce_sum' and eqn.params['axes'] == (1, 2, 3)
  ]
  # Of values and of squares, which become averages.
  assert len(means) == 2 * sum('norm' in path for path in params)
  with pytest.raises(ValueError, match='over 3 groups.* these are 4'):
    jax.eval_shape(run, params, state, _key(0), image(4))


def test_resnet50_has_its_strides_in_the_3x3_convolutions():
  net, params, state = _shapes('resnet50', 1000)
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  apply = functools.partial(net.apply, is_training=False)
  jaxpr = jax.make_jaxpr(apply)(params, state, None, image)
  strided = [
    eqn.invars[1].aval.shape[:2]
    for eqn in jaxpr.eqns
    if eqn.primitive.name == 'conv_general_dilated'
    and eqn.params['window_strides'] == (2, 2)
  ]
  # The stem, and the shortcut and the middle of a block in three groups.
  assert sorted(strided) == [(1, 1)] * 3 + [(3, 3)] * 3 + [(7, 7)]


def test_resnet18_keeps_small_pictures_large():
  net, params, state = _shapes('resnet18')
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  apply = functools.partial(net.apply, is_training=False)
  jaxpr = jax.make_jaxpr(apply)(params, state, None, image)
  sizes = [
    eqn.outvars[0].aval.shape[1]
    for eqn in jaxpr.eqns
    if eqn.primitive.name == 'conv_general_dilated'
  ]
  assert sizes == [32] * 5 + [16] * 5 + [8] * 5 + [4] * 5


def test_wide_resnet_by_depth_width_and_dropout():
  _, params, _ = _shapes('wide_resnet', depth=10, width=1)
  shapes = {p: w.shape for p, w in trees.weights(params).items()}
  # One block a group: two convolutions, a shortcut where channels change.
  assert len(shapes) == 1 + 3 * 2 + 2 + 1
  assert shapes['conv/w'] == (3, 3, 3, 16)
  assert shapes['group_2_block_0_conv_0/w'] == (3, 3, 32, 64)
  assert shapes['group_2_block_0_shortcut/w'] == (1, 1, 32, 64)
  assert shapes['output/w'] == (64, 10)
  assert not any(path.endswith('/b') for path in shapes)
  for depth in (4, 12, 21):
    with pytest.raises(ValueError, match=f'depth is {depth} but must be 6n'):
      networks.wide_resnet(10, depth=depth)


def test_wide_resnet_values():
  """He's initialisation, moving averages, and dropout in training alone."""
  net = networks.wide_resnet(10, depth=10, width=1)
  image = jax.random.normal(_key(0), (4, 8, 8, 3))
  apply = jax.jit(net.apply, static_argnames='is_training')
  init = functools.partial(net.init, is_training=True)
  params, state = jax.jit(init)(_key(1), image)
  for path, w in trees.weights(params).items():
    scale = 1 if path == 'output/w' else 2
    std = np.sqrt(scale / np.prod(w.shape[:-1]))
    assert abs(np.std(w) - std) < 5 * std / np.sqrt(2 * w.size)

  keys = jax.random.split(_key(2))
  logits, after = zip(
    *(apply(params, state, key, image, is_training=True) for key in keys),
    strict=True,
  )
  assert np.any(logits[0] != logits[1])
  # The first batch's statistics are the averages after one step.
  norm = 'group_0_block_0_norm_0/~/mean_ema'
  moved = after[0][norm]['average']
  assert moved.shape == (1, 1, 1, 16) and np.any(np.abs(moved) > 1e-3)
  evaluated, unmoved = apply(params, state, None, image, is_training=False)
  assert np.all(np.isfinite(evaluated))
  jax.tree.map(np.testing.assert_array_equal, unmoved, state)

  without = networks.wide_resnet(10, depth=10, width=1, dropout=0.0)
  apply = functools.partial(without.apply, is_training=True)
  # It asks for no key.
  jax.eval_shape(apply, params, state, None, image)


def test_max_pools_halve_the_picture():
  """The second convolution of small_alexnet sees 16x16 pixels, not 32x32."""
  net, params, state = _init('small_alexnet')
  image = jnp.zeros((1, 32, 32, 3))
  apply = functools.partial(net.apply, is_training=False)
  jaxpr = jax.make_jaxpr(apply)(params, state, None, image)
  products = [
    eqn.outvars[0].aval.shape
    for eqn in jaxpr.eqns
    if eqn.primitive.name == 'dot_general'
  ]
  assert products[:2] == [(1, 32, 32, 64), (1, 16, 16, 64)]


def _answers(net, params, state, shape):
  """What the hidden layers' units give for one picture: their shapes."""
  image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  apply = functools.partial(net.apply, is_training=False)
  run = lambda w, s, x: apply(w, s, None, x)[0]
  logits, found = jax.eval_shape(
    units.with_activations(run), params, state, image
  )
  return logits.shape[1:], {n: x.shape[1:] for n, x in found.items()}


def test_block_conv_is_the_papers_narrow_net():
  """CLNP's table 2: pools of padding 1 halve 32 to 16 and 8."""
  net, params, state = _init('block_conv')
  assert _answers(net, params, state, (32, 32, 3)) == (
    (10,),
    {
      'conv_0': (32, 32, 32),
      'conv_1': (32, 32, 32),
      'conv_2': (16, 16, 64),
      'conv_3': (16, 16, 64),
      'hidden_0': (512,),
    },
  )
  # The paper says that 95% of the parameters are in the dense layer.
  share = params['hidden_0']['w'].size / sum(
    x.size for layer in params.values() for x in layer.values()
  )
  assert 0.95 < share < 0.97


def test_fully_conv_is_the_papers_wide_net():
  """CLNP's table 3, layer by layer; the output layer is a convolution."""
  net, params, state = _shapes('fully_conv')
  widths = [3, 128, 256, 512, 1024, 2048, 10]
  kernels = [
    (3, 3, *pair) for pair in zip(widths[:-1], widths[1:], strict=True)
  ]
  found = trees.weights(params)
  assert [w.shape for w in found.values()] == kernels
  assert list(found)[-1] == 'output/w'
  assert sum(w.size for w in found.values()) == 25_255_296
  sides = [32, 15, 13, 7, 5]
  assert _answers(net, params, state, (32, 32, 3)) == (
    (10,),
    {f'conv_{i}': (side, side, widths[i + 1]) for i, side in enumerate(sides)},
  )
  assert set(state) == {
    f'conv_{i}_norm/~/{x}_ema' for i in range(5) for x in ('mean', 'var')
  }


def test_a_picture_that_a_kernel_does_not_fit_is_a_sentence():
  net = networks.fully_conv(10)
  image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
  init = functools.partial(net.init, is_training=True)
  with pytest.raises(
    ValueError, match='kernel does not fit the picture of 1x1'
  ):
    jax.eval_shape(init, _key(0), image)


def test_dropout_is_in_training_alone():
  image = jax.random.uniform(_key(0), (4, 8, 8, 3))
  net = networks.block_conv(3, channels=(4,), hidden=(8,), pool_every=1)
  init = functools.partial(net.init, is_training=True)
  params, state = jax.jit(init)(_key(1), image)
  apply = jax.jit(net.apply, static_argnames='is_training')
  run = lambda seed: apply(params, state, _key(seed), image, is_training=True)
  plain = apply(params, state, None, image, is_training=False)[0]
  assert np.any(run(0)[0] != run(1)[0]) and np.any(run(0)[0] != plain)
  np.testing.assert_array_equal(run(0)[0], run(0)[0])
  without = networks.block_conv(
    3, channels=(4,), hidden=(8,), pool_every=1, dropout=(0.0, 0.0)
  )
  trained = jax.jit(functools.partial(without.apply, is_training=True))
  # It asks for no key, and is the same function.
  np.testing.assert_array_equal(trained(params, state, None, image)[0], plain)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: networks.block_conv(3, dropout=(0.1, 1.0)), 'dropout is .*1.0'),
    (lambda: networks.block_conv(3, pool_every=0), 'pool_every is 0'),
    (
      lambda: networks.fully_conv(3, channels=(4, 4)),
      '2 channels, 5 strides and 5 paddings',
    ),
  ],
)
def test_options_out_of_range(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize(
  'kernel, stride, size, channels, padding',
  [
    (1, 1, (5, 5), 1, None),
    (3, 2, (8, 7), 3, None),
    (5, 2, (28, 28), 1, None),
    (2, 3, (7, 7), 2, None),
    (5, 1, (3, 3), 2, None),  # larger than the picture
    (3, 2, (8, 7), 3, 0),
    (3, 2, (7, 8), 2, 1),
    (3, 1, (3, 4), 2, 0),
  ],
)
def test_sliced_convolution_is_haikus(kernel, stride, size, channels, padding):
  def net(make):
    return hk.without_apply_rng(hk.transform(lambda x: make()(x)))

  init = convolution.INIT
  same = 'SAME' if padding is None else [(padding, padding)] * 2
  ours = net(
    lambda: convolution.SlicedConv2D(4, kernel, stride, 'c', padding=padding)
  )
  theirs = net(
    lambda: hk.Conv2D(4, kernel, stride, padding=same, w_init=init, name='c')
  )
  x_key, key = jax.random.split(_key(0))
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
