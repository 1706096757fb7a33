"""Nets that compute in bfloat16."""

import functools

import haiku as hk
import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import data
from experiments.engine import classification
from experiments.engine import making
from experiments.engine import networks
from experiments.engine import precision
from experiments.engine import settings
from powerprop import methods
from powerprop import modules
from powerprop import train
from powerprop.psi import Psi
from powerprop.types import Hyper
from tests import tiny

_SHAPE = (8, 8, 1)


def _net():
  """What there is of layers: both convolutions, both normalisations."""

  def net(image, is_training):
    x = networks.SlicedConv2D(4, 3, 2, name='sliced')(image)
    x = modules.BatchNorm(True, True, 0.9, name='ours')(x, is_training)
    x = hk.Conv2D(6, 3, 2, with_bias=False, name='conv')(jax.nn.relu(x))
    x = hk.BatchNorm(True, True, 0.9, name='haikus')(x, is_training)
    x = jnp.mean(jax.nn.relu(x), axis=(1, 2))
    return hk.Linear(10, name='output')(x)

  return hk.transform_with_state(net)


_NET = _net()
_HALF = precision.in_bfloat16(_NET)


def _split():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (40, *_SHAPE), np.uint8)
  return data.Split(image, rng.integers(0, 10, 40).astype(np.int32))


def _problem(net):
  return classification.classification(
    classification.Pictures(net, _SHAPE, 1 / 255)
  )


def _traced(net):
  """The program of a gradient, and its arguments."""
  problem = _problem(net)
  w, state = jax.jit(_problem(_NET).init)(jax.random.key(0))
  batch = problem.batch(_split(), 'train', jnp.arange(16))
  fn = jax.value_and_grad(problem.loss, has_aux=True)
  return fn, (w, state, jax.random.key(1), batch)


def _equations(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for inner in core.jaxprs_in_params(eqn.params):
      yield from _equations(inner)


def test_products_and_convolutions_are_of_bfloat16():
  fn, args = _traced(_HALF)
  found = [
    (eqn.primitive.name, {v.aval.dtype for v in eqn.invars})
    for eqn in _equations(jax.make_jaxpr(fn)(*args).jaxpr)
    if eqn.primitive.name in ('dot_general', 'conv_general_dilated')
  ]
  assert {name for name, _ in found} == {'dot_general', 'conv_general_dilated'}
  assert len(found) >= 8  # three layers forward, and backward but for pictures
  assert all(dtypes == {jnp.dtype('bfloat16')} for _, dtypes in found), found


def test_loss_and_gradient_are_those_of_float32_to_rounding():
  (loss, state), grads = jax.jit(_traced(_HALF)[0])(*_traced(_HALF)[1])
  (wanted, state_32), grads_32 = jax.jit(_traced(_NET)[0])(*_traced(_NET)[1])
  dtypes = lambda tree: {x.dtype.name for x in jax.tree.leaves(tree)}
  assert dtypes((loss, grads)) == {'float32'}
  assert dtypes(state) == dtypes(state_32) == {'float32', 'int32'}
  assert loss != wanted
  np.testing.assert_allclose(loss, wanted, rtol=0.02)
  for g, h in zip(
    jax.tree.leaves(grads), jax.tree.leaves(grads_32), strict=True
  ):
    # Of a bias before normalisation the gradient is nothing but rounding.
    scale = max(np.abs(h).max(), 0.1)
    np.testing.assert_allclose(g, h, atol=0.1 * scale)


def test_averages_are_float32s_far_from_zero():
  """Of pictures about 100, whose squares bfloat16 has to 64."""

  def norms(image, is_training):
    ours = modules.BatchNorm(True, True, 0.9, name='ours')(image, is_training)
    theirs = hk.BatchNorm(True, True, 0.9, name='haikus')(image, is_training)
    return ours + theirs

  net = hk.transform_with_state(norms)
  half = precision.in_bfloat16(net)
  x = 100 + 3 * jax.random.normal(jax.random.key(0), (256, 2))
  w, state = net.init(None, x, True)
  out, after = half.apply(w, state, None, x, is_training=True)
  rounded = x.astype(jnp.bfloat16).astype(jnp.float32)
  _, wanted = net.apply(w, state, None, rounded, is_training=True)
  assert out.dtype == jnp.bfloat16
  jax.tree.map(np.testing.assert_array_equal, after, wanted)
  for name in ('ours', 'haikus'):
    var = after[f'{name}/~/var_ema']['average']
    np.testing.assert_allclose(var[0], np.var(rounded, 0), rtol=0.01)


def test_float32_is_the_same_program_beside_a_net_in_bfloat16():
  def program():
    fn, args = _traced(_net())
    return str(jax.make_jaxpr(fn)(*args))

  before = program()
  fn, args = _traced(_HALF)
  jax.eval_shape(fn, *args)
  assert program() == before and 'bf16' not in before


def test_what_lasts_is_as_in_float32():
  """φ, moments, masks, averages and the sum of work, through a step of RigL."""

  def shapes(net):
    recipe = train.Recipe(
      problem=_problem(net),
      optimizer=functools.partial(optax.sgd, momentum=0.9),
      batch_size=8,
      num_train=40,
      epsilon=0.01,
      l2=0.01,
      accumulate=2,
    )
    theta, net_state = jax.eval_shape(lambda: train.initial_theta(recipe, 0))
    flops = recipe.problem.flops(theta, net_state)
    target = methods.make_target(theta, 0.25, 'erk')
    method = methods.rigl(methods.Brief(target, 10, 0.01), every=2, end=8)
    one = train.make_training(
      recipe._replace(layer_flops=flops), Psi(2.0), method
    )
    hyper = Hyper(np.int32(0), np.float32(2), np.float32(0.1), np.float32(0))

    def whole():
      return one.chunk(one.init(hyper, _split()), hyper, _split(), 0, 4)

    return flops, jax.eval_shape(whole)

  assert shapes(_HALF) == shapes(_NET)


def test_a_config_says_which(monkeypatch):
  of = lambda **fields: settings.check(tiny.config(**fields)).compute_dtype
  resolved = lambda: settings.resolved({'compute_dtype': 'auto'})
  assert of() == 'float32' and of(compute_dtype='bfloat16') == 'bfloat16'
  assert of(compute_dtype='auto') == 'float32'
  assert resolved()['compute_dtype'] == 'float32'
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert of(compute_dtype='auto') == 'bfloat16'
  assert resolved()['compute_dtype'] == 'bfloat16'
  with pytest.raises(settings.ConfigError, match="compute_dtype 'float16'"):
    of(compute_dtype='float16')


def test_the_net_of_a_config_computes_in_it():
  net = making.network('mlp', {'hidden': (4,)}, 10, 'bfloat16')
  image = jnp.ones((1, *_SHAPE))
  w, state = net.init(jax.random.key(0), image, is_training=True)
  logits, _ = net.apply(w, state, None, image, is_training=False)
  assert w['hidden_0']['w'].dtype == jnp.float32
  assert logits.dtype == jnp.bfloat16
