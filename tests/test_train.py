"""Trainings as functions, populations, executors and sharding."""

import functools
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from powerprop import data
from powerprop import networks
from powerprop import reparam
from powerprop import settings
from powerprop import train
from powerprop import transforms

_STEPS = 5
_SHAPE = (6, 6, 1)


@pytest.fixture(autouse=True, scope='module')
def _cache():
  with tiny.compiled_once():
    yield


def _split(n, seed=0):
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (n, *_SHAPE), np.uint8)
  return data.Split(image, rng.integers(0, 10, n).astype(np.int32))


TRAIN, VALIDATION = _split(40), _split(25, 1)


def _recipe(optimizer=optax.sgd, **fields):
  recipe = train.Recipe(
    net=networks.mlp(10, hidden=(16,)),
    optimizer=optimizer,
    transforms={
      'powerprop': transforms.powerprop,
      'chain_rule': transforms.chain_rule,
      'adaptive_powerprop': functools.partial(
        transforms.adaptive_powerprop, every=2
      ),
    },
    batch_size=8,
    scale=1 / 255,
    num_train=len(TRAIN.label),
    image_shape=_SHAPE,
    epsilon=0.01,
  )
  return recipe._replace(**fields)


def _members(alphas=(1.0, 2.0), seeds=2, transform='powerprop', rate=0.1):
  return [
    train.Member(transform, a, rate, seed)
    for a in alphas
    for seed in range(seeds)
  ]


def _advance(cells, states, num_steps=_STEPS):
  new, reports = [None] * len(cells), [None] * len(cells)
  for i, state, report in train.advance(
    cells, states, num_steps, TRAIN, VALIDATION, 0.01
  ):
    new[i], reports[i] = state, report
  return new, reports


def _by_member(cells, states):
  return {
    m: tree
    for cell, state in zip(cells, states, strict=True)
    for m, tree in zip(cell.members, train.unstack(cell, state), strict=True)
  }


def _train(recipe, members, executor, chunks=1):
  """By member: the final state, and the report of the last chunk."""
  cells = train.make_cells(recipe, members, executor)
  states = train.initial_states(cells)
  for _ in range(chunks):
    states, reports = _advance(cells, states)
  reports = [train.Report(*(np.asarray(x) for x in r)) for r in reports]
  told = {
    m: train.Report(*(x[i] for x in r))
    for cell, r in zip(cells, reports, strict=True)
    for i, m in enumerate(cell.members)
  }
  return _by_member(cells, states), told


def _assert_same_bits(got, wanted):
  jax.tree.map(np.testing.assert_array_equal, got, wanted)


def _assert_close(got, wanted, rtol=2e-4, atol=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol),
    got,
    wanted,
  )


@pytest.mark.parametrize(
  'optimizer',
  [optax.sgd, optax.adam, functools.partial(optax.sgd, momentum=0.9)],
  ids=['sgd', 'adam', 'momentum'],
)
def test_static_alpha_one_is_plain_optax(optimizer):
  """Bit for bit the loop that one would write without Powerprop."""
  recipe = _recipe(optimizer)
  seed, rate = 3, 0.1
  member = train.Member('powerprop', 1.0, rate, seed)
  states, _ = _train(recipe, [member], 'map')
  ours = states[member]

  key = jax.random.key(seed)
  params, net_state = recipe.net.init(
    jax.random.fold_in(key, 0), jnp.zeros((1, *_SHAPE)), is_training=True
  )

  @jax.jit
  def plain(params):
    tx = optimizer(rate)
    batches = data.batch_indices(jax.random.fold_in(key, 1), 0, _STEPS, 40, 8)

    def loss_fn(params, rows):
      image = TRAIN.image[rows].astype(np.float32) / 255
      logits, _ = recipe.net.apply(
        params, net_state, None, image, is_training=True
      )
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, TRAIN.label[rows]
      ).mean()

    def step(carry, rows):
      params, opt = carry
      grads = jax.grad(loss_fn)(params, rows)
      updates, opt = tx.update(grads, opt, params)
      return (optax.apply_updates(params, updates), opt), None

    return jax.lax.scan(step, (params, tx.init(params)), batches)[0]

  params, opt = plain(params)
  _assert_same_bits(ours.phi, params)
  _assert_same_bits(jax.tree.leaves(ours.opt.inner), jax.tree.leaves(opt))
