"""Outputs that take no part: no share of a label, no decay, no penalty."""

import jax
import numpy as np
import optax
import pytest

from experiments.engine import classification
from powerprop import lifetime
from powerprop import methods
from powerprop import train
from powerprop.psi import Psi
from tests import lifetime_tiny


@pytest.fixture(autouse=True, scope='module')
def _batches():
  with lifetime_tiny.batches_in_turn():
    yield


def _biases(state):
  phi = state.phi
  return np.asarray(phi.get('mean', phi)['output']['b'])


def _moved(before, after):
  """Outputs any of whose weights moved, and those whose bias did."""
  parts = []
  for state in (before, after):
    net = state.phi.get('mean', state.phi)
    parts.append(np.asarray(net['output']['w']))
  return (parts[0] != parts[1]).any(axis=0)


@pytest.mark.parametrize(
  'make, scenario',
  [
    (methods.naive, 'task'),
    (methods.naive, 'class'),
    (methods.experience_replay, 'class'),
    (methods.vcl, 'task'),
  ],
  ids=lambda x: getattr(x, '__name__', x),
)
def test_only_outputs_that_take_part_are_trained(make, scenario):
  """Smoothed labels add up to 1 over them, and decay leaves others alone."""
  setup = lifetime_tiny.setup(make, scenario, optimizer=optax.sgd)
  problem = classification.classification(
    setup.pictures._replace(label_smoothing=0.2)
  )
  recipe = setup.recipe._replace(problem=problem, l2=0.01)
  training = train.make_training(recipe, Psi(1.0), setup.method)
  chunk = jax.jit(training.chunk, static_argnums=4)
  hyper = lifetime_tiny.hyper()
  task = 1
  source = lifetime_tiny.source(task)
  before = jax.jit(training.init)(hyper, source)
  after, loss = chunk(before, hyper, source, 0, 5)

  outputs = np.arange(setup.sequence.num_outputs)
  owner = outputs // setup.sequence.num_classes
  takes_part = owner == task if scenario == 'task' else owner <= task
  np.testing.assert_array_equal(_moved(before, after), takes_part)
  np.testing.assert_array_equal(_biases(after)[~takes_part], 0)
  # The gradient of a softmax with labels that add up to 1 adds up to 0.
  assert np.abs(_biases(after)).max() > 1e-4
  assert abs(_biases(after).sum()) < 1e-5
  assert 0 < loss < 2 * np.log(takes_part.sum())
  if make is methods.vcl:
    np.testing.assert_array_equal(after.method.seen, takes_part)


def test_nothing_moves_outputs_that_no_task_had_yet():
  """Neither L2, momentum, decay, a penalty nor the norm that is clipped."""

  def clipped(rate):
    adam = optax.adamw(rate, eps=1e-3, weight_decay=0.1)
    return optax.chain(optax.clip_by_global_norm(0.1), adam)

  setup = lifetime_tiny.setup(methods.l2, 'class', optimizer=clipped, alpha=1.0)
  recipe = setup.recipe._replace(l2=0.1)
  life = lifetime.make_life(recipe, Psi(1.0), setup.method)
  chunk = jax.jit(life.chunk, static_argnums=4)
  hyper = lifetime_tiny.hyper(coefficient=0.5)
  begun = jax.jit(life.start)(hyper, lifetime_tiny.source(0))
  later = np.arange(setup.sequence.num_outputs) >= 20
  # Large weights would show in a norm, or in what decays.
  large = jax.tree.map(lambda x: x, begun.phi)
  head = large['output']['w']
  large['output']['w'] = head * np.where(later, 1000, 1)

  def two_tasks(state):
    for task in (0, 1):
      source = lifetime_tiny.source(task)
      state, _ = chunk(state, hyper, source, 0, 5)
      state, _ = life.end(state, hyper, source)
    return state

  after = two_tasks(begun)
  np.testing.assert_array_equal(_moved(begun, after), ~later)
  from_large = two_tasks(begun._replace(phi=large)).phi
  np.testing.assert_array_equal(
    from_large['output']['w'][:, later], large['output']['w'][:, later]
  )
  for x, y in zip(
    jax.tree.leaves(after.phi), jax.tree.leaves(from_large), strict=True
  ):
    seen = ~later if x.shape[-1:] == later.shape else slice(None)
    np.testing.assert_array_equal(x[..., seen], y[..., seen])


def test_a_task_with_fewer_classes_has_the_first_of_the_shared_outputs():
  """The others take no part: in no loss, no smoothed label, no answer."""
  setup = lifetime_tiny.setup(methods.naive, 'domain', optimizer=optax.sgd)

  def few(*args):
    image, label = setup.sequence.pick(*args)
    return image, label % 4

  pictures = setup.pictures._replace(
    sequence=setup.sequence._replace(num_classes=(10, 4, 10, 10), pick=few),
    label_smoothing=0.2,
  )
  problem = classification.classification(pictures)
  recipe = setup.recipe._replace(problem=problem)
  training = train.make_training(recipe, Psi(1.0), setup.method)
  source = lifetime_tiny.source(1)
  before = jax.jit(training.init)(lifetime_tiny.hyper(), source)
  after, loss = jax.jit(training.chunk, static_argnums=4)(
    before, lifetime_tiny.hyper(), source, 0, 5
  )
  np.testing.assert_array_equal(_moved(before, after), np.arange(10) < 4)
  assert 0 < loss < 2 * np.log(4)
  w = jax.tree.map(lambda x: x, after.phi)
  w['output']['b'] = w['output']['b'] + 1e3 * (np.arange(10) >= 4)
  plain = problem.score(after.phi, after.net, source, 'test')
  found = problem.score(w, after.net, source, 'test')
  assert found.value == plain.value and found.loss == plain.loss
