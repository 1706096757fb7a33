"""Haiku modules and nets under Ψ, against plain Haiku and each other."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import powerprop as pp

# Module, its counterpart, their arguments and the shape of an input.
MODULES = {
  'Linear': (pp.PowerPropLinear, hk.Linear, (4,), (2, 3)),
  'Conv1D': (pp.PowerPropConv1D, hk.Conv1D, (4, 3), (2, 6, 2)),
  'Conv2D': (pp.PowerPropConv2D, hk.Conv2D, (4, 3), (2, 5, 5, 2)),
  'Conv3D': (pp.PowerPropConv3D, hk.Conv3D, (3, 2), (1, 3, 3, 3, 2)),
  'Conv1DTranspose': (
    pp.PowerPropConv1DTranspose,
    hk.Conv1DTranspose,
    (4, 3),
    (2, 6, 2),
  ),
  'Conv2DTranspose': (
    pp.PowerPropConv2DTranspose,
    hk.Conv2DTranspose,
    (4, 3),
    (2, 4, 4, 2),
  ),
  'Conv3DTranspose': (
    pp.PowerPropConv3DTranspose,
    hk.Conv3DTranspose,
    (2, 2),
    (1, 2, 2, 2, 2),
  ),
  'DepthwiseConv1D': (
    pp.PowerPropDepthwiseConv1D,
    hk.DepthwiseConv1D,
    (2, 3),
    (2, 6, 2),
  ),
  'DepthwiseConv2D': (
    pp.PowerPropDepthwiseConv2D,
    hk.DepthwiseConv2D,
    (2, 3),
    (2, 5, 5, 2),
  ),
  'DepthwiseConv3D': (
    pp.PowerPropDepthwiseConv3D,
    hk.DepthwiseConv3D,
    (2, 2),
    (1, 3, 3, 3, 2),
  ),
  'SeparableDepthwiseConv2D': (
    pp.PowerPropSeparableDepthwiseConv2D,
    hk.SeparableDepthwiseConv2D,
    (2, 3, (3, 3)),
    (2, 5, 5, 2),
  ),
}


def _assert_close(a, b, rtol=1e-5, atol=1e-6):
  close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
  jax.tree.map(close, a, b)


def _shapes(tree):
  return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)


def _input(shape):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize('name', MODULES)
def test_module_is_a_drop_in_for_its_haiku_counterpart(name):
  ours, theirs, args, shape = MODULES[name]
  x, key = _input(shape), jax.random.key(1)
  # A bias that is not zero shows if it were under Ψ.
  kwargs = {'name': 'layer'}
  if 'Separable' not in name:
    kwargs['b_init'] = hk.initializers.Constant(0.5)
  plain = hk.transform(lambda x: theirs(*args, **kwargs)(x))
  net = hk.transform(lambda x: ours(*args, alpha=2.5, **kwargs)(x))
  chained = hk.transform(
    lambda x: ours(*args, alpha=2.5, chain_rule=True, **kwargs)(x)
  )

  @jax.jit  # one program is quicker than its many parts
  def run(key):
    theta, phi = plain.init(key, x), net.init(key, x)

    def grad(net, to_theta, params):
      loss = lambda p: jnp.sum(jnp.sin(net.apply(to_theta(p), None, x)))
      return jax.grad(loss)(params)

    same = lambda p: p
    psi = lambda p: pp.to_theta(p, 2.5)
    return (
      (theta, phi, pp.to_phi(theta, 2.5)),
      (net.apply(phi, None, x), plain.apply(theta, None, x)),
      (grad(net, same, phi), grad(plain, same, theta)),
      (grad(chained, same, phi), grad(plain, psi, phi)),
    )

  (theta, phi, by_hand), outputs, at_theta, at_phi = run(key)
  assert _shapes(phi) == _shapes(theta)
  _assert_close(phi, by_hand)
  for module in theta:
    assert not np.allclose(phi[module]['w'], theta[module]['w'])
    if 'b' in theta[module]:
      np.testing.assert_array_equal(phi[module]['b'], theta[module]['b'])
  _assert_close(*outputs)
  # Ψ is in the gradients of `w` only, and only with chain_rule.
  _assert_close(*at_theta, 1e-4, 1e-5)
  _assert_close(*at_phi, 1e-4, 1e-5)


def test_module_has_a_name_of_its_own_and_checks_alpha():
  net = hk.transform(lambda x: pp.PowerPropLinear(2)(x))
  assert list(net.init(jax.random.key(0), jnp.ones((1, 2)))) == [
    'power_prop_linear'
  ]
  bad = hk.transform(lambda x: pp.PowerPropLinear(2, alpha=0.5)(x))
  with pytest.raises(ValueError, match='alpha is 0.5'):
    bad.init(jax.random.key(0), jnp.ones((1, 2)))
  net = hk.transform(lambda x: hk.nets.MLP([2])(x))
  with pytest.raises(ValueError, match='alpha is 0'):
    pp.reparameterise(net, 0)


def test_shared_module_shares_its_weights():
  def forward(x):
    layer = pp.PowerPropLinear(3, alpha=2.0)
    return layer(layer(x))

  net = hk.transform(forward)
  phi = net.init(jax.random.key(0), jnp.ones((1, 3)))
  assert len(phi) == 1
  w = pp.to_theta(phi, 2.0)['power_prop_linear']['w']
  x = jnp.ones((1, 3))
  _assert_close(net.apply(phi, None, x), x @ w @ w)


# --- The table of pairings: docs/transforms.md ------------------------------

ALPHA = 2.5
SIZES = (5, 3)


def _mlp(**kwargs):
  """Two layers, plain or, given alpha, of our modules; the same names."""
  linear = pp.PowerPropLinear if kwargs else hk.Linear

  def forward(x):
    h = jnp.tanh(linear(SIZES[0], name='a', **kwargs)(x))
    return linear(SIZES[1], name='b', **kwargs)(h)

  return hk.without_apply_rng(hk.transform(forward))


def _plain_loss(apply, params, x, y):
  return jnp.mean((apply(params, x) - y) ** 2)


def _grad(net):
  return jax.grad(functools.partial(_plain_loss, net.apply))


def _pairings(inner):
  """Name -> (gradient function of φ, optimiser)."""
  plain = _mlp()
  at_theta = pp.value_and_grad(
    functools.partial(_plain_loss, plain.apply), ALPHA
  )
  under = functools.partial(pp.reparameterise, plain, ALPHA)
  scaled = pp.powerprop(inner, ALPHA)
  return {
    'module, powerprop': (_grad(_mlp(alpha=ALPHA)), scaled),
    'reparameterise, powerprop': (_grad(under()), scaled),
    'value_and_grad, powerprop': (lambda p, x, y: at_theta(p, x, y)[1], scaled),
    'value_and_grad, chain_rule': (
      lambda p, x, y: at_theta(p, x, y)[1],
      pp.chain_rule(inner, ALPHA),
    ),
    'module chain_rule, plain': (
      _grad(_mlp(alpha=ALPHA, chain_rule=True)),
      inner,
    ),
    'reparameterise chain_rule, plain': (_grad(under(chain_rule=True)), inner),
    'jax.grad through to_theta, plain': (
      jax.grad(
        lambda p, x, y: _plain_loss(plain.apply, pp.to_theta(p, ALPHA), x, y)
      ),
      inner,
    ),
    # What docs/transforms.md warns of.
    'module chain_rule, powerprop': (
      _grad(_mlp(alpha=ALPHA, chain_rule=True)),
      scaled,
    ),
    'module chain_rule, chain_rule': (
      _grad(_mlp(alpha=ALPHA, chain_rule=True)),
      pp.chain_rule(inner, ALPHA),
    ),
    'module, plain': (_grad(_mlp(alpha=ALPHA)), inner),
  }


SCALED_AFTER = (
  'module, powerprop',
  'reparameterise, powerprop',
  'value_and_grad, powerprop',
)
SCALED_BEFORE = (
  'value_and_grad, chain_rule',
  'module chain_rule, plain',
  'reparameterise chain_rule, plain',
  'jax.grad through to_theta, plain',
)


def _train(inner, steps=3):
  """φ after some steps of every pairing, by name, and φ at the start."""
  x, y = _input((8, 4)), _input((8, SIZES[1]))

  def train(grad, tx, phi):
    state = tx.init(phi)
    for _ in range(steps):
      updates, state = tx.update(grad(phi, x, y), state, phi)
      phi = optax.apply_updates(phi, updates)
    return phi

  @jax.jit
  def train_all(phi):
    return {k: train(*v, phi) for k, v in _pairings(inner).items()}

  start = pp.to_phi(_mlp().init(jax.random.key(0), x), ALPHA)
  return train_all(start), start


def test_every_right_pairing_makes_the_same_step_with_sgd():
  phi, start = _train(optax.sgd(0.3))
  expected = phi['value_and_grad, powerprop']
  assert not np.allclose(start['a']['w'], expected['a']['w'], rtol=1e-2)
  for name in SCALED_AFTER + SCALED_BEFORE:
    _assert_close(phi[name], expected)


def test_with_adam_the_slope_before_and_after_differ():
  phi, _ = _train(optax.adam(0.01))
  after = [phi[name] for name in SCALED_AFTER]
  before = [phi[name] for name in SCALED_BEFORE]
  for group in (after, before):
    for other in group[1:]:
      _assert_close(other, group[0], 1e-4, 1e-5)
  assert not np.allclose(after[0]['a']['w'], before[0]['a']['w'], rtol=1e-3)


def test_the_wrong_pairings_scale_twice_or_never():
  phi, start = _train(optax.sgd(0.3), steps=1)
  slope = pp.slope(start['a']['w'], ALPHA)
  step = lambda name: phi[name]['a']['w'] - start['a']['w']
  once = step('module, powerprop')
  twice = step('module chain_rule, powerprop')
  _assert_close(twice, once * slope)
  _assert_close(step('module chain_rule, chain_rule'), twice)
  _assert_close(step('module, plain') * slope, once)
  assert not np.allclose(twice, once, rtol=1e-2)


# --- reparameterise ---------------------------------------------------------


def test_module_under_reparameterise_is_refused():
  net = pp.reparameterise(
    hk.transform(lambda x: pp.PowerPropLinear(2, alpha=2.0)(x)), 2.0
  )
  with pytest.raises(ValueError, match='Ψ would be applied twice') as error:
    net.init(jax.random.key(0), jnp.ones((1, 2)))
  assert 'PowerPropLinear' in str(error.value)
  with pytest.raises(ValueError, match='Ψ would be applied twice'):
    net.apply(
      {'power_prop_linear': {'w': jnp.ones((2, 2)), 'b': jnp.ones(2)}},
      None,
      jnp.ones((1, 2)),
    )
  # The error leaves nothing behind.
  alone = hk.transform(lambda x: pp.PowerPropLinear(2, alpha=2.0)(x))
  alone.init(jax.random.key(0), jnp.ones((1, 2)))


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
@pytest.mark.parametrize('alpha', [1, 2.5, jnp.float32(3.0)], ids=repr)
def test_mlp_keeps_its_function(alpha, jit):
  plain = hk.transform(lambda x: hk.nets.MLP([6, 3])(x))
  net = pp.reparameterise(plain, alpha)
  assert type(net) is type(plain)
  init, apply = (jax.jit(net.init), jax.jit(net.apply)) if jit else net
  x, key = _input((4, 5)), jax.random.key(0)
  # Drawn alike: a jitted program may round in another order.
  theta = (jax.jit(plain.init) if jit else plain.init)(key, x)
  phi = init(key, x)
  assert _shapes(phi) == _shapes(theta)
  _assert_close(phi, pp.to_phi(theta, alpha))
  _assert_close(apply(phi, None, x), plain.apply(theta, None, x))
  if isinstance(alpha, int):
    jax.tree.map(np.testing.assert_array_equal, phi, theta)


def test_without_apply_rng_on_either_side():
  plain = hk.transform(lambda x: hk.nets.MLP([6, 3])(x))
  x = _input((4, 5))
  inside = pp.reparameterise(hk.without_apply_rng(plain), 2.0)
  outside = hk.without_apply_rng(pp.reparameterise(plain, 2.0))
  phi = inside.init(jax.random.key(0), x)
  _assert_close(inside.apply(phi, x), outside.apply(phi, x))
  _assert_close(
    inside.apply(phi, x), plain.apply(pp.to_theta(phi, 2.0), None, x)
  )


def test_where_leaves_layers_out():
  plain = hk.transform(lambda x: hk.nets.MLP([6, 3])(x))
  net = pp.reparameterise(
    plain, 2.0, where=lambda path, leaf: path == 'mlp/~/linear_0/w'
  )
  x, key = _input((4, 5)), jax.random.key(0)
  theta, phi = plain.init(key, x), net.init(key, x)
  first, last = 'mlp/~/linear_0', 'mlp/~/linear_1'
  np.testing.assert_array_equal(phi[last]['w'], theta[last]['w'])
  assert not np.allclose(phi[first]['w'], theta[first]['w'])
  _assert_close(net.apply(phi, None, x), plain.apply(theta, None, x))


def _batch_norm_net(x, is_training):
  """A residual block with BatchNorm, whose scale has four axes."""
  norm = lambda x: hk.BatchNorm(True, True, 0.9)(x, is_training)
  x = hk.Conv2D(3, 3, with_bias=False)(x)
  x = x + hk.Conv2D(3, 3, with_bias=False)(jax.nn.relu(norm(x)))
  return hk.Linear(2)(jnp.mean(norm(x), axis=(1, 2)))


def test_a_net_with_state():
  plain = hk.transform_with_state(_batch_norm_net)
  net = pp.reparameterise(plain, 2.0)
  assert type(net) is type(plain)
  x, key = _input((2, 4, 4, 1)), jax.random.key(0)

  def run(net, params, state):
    def loss(params, state):
      out, state = net.apply(params, state, None, x, is_training=True)
      return jnp.sum(out[:, 0]), (out, state)

    grads, (out, state) = jax.grad(loss, has_aux=True)(params, state)
    test, _ = net.apply(params, state, None, x, is_training=False)
    return out, test, state, grads

  @jax.jit
  def both(key):
    theirs = plain.init(key, x, True)
    ours = net.init(key, x, is_training=True)
    return ours, theirs, run(net, *ours), run(plain, *theirs)

  (phi, ours), (theta, theirs), actual, expected = both(key)
  _assert_close(ours, theirs)
  assert phi['batch_norm']['scale'].ndim == 4
  _assert_close(phi['batch_norm'], theta['batch_norm'])
  _assert_close(phi['conv2_d']['w'], pp.inverse_power(theta['conv2_d']['w'], 2))
  _assert_close(actual, expected, 1e-3, 1e-4)


def test_haikus_resnet_unedited():
  """Shapes only: everything is there, and what is under Ψ is kernels alone."""
  plain = hk.transform_with_state(
    lambda x: hk.nets.ResNet18(10)(x, is_training=True)
  )
  net = pp.reparameterise(plain, 3.0)
  x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  key = jax.random.key(0)
  theta, theirs = jax.eval_shape(plain.init, key, x)
  phi, ours = jax.eval_shape(net.init, key, x)
  assert _shapes(phi) == _shapes(theta) and _shapes(ours) == _shapes(theirs)
  out, _ = jax.eval_shape(net.apply, phi, ours, None, x)
  assert out.shape == (2, 10)
  chosen = {
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, leaf in jax.tree_util.tree_flatten_with_path(phi)[0]
    if pp.is_weight(
      jax.tree_util.keystr(path, simple=True, separator='/'), leaf
    )
  }
  kernels = {f'{m}/{n}' for m in phi for n in phi[m] if n == 'w'}
  assert chosen == kernels and len(kernels) == 21


@pytest.mark.parametrize('with_state', [False, True])
def test_several_functions_over_the_same_parameters(with_state):
  def build():
    encoder, decoder = hk.Linear(2, name='enc'), hk.Linear(3, name='dec')

    def encode(x):
      if with_state:
        hk.set_state('n', hk.get_state('n', [], init=jnp.zeros) + 1)
      return encoder(x)

    def decode(z):
      return decoder(z)

    return lambda x: decode(encode(x)), (encode, {'decode': decode})

  make = hk.multi_transform_with_state if with_state else hk.multi_transform
  plain = make(build)
  net = pp.reparameterise(plain, 3.0)
  assert type(net) is type(plain)
  x, key = _input((2, 3)), jax.random.key(0)
  theta, phi = plain.init(key, x), net.init(key, x)

  def run(net, params):
    encode, decode = net.apply[0], net.apply[1]['decode']
    if with_state:
      z, state = encode(*params, None, x)
      return decode(params[0], state, None, z)
    return decode(params, None, encode(params, None, x))

  _assert_close(run(net, phi), run(plain, theta))
  weights = lambda p: (p[0] if with_state else p)['dec']['w']
  _assert_close(weights(phi), pp.inverse_power(weights(theta), 3.0))


@pytest.mark.parametrize('kind', ['module', 'reparameterise'])
def test_vmapped_over_alpha_is_looped(kind):
  def net(alpha):
    if kind == 'module':
      return _mlp(alpha=alpha)
    return pp.reparameterise(_mlp(), alpha)

  x, y = _input((8, 4)), _input((8, SIZES[1]))

  def train(alpha):
    """One step from the same θ for every α."""
    under, tx = net(alpha), pp.powerprop(optax.adam(0.01), alpha)
    phi = under.init(jax.random.key(0), x)
    updates, _ = tx.update(_grad(under)(phi, x, y), tx.init(phi), phi)
    return optax.apply_updates(phi, updates)

  alphas = jnp.array([1.0, 1.7, 3.0])
  together = jax.jit(jax.vmap(train))(alphas)
  single = jax.jit(train)
  for i, alpha in enumerate(alphas):
    one = jax.tree.map(lambda a, i=i: a[i], together)
    _assert_close(one, single(alpha), 1e-4, 1e-5)


@pytest.mark.parametrize('is_training', [True, False])
@pytest.mark.parametrize(
  'leaves', [(True, True), (False, True), (False, False)]
)
def test_batch_norm_is_haikus_program(leaves, is_training):
  """Where nothing is frozen: the same steps, on the same state."""

  def program(module):
    def forward(x, is_training):
      return module(*leaves, 0.9, name='norm')(x, is_training)

    net = hk.transform_with_state(forward)
    init = lambda x: net.init(None, x, True)
    shapes = jax.eval_shape(init, x)

    def run(params, state, x):
      loss = lambda w, x: net.apply(w, state, None, x, is_training)
      out, pullback, state = jax.vjp(loss, params, x, has_aux=True)
      return out, state, pullback(out)

    programs = jax.make_jaxpr(init)(x), jax.make_jaxpr(run)(*shapes, x)
    return shapes, str(programs)

  x = jnp.ones((4, 3, 3, 2))
  assert program(pp.BatchNorm) == program(hk.BatchNorm)


def test_groups_are_normalised_as_if_each_were_alone():
  """And averages are the means of theirs; in evaluation nothing is divided."""

  def net(groups):
    return hk.transform_with_state(
      lambda x, is_training: pp.BatchNorm(True, True, 0.9, groups=groups)(
        x, is_training
      )
    )

  whole, divided = net(1), net(2)
  x = _input((6, 3, 3, 2))
  params, state = divided.init(None, x[:1], True)
  _assert_close(params, whole.init(None, x, True)[0])
  params = jax.tree.map(lambda p: p + 0.5, params)
  out, after = divided.apply(params, state, None, x, True)
  halves = [
    whole.apply(params, state, None, x[i : i + 3], True) for i in (0, 3)
  ]
  _assert_close(out, jnp.concatenate([half for half, _ in halves]))
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *[s for _, s in halves])
  _assert_close(after, mean)
  evaluated = [
    n.apply(params, after, None, x[:5], False) for n in (divided, whole)
  ]
  _assert_close(*evaluated)
  # A frozen channel goes by its average in every group.
  frozen = jnp.array([True, False])
  held = {k: v | {'frozen': frozen} for k, v in after.items()}
  out, kept = divided.apply(params, held, None, x, True)
  wanted, _ = whole.apply(params, held, None, x, False)
  _assert_close(out[..., 0], wanted[..., 0])
  for module, old in after.items():
    for name in ('average', 'hidden'):
      _assert_close(kept[module][name][..., 0], old[name][..., 0])
  with pytest.raises(ValueError, match='over 2 groups.* these are 5'):
    divided.apply(params, state, None, x[:5], True)
  with pytest.raises(ValueError, match='groups is 0'):
    net(0).init(None, x, True)


def test_frozen_channels_are_normalised_by_averages_that_stay():
  net = hk.transform_with_state(
    lambda x, is_training: pp.BatchNorm(True, True, 0.9)(x, is_training)
  )
  x = jnp.asarray(np.random.default_rng(0).normal(2.0, 3.0, (20, 3)), float)
  params, state = net.init(None, x, True)
  _, state = net.apply(params, state, None, x, True)
  frozen = jnp.array([True, False, True])
  held = {k: v | {'frozen': frozen} for k, v in state.items()}
  grads, (out, after) = jax.grad(
    lambda w: (
      jnp.sum(jnp.square((found := net.apply(w, held, None, x[:5], True))[0])),
      found,
    ),
    has_aux=True,
  )(params)
  evaluated, _ = net.apply(params, state, None, x[:5], False)
  plain, free = net.apply(params, state, None, x[:5], True)
  _assert_close(out, jnp.where(frozen, evaluated, plain))
  for module, old in state.items():
    for name in ('average', 'hidden'):
      expected = jnp.where(frozen, old[name], free[module][name])
      np.testing.assert_array_equal(after[module][name], expected)
    np.testing.assert_array_equal(after[module]['frozen'], frozen)
  assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
