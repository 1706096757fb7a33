"""The loop over tasks, and a classifier of arrays as a problem."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import data
from experiments.data import Examples
from experiments.engine import classification
import powerprop
from powerprop import lifetime
from powerprop import train
from powerprop.methods.continual import bounds
from powerprop.methods.continual import sequential
from powerprop.types import Hyper


def _net():
  return hk.transform_with_state(
    lambda x, is_training: hk.Linear(3, name='output')(x.reshape(len(x), -1))
  )


@pytest.fixture(scope='module')
def both():
  """The same net, pictures and labels as both problems."""
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (12, 2, 2, 1), np.uint8)
  label = rng.integers(0, 3, 12).astype(np.int32)
  pixels = (image * np.float32(1 / 255)).astype(np.float32)
  mine = powerprop.classifier(_net(), pixels[:1])
  theirs = classification.classification(
    classification.Pictures(_net(), (2, 2, 1), 1 / 255)
  )
  source = {'task': 0, 'test': powerprop.Labelled(pixels, label)}
  split = Examples(image, label, np.ones((12, 1), bool))
  w, state = theirs.init(jax.random.key(0))
  return mine, theirs, source, split, w, state


def test_a_classifier_of_arrays_is_that_of_pictures(both):
  mine, theirs, source, split, w, state = both
  key = jax.random.key(1)
  batch = mine.batch(source, 'test', jnp.arange(5))
  examples = Examples(split.image[:5], split.label[:5], split.visible[:5])
  jax.tree.map(
    np.testing.assert_array_equal, mine.init(jax.random.key(0))[0], w
  )
  np.testing.assert_allclose(
    mine.loss(w, state, key, batch)[0],
    theirs.loss(w, state, key, examples)[0],
    rtol=1e-6,
  )
  for targets in ('true', 'argmax', 'sampled'):
    np.testing.assert_allclose(
      mine.log_likelihood(w, state, batch, key, targets),
      theirs.log_likelihood(w, state, examples, key, targets),
      rtol=1e-6,
    )
  found = mine.score(w, state, source, 'test')
  wanted = theirs.score(w, state, data.Split(split.image, split.label), '')
  np.testing.assert_allclose(found[:2], wanted[:2], rtol=1e-6)
  assert int(mine.size(source, 'test')) == 12


def test_a_fingerprint_sees_a_single_bit(both):
  mine, _, source, _, w, state = both
  one = mine.score(w, state, source, 'test')
  other = jax.tree.map(lambda x: x, w)
  other['output']['b'] = other['output']['b'].at[1].add(1e-6)
  two = mine.score(other, state, source, 'test')
  assert np.any(np.asarray(one.fingerprint) != np.asarray(two.fingerprint))
  assert 0 <= one.value <= 1 and np.isfinite(one.loss)


def test_a_net_for_each_task_is_as_one_trained_alone():
  """Bit for bit: moments, their count and moving averages are its own."""

  def forward(x, is_training):
    x = hk.Linear(4)(x)
    x = hk.BatchNorm(True, True, 0.9)(x, is_training)
    return hk.Linear(3)(jax.nn.relu(x))

  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 12, 5)).astype(np.float32)
  y = rng.integers(0, 3, (2, 12)).astype(np.int32)
  problem = powerprop.classifier(hk.transform_with_state(forward), x[0])
  tasks = [
    dict.fromkeys(('train', 'validation'), powerprop.Labelled(x[t], y[t]))
    | {'task': np.int32(t)}
    for t in range(2)
  ]
  recipe = train.Recipe(problem, optax.adam, 4, 12, 0.0)
  psi = powerprop.Psi(1.5)
  told = sequential.Tasks(
    jax.eval_shape(problem.init, jax.random.key(0))[0], 2, None, 12, 4
  )
  life = lifetime.make_life(recipe, psi, bounds.single(told))
  chunk = jax.jit(life.chunk, static_argnums=4)
  archive = jax.jit(life.archive)
  numbers = np.float32(1.5), np.float32(0.1), np.float32(0)
  hyper = Hyper(np.int32(0), *numbers)
  state = life.begin(life.start(hyper, tasks[0]), hyper)
  first, _ = chunk(state, hyper, tasks[0], np.int32(0), 5)
  fresh, _ = archive(first, hyper, tasks[0])
  second, _ = chunk(life.begin(fresh, hyper), hyper, tasks[1], np.int32(0), 5)
  begun = train.make_training(recipe, psi).init(hyper, tasks[1])
  alone, _ = chunk(
    begun._replace(phi=fresh.phi), hyper, tasks[1], np.int32(0), 5
  )
  for name in ('phi', 'net', 'opt', 'step'):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(second, name), getattr(alone, name)
    )
  # The net before it was not, and is gone from the averages.
  means = [jax.tree.leaves(s.net) for s in (first, fresh, begun)]
  assert any(np.any(a != b) for a, b in zip(*means[:2], strict=True))
  jax.tree.map(np.testing.assert_array_equal, *means[1:])


def test_a_task_more_compiles_nothing(both):
  """Training and retraining are traced as often for three tasks as for one."""
  mine, _, source, _, _, _ = both
  split = source['test']
  tasks = [
    dict.fromkeys(('train', 'validation', 'test'), split)
    | {'task': np.int32(t)}
    for t in range(3)
  ]

  def traces(number):
    traced = []

    def loss(*args):
      traced.append(1)
      return mine.loss(*args)

    powerprop.learn(
      mine._replace(loss=loss),
      powerprop.methods.packnet,
      tasks[:number],
      optax.sgd,
      steps=1,
      batch_size=4,
      learning_rate=0.1,
      retrain_steps=1,
    )
    return len(traced)

  assert traces(3) == traces(1) > 0
