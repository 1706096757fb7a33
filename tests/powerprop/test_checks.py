"""A user's mistake gets one sentence; a net that cannot learn, a warning."""

import functools
import pickle

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import powerprop as pp
from powerprop import transforms

_adaptive = functools.partial(pp.adaptive_powerprop, every=2)
TRANSFORMS = [pp.powerprop, pp.chain_rule, _adaptive]


def _linear(**kwargs):
  return hk.transform(lambda x: hk.Linear(2, name='a', **kwargs)(x))


# By what a user calls, something that takes α and `where`.
TAKERS = {
  'powerprop': lambda **k: pp.powerprop(optax.sgd(0.1), **k),
  'chain_rule': lambda **k: pp.chain_rule(optax.sgd(0.1), **k),
  'adaptive': lambda **k: _adaptive(optax.sgd(0.1), **k),
  'reparameterise': lambda **k: pp.reparameterise(_linear(), **k),
  'to_theta': lambda **k: pp.to_theta({'w': jnp.ones((2, 2))}, **k),
  'to_phi': lambda **k: pp.to_phi({'w': jnp.ones((2, 2))}, **k),
  'value_and_grad': lambda **k: pp.value_and_grad(lambda t: 0.0, **k)(
    {'w': jnp.ones((2, 2))}
  ),
  'PowerPropLinear': lambda alpha: hk.transform(
    lambda: pp.PowerPropLinear(2, alpha=alpha)
  ).init(jax.random.key(0)),
  'power': lambda alpha: pp.power(jnp.ones(2), alpha),
  'slope': lambda alpha: pp.slope(jnp.ones(2), alpha),
}


@pytest.mark.parametrize(
  'alpha, remedy',
  [
    (None, 'choose alpha'),
    ('2', 'choose alpha'),
    (True, 'choose alpha'),
    (2 + 0j, 'choose alpha'),
    ({'alpha': 2}, 'choose alpha'),
    (jnp.array(True), 'choose alpha'),
    ([2.0, 3.0], 'jax.vmap'),
    (np.array([2.0]), 'jax.vmap'),
    (jnp.full(3, 2.0), 'jax.vmap'),
    (optax.constant_schedule(2.0), 'schedule'),
  ],
  ids=lambda x: None if callable(x) else str(x),
)
def test_what_is_no_power_gets_a_sentence(alpha, remedy):
  for name, taker in TAKERS.items():
    if callable(alpha) and name in ('powerprop', 'chain_rule'):
      continue  # one takes it, the other says that it does not
    with pytest.raises(ValueError, match='^alpha is .* finite number') as error:
      taker(alpha=alpha)
    assert remedy in str(error.value) and '\n' not in str(error.value)


def test_a_schedule_is_asked_for_powers():
  tx = pp.powerprop(optax.sgd(0.1), lambda count: jnp.full(2, 2.0))
  with pytest.raises(ValueError, match=r'^alpha is \[2. 2.\]'):
    tx.init({'w': jnp.ones((2, 2))})


def test_a_traced_power_has_no_axes():
  """The shape is known there, though the value is not."""
  phi = jnp.ones((3, 3))
  with pytest.raises(ValueError, match='jax.vmap'):
    jax.eval_shape(pp.power, phi, jnp.full(3, 2.0))
  out = jax.eval_shape(jax.vmap(pp.power, (None, 0)), phi, jnp.full(3, 2.0))
  assert out.shape == (3, 3, 3)


@pytest.mark.parametrize('alpha', [2, np.int32(2), np.array(2), jnp.array(2)])
def test_a_power_may_be_a_whole_number_of_any_kind(alpha):
  np.testing.assert_array_equal(pp.power(jnp.array([-3.0]), alpha), [-9.0])


@pytest.mark.parametrize('where', ['w', True, None, {'w': True}], ids=str)
def test_where_has_to_be_a_function(where):
  for name, taker in TAKERS.items():
    if name in ('PowerPropLinear', 'power', 'slope'):
      continue
    with pytest.raises(ValueError, match='^where is .* must be a function'):
      taker(alpha=2.0, where=where)
  with pytest.raises(ValueError, match='^where is'):
    transforms.near_zero_share({'w': jnp.ones((2, 2))}, 0.1, where)


def test_a_share_of_no_weights_gets_a_sentence():
  tx = pp.adaptive_powerprop(
    optax.sgd(0.1), 2.0, every=2, where=lambda path, leaf: False
  )
  with pytest.raises(ValueError, match='chooses no leaf'):
    tx.init({'w': jnp.ones((2, 2))})


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'every': '3'}, "every is '3' but must be a number at least 1"),
    ({'factor': None}, 'factor is None but must be a number above 1'),
    ({'epsilon': [0.1]}, r'epsilon is \[0.1\] but must be a number above 0'),
  ],
)
def test_adaptive_wants_numbers(kwargs, message):
  with pytest.raises(ValueError, match=message):
    pp.adaptive_powerprop(optax.sgd(0.1), 2.0, **({'every': 1} | kwargs))


@pytest.mark.parametrize(
  'net',
  [lambda x: x, hk.Linear, None, {}],
  ids=['function', 'class', 'None', 'dict'],
)
def test_reparameterise_wants_a_transformed_net(net):
  with pytest.raises(ValueError, match='^net is .* hk.transform returned'):
    pp.reparameterise(net, 2.0)


# --- Stuck at zero ------------------------------------------------------------

ZEROS = {
  'a': {'w': jnp.zeros((2, 2)), 'b': jnp.zeros(2)},
  'c': {'w': jnp.array([[0.0, 0.0], [0.0, 1.0]])},
}
SENTENCE = r"stuck at α = 2: 'a/w'\. .* initialiser.*`where`"


def _starts(alpha):
  """All ways to start with a tree whose leaf a/w is zero."""
  net = _linear(w_init=jnp.zeros)
  stateful = hk.transform_with_state(
    lambda x: hk.Linear(2, w_init=jnp.zeros, name='a')(x)
  )
  x, key = jnp.ones((1, 3)), jax.random.key(0)
  for make in TRANSFORMS:
    yield lambda make=make: make(optax.sgd(0.1), alpha).init(ZEROS)
  for plain in (net, stateful):
    under = pp.reparameterise(plain, alpha)
    yield functools.partial(under.init, key, x)


@pytest.mark.parametrize('alpha', [2.0, jnp.float32(2)], ids=['float', 'array'])
def test_a_leaf_of_zeros_is_named(alpha):
  for start in _starts(alpha):
    with pytest.warns(UserWarning, match=SENTENCE):
      start()
  module = hk.transform(
    lambda x: pp.PowerPropLinear(2, w_init=jnp.zeros, alpha=alpha, name='a')(x)
  )
  with pytest.warns(UserWarning, match=SENTENCE):
    module.init(jax.random.key(0), jnp.ones((1, 3)))


def test_it_is_true_that_a_leaf_of_zeros_does_not_move():
  """And that what is before it learns nothing."""
  net = pp.reparameterise(
    hk.transform(lambda x: hk.nets.MLP([4, 2], w_init=_last_is_zero)(x)), 2.0
  )
  tx = pp.powerprop(optax.adam(0.1), 2.0)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
  with pytest.warns(UserWarning, match="'mlp/~/linear_1/w'"):
    start = phi = net.init(jax.random.key(0), x)
  with pytest.warns(UserWarning, match="'mlp/~/linear_1/w'"):
    state = tx.init(phi)
  for _ in range(2):
    grads = jax.grad(lambda p: jnp.sum((net.apply(p, None, x) - x[:, :2]) ** 2))
    updates, state = tx.update(grads(phi), state, phi)
    phi = optax.apply_updates(phi, updates)
  for module in phi:
    np.testing.assert_array_equal(phi[module]['w'], start[module]['w'])
  assert np.any(phi['mlp/~/linear_1']['b'])


def _last_is_zero(shape, dtype):
  law = jnp.zeros if shape[-1] == 2 else hk.initializers.TruncatedNormal(0.5)
  return law(shape, dtype)


def test_nothing_is_said_where_it_moves_or_where_values_are_not_known():
  """Warnings are errors here."""
  for make in TRANSFORMS[:2]:
    make(optax.sgd(0.1), 1.0).init(ZEROS)
  pp.reparameterise(_linear(w_init=jnp.zeros), 1.0).init(
    jax.random.key(0), jnp.ones((1, 3))
  )
  # Zeros that are pruned; a leaf that is left out; traced values.
  pruned = {'w': jnp.array([[0.0, 0.0], [0.0, 1e-9]]), 'b': jnp.zeros(2)}
  for make in TRANSFORMS:
    make(optax.sgd(0.1), 2.0).init(pruned)
    make(optax.sgd(0.1), 2.0, where=lambda path, leaf: path == 'c/w').init(
      ZEROS
    )
    jax.eval_shape(make(optax.sgd(0.1), 2.0).init, ZEROS)
    jax.eval_shape(
      lambda a, make=make: make(optax.sgd(0.1), a).init(ZEROS), 2.0
    )
  pp.powerprop(optax.sgd(0.1), lambda count: 1.0 + count).init(ZEROS)
  net = pp.reparameterise(_linear(w_init=jnp.zeros), 2.0)
  jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 3)))


def test_several_leaves_share_one_sentence():
  tree = {name: jnp.zeros((2, 2), jnp.bfloat16) for name in 'vwxyz'}
  with pytest.warns(UserWarning, match="'v', 'w', 'x' and 2 more") as caught:
    pp.powerprop(optax.sgd(0.1), 2.0).init(tree)
  assert len(caught) == 1


def test_a_constant_within_jit_is_looked_at():
  init = jax.jit(lambda: pp.powerprop(optax.sgd(0.1), 2.0).init(ZEROS))
  with pytest.warns(UserWarning, match=SENTENCE):
    jax.eval_shape(init)


def test_no_matrix_no_powerprop():
  for make in (pp.powerprop, pp.chain_rule):
    with pytest.warns(UserWarning, match='no parameter is under Ψ'):
      make(optax.sgd(0.1), 2.0).init({'w': jnp.ones(3)})
    make(optax.sgd(0.1), 1.0).init({'w': jnp.ones(3)})
    # Who says so means it.
    make(optax.sgd(0.1), 2.0, where=lambda *_: False).init({'w': jnp.ones(3)})


# --- A state that others save -------------------------------------------------


def _states():
  phi = {'w': jnp.ones((2, 2))}
  for tx in (
    pp.powerprop(optax.adam(0.1), 2.5),
    pp.chain_rule(optax.sgd(0.1, momentum=0.9), 3),
    pp.powerprop(optax.adam(0.1), lambda count: 2.0 + count),
    _adaptive(optax.sgd(0.1), 2.0),
    optax.chain(optax.clip(1.0), pp.powerprop(optax.adam(0.1), 1.1)),
  ):
    state = tx.init(phi)
    yield state, tx.update(phi, state, phi)[1]


def _assert_same(restored, state):
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  assert pp.current_alpha(restored) == pp.current_alpha(state)


def _to_fields(x):
  """As flax.serialization does: NamedTuples and dicts by name, no more."""
  if isinstance(x, tuple) and hasattr(x, '_fields'):
    return {k: _to_fields(getattr(x, k)) for k in x._fields}
  if isinstance(x, list | tuple):
    return {str(i): _to_fields(y) for i, y in enumerate(x)}
  if isinstance(x, dict):
    return {k: _to_fields(v) for k, v in x.items()}
  assert x is None or isinstance(x, jax.Array), type(x)
  return x


def _from_fields(like, fields):
  if isinstance(like, tuple) and hasattr(like, '_fields'):
    names = like._fields
    return type(like)(
      **{k: _from_fields(getattr(like, k), fields[k]) for k in names}
    )
  if isinstance(like, list | tuple):
    return type(like)(
      _from_fields(x, fields[str(i)]) for i, x in enumerate(like)
    )
  if isinstance(like, dict):
    assert set(like) == set(fields)
    return {k: _from_fields(v, fields[k]) for k, v in like.items()}
  return fields


def test_a_state_can_be_saved_by_fields():
  for like, state in _states():
    _assert_same(_from_fields(like, _to_fields(state)), state)
    _assert_same(pickle.loads(pickle.dumps(state)), state)


def test_a_state_can_be_saved_by_flax():
  serialization = pytest.importorskip('flax.serialization')
  for like, state in _states():
    data = serialization.to_bytes(state)
    _assert_same(serialization.from_bytes(like, data), state)


@pytest.mark.parametrize(
  'alpha', [2.5, jnp.float32(2.5)], ids=['float', 'array']
)
def test_optax_finds_and_sets_what_is_in_the_inner_state(alpha):
  inner = optax.inject_hyperparams(optax.sgd)(0.1)
  state = pp.powerprop(inner, alpha).init({'w': jnp.ones((2, 2))})
  state = optax.tree.set(state, learning_rate=0.3)
  assert optax.tree.get(state, 'learning_rate') == 0.3
  assert pp.current_alpha(state) == 2.5


# --- Number formats -----------------------------------------------------------


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32', 'float64'])
def test_dtypes_are_kept(dtype):
  """Of weights and of states; with float64 switched on for its own sake."""
  for wide in (False, True):
    if dtype == 'float64' and not wide:
      continue
    with jax.enable_x64(wide):
      phi = {'w': jnp.full((2, 3), 0.3, dtype), 'b': jnp.ones(3, dtype)}
      for alpha in (1.0, 2.0, 2.3, jnp.asarray(2.3, jnp.float32)):
        for fn in (pp.to_theta, pp.to_phi):
          assert all(x.dtype == dtype for x in jax.tree.leaves(fn(phi, alpha)))
        assert pp.slope(phi['w'], alpha).dtype == dtype
      for make in (
        *TRANSFORMS,
        lambda inner, alpha: pp.powerprop(
          inner, optax.linear_schedule(alpha, 3.0, 4)
        ),
      ):
        tx = make(optax.sgd(0.1, momentum=0.9), 2.0)
        state = tx.init(phi)
        updates, after = jax.eval_shape(tx.update, phi, state, phi)
        signature = lambda x: jax.tree.map(lambda y: y.dtype, x)
        assert signature(after) == signature(state)
        assert signature(updates) == signature(phi)


def test_a_small_epsilon_counts_zeros_in_half_precision():
  theta = {'w': jnp.array([[0.0, 0.5]], jnp.float16)}
  assert transforms.near_zero_share(theta, 1e-9) == 0.5
