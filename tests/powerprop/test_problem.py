"""Problems without labels: the sketches of docs/architecture.md, made small."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import powerprop
from powerprop import methods
from powerprop import train
from powerprop.types import Hyper, Problem, Score

# A variational autoencoder: one decoder, an encoder for each of two tasks.

_PIXELS, _LATENT, _TASKS = 6, 2, 2


def _init(key):
  draw = lambda i, *shape: jax.random.normal(jax.random.fold_in(key, i), shape)
  return {
    # Private parts are stacked along the last axis.
    'encoder': {'w': 0.3 * draw(0, _PIXELS, 2 * _LATENT, _TASKS)},
    'hidden': {'w': draw(1, _LATENT, 8), 'b': jnp.zeros(8)},
    'output': {'w': 0.5 * draw(2, 8, _PIXELS), 'b': jnp.zeros(_PIXELS)},
  }, {}


def _decode(w, z):
  hidden = jnp.tanh(z @ w['hidden']['w'] + w['hidden']['b'])
  return hidden @ w['output']['w'] + w['output']['b']


def _posterior(w, batch):
  encoder = jnp.take(w['encoder']['w'], batch['task'][0], -1)
  return jnp.split(batch['x'] @ encoder, 2, -1)


def _log_p(logits, x):
  return -jnp.sum(optax.sigmoid_binary_cross_entropy(logits, x), -1)


def _elbo(w, batch, key):
  mean, log_std = _posterior(w, batch)
  z = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
  kl = 0.5 * (mean**2 + jnp.exp(2 * log_std) - 1) - log_std
  return jnp.mean(_log_p(_decode(w, z), batch['x']) - jnp.sum(kl, -1))


def _log_likelihood(w, net_state, batch, key, drawn_as):
  del net_state
  if drawn_as == 'argmax':
    raise ValueError('a picture has no most likely label')
  if drawn_as == 'sampled':
    z = jax.random.normal(key, (len(batch['x']), _LATENT))
    x = jax.random.bernoulli(key, jax.nn.sigmoid(_decode(w, z)))
    batch = batch | {'x': x.astype(jnp.float32)}
  return _elbo(w, batch, key)


def _vae_score(w, net_state, source, split):
  del net_state
  batch = _whole(source, split)
  value = _elbo(w, batch, jax.random.key(0))
  drawn = _decode(w, _posterior(w, batch)[0])
  bits = jax.lax.bitcast_convert_type(drawn, jnp.uint32)
  return Score(value, -value, jnp.sum(bits)[None])


def _whole(source, split):
  x = source[split]
  return {'x': x, 'task': jnp.broadcast_to(source['task'], len(x))}


def _resting(source, earlier):
  def rest(tree):
    mine = jnp.arange(_TASKS) == source['task']
    mine = mine | (jnp.arange(_TASKS) < source['task']) & earlier
    encoder = {'w': jnp.where(mine, tree['encoder']['w'], 0)}
    return tree | {'encoder': encoder}

  return rest


_VAE = Problem(
  init=_init,
  task=lambda source: jnp.asarray(source['task'], jnp.int32),
  size=lambda source, split: jnp.int32(len(source[split])),
  batch=lambda source, split, rows: jax.tree.map(
    lambda x: x[rows], _whole(source, split)
  ),
  augment=None,
  loss=lambda w, state, key, batch: (-_elbo(w, batch, key), state),
  score=_vae_score,
  # The evidence bound is negative: γ of it is that much worse.
  least=lambda elbo, gamma: elbo - (1 - gamma) * jnp.abs(elbo),
  log_likelihood=_log_likelihood,
  outputs=lambda w, state, batch: (
    _decode(w, _posterior(w, batch)[0]),
    jnp.ones(batch['x'].shape, bool),
  ),
  flops=lambda params, state: {},
  resting=_resting,
  own=('encoder/w',),
)


def _patterns(task):
  """Pictures of a task: one of its two patterns, a pixel of it turned."""
  rng = np.random.default_rng(task)
  pair = rng.integers(0, 2, (2, _PIXELS))
  x = pair[rng.integers(0, 2, 96)]
  x[np.arange(96), rng.integers(0, _PIXELS, 96)] ^= 1
  x = jnp.asarray(x, jnp.float32)
  parts = {'train': x[:48], 'validation': x[48:72], 'test': x[72:]}
  return {'task': jnp.int32(task), **parts}


_DECODER = powerprop.Psi(1.5, lambda path, leaf: path in _SHARED)
_SHARED = ('hidden/w', 'output/w')


@functools.cache
def _learned(name, steps=120, **options):
  return powerprop.learn(
    _VAE,
    functools.partial(getattr(methods, name), **options),
    [_patterns(task) for task in range(_TASKS)],
    optax.adam,
    steps=steps,
    batch_size=24,
    learning_rate=0.03,
    psi=_DECODER,
    coefficient=methods.COEFFICIENTS.get(name, 0.0) or 0.0,
  )


def _packed():
  return _learned('efficient_packnet', rates=(0.2, 0.4), biases='per_task')


def test_an_autoencoder_learns_and_packs_its_decoder():
  found = _packed()
  before = _learned('efficient_packnet', 1, rates=(1.0,)).scores
  for task in range(_TASKS):
    assert found.scores[task, task] > before[task, task] + 0.3
  # Bit for bit: the score is of logits that are the same.
  assert found.scores[1, 0] == found.scores[0, 0]
  assert found.reports[0]['used_by_layer'].sum() in (12, 25)  # of 16 + 48
  w = found.weights(0)
  kept = sum(int((w[layer]['w'] != 0).sum()) for layer in ('hidden', 'output'))
  assert kept == found.reports[0]['used_by_layer'].sum()
  start = _init(jax.random.key(0))[0]['encoder']['w']
  assert (w['encoder']['w'] != start).all()


def test_forgetting_is_seen_and_a_penalty_on_sampled_curvature_works():
  naive, ewc = _learned('naive'), _learned('ewc', labels='sampled')
  lost = lambda x: float(x.scores[0, 0] - x.scores[1, 0])
  assert np.isfinite(ewc.scores[np.tril_indices(_TASKS)]).all()
  assert lost(naive) > 0.05
  assert lost(ewc) < lost(naive)


# An actor and its critic, whose examples come from a replay buffer.


_CAPACITY = 256
_EMPTY = {
  'task': np.int32(0),
  'filled': np.int32(0),
  'mean_return': np.float32(0),
  **{n: np.zeros((_CAPACITY, 1), np.float32) for n in ('s', 'a', 'r', 'n')},
}


def _walk(buffer, w, count, rng):
  """A point on a line is to be moved to 0; more of the buffer is filled."""
  s = rng.uniform(-2, 2, (count, 1)).astype(np.float32)
  noise = 0.5 * rng.standard_normal(s.shape)
  a = np.clip(np.asarray(_act(w, s)) + noise, -1, 1).astype(np.float32)
  n = s + a
  rows = buffer['filled'] + np.arange(count)
  more = {'s': s, 'a': a, 'r': -(n**2), 'n': n}
  buffer = {k: np.copy(v) for k, v in buffer.items()}
  for name, x in more.items():
    buffer[name][rows] = x
  return buffer | {
    'filled': np.int32(buffer['filled'] + count),
    'mean_return': np.float32(np.mean(more['r'])),
  }


def _act(w, s):
  hidden = jnp.tanh(s @ w['actor']['in'])
  return jnp.tanh(hidden @ w['actor']['out'])


def _value(critic, s, a):
  x = jnp.concatenate([s, a, s * a, s**2, a**2, jnp.ones_like(s)], -1)
  return x @ critic['w']


def _actor_critic_loss(w, net_state, key, batch):
  del key
  stop = jax.lax.stop_gradient
  target = batch['r'] + 0.9 * _value(net_state, batch['n'], _act(w, batch['n']))
  critic = jnp.mean(
    (_value(w['critic'], batch['s'], batch['a']) - stop(target)) ** 2
  )
  actor = -jnp.mean(_value(stop(w['critic']), batch['s'], _act(w, batch['s'])))
  moved = jax.tree.map(
    lambda t, x: 0.9 * t + 0.1 * stop(x), net_state, w['critic']
  )
  return critic + actor, moved


def _actor_init(key):
  draw = lambda i, *shape: jax.random.normal(jax.random.fold_in(key, i), shape)
  critic = {'w': 0.1 * draw(0, 6, 1)}
  actor = {'in': draw(1, 1, 8), 'out': 0.1 * draw(2, 8, 1)}
  return {'actor': actor, 'critic': critic}, critic


_ACTOR = Problem(
  init=_actor_init,
  task=lambda source: jnp.asarray(source['task'], jnp.int32),
  size=lambda source, split: source['filled'],
  batch=lambda source, split, rows: {
    n: jnp.asarray(source[n])[rows % source['filled']] for n in 'sarn'
  },
  augment=None,
  loss=_actor_critic_loss,
  score=lambda w, state, source, split: Score(
    source['mean_return'], -source['mean_return'], jnp.zeros(1, jnp.uint32)
  ),
  least=lambda score, gamma: score - (1 - gamma) * jnp.abs(score),
  log_likelihood=lambda w, state, batch, key, drawn_as: (
    -0.5 * jnp.mean((batch['a'] - _act(w, batch['s'])) ** 2)
  ),
  outputs=lambda w, state, batch: (
    _act(w, batch['s']),
    jnp.ones(batch['s'].shape, bool),
  ),
  flops=lambda params, state: {},
)


def test_an_actor_is_sparse_and_its_critic_is_not():
  psi = powerprop.Psi(1.5, lambda path, leaf: path.startswith('actor/'))
  recipe = train.Recipe(_ACTOR, optax.adam, 32, 32, 0.0)
  theta, _ = train.initial_theta(recipe, np.int32(0))
  target = methods.make_target(theta, 0.5, 'uniform', exclude=['critic'])
  brief = methods.Brief(target, 400)
  training = train.make_training(recipe, psi, methods.set(brief, every=25))
  hyper = Hyper(np.int32(0), *map(np.float32, (1.5, 0.02, 0.0)))
  rng = np.random.default_rng(0)
  buffer = _walk(_EMPTY, theta, 64, rng)
  state = training.init(hyper, buffer)
  chunk = jax.jit(training.chunk, static_argnums=4)
  first = buffer['mean_return']
  for step in range(0, 400, 100):
    state, loss = chunk(state, hyper, buffer, np.int32(step), 100)
    assert np.isfinite(loss) and state.finite
    w = training.weights(state)
    buffer = _walk(buffer, w, 48, rng)
  assert chunk._cache_size() == 1  # a buffer that fills is the same program
  kept = sum(int((x != 0).sum()) for x in w['actor'].values())
  assert kept == 8 and (w['critic']['w'] != 0).all()
  left, right = _act(w, np.array([[-1.0], [1.0]]))
  assert left > 0.3 and right < -0.3
  value, loss = training.evaluate(w, state.net, buffer)
  assert value == -loss == buffer['mean_return'] > first + 0.3
