"""The optax transformations, alone, around every alias and inside wrappers."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from powerprop import reparam
from powerprop import transforms
from powerprop.transforms import adaptive_powerprop
from powerprop.transforms import chain_rule
from powerprop.transforms import current_alpha
from powerprop.transforms import powerprop

LEARNING_RATE = 0.05


def _aliases():
  """Every optimiser of optax, by what an alias has: a learning rate, first."""
  for name, fn in vars(optax).items():
    if name.startswith(('_', 'scale_')) or not inspect.isroutine(
      getattr(fn, 'func', fn)
    ):
      continue
    first = next(iter(inspect.signature(fn).parameters), None)
    if first in ('learning_rate', 'max_learning_rate'):
      yield name


# optax itself says that v2 takes the place of one; the other is refused.
ALIASES = tuple(
  name for name in _aliases() if name not in ('optimistic_adam', 'lbfgs')
)


def _alias(name):
  """An optimiser and the extra arguments that its update asks for."""
  kwargs = {'noisy_sgd': {'key': 0}}
  extra = {'polyak_sgd': {'value': jnp.float32(2.0)}}
  inner = getattr(optax, name)(LEARNING_RATE, **kwargs.get(name, {}))
  return inner, extra.get(name, {})


def _phi():
  """A weight of each sign, size and zero, and a bias."""
  w = [[-1.5, 0.2, 0.0], [0.9, -0.05, 2.0], [1e-3, -0.6, 0.4]]
  return {'linear': {'w': jnp.array(w), 'b': jnp.array([0.3, -0.7, 0.0])}}


def _grads(i, like=None):
  """Gradients of step i: the same wherever they are asked for."""
  leaves, treedef = jax.tree.flatten(_phi() if like is None else like)
  rng = np.random.default_rng(i)
  return treedef.unflatten(
    [jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in leaves]
  )


def _run(tx, steps=3, extra=None, phi=None, grads=_grads):
  """Steps of a transformation under jit.

  Returns:
    The updates of every step, the last φ and the last state.
  """
  phi = _phi() if phi is None else phi
  update = jax.jit(tx.update)
  state = tx.init(phi)
  out = []
  for i in range(steps):
    updates, state = update(grads(i), state, phi, **(extra or {}))
    out.append(updates)
    phi = optax.apply_updates(phi, updates)
  return out, phi, state


def _assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def _assert_close(a, b, rtol=1e-5, atol=1e-7):
  close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
  jax.tree.map(close, a, b)


def _theta_and_slope(phi, alpha):
  """θ and Ψ' written out once more; 1 where a leaf is no weight."""
  w = phi['linear']['w']
  magnitude = jnp.where(w == 0, 0.0, jnp.abs(w) ** (alpha - 1))
  theta = {'linear': {**phi['linear'], 'w': w * magnitude}}
  slope = {'linear': {'w': alpha * magnitude, 'b': jnp.ones(3)}}
  return theta, slope


# --- Around every optimiser -------------------------------------------------


def test_the_list_of_aliases_is_found():
  """A later optax may have more of them, and they are tested as well."""
  known = {
    'adabelief',
    'adadelta',
    'adafactor',
    'adagrad',
    'adam',
    'adamax',
    'adamaxw',
    'adamw',
    'adan',
    'amsgrad',
    'fromage',
    'lamb',
    'lars',
    'lion',
    'nadam',
    'nadamw',
    'noisy_sgd',
    'novograd',
    'optimistic_adam_v2',
    'optimistic_gradient_descent',
    'polyak_sgd',
    'radam',
    'rmsprop',
    'rprop',
    'sgd',
    'sign_sgd',
    'signum',
    'sm3',
    'yogi',
  }
  assert known <= set(ALIASES)


@pytest.mark.parametrize('name', ALIASES)
def test_alias_gets_theta_and_its_step_is_scaled(name):
  inner, extra = _alias(name)
  tx = powerprop(inner, 2.5)

  def step(grads, state, inner_state, phi):
    updates, state = tx.update(grads, state, phi, **extra)
    theta, slope = _theta_and_slope(phi, 2.5)
    by_hand, inner_state = optax.with_extra_args_support(inner).update(
      grads, inner_state, theta, **extra
    )
    by_hand = jax.tree.map(jnp.multiply, by_hand, slope)
    return updates, by_hand, state, inner_state

  phi = _phi()
  state = tx.init(phi)
  inner_state = inner.init(_theta_and_slope(phi, 2.5)[0])
  for i in range(2):
    updates, by_hand, state, inner_state = step(
      _grads(i), state, inner_state, phi
    )
    assert np.all(np.isfinite(updates['linear']['w']))
    _assert_close(updates, by_hand)
    phi = optax.apply_updates(phi, updates)
  assert np.any(updates['linear']['w'] != 0)
  assert current_alpha(state) == 2.5
  assert state.count == 2


def test_chain_rule_at_static_alpha_one_is_the_optimiser_bit_for_bit():
  inner = optax.adamw(LEARNING_RATE)
  _assert_equal(_run(chain_rule(inner, 1))[0], _run(inner)[0])


def test_weight_decay_is_of_theta():
  tx = powerprop(optax.adamw(0.1, weight_decay=0.5), 3.0)
  updates, _, _ = _run(
    tx, steps=1, grads=lambda _: jax.tree.map(jnp.zeros_like, _phi())
  )
  theta, slope = _theta_and_slope(_phi(), 3.0)
  expected = jax.tree.map(lambda t, s: -0.1 * 0.5 * t * s, theta, slope)
  _assert_close(updates[0], expected)


def test_trust_ratio_is_of_thetas_norm():
  inner = optax.chain(optax.scale_by_trust_ratio(), optax.scale(-0.1))
  (updates,), _, _ = _run(powerprop(inner, 3.0), steps=1)
  theta, slope = _theta_and_slope(_phi(), 3.0)
  grads = _grads(0)
  for name in ('w', 'b'):
    g, t = grads['linear'][name], theta['linear'][name]
    ratio = jnp.linalg.norm(t) / jnp.linalg.norm(g)
    expected = -0.1 * ratio * g * slope['linear'][name]
    _assert_close(updates['linear'][name], expected)


@pytest.mark.parametrize(
  'make',
  [powerprop, chain_rule, functools.partial(adaptive_powerprop, every=2)],
)
def test_extra_arguments_are_handed_on(make):
  seen = []

  def update(updates, state, params, *, value, note):
    seen.append((params, value, note))
    return updates, state

  inner = optax.GradientTransformationExtraArgs(lambda p: (), update)
  tx = optax.chain(optax.identity(), make(inner, alpha=2.0))
  phi = _phi()
  tx.update(_grads(0), tx.init(phi), phi, value=3.0, note='hello')
  params, value, note = seen[0]
  assert (value, note) == (3.0, 'hello')
  # chain_rule optimises φ; the others show θ to the optimiser.
  expected = phi if make is chain_rule else reparam.to_theta(phi, 2.0)
  _assert_close(params, expected)
  # An optimiser that takes none of them does not mind.
  tx = make(optax.sgd(0.1), alpha=2.0)
  tx.update(_grads(0), tx.init(phi), phi, value=3.0)


@pytest.mark.parametrize(
  'make',
  [powerprop, chain_rule, functools.partial(adaptive_powerprop, every=2)],
)
def test_missing_params_are_an_error(make):
  tx = make(optax.sgd(0.1), alpha=2.0)
  with pytest.raises(ValueError, match=r'call update\(grads, state, params\)'):
    tx.update(_grads(0), tx.init(_phi()))


@pytest.mark.parametrize('alpha', [0.5, float('nan'), jnp.float32(0.9)])
def test_alpha_out_of_range_is_refused_at_once(alpha):
  for make in (powerprop, chain_rule):
    with pytest.raises(ValueError, match='at least 1'):
      make(optax.sgd(0.1), alpha)


@pytest.mark.parametrize('bound', [0.99, 0, float('nan'), 'two'])
def test_step_bound_out_of_range_is_refused_at_once(bound):
  with pytest.raises(ValueError, match='step_bound is .* must be at least 1'):
    powerprop(optax.sgd(0.1), 2.0, step_bound=bound)


@pytest.mark.parametrize('alpha', [1.5, 3.0, jnp.float32(2.5)])
def test_step_bound_holds_the_step_of_theta(alpha):
  phi = {'w': jnp.array([[0.0, 1e-3, -0.2], [0.7, -2.0, 5.0]])}
  asked = {'w': jnp.full((2, 3), -1e-3)}
  slope = np.asarray(reparam.slope(phi['w'], alpha))

  def ratio(bound):
    tx = powerprop(optax.identity(), alpha, step_bound=bound)
    updates, _ = tx.update(asked, tx.init(phi), phi)
    return np.asarray(updates['w'] / asked['w']) * slope

  np.testing.assert_allclose(ratio(None), slope**2, rtol=1e-5)
  np.testing.assert_allclose(ratio(2.0), np.minimum(slope**2, 2), rtol=1e-5)
  assert slope.max() ** 2 > 2  # else it bounds nothing


def test_step_bound_changes_no_bit_at_alpha_one_or_where_no_step_is_long():
  plain = _run(powerprop(optax.adam(0.1), 1.0))
  for alpha in (1.0, jnp.float32(1.0)):
    bounded = _run(powerprop(optax.adam(0.1), alpha, step_bound=1))
    _assert_equal(plain[0], bounded[0])
  free = _run(powerprop(optax.adam(0.1), 2.0))
  far = _run(powerprop(optax.adam(0.1), 2.0, step_bound=1e6))
  _assert_equal(free[0], far[0])


def test_where_leaves_the_rest_to_the_optimiser():
  inner = optax.adam(0.1)
  plain, _, _ = _run(inner)
  none = powerprop(inner, 2.0, where=lambda path, leaf: False)
  _assert_close(_run(none)[0], plain)
  (updates,), _, _ = _run(
    powerprop(inner, 2.0, where=lambda path, leaf: path == 'linear/b'),
    steps=1,
  )
  phi = _phi()['linear']
  _assert_close(updates['linear']['w'], plain[0]['linear']['w'])
  expected = plain[0]['linear']['b'] * 2 * jnp.abs(phi['b'])
  _assert_close(updates['linear']['b'], expected)


# --- Inside optax's wrappers ------------------------------------------------


def _inner():
  return optax.adamw(0.1)


def _labels(params):
  return jax.tree_util.tree_map_with_path(
    lambda path, _: 'under' if path[-1].key == 'w' else 'plain', params
  )


def _inject(alpha, static):
  make = optax.inject_hyperparams(powerprop, static_args=static)
  return make(inner=_inner(), alpha=alpha)


_bare = powerprop(_inner(), 3.0)
WRAPPERS = {
  'chain': optax.chain(optax.identity(), _bare, optax.identity()),
  'named_chain': optax.named_chain(('ours', _bare)),
  'masked': optax.masked(
    _bare, lambda p: jax.tree.map(lambda x: x.ndim == 2, p)
  ),
  'multi_transform': optax.multi_transform(
    {'under': _bare, 'plain': optax.identity()}, _labels
  ),
  'partition': optax.partition(
    {'under': _bare, 'plain': optax.identity()}, _labels
  ),
  'inject_hyperparams': _inject(3.0, static=('inner', 'where')),
  'inject_hyperparams, where static': _inject(3.0, static='where'),
  'inject_hyperparams, int': _inject(3, static='where'),
  'apply_if_finite': optax.apply_if_finite(_bare, 3),
  'conditionally_mask': optax.transforms.conditionally_mask(
    _bare, lambda step: step >= 0
  ),
}


@functools.cache
def _bare_updates():
  return _run(_bare)[0]


@pytest.mark.parametrize('name', WRAPPERS)
def test_inside_a_wrapper_the_weights_move_as_ever(name):
  expected = _bare_updates()
  actual, _, state = _run(WRAPPERS[name])
  for a, b in zip(actual, expected, strict=True):
    _assert_close(a['linear']['w'], b['linear']['w'])
    if name in ('masked', 'multi_transform', 'partition'):
      assert not np.allclose(a['linear']['b'], b['linear']['b'])
    else:
      _assert_close(a['linear']['b'], b['linear']['b'])
  assert current_alpha(state) == 3.0


def test_chain_with_gradient_clipping_clips_the_gradient_at_theta():
  tx = optax.chain(optax.clip_by_global_norm(0.1), powerprop(optax.sgd(1), 2))
  (updates,), _, _ = _run(tx, steps=1)
  scale = 0.1 / optax.tree.norm(_grads(0))
  _, slope = _theta_and_slope(_phi(), 2)
  expected = jax.tree.map(lambda g, s: -scale * g * s, _grads(0), slope)
  _assert_close(updates, expected)


def test_multi_steps_averages_the_gradients_at_theta():
  tx = optax.MultiSteps(powerprop(_inner(), 3.0), 2)
  updates, _, state = _run(tx, steps=4)
  half = lambda i: jax.tree.map(
    lambda a, b: (a + b) / 2, _grads(2 * i), _grads(2 * i + 1)
  )
  expected, _, _ = _run(_bare, steps=2, grads=half)
  for idle in updates[::2]:
    assert not any(np.any(x) for x in jax.tree.leaves(idle))
  for a, b in zip(updates[1::2], expected, strict=True):
    _assert_close(a, b)
  assert current_alpha(state) == 3.0


def test_apply_if_finite_skips_a_step_of_nans():
  tx = optax.apply_if_finite(_bare, 3)
  state = tx.init(_phi())
  nans = jax.tree.map(lambda x: x * jnp.nan, _phi())
  updates, after = jax.jit(tx.update)(nans, state, _phi())
  assert not any(np.any(x) for x in jax.tree.leaves(updates))
  _assert_equal(after.inner_state, state.inner_state)


def test_injected_schedule_of_alpha_is_taken_as_it_is():
  schedule = optax.linear_schedule(2.0, 4.0, 4)
  tx = optax.inject_hyperparams(powerprop, static_args='where')(
    inner=optax.sgd(0.1), alpha=schedule
  )
  state = tx.init(_phi())
  for i in range(4):
    updates, state = jax.jit(tx.update)(_grads(i), state, _phi())
    alpha = float(schedule(i))
    assert current_alpha(state) == state.hyperparams['alpha'] == alpha
    _, slope = _theta_and_slope(_phi(), alpha)
    expected = jax.tree.map(lambda g, s: -0.1 * g * s, _grads(i), slope)
    _assert_close(updates, expected)


def test_injected_hyperparameters_of_the_inner_optimiser():
  inner = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
  tx = powerprop(inner, 2.0)
  state = tx.init(_phi())
  state.inner.hyperparams['learning_rate'] = jnp.float32(0.3)
  updates, _ = tx.update(_grads(0), state, _phi())
  expected, _, _ = _run(powerprop(optax.sgd(0.3), 2.0), steps=1)
  _assert_close(updates, expected[0])


def test_vmapped_over_alpha_is_looped():
  def train(alpha):
    _, phi, state = _run(powerprop(_inner(), alpha))
    return phi, current_alpha(state)

  alphas = jnp.array([1.0, 1.5, 3.0])
  phi, now = jax.jit(jax.vmap(train))(alphas)
  np.testing.assert_array_equal(now, alphas)
  for i, alpha in enumerate(alphas):
    one = jax.tree.map(lambda x, i=i: x[i], phi)
    _assert_close(one, train(alpha)[0], atol=1e-6)
    _assert_close(one, train(float(alpha))[0], atol=1e-6)


def test_current_alpha_wants_exactly_one():
  phi = _phi()
  with pytest.raises(ValueError, match='found 0 Powerprop states'):
    current_alpha(optax.adam(0.1).init(phi))
  two = optax.chain(powerprop(optax.sgd(1), 2), powerprop(optax.sgd(1), 3))
  with pytest.raises(ValueError, match='found 2 Powerprop states'):
    current_alpha(two.init(phi))


def test_a_static_alpha_is_no_leaf_of_the_state():
  """So it stays compiled in where the state goes through jit."""
  phi = _phi()
  static = powerprop(optax.sgd(0.1), 2).init(phi)
  traced = powerprop(optax.sgd(0.1), jnp.float32(2)).init(phi)
  assert len(jax.tree.leaves(traced)) == len(jax.tree.leaves(static)) + 1
  assert type(jax.jit(current_alpha)(traced)) is not float
  assert type(current_alpha(jax.jit(lambda s: s)(static))) is float


# --- A schedule for α -------------------------------------------------------


@pytest.mark.parametrize('ends', [(1.5, 4.0), (4.0, 1.5), (1.0, 2.0)])
def test_a_schedule_alone_does_not_move_theta(ends):
  schedule = optax.linear_schedule(*ends, 20)
  tx = powerprop(optax.adam(0.1), schedule)
  phi = _phi()
  state = tx.init(phi)
  assert current_alpha(state) == ends[0]
  start = reparam.to_theta(phi, ends[0])
  zeros = jax.tree.map(jnp.zeros_like, phi)
  update = jax.jit(tx.update)
  for i in range(20):
    updates, state = update(zeros, state, phi)
    phi = optax.apply_updates(phi, updates)
    np.testing.assert_allclose(current_alpha(state), schedule(i + 1))
  # φ moved by up to 1 at a relative precision of 6e-8, 20 times.
  theta = reparam.to_theta(phi, current_alpha(state))
  _assert_close(theta, start, rtol=1e-4, atol=2e-6)
  assert theta['linear']['w'][0, 2] == 0
  _assert_equal(phi['linear']['b'], _phi()['linear']['b'])
  assert not np.allclose(phi['linear']['w'], _phi()['linear']['w'])


def test_under_a_schedule_theta_makes_the_step_of_the_alpha_it_was_read_with():
  schedule = optax.linear_schedule(2.0, 3.0, 1)
  tx = powerprop(optax.sgd(0.1), schedule)
  (updates,), phi, state = _run(tx, steps=1)
  assert current_alpha(state) == 3.0
  fixed, at_2, _ = _run(powerprop(optax.sgd(0.1), 2.0), steps=1)
  _assert_close(reparam.to_theta(phi, 3.0), reparam.to_theta(at_2, 2.0))
  _assert_equal(updates['linear']['b'], fixed[0]['linear']['b'])


def test_a_constant_schedule_is_the_constant_bit_for_bit():
  schedule = optax.constant_schedule(2.5)
  expected = _run(powerprop(_inner(), 2.5))
  actual = _run(powerprop(_inner(), schedule))
  _assert_equal(actual[0], expected[0])
  assert current_alpha(actual[2]) == 2.5


def test_chain_rule_refuses_a_schedule():
  with pytest.raises(ValueError, match='constant α'):
    chain_rule(optax.sgd(0.1), optax.constant_schedule(2.0))


# --- Against the chain rule -------------------------------------------------


def _loss(theta, x, y):
  h = x @ theta['linear']['w'] + theta['linear']['b']
  return jnp.mean((jnp.tanh(h) - y) ** 2)


@pytest.mark.parametrize('alpha', [1.0, 1.3, 2.0, jnp.float32(2.5)], ids=repr)
def test_with_sgd_target_propagation_is_the_chain_rule(alpha):
  rng = np.random.default_rng(0)
  x, y = jnp.asarray(rng.normal(size=(2, 8, 3)), jnp.float32)

  def train(tx, grad_fn):
    phi = _phi()
    state = tx.init(phi)
    for _ in range(3):
      updates, state = tx.update(grad_fn(phi), state, phi)
      phi = optax.apply_updates(phi, updates)
    return phi

  def at_theta(phi):
    return reparam.value_and_grad(_loss, alpha)(phi, x, y)[1]

  def at_phi(phi):
    through = lambda phi: _loss(reparam.to_theta(phi, alpha), x, y)
    return jax.grad(through)(phi)

  sgd = optax.sgd(0.5)
  expected = train(sgd, at_phi)
  assert not np.allclose(expected['linear']['w'], _phi()['linear']['w'])
  _assert_close(train(powerprop(sgd, alpha), at_theta), expected)
  _assert_close(train(chain_rule(sgd, alpha), at_theta), expected)


def test_chain_rule_optimises_phi():
  inner = optax.adamw(0.1, weight_decay=0.5)
  updates, phi, state = _run(chain_rule(inner, 3.0), steps=2)
  by_hand, inner_state = _phi(), inner.init(_phi())
  for i in range(2):
    _, slope = _theta_and_slope(by_hand, 3.0)
    grads = jax.tree.map(jnp.multiply, _grads(i), slope)
    step, inner_state = inner.update(grads, inner_state, by_hand)
    _assert_close(updates[i], step)
    by_hand = optax.apply_updates(by_hand, step)
  _assert_close(phi, by_hand)
  assert current_alpha(state) == 3.0
  # Adam undoes the slope, so this is another optimiser than powerprop.
  other, _, _ = _run(powerprop(inner, 3.0), steps=1)
  assert not np.allclose(updates[0]['linear']['w'], other[0]['linear']['w'])


# --- Is it a descent direction? ---------------------------------------------


def _inner_product(a, b):
  return sum(
    jnp.sum(x * y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


@pytest.mark.parametrize('alpha', [1.5, 2.0, 4.0])
@pytest.mark.parametrize('name', ['sgd', 'rmsprop', 'sign_sgd', 'adagrad'])
def test_optimisers_that_keep_every_sign_descend(name, alpha):
  """Each optim(g)_i·g_i > 0, so each optim(g)_i·g_i·slope_i² ≥ 0 too."""
  tx = powerprop(getattr(optax, name)(0.01), alpha)
  phi = _phi()
  state = tx.init(phi)
  update = jax.jit(tx.update)
  for i in range(20):
    updates, state = update(_grads(i), state, phi)
    _, slope = _theta_and_slope(phi, alpha)
    at_phi = jax.tree.map(jnp.multiply, _grads(i), slope)
    assert _inner_product(updates, at_phi) < 0
    phi = optax.apply_updates(phi, updates)


@pytest.mark.parametrize(
  'inner',
  [optax.sgd(0.01, momentum=0.5), optax.adam(0.01, b1=0.5, b2=0.5)],
  ids=['momentum', 'adam'],
)
def test_with_momentum_it_need_not_be_a_descent_direction(inner):
  """docs/transforms.md: descends at θ, yet ascends at φ.

  Gradients (4, −4), then (1, 1): the average of both optimisers is
  proportional to (3, −1). Its product with (1, 1) is positive, but the slopes
  weigh the second weight more.
  """
  alpha = 2.0
  tx = powerprop(inner, alpha, where=lambda path, leaf: True)
  phi = jnp.array([0.1, 1.0])
  state = tx.init(phi)
  updates, state = tx.update(jnp.array([4.0, -4.0]), state, phi)
  phi = optax.apply_updates(phi, updates)
  g = jnp.array([1.0, 1.0])
  updates, _ = tx.update(g, state, phi)
  slope = reparam.slope(phi, alpha)
  at_theta = updates / slope  # what the optimiser gave
  np.testing.assert_allclose(at_theta[0] / at_theta[1], -3.0, rtol=1e-4)
  assert jnp.vdot(at_theta, g) < 0  # a descent direction of the loss in θ
  assert jnp.vdot(updates, g * slope) > 0  # an ascent direction in φ
  loss = lambda phi: jnp.sum(reparam.power(phi, alpha))  # its gradient at θ: g
  assert loss(phi + updates) > loss(phi)
  theta = reparam.power(phi, alpha)
  assert jnp.sum(theta + at_theta) < jnp.sum(theta)


# --- Adaptive α -------------------------------------------------------------

EPSILON = 0.1


def _rule(shares, alpha, factor=1.5, increment=0.1):
  """The report's Algorithm 1, line by line; yields α after each change."""
  old, init = shares[0], True
  for share in shares[1:]:
    if share >= old:
      alpha = 1 + factor * (alpha - 1) if init else alpha + increment
    else:
      alpha = 1 + (alpha - 1) / factor
      init = False
    old = share
    yield alpha


def _theta_with(small):
  """Ten weights, `small` of them in (−ε, ε); a bias that does not count."""
  w = np.where(np.arange(10) < small, 0.03, 0.7) * (-1) ** np.arange(10)
  return {'w': jnp.asarray(w.reshape(2, 5), jnp.float32), 'b': jnp.zeros(4)}


@pytest.mark.parametrize(
  ('start', 'expected'),
  [(2.0, (2.5, 3.0, 3.0)), (4.0, (4.0, 4.0, 4.0))],
)
def test_adaptive_stops_at_max_alpha(start, expected):
  tx = adaptive_powerprop(optax.sgd(1.0), start, every=1, max_alpha=3.0)
  phi = reparam.to_phi(_theta_with(5), start)
  state = tx.init(phi)
  still = jax.tree.map(jnp.zeros_like, phi)  # equal shares count as risen
  for alpha in expected:
    updates, state = tx.update(still, state, phi)
    phi = optax.apply_updates(phi, updates)
    np.testing.assert_allclose(current_alpha(state), alpha, rtol=1e-6)


@pytest.mark.parametrize('kwargs', [{}, {'factor': 2.0, 'increment': 0.3}])
@pytest.mark.parametrize(
  'small',
  [
    (2, 4, 5, 9),  # rises: geometric growth
    (2, 2, 2),  # equal counts as risen
    (5, 3, 1, 0),  # falls: geometric shrinking
    (2, 4, 3, 3, 6, 7),  # after the first fall: linear growth
    (2, 4, 3, 5, 1, 1, 8, 2),  # and no return to the initial phase
  ],
  ids=str,
)
def test_adaptive_follows_the_reports_rule(small, kwargs):
  tx = adaptive_powerprop(
    optax.sgd(1.0), 1.5, every=1, epsilon=EPSILON, **kwargs
  )
  update = jax.jit(tx.update)
  phi = reparam.to_phi(_theta_with(small[0]), 1.5)
  state = tx.init(phi)
  assert current_alpha(state) == 1.5
  np.testing.assert_allclose(state.near_zero, small[0] / 10, rtol=1e-6)
  expected = _rule(small, 1.5, **kwargs)
  for count, alpha in zip(small[1:], expected, strict=True):
    # The gradient with which SGD lands on the wanted θ.
    now = current_alpha(state)
    goal = _theta_with(count)
    goal_phi = reparam.to_phi(goal, now)
    slope = reparam.slope(phi['w'], now)
    grads = {'w': (phi['w'] - goal_phi['w']) / slope, 'b': jnp.zeros(4)}
    updates, state = update(grads, state, phi)
    phi = optax.apply_updates(phi, updates)
    np.testing.assert_allclose(current_alpha(state), alpha, rtol=1e-6)
    np.testing.assert_allclose(state.near_zero, count / 10, rtol=1e-6)
    # φ was re-mapped: under the new α it is the θ of before the change.
    theta = reparam.to_theta(phi, current_alpha(state))
    _assert_close(theta, goal, rtol=1e-4)


def test_adaptive_changes_every_so_many_updates_and_else_is_powerprop():
  inner = optax.adamw(0.01)
  tx = adaptive_powerprop(inner, 2.0, every=3, epsilon=EPSILON)
  update = jax.jit(tx.update)
  phi = other = _phi()
  state, other_state = tx.init(phi), powerprop(inner, jnp.float32(2)).init(phi)
  alphas = []
  for i in range(6):
    now = current_alpha(state)
    updates, after = update(_grads(i), state, phi)
    expected, other_state = powerprop(inner, now).update(
      _grads(i), other_state, other
    )
    alphas.append(float(current_alpha(after)))
    # The optimiser's state lives at θ: a change of α does not touch it.
    _assert_close(after.base.inner, other_state.inner)
    phi = optax.apply_updates(phi, updates)
    other = optax.apply_updates(other, expected)
    _assert_close(
      reparam.to_theta(phi, current_alpha(after)),
      reparam.to_theta(other, now),
    )
    other, state = phi, after
  first, second = alphas[2], alphas[5]
  assert alphas == [2.0, 2.0, first, first, first, second]
  assert first != 2.0 and second != first


def test_adaptive_vmapped_over_the_start_is_looped():
  def train(alpha):
    tx = adaptive_powerprop(optax.adam(0.02), alpha, every=2, epsilon=EPSILON)
    phi = reparam.to_phi(_phi(), alpha)
    state = tx.init(phi)

    def step(carry, i):
      phi, state = carry
      grads = jax.tree.map(lambda x: jnp.sin(i + 7 * x), _phi())
      updates, state = tx.update(grads, state, phi)
      return (optax.apply_updates(phi, updates), state), current_alpha(state)

    (phi, state), alphas = jax.lax.scan(step, (phi, state), jnp.arange(7.0))
    return reparam.to_theta(phi, current_alpha(state)), alphas

  starts = jnp.array([1.25, 2.0, 3.5])
  theta, alphas = jax.jit(jax.vmap(train))(starts)
  single = jax.jit(train)
  for i, start in enumerate(starts):
    one, path = single(start)
    np.testing.assert_allclose(alphas[i], path, rtol=1e-5)
    _assert_close(
      jax.tree.map(lambda x, i=i: x[i], theta), one, rtol=1e-4, atol=1e-6
    )
  assert np.all(alphas[:, 0] == starts) and np.all(alphas[:, 1] != starts)


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'alpha': 1.0}, 'alpha is 1.0'),
    ({'alpha': 0.5}, 'alpha is 0.5'),
    ({'alpha': float('nan')}, 'alpha is nan'),
    ({'alpha': float('inf')}, 'alpha is inf'),
    ({'every': 0}, 'every is 0 but must be at least 1'),
    ({'factor': 1.0}, 'factor is 1.0 but must be above 1'),
    ({'increment': 0.0}, 'increment is 0.0 but must be above 0'),
    ({'max_alpha': 1.0}, 'max_alpha is 1.0 but must be above 1'),
    ({'increment': -1.0}, 'increment is -1.0 but must be above 0'),
    ({'epsilon': 0.0}, 'epsilon is 0.0 but must be above 0'),
  ],
  ids=str,
)
def test_adaptive_refuses_what_its_rule_cannot_use(kwargs, message):
  with pytest.raises(ValueError, match=message) as error:
    adaptive_powerprop(optax.sgd(0.1), **({'alpha': 1.5, 'every': 1} | kwargs))
  assert '\n' not in str(error.value)


def test_near_zero_share_is_an_open_interval_over_all_weights():
  theta = {
    'a': {'w': jnp.array([[0.0, 0.1, -0.1, 0.05]]), 'b': jnp.zeros(9)},
    'b': {'w': jnp.array([[-0.09, 0.2], [0.3, 1.0]])},
  }
  share = transforms.near_zero_share
  assert share(theta, 0.1) == 3 / 8
  assert share(theta, 2.0) == 1
  assert share(theta, 0.1, where=lambda path, leaf: path == 'a/b') == 1


def test_equal_counts_are_equal_shares_compiled_or_not():
  """Else a start outside of jit and a step inside would seem a fall."""
  share = functools.partial(transforms.near_zero_share, epsilon=0.5)
  # One vmapped call for all counts from 0 to 41.
  theta = {'w': jnp.asarray(np.tri(42, 41, k=-1))[:, None]}
  eager, compiled = jax.vmap(share)(theta), jax.jit(jax.vmap(share))(theta)
  np.testing.assert_array_equal(eager, compiled)
