"""Outputs that take no part: no share of a label, no decay, no penalty."""

import jax
import numpy as np
import optax
import pytest

from experiments.engine import classification
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
