"""Masks of nets with batch normalisation: each has averages of its own."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import powerprop
from powerprop import lifetime
from powerprop import methods
from powerprop import train

_N = 240
_NAMES = {
  'linear, without': (
    methods.efficient_packnet,
    {'without': ('hidden',), 'rates': (0.1, 0.2, 0.4, 0.7, 1.0)},
  ),
  'taylor': (
    methods.efficient_packnet,
    {'search': 'taylor', 'rates': (0.1, 0.2, 0.4, 0.7, 1.0)},
  ),
  'packnet': (methods.packnet, {'planned': 8}),
}


def _net(norm=True):
  def forward(x, is_training):
    x = hk.Linear(24, name='hidden')(x)
    if norm:
      x = hk.BatchNorm(True, True, 0.9, name='norm')(x, is_training)
    return hk.Linear(3, name='output')(jax.nn.relu(x))

  return hk.transform_with_state(forward)


@functools.cache
def _tasks():
  """Three clusters far from zero: what is pruned moves the means a lot."""
  rng = np.random.default_rng(0)
  out = []
  for task in range(2):
    centres = 3 + rng.normal(size=(3, 10))

    def part(centres=centres):
      y = rng.integers(0, 3, _N).astype(np.int32)
      x = centres[y] + 0.3 * rng.normal(size=(_N, 10))
      return powerprop.Labelled(x.astype(np.float32), y)

    splits = {name: part() for name in ('train', 'validation', 'test')}
    out.append({'task': np.int32(task), **splits})
  return out


@functools.cache
def _learned(name):
  make, options = _NAMES[name]
  problem = powerprop.classifier(_net(), _tasks()[0]['train'].x[:1])
  return problem, powerprop.learn(
    problem,
    functools.partial(make, average_examples=_N, **options),
    _tasks(),
    functools.partial(optax.sgd, momentum=0.9),
    steps=60,
    batch_size=24,
    learning_rate=0.1,
    psi=powerprop.Psi(1.5),
  )


@pytest.mark.parametrize('name', _NAMES)
def test_a_task_keeps_the_averages_of_its_own_net(name):
  """Those of the dense net are of other inputs to the layer."""
  _, learned = _learned(name)
  for t, (task, report) in enumerate(
    zip(_tasks(), learned.reports, strict=True)
  ):
    _, net_state, _ = learned.records[t]
    w = jax.device_get(learned.weights(t))
    before = task['train'].x @ w['hidden']['w'] + w['hidden']['b']
    kept = net_state['norm/~/mean_ema']['average'][0]
    # Ten batches of 24 know a mean to about a tenth of the spread.
    away = np.abs(kept - before.mean(0)) / (before.std(0) + 1e-6)
    alive = before.std(0) > 1e-3
    assert alive.any() and np.all(away[alive] < 0.5)
    # So the mask is as good as it was found to be, and no task forgets.
    score = learned.scores[1, t]
    assert abs(score - report['pruned_accuracy']) < 0.06
    assert score == learned.scores[t, t]
    if name.startswith('linear'):  # Taylor's is an estimate
      assert report['reached'] and report['rate'] < 1


def test_the_dense_nets_averages_are_wrong_for_what_is_left():
  problem, learned = _learned('packnet')
  _, own, _ = learned.records[1]
  dense = learned.state.net  # as the training of task 2 left it
  task, w = _tasks()[1], learned.weights(1)
  scores = [problem.score(w, x, task, 'test') for x in (own, dense)]
  assert scores[0].value > 0.9 and scores[0].loss < 0.3 * scores[1].loss
  before = task['train'].x @ np.asarray(w['hidden']['w'])
  away = np.abs(dense['norm/~/mean_ema']['average'][0] - before.mean(0))
  assert np.max(away / np.maximum(before.std(0), 0.1)) > 2


def _program(norm, examples, averages=True):
  """The jaxpr of a task's end and of what follows it."""
  problem = powerprop.classifier(_net(norm), _tasks()[0]['train'].x[:1])
  if not averages:
    problem = problem._replace(averages=None)
  recipe = train.Recipe(problem, optax.sgd, 24, _N, 0.0)
  shapes = jax.eval_shape(lambda: train.initial_theta(recipe, 0)[0])
  tasks = methods.Tasks(shapes, 2, None, _N, 24)
  method = methods.packnet(tasks, average_examples=examples)
  life = lifetime.make_life(recipe, powerprop.Psi(1.0), method)
  hyper = powerprop.types.Hyper(
    jnp.int32(0), jnp.float32(1), jnp.float32(0.1), jnp.float32(0)
  )
  state = jax.eval_shape(life.start, hyper, _tasks()[0])

  def after(state):
    state, report = life.end(state, hyper, _tasks()[0])
    return life.archive(state, hyper, _tasks()[0]), report

  return str(jax.make_jaxpr(after)(state))


def test_a_net_without_state_is_not_concerned():
  assert _program(False, 500) == _program(False, 0)
  assert _program(False, 500, averages=False) == _program(False, 0)
  assert _program(True, 500) != _program(True, 0)


def test_a_problem_that_does_not_say_is_refused():
  with pytest.raises(ValueError, match='give Problem its `averages`'):
    _program(True, 500, averages=False)
  assert _program(True, 0, averages=False)
  with pytest.raises(ValueError, match='average_examples is -1 but must be'):
    _program(True, -1)
