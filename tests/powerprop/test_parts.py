"""Gradients of batches that go through the net in parts."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import powerprop as pp
from powerprop import learning
from powerprop import methods
from powerprop import parts
from powerprop import train
from powerprop.psi import Psi
from powerprop.types import Hyper

_HYPER = Hyper(np.int32(0), np.float32(2), np.float32(0.1), np.float32(0))
_STEPS = 6


def _source(number=24, width=8):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(number, width)).astype(np.float32)
  split = learning.Labelled(x, (x[:, 0] > 0).astype(np.int32))
  return {'task': 0, 'train': split, 'validation': split, 'test': split}


def _net(hidden=(8,), norm=False):
  def net(x, is_training):
    for size in hidden:
      x = hk.Linear(size)(x)
      if norm:
        x = pp.BatchNorm(True, True, 0.9)(x, is_training)
      x = jax.nn.relu(x)
    return hk.Linear(2)(x)

  return hk.transform_with_state(net)


def _recipe(accumulate, batch_size=8, **net):
  problem = learning.classifier(_net(**net), jnp.zeros((1, 8)))
  return train.Recipe(
    problem=problem,
    optimizer=functools.partial(optax.sgd, momentum=0.9),
    batch_size=batch_size,
    num_train=24,
    epsilon=0.01,
    l2=0.01,
    accumulate=accumulate,
  )


def _method(name, shapes):
  target = methods.make_target(shapes, 0.5, 'uniform')
  brief = methods.Brief(target, _STEPS, 0.01)
  options = {'rigl': {'every': 2, 'end': 5}, 'snip': {}}[name]
  return getattr(methods, name)(brief, **options)


def _trained(name, accumulate):
  recipe = _recipe(accumulate)
  shapes, _ = jax.eval_shape(lambda: train.initial_theta(recipe, 0))
  one = train.make_training(recipe, Psi(2.0), _method(name, shapes))

  @jax.jit
  def whole(source):
    state = one.init(_HYPER, source)
    return one.chunk(state, _HYPER, source, 0, _STEPS)

  return jax.device_get(whole(_source()))


@pytest.mark.parametrize('name', ['rigl', 'snip'])
def test_a_net_without_norm_learns_the_same_in_parts(name):
  """Masks that are made from gradients too, before training and in it."""
  whole, loss = _trained(name, 1)
  state, same = _trained(name, 4)
  np.testing.assert_allclose(same, loss, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    (state.phi, state.opt, state.method),
    (whole.phi, whole.opt, whole.method),
  )


def test_one_part_is_the_plain_program():
  problem = _recipe(1).problem
  w, net_state = problem.init(jax.random.key(0))
  batch = problem.batch(_source(), 'train', jnp.arange(8))
  args = w, net_state, jax.random.key(1), batch
  plain = jax.value_and_grad(problem.loss, has_aux=True)
  ours = parts.gradient(problem.loss, 1)
  assert str(jax.make_jaxpr(ours)(*args)) == str(jax.make_jaxpr(plain)(*args))


def test_batch_norm_sees_the_parts_in_turn():
  """Of a part its own mean, and averages over all of them; strided."""
  recipe = _recipe(2, norm=True)
  problem = recipe.problem
  w, net_state = problem.init(jax.random.key(0))
  batch = problem.batch(_source(), 'train', jnp.arange(8))
  key = jax.random.key(1)
  (loss, after), grads = parts.gradient(problem.loss, 2)(
    w, net_state, key, batch
  )
  by_hand, total = [], []
  for i in range(2):
    part = jax.tree.map(lambda x, i=i: x[i::2], batch)
    (one, net_state), g = jax.value_and_grad(problem.loss, has_aux=True)(
      w, net_state, key, part
    )
    by_hand.append(one)
    total.append(g)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  close(loss, np.mean(by_hand))
  jax.tree.map(close, after, net_state)
  jax.tree.map(lambda g, a, b: close(g, (a + b) / 2), grads, *total)


def test_sums_of_half_precision_are_float32():
  """4,096 parts of 1: bfloat16 would stop at 256."""
  loss = lambda w, state, key, x: (jnp.sum(w * x), state)
  w = jnp.ones((), jnp.bfloat16)
  x = jnp.ones((4096, 1), jnp.bfloat16)
  (value, _), grad = jax.jit(parts.gradient(loss, 4096))(
    w, {}, jax.random.key(0), x
  )
  assert grad == 1 and grad.dtype == jnp.bfloat16 and value == 1


def test_parts_need_less_memory():
  """Of activations, which are most of what a wide batch takes."""

  def temporary(accumulate):
    problem = _recipe(accumulate, hidden=(64, 64)).problem
    w, net_state = jax.eval_shape(problem.init, jax.random.key(0))
    batch = learning.Labelled(
      jax.ShapeDtypeStruct((4096, 8), jnp.float32),
      jax.ShapeDtypeStruct((4096,), jnp.int32),
    )
    program = jax.jit(parts.gradient(problem.loss, accumulate))
    key = jax.random.key(0)
    compiled = program.lower(w, net_state, key, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(16) < temporary(1) / 4


@pytest.mark.parametrize('accumulate', [0, 3])
def test_parts_that_do_not_divide_a_batch(accumulate):
  loss = lambda w, state, key, x: (jnp.sum(w * x), state)
  with pytest.raises(ValueError, match=f'accumulate is {accumulate} but must'):
    parts.gradient(loss, accumulate)(1.0, {}, None, jnp.ones((8, 1)))
