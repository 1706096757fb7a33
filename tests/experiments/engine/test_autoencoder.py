"""The variational autoencoder as a problem, on single digits of 8x8 pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import data
from experiments.engine import autoencoder
from experiments.engine.validation import ConfigError
import powerprop
from powerprop import methods
from powerprop import trees
from tests import lifetime_tiny

_KEY = jax.random.key(3)


@functools.cache
def _tiny() -> autoencoder.Autoencoder:
  sequence = data.SEQUENCES['split'](
    lifetime_tiny.digits(), 2, 'task', classes=[[0], [4]]
  )
  return autoencoder.Autoencoder(sequence, (16,), 2, (16,), (12,))


@functools.cache
def _source(task: int) -> data.Source:
  sequence = _tiny().sequence
  splits = {n: getattr(sequence.dataset, n) for n in data.SPLITS}
  number = jnp.int32(task)
  splits, tables = jax.tree.map(jnp.asarray, (splits, sequence.tables(0)))
  return data.Source(splits, tables, number, number)


@functools.cache
def _problem():
  return autoencoder.autoencoder(_tiny())


@functools.cache
def _weights():
  """As drawn, but for biases, which must count too."""
  theta, state = _problem().init(_KEY)
  assert state == {}
  return jax.tree.map(lambda x: x + 0.05, theta)


def _batch(task=0, rows=5):
  return _problem().batch(_source(task), 'train', jnp.arange(rows))


def _by_hand(w, x, key):
  """Fit and divergence of pictures with one draw each, in float64."""
  w = jax.tree.map(lambda a: np.asarray(a, np.float64), w)
  x = np.asarray(x, np.float64)

  def layer(name, x):
    return x @ w[name]['w'] + w[name]['b']

  relu = lambda x: np.maximum(x, 0)
  found = layer('encoder_1', relu(layer('encoder_0', x)))
  mean, log_std = found[:, :2], found[:, 2:]
  eps = np.asarray(jax.random.normal(key, mean.shape), np.float64)
  z = mean + np.exp(log_std) * eps
  hidden = relu(layer('shared_0', relu(layer('head_0', z))))
  p = 1 / (1 + np.exp(-layer('shared_1', hidden)))
  fit = np.sum(x * np.log(p) + (1 - x) * np.log(1 - p), -1)
  var = np.exp(2 * log_std)
  return fit, 0.5 * np.sum(mean**2 + var - 1 - np.log(var), -1)


def test_the_bound_is_that_of_the_formula():
  it, batch = _tiny(), _batch()
  x = autoencoder.pixels_of(it, batch)
  assert x.shape == (5, 64) and 0 <= x.min() and x.max() <= 1
  assert ((x > 0) & (x < 1)).any()  # not binarised
  found = autoencoder.bound(it, _weights(), x, _KEY)
  fit, divergence = _by_hand(_weights(), x, _KEY)
  np.testing.assert_allclose(found.fit, fit, rtol=1e-4)
  np.testing.assert_allclose(found.divergence, divergence, rtol=1e-3)
  np.testing.assert_allclose(found.elbo, fit - divergence, rtol=1e-4)
  loss, state = _problem().loss(_weights(), {}, _KEY, batch)
  np.testing.assert_allclose(loss, -np.mean(fit - divergence), rtol=1e-4)
  assert state == {}


def test_the_papers_net_by_default():
  dataset = lifetime_tiny.digits()
  blank = lambda s: s._replace(image=np.zeros((len(s.label), 28, 28, 1), 'u1'))
  dataset = dataset._replace(
    train=blank(dataset.train),
    validation=blank(dataset.validation),
    test=blank(dataset.test),
  )
  sequence = data.SEQUENCES['split'](dataset, 10, 'task')
  it = autoencoder.Autoencoder(sequence)
  problem = autoencoder.autoencoder(it)
  shapes, _ = jax.eval_shape(problem.init, _KEY)
  weights = {n: x.shape for n, x in trees.weights(shapes).items()}
  assert weights == {
    'encoder_0/w': (784, 500),
    'encoder_1/w': (500, 500),
    'encoder_2/w': (500, 100),
    'head_0/w': (50, 500),
    'head_1/w': (500, 500),
    'shared_0/w': (500, 500),
    'shared_1/w': (500, 784),
  }
  spent = {n: 2.0 * a * b for n, (a, b) in weights.items()}
  assert problem.flops(shapes, {}) == spent
  every = trees.weights(shapes, lambda *_: True)
  own = [n for n in every if n.startswith(('encoder', 'head'))]
  assert problem.private == tuple(own) and len(own) == 10
  shared = autoencoder.under_psi('shared')
  assert [n for n, x in every.items() if shared(n, x)] == [
    'shared_0/w',
    'shared_1/w',
  ]
  # VCL's paths are longer, and its spreads are under no Ψ.
  assert shared('mean/shared_0/w', every['shared_0/w'])
  assert not shared('spread/shared_0/w/var', every['shared_0/w'])
  everywhere = autoencoder.under_psi('all')
  assert [n for n, x in every.items() if everywhere(n, x)] == list(weights)


def test_the_first_weights_are_uniform_by_fan_in_and_fan_out():
  theta, _ = _problem().init(_KEY)
  for name in ('encoder_0', 'shared_1'):
    w = theta[name]['w']
    bound = np.sqrt(6 / sum(w.shape))
    assert 0.95 * bound < np.abs(w).max() <= bound
    assert not theta[name]['b'].any()


def test_a_score_is_of_a_tasks_own_pictures_and_of_what_is_drawn():
  it, problem = _tiny(), _problem()
  sizes = it.sequence.sizes['test']
  assert sizes[0] != sizes[1]
  w = _weights()
  score = jax.jit(functools.partial(problem.score, split='test'))
  most = sizes.max()
  for task in range(2):
    found = score(w, {}, _source(task))
    rows = jnp.minimum(jnp.arange(most), most - 1)
    batch = problem.batch(_source(task), 'test', rows)
    key = jax.random.fold_in(jax.random.key(0), 0)
    elbo = autoencoder.bound(it, w, autoencoder.pixels_of(it, batch), key).elbo
    np.testing.assert_allclose(
      found.value, np.mean(elbo[: sizes[task]]), rtol=1e-5
    )
    assert found.value == -found.loss < 0
  one = score(w, {}, _source(0))
  same = score(w, {}, _source(1))
  assert (one.fingerprint == same.fingerprint).all()  # the same decoder
  moved = w['shared_1']['b'].at[7].add(1e-3)
  changed = w | {'shared_1': w['shared_1'] | {'b': moved}}
  other = score(changed, {}, _source(0))
  assert (one.fingerprint != other.fingerprint).any()
  pictures = autoencoder.pictures(it, w, autoencoder.fixed_latents(it, 3))
  assert pictures.shape == (3, 8, 8, 1)
  assert 0 < pictures.min() and pictures.max() < 1


def test_what_is_enough_of_a_negative_score():
  least = _problem().least
  np.testing.assert_allclose(least(jnp.float32(-100), 0.9), -110, rtol=1e-6)
  np.testing.assert_allclose(least(jnp.float32(100), 0.9), 90, rtol=1e-6)
  assert least(jnp.float32(-100), 1.0) == -100


def test_the_likelihood_of_pictures_and_of_drawn_ones():
  problem, w = _problem(), _weights()
  of = lambda rows, key, targets: problem.log_likelihood(
    w, {}, _batch(0, rows), key, targets
  )
  loss, _ = problem.loss(w, {}, _KEY, _batch())
  np.testing.assert_allclose(of(5, _KEY, 'true'), -loss, rtol=1e-6)
  # Drawn pictures do not depend on the batch's, and do on the key.
  first = problem.log_likelihood(w, {}, _batch(0), _KEY, 'sampled')
  second = problem.log_likelihood(w, {}, _batch(1), _KEY, 'sampled')
  assert first == second != of(5, jax.random.key(4), 'sampled')
  with pytest.raises(
    ConfigError, match="labels is 'argmax' but must be 'true'"
  ):
    of(5, _KEY, 'argmax')
  found, takes_part = problem.outputs(w, {}, _batch())
  assert found.shape == takes_part.shape == (5, 64) and takes_part.all()


def test_pixels_outside_of_what_the_likelihood_is_of():
  it = _tiny()
  dataset = it.sequence.dataset._replace(scale=0.125)
  wrong = it._replace(sequence=it.sequence._replace(dataset=dataset))
  with pytest.raises(
    ConfigError, match=r'scale is 0.125, by .* and 2, but .*1\]'
  ):
    autoencoder.autoencoder(wrong)
  for field, value in (('latent', 0), ('encoder', (16, 2.5))):
    with pytest.raises(ConfigError, match=f'{field} is .* of whole numbers'):
      autoencoder.autoencoder(it._replace(**{field: value}))
  with pytest.raises(ConfigError, match="powerprop_on is 'both' but must be"):
    autoencoder.under_psi('both')


def test_the_likelihood_of_a_tasks_pictures_by_importance_sampling():
  it, w = _tiny(), _weights()
  found = jax.jit(
    lambda source, number: autoencoder.log_marginal(
      it, w, source, 'test', _KEY, 300, number
    ),
    static_argnums=1,
  )(_source(1), 2)
  # The same by hand: the mean over many draws of p(x|z), z from the prior, of
  # two latents and a net that is hardly trained.
  x = autoencoder.pixels_of(
    it, _problem().batch(_source(1), 'test', jnp.arange(2))
  )
  z = jax.random.normal(jax.random.key(9), (4000, 1, it.latent))
  fits = np.asarray(autoencoder.log_p(autoencoder.decode(it, w, z), x), 'f8')
  known = np.log(np.exp(fits - fits.max(0)).mean(0)) + fits.max(0)
  assert found.noise < 0.3
  np.testing.assert_allclose(found.value, known.mean(), atol=1.0)
  assert np.isfinite(found.error)
  assert autoencoder.marginal_flops(it, 3, 10) == 3 * (
    2 * (64 * 16 + 16 * 4) + 10 * 2 * (2 * 16 + 16 * 12 + 12 * 64)
  )


def test_a_posterior_that_is_all_but_a_point_has_a_likelihood():
  # σ of exp(−100) is zero in float32, and so was 1 / σ no number.
  it, w = _tiny(), _weights()
  last = f'encoder_{len(it.encoder)}'
  layer = {'w': jnp.zeros_like(w[last]['w']), 'b': jnp.full(4, -100.0)}
  narrow = w | {last: layer | {'b': layer['b'].at[:2].set(0.5)}}
  found = autoencoder.log_marginal(it, narrow, _source(0), 'test', _KEY, 3, 2)
  # All draws have z = 0.5, and p(x, z) is shared out over a tiny q.
  x = autoencoder.pixels_of(
    it, _problem().batch(_source(0), 'test', jnp.arange(2))
  )
  fit = autoencoder.log_p(autoencoder.decode(it, w, jnp.full((2, 2), 0.5)), x)
  noise = found.value - jnp.mean(fit) + 0.25 + 200
  assert 0 <= noise < 10  # half of the largest ε² of the two latents


def test_characters_are_learned_in_turn_and_none_is_forgotten():
  problem = _problem()
  learned = powerprop.learn(
    problem,
    functools.partial(
      methods.efficient_packnet, rates=(0.3, 0.6), biases='per_task', gamma=0.9
    ),
    [_source(0), _source(1)],
    optax.adam,
    steps=150,
    batch_size=8,
    learning_rate=0.01,
    psi=powerprop.Psi(1.5, autoencoder.under_psi('all')),
  )
  start, _ = problem.init(_KEY)
  for task in range(2):
    fresh = problem.score(start, {}, _source(task), 'test').value
    assert learned.scores[task, task] > fresh + 5
  assert learned.scores[1, 0] == learned.scores[0, 0]
  for task, record in enumerate(learned.records):
    assert tuple(sorted(record[2])) == problem.private
    w = learned.weights(task)
    assert (w['head_0']['w'] == record[2]['head_0/w']).all()
