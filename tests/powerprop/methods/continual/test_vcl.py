"""Variational continual learning."""

import functools
import importlib
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import data
from powerprop import lifetime
from powerprop import methods
from powerprop import reparam
from powerprop import trees
from powerprop.methods.continual import sequential
from powerprop.psi import Psi
from tests import endings
from tests import lifetime_tiny

# The package has the function under the module's name.
vcl = importlib.import_module('powerprop.methods.continual.vcl')
_TASKS = sequential.Tasks(
  shapes={},
  number=2,
  example=endings.example((1, 2, 1), 3),
  num_train=10,
  batch_size=8,
)
_KEY = jax.random.key(5)
_PHI = {
  'net': {'w': jnp.array([[0.5, -1.0, 2.0], [1.0, 0.1, -0.3]])}
  | {'b': jnp.array([0.2, 0.0, -0.4])}
}


def _apply(w, examples):
  x = examples.image.reshape(len(examples.image), -1) / 255
  logits = x @ w['net']['w'] + w['net']['b']
  return jnp.where(examples.visible, logits, -jnp.inf)


def _examples(split, rows):
  """Pictures (255, 0) of class 0 and (0, 255) of class 1; 2 is not visible."""
  label = rows % 2
  image = jnp.stack([255 * (1 - label), 255 * label], -1)[:, None, :, None]
  return data.Examples(
    image.astype(jnp.uint8), label, jnp.array([True, True, False])
  )


def _ending(index, alpha):
  return endings.ending(
    _examples,
    _apply,
    {'train': jnp.int32(10)},
    key=jax.random.fold_in(_KEY, index),
    task=index,
    alpha=alpha,
    fresh=lambda: _PHI,
  )


def _gaussians():
  q = vcl.Gaussian({'a': jnp.array([1.0, -2.0])}, {'a': jnp.array([-1.0, 0.3])})
  p = vcl.Gaussian({'a': jnp.array([0.5, 0.0])}, {'a': jnp.array([0.2, -0.7])})
  return q, p


def test_divergence_is_that_of_two_normal_distributions():
  q, p = _gaussians()

  @jax.jit
  def run():
    all_of = {'a': jnp.asarray(True)}
    first = {'a': jnp.array([True, False])}
    return (
      vcl.divergence(q, p, all_of),
      vcl.divergence(q, p, first),
      jax.value_and_grad(vcl.divergence)(q, q, all_of),
    )

  both, first, (itself, slope) = run()
  m, s, m0, s0 = (np.asarray(t['a'], np.float64) for t in (*q, *p))
  # ∫ q log(q/p), by a fine sum, and not by the formula of the method.
  x = np.linspace(-30, 30, 600_001)[:, None]
  log = lambda m, s: (
    -0.5 * ((x - m) / np.exp(s)) ** 2 - s - 0.5 * np.log(2 * np.pi)
  )
  value = (np.exp(log(m, s)) * (log(m, s) - log(m0, s0))).sum(0) * 1e-4
  np.testing.assert_allclose(both, value.sum(), rtol=1e-5)
  np.testing.assert_allclose(first, value[0], rtol=1e-5)
  assert itself == 0
  assert all((g == 0).all() for g in jax.tree.leaves(slope))


def _loss(w):
  return jnp.sum(jnp.sin(w['net']['w'])) + jnp.sum(w['net']['b'] ** 3)


def _begin(method, alpha=2.0):
  return method.init(_KEY, reparam.to_phi(_PHI, alpha), Psi(alpha), None)


@jax.jit
def _steps():
  """Two steps' weights and gradients, and those of the whole objective."""
  method = vcl.vcl(_TASKS, initial_std=0.3, prior_std=2.0, coreset=1)
  phi, state = _begin(method)
  theta = reparam.to_theta(phi, 2.0)

  def step(state):
    w, (_, back) = (
      method.weights(theta, state),
      jax.value_and_grad(_loss)(method.weights(theta, state)),
    )
    grads = method.gradients(back, theta, state)
    whole = jax.grad(lambda t: _loss(method.weights(t, state)))(theta)
    after = method.continual.track(back, theta, theta, state)
    return {'w': w, 'grads': grads, 'whole': whole}, after

  first, after = step(state)
  second, _ = step(after)
  return {
    'phi': phi,
    'theta': theta,
    'first': first,
    'again': method.weights(theta, state),
    'second': second,
    'penalty': method.continual.penalty.value(theta, state),
    'still': method.constrain(jax.tree.map(jnp.ones_like, phi), state),
  }


def test_log_std_is_not_under_psi():
  out = _steps()
  np.testing.assert_allclose(
    out['theta']['mean']['net']['w'], _PHI['net']['w'], rtol=1e-6
  )
  governed = set(trees.weights(out['phi']))
  assert governed == {'mean/net/w', 'refined/net/w'}
  for leaf in jax.tree.leaves(out['theta']['spread']):
    np.testing.assert_allclose(leaf, np.log(0.3), rtol=1e-6)
  assert jax.tree.structure(out['first']['w']) == jax.tree.structure(_PHI)


def test_gradients_are_those_of_the_sampled_loss():
  out = _steps()
  for step in (out['first'], out['second']):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
      step['grads'],
      step['whole'],
    )
    assert all(np.all(g != 0) for g in jax.tree.leaves(step['grads']['spread']))
  assert not any(np.any(g) for g in jax.tree.leaves(step['grads']['refined']))


def test_a_step_has_one_sample_and_the_next_a_new_one():
  out = _steps()
  first, second = out['first']['w'], out['second']['w']
  jax.tree.map(np.testing.assert_array_equal, first, out['again'])
  for x, y in zip(*map(jax.tree.leaves, (first, second)), strict=True):
    assert np.all(x != y)


def test_penalty_is_the_divergence_from_the_prior_per_example():
  out = _steps()
  means = np.concatenate([np.ravel(x) for x in jax.tree.leaves(_PHI)])
  value = np.log(2 / 0.3) + (0.3**2 + means**2) / (2 * 2.0**2) - 0.5
  np.testing.assert_allclose(out['penalty'], value.sum() / 10, rtol=1e-5)


def test_the_refined_copy_moves_by_no_step():
  still = _steps()['still']
  assert not any(np.any(x) for x in jax.tree.leaves(still['refined']))
  assert all(np.all(x == 1) for x in jax.tree.leaves(still['mean']))


def test_noise_is_standard_normal():
  like = {'a': jnp.zeros((200, 100)), 'b': jnp.zeros((20_000,))}
  keys = jax.vmap(lambda i: jax.random.fold_in(_KEY, i))(jnp.arange(2))
  eps = jax.jit(jax.vmap(lambda key: vcl.noise(key, like)))(keys)
  for x in eps.values():
    assert abs(x.mean()) < 0.03 and abs(x.std() - 1) < 0.03
    # Of neighbours in each of its axes, and of a draw and the next.
    for axis in range(x.ndim):
      pairs = (
        np.take(x, range(k, x.shape[axis] - 1 + k), axis) for k in (0, 1)
      )
      assert abs(np.corrcoef(*map(np.ravel, pairs))[0, 1]) < 0.03
  both = np.concatenate([np.ravel(x) for x in eps.values()])
  assert abs(np.corrcoef(eps['a'].ravel(), eps['b'].ravel())[0, 1]) < 0.03
  # How many are below a quantile: Kolmogorov's test, at one in a thousand.
  normal = statistics.NormalDist()
  wanted = np.array([normal.cdf(x) for x in np.sort(both).tolist()])
  found = np.arange(1, len(both) + 1) / len(both)
  assert np.abs(found - wanted).max() < 1.95 / np.sqrt(len(both))
  assert 3.7 < np.abs(both).max() < 5.2


def test_the_posterior_is_the_next_prior_for_outputs_that_were_trained():
  tasks = _TASKS._replace(shapes=_PHI, heads=('net/w', 'net/b'))
  method = vcl.vcl(tasks)
  dense = {
    'net': {'w': jnp.array([[0.1, 0.0, 0.0], [0.0, 0.0, 0.0]])}
    | {'b': jnp.array([0.0, 2.0, 0.0])}
  }

  @jax.jit
  def run():
    phi, state = _begin(method)
    theta = reparam.to_theta(phi, 2.0)
    unseen = method.continual.penalty.value(theta, state)
    state = method.continual.track(dense, theta, theta, state)
    seen, slope = jax.value_and_grad(method.continual.penalty.value)(
      theta, state
    )
    _, state, _ = method.continual.end_task(_ending(0, 2.0), phi, state)
    return (
      theta,
      state,
      unseen,
      seen,
      slope,
      method.continual.penalty.value(theta, state),
    )

  theta, state, unseen, seen, slope, after = run()
  assert state.seen.tolist() == [True, True, False]
  assert unseen == 0 and seen > 0 and after == 0
  assert not np.any(slope['mean']['net']['w'][:, 2])
  for name in ('w', 'b'):
    mean, log_std = (t['net'][name] for t in state.prior)
    np.testing.assert_array_equal(
      mean[..., :2], theta['mean']['net'][name][..., :2]
    )
    np.testing.assert_allclose(log_std[..., :2], np.log(0.05), rtol=1e-6)
    assert not np.any(mean[..., 2]) and not np.any(log_std[..., 2])


def test_the_coreset_lowers_the_loss_on_itself_and_only_for_prediction():
  method = vcl.vcl(
    _TASKS,
    initial_std=0.5,
    coreset=4,
    coreset_steps=40,
    coreset_learning_rate=0.1,
  )

  def nll(w, coreset):
    examples = coreset.examples
    losses = optax.softmax_cross_entropy_with_integer_labels(
      _apply(w, examples), examples.label
    )
    return jnp.mean(jnp.where(jnp.arange(8) < coreset.stored, losses, 0))

  @jax.jit
  @jax.vmap
  def run(alpha):
    before, state = _begin(method, alpha)
    phi, state, _ = method.continual.end_task(
      _ending(jnp.int32(0), alpha), before, state
    )
    theta = reparam.to_theta(phi, alpha)
    old = nll(
      method.continual.predict(reparam.to_theta(before, alpha), ()), state[-1]
    )
    return (
      before,
      phi,
      state,
      old,
      nll(method.continual.predict(theta, ()), state[-1]),
    )

  before, phi, state, old, new = run(jnp.array([1.0, 2.0]))
  assert state.coreset.stored.tolist() == [4, 4]
  assert np.isfinite(new).all() and (new < 0.7 * old).all()
  for name in ('mean', 'spread'):
    jax.tree.map(np.testing.assert_array_equal, phi[name], before[name])
  # The output that no picture sees is held at the posterior by the KL.
  moved = phi['refined']['net']['b'] - before['mean']['net']['b']
  assert (abs(moved[:, 2]) < 1e-6).all() and (abs(moved[:, :2]) > 1e-3).all()


def test_the_coreset_is_augmented_as_in_training():
  method = vcl.vcl(_TASKS, coreset=4, coreset_steps=2)

  def end(augment):
    phi, state = _begin(method, jnp.float32(1))
    ending = _ending(jnp.int32(0), jnp.float32(1))._replace(augment=augment)
    return method.continual.end_task(ending, phi, state)[0]['refined']['net']

  keys = []

  def darker(key, examples):
    keys.append(key)
    return examples._replace(image=0 * examples.image)

  plain, dark = (jax.jit(lambda fn=fn: end(fn))() for fn in (_as_is, darker))
  assert len(keys) == 1  # traced in a scan
  assert np.any(plain['w'] != dark['w'])


def _as_is(key, examples):
  del key
  return examples


def test_without_a_coreset_the_mean_predicts():
  method = vcl.vcl(_TASKS)
  phi, state = _begin(method, 1.0)
  assert set(phi) == {'mean', 'spread'} and state.coreset == ()
  assert method.continual.predict(phi, ()) is phi['mean']
  assert methods.COEFFICIENTS['vcl'] == 1.0


@pytest.mark.parametrize(
  'name, value',
  [
    ('initial_std', 0.0),
    ('prior_std', -1.0),
    ('prior_std', float('inf')),
    ('coreset', -1),
    ('coreset_steps', 0),
    ('coreset_learning_rate', float('nan')),
  ],
)
def test_bad_options_are_refused(name, value):
  with pytest.raises(ValueError, match=f'{name} is {value} but must be'):
    vcl.vcl(_TASKS, **{name: value})


@pytest.mark.parametrize('l2', [0.0, 0.5])
def test_a_step_learns_from_the_mean_of_its_samples(l2):
  """Of so many draws; here of two, each of which is a step of one alone."""
  lives = {}
  for n in (1, 2):
    it = lifetime_tiny.setup(
      functools.partial(methods.vcl, samples=n), optimizer=optax.sgd
    )
    recipe = it.recipe._replace(l2=l2)
    lives[n] = lifetime.make_life(recipe, Psi(1.0), it.method)
  hyper, source = lifetime_tiny.hyper(coefficient=1.0), lifetime_tiny.source(0)
  start = lives[1].start(hyper, source)
  steps = {
    n: jax.jit(functools.partial(life.chunk, step=0, num_steps=1))
    for n, life in lives.items()
  }
  alone = []
  for i in range(2):
    kept = start.method._replace(draws=jnp.int32(i))
    after, loss = steps[1](start._replace(method=kept), hyper, source)
    alone.append((after.phi, loss))
  both, loss = steps[2](start, hyper, source)
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *alone)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
    (both.phi, loss),
    mean,
  )
  assert alone[0][1] != alone[1][1]
  assert both.method.draws == 2


def test_draws_go_with_no_rehearsal():
  it = lifetime_tiny.setup(methods.experience_replay)
  drawn = methods.vcl(it.tasks, samples=2).continual.draws
  both = it.method._replace(continual=it.method.continual._replace(draws=drawn))
  with pytest.raises(ValueError, match='has draws and rehearsal'):
    lifetime.make_life(it.recipe, Psi(1.0), both)
  with pytest.raises(ValueError, match='samples is 0 but must be at least 1'):
    methods.vcl(it.tasks, samples=0)


def test_the_spread_starts_anew_and_the_prior_keeps_what_was_learned():
  method = methods.vcl(_TASKS, initial_std=0.1, reset_std=True)
  phi, state = method.init(_KEY, _PHI, Psi(1.0), None)
  phi = phi | {'spread': jax.tree.map(lambda x: x - 0.7, phi['spread'])}
  after, kept, _ = method.continual.end_task(_ending(0, 1.0), phi, state)
  for x in jax.tree.leaves(after['spread']):
    np.testing.assert_allclose(x, np.log(0.1), rtol=1e-6)
  for x in jax.tree.leaves(kept.prior.log_std):
    np.testing.assert_allclose(x, np.log(0.1) - 0.7, rtol=1e-6)
  assert (after['mean']['net']['w'] == phi['mean']['net']['w']).all()
