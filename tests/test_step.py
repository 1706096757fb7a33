"""`powerprop.methods.step`: what a step does with any optimiser and method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from powerprop import transforms
from powerprop.methods import step as steps_lib


@pytest.fixture(autouse=True, scope='module')
def _cache():
  with tiny.compiled_once():
    yield


# Resetting moments.

_PHI = {
  'a': {'w': jnp.full((4, 5), 0.5), 'b': jnp.ones(5)},
  'c': {'w': jnp.full((5, 3), 0.7)},
}
_RATE = optax.linear_schedule(0.1, 0.0, 100)
_ADAM = optax.adam(_RATE)


def _by_name(params):
  """Labels for multi_transform: 'w' and 'b'."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, params)


def _two(weights):
  return optax.multi_transform(
    {'w': weights, 'b': optax.sgd(0.1, momentum=0.9)}, _by_name
  )


def _bare():
  """A momentum whose state is no more than a tree like φ."""
  return optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params=None: (
      grads,
      jax.tree.map(jnp.add, state, grads),
    ),
  )


# By optimiser: how the paths begin of what goes on when all moments are reset;
# of what is inside of `powerprop`, from there.
_INNER = {
  'adam': (lambda: optax.adam(0.1), ()),
  'a schedule': (lambda: _ADAM, ('[1].count',)),
  'injected': (
    lambda: optax.inject_hyperparams(optax.adam)(learning_rate=_RATE),
    ('.count', '.hyperparams', '.hyperparams_states'),
  ),
  'masked': (
    lambda: optax.masked(_ADAM, {'a': True, 'c': False}),
    ('.inner_state[1].count',),
  ),
  'multi_transform': (
    lambda: _two(_ADAM),
    (".inner_states['w'].inner_state[1].count",),
  ),
  'muon': (lambda: optax.contrib.muon(0.1), ()),
  'sm3': (lambda: optax.sm3(0.1), ()),
  'adafactor': (
    lambda: optax.adafactor(_RATE, min_dim_size_to_factor=4),
    ('[2].count',),
  ),
  'rprop': (lambda: optax.rprop(0.1), ()),
  'multi_steps': (
    lambda: optax.MultiSteps(_ADAM, 2),
    ('.inner_opt_state[1].count',),
  ),
  'an average': (
    lambda: optax.chain(optax.ema(0.9), optax.scale_by_schedule(_RATE)),
    ('[1].count',),
  ),
  'a bare tree': (_bare, ()),
}
_OPTIMISERS = {
  name: (
    lambda make=make: transforms.powerprop(make(), 2.0),
    ('.count', *(f'.inner{path}' for path in on)),
  )
  for name, (make, on) in _INNER.items()
} | {
  'multi_transform outside': (
    lambda: _two(transforms.powerprop(_ADAM, 2.0)),
    (
      ".inner_states['w'].inner_state.count",
      ".inner_states['w'].inner_state.inner[1].count",
    ),
  ),
  'a scheduled α': (
    lambda: transforms.powerprop(
      optax.adam(0.1), optax.linear_schedule(1.0, 2.0, 9)
    ),
    ('.count', '.alpha'),
  ),
  'a bare tree under a scheduled α': (
    lambda: transforms.powerprop(_bare(), optax.linear_schedule(1.0, 2.0, 9)),
    ('.count', '.alpha'),
  ),
  'an adaptive α': (
    lambda: transforms.adaptive_powerprop(optax.adam(0.1), 2.0, 2),
    ('.base.count', '.base.alpha', '.near_zero', '.initial_phase'),
  ),
}
_CHOSEN = jnp.arange(20).reshape(4, 5) % 3 == 0


@functools.cache
def _states(name):
  """An optimiser, its state at the start, and one in which all has changed."""
  tx = _OPTIMISERS[name][0]()
  fresh = tx.init(_PHI)

  def later(x):
    x = np.asarray(x)
    return jnp.asarray(~x if x.dtype == bool else x + x.dtype.type(1))

  return tx, fresh, jax.tree.map(later, fresh)


def _leaves(tree):
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in flat}


@pytest.mark.parametrize('name', _OPTIMISERS)
def test_a_reset_of_all_moments_is_a_fresh_start_but_for_schedules(name):
  """The count of Adam's correction goes with its moments; α does not."""
  tx, fresh, opt = _states(name)
  got = _leaves(steps_lib.reset_moments(tx, opt, _PHI, None))
  start, before = _leaves(fresh), _leaves(opt)
  assert got.keys() == start.keys()
  on = _OPTIMISERS[name][1]
  for path, x in got.items():
    wanted = before if path.startswith(on) else start
    np.testing.assert_array_equal(x, wanted[path], path)
  for begun in on:
    assert any(path.startswith(begun) for path in got), begun


@pytest.mark.parametrize('name', _OPTIMISERS)
def test_a_reset_of_chosen_moments_leaves_all_else_alone(name):
  """Masked states and such as have a list where a weight has an array too."""
  tx, fresh, opt = _states(name)
  got = _leaves(steps_lib.reset_moments(tx, opt, _PHI, {'a/w': _CHOSEN}))
  start, before = _leaves(fresh), _leaves(opt)
  reset = 0
  for path, x in got.items():
    wanted = before[path]
    if "['a']['w']" in path and x.shape == _CHOSEN.shape:
      wanted = np.where(_CHOSEN, start[path], wanted)
      reset += 1
    np.testing.assert_array_equal(x, wanted, path)
  # Adafactor has no moments of single weights here.
  assert bool(reset) == (name != 'adafactor')


def test_weights_whose_moments_are_shared_are_named():
  shared = {
    name: steps_lib.shared_moments(_states(name)[0], _PHI)
    for name in ('adam', 'masked', 'muon', 'multi_transform', 'sm3')
  }
  assert shared.pop('sm3') == ['a/w', 'c/w']
  assert not any(shared.values())


def test_an_optimiser_whose_moments_cannot_be_found_is_named():
  tx = transforms.powerprop(optax.flatten(optax.adam(0.1)), 2.0)
  with pytest.raises(ValueError, match='cannot be told.*optax.flatten'):
    steps_lib.reset_moments(tx, tx.init(_PHI), _PHI, None)
