"""What is said of Ψ once is what all parts of a loop go by."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import powerprop
from powerprop import train
from powerprop.psi import Psi
from powerprop.types import Hyper
from tests import lifetime_tiny

_X = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)


def _net():
  return hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([5, 2])(x)))


def _first(path, leaf):
  return path == 'mlp/~/linear_0/w'


def _loss(theta):
  return jnp.mean(_net().apply(theta, _X) ** 2)


def _same(got, wanted):
  jax.tree.map(np.testing.assert_array_equal, got, wanted)


@pytest.mark.parametrize('where', [powerprop.is_weight, _first])
def test_it_is_the_short_forms_with_the_same_alpha_and_where(where):
  psi, alpha = Psi(2.5, where), 2.5
  theta = _net().init(jax.random.key(0), _X)
  phi = psi.to_phi(theta)
  _same(phi, powerprop.to_phi(theta, alpha, where))
  _same(psi.to_theta(phi), powerprop.to_theta(phi, alpha, where))
  _same(
    psi.value_and_grad(_loss)(phi),
    powerprop.value_and_grad(_loss, alpha, where)(phi),
  )
  for chain_rule in (False, True):
    mine = psi.reparameterise(_net(), chain_rule)
    other = powerprop.reparameterise(_net(), alpha, where, chain_rule)
    _same(mine.init(jax.random.key(0), _X), phi)
    grad = lambda net: jax.grad(lambda p: jnp.sum(net.apply(p, _X)))(phi)
    _same(grad(mine), grad(other))
  for transform in (powerprop.powerprop, powerprop.chain_rule):
    tx = psi._replace(transform=transform).optimizer(optax.adam(0.1))
    other = transform(optax.adam(0.1), alpha, where)
    _same(
      tx.update(theta, tx.init(phi), phi),
      other.update(theta, other.init(phi), phi),
    )


def test_at_reads_the_alpha_that_the_optimiser_has_come_to():
  phi = {'w': jnp.ones((2, 2))}
  rising = Psi(optax.linear_schedule(1.0, 3.0, 2), _first)
  tx = rising.optimizer(optax.sgd(0.1))
  _, state = tx.update(phi, tx.init(phi), phi)
  assert rising.at(state) == Psi(2.0, _first)
  adaptive = functools.partial(powerprop.adaptive_powerprop, every=3)
  psi = Psi(1.5, transform=adaptive)
  tx = optax.chain(optax.clip(1.0), psi.optimizer(optax.sgd(0.1)))
  assert float(psi.at(tx.init(phi)).alpha) == 1.5
  with pytest.raises(ValueError, match='found 0 Powerprop states'):
    psi.at(optax.sgd(0.1).init(phi))


def test_what_is_wrong_is_said_by_all_of_its_parts():
  phi = {'w': jnp.ones((2, 2))}
  for psi, match in (
    (Psi(0.5), 'alpha is 0.5, but'),
    (Psi(2.0, 'w'), 'where is .* must be a function'),
  ):
    for part in (
      psi.to_theta,
      psi.to_phi,
      lambda _, psi=psi: psi.optimizer(optax.sgd(0.1)),
      lambda _, psi=psi: psi.reparameterise(_net()),
    ):
      with pytest.raises(ValueError, match=match):
        part(phi)


def test_a_training_reads_starts_and_moves_by_the_same_leaves():
  """Where no leaf is under Ψ, α is nothing to any function of a training."""
  recipe = lifetime_tiny.setup(powerprop.methods.naive).recipe
  hyper, source = lifetime_tiny.hyper(3.0), lifetime_tiny.source(0)

  def programs(alpha, where):
    one = train.make_training(recipe, Psi(alpha, where))
    state = jax.eval_shape(one.init, hyper, source)
    chunk = lambda s: one.chunk(s, hyper, source, 0, 2)
    parts = (one.read, one.weights, chunk)
    text = [str(jax.make_jaxpr(part)(state)) for part in parts]
    begin = lambda theta: one.begin(hyper, source, theta, {}).phi
    return [*text, str(jax.make_jaxpr(begin)(state.phi))]

  nowhere = lambda path, leaf: False
  assert programs(3.0, nowhere) == programs(1.0, nowhere)
  different = zip(programs(3.0, _output), programs(1.0, _output), strict=True)
  assert all(x != y for x, y in different)


def _output(path, leaf):
  return path == 'output/w'


def test_alpha_none_is_that_of_the_hyperparameters():
  hyper = Hyper(0, jnp.float32(2.5), 0.1)
  assert train.at_start(Psi(None, _first), hyper) == Psi(hyper.alpha, _first)
  assert train.at_start(Psi(3.0, _first), hyper) == Psi(3.0, _first)
