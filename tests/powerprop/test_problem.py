"""Problems without labels: the sketches of docs/architecture.md, made small."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import powerprop
from powerprop import lifetime
from powerprop import methods
from powerprop import private
from powerprop import train
from powerprop import trees
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
  encoder = w['encoder']['w']
  if encoder.ndim == 3:
    encoder = jnp.take(encoder, batch['task'][0], -1)
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
def _learned(name, steps=120, problem=_VAE, **options):
  return powerprop.learn(
    problem,
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


# The same with one encoder at a time: it is its task's alone.


def _private_init(key):
  theta, state = _init(key)
  return theta | {'encoder': {'w': theta['encoder']['w'][..., 0]}}, state


_ALONE = _VAE._replace(
  init=_private_init, resting=None, own=(), private=('encoder/w',)
)
_SHAPES = jax.eval_shape(_private_init, jax.random.key(0))[0]
_PRIVATE_HYPER = Hyper(np.int32(0), *map(np.float32, (1.5, 0.03, 1.0)))


def _life(name, psi=_DECODER, **options):
  recipe = train.Recipe(_ALONE, optax.adam, 24, 48, 0.0)
  tasks = methods.Tasks(
    shapes=private.split(_SHAPES, _ALONE.private)[0],
    number=_TASKS,
    example=jax.eval_shape(
      lambda: _ALONE.batch(_patterns(0), 'train', jnp.zeros(1, jnp.int32))
    ),
    num_train=48,
    batch_size=24,
  )
  method = getattr(methods, name)(tasks, **options)
  return lifetime.make_life(recipe, psi, method)


def test_a_task_keeps_its_own_encoder_and_draws_the_same_pictures():
  options = {'rates': (0.2, 0.4), 'biases': 'per_task'}
  found = _learned('efficient_packnet', problem=_ALONE, **options)
  before = _learned('efficient_packnet', 1, _ALONE, rates=(1.0,)).scores
  for task in range(_TASKS):
    assert found.scores[task, task] > before[task, task] + 0.3
  assert found.scores[1, 0] == found.scores[0, 0]
  w = [found.weights(task) for task in range(_TASKS)]
  encoders = [x['encoder']['w'] for x in w]
  assert (encoders[0] != encoders[1]).all()
  for task, (kept, net_state, own) in enumerate(found.records):
    assert not net_state and list(own) == ['encoder/w']
    assert (own['encoder/w'] == encoders[task]).all()
    assert set(kept.others) == {'hidden/b', 'output/b'}
  # One encoder is there, of however many tasks; and it is drawn for the next.
  assert found.state.phi['encoder/w'].shape == encoders[0].shape
  assert (found.state.phi['encoder/w'] != encoders[1]).all()


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('l2', {}),
    ('ewc', {'labels': 'sampled'}),
    ('online_ewc', {'labels': 'true', 'space': 'phi'}),
    ('online_laplace', {}),
    ('si', {}),
    ('mas', {}),
    ('vcl', {'samples': 3, 'reset_std': True}),
    ('packnet', {}),
    ('efficient_packnet', {'search': 'taylor', 'rates': (0.2, 1.0)}),
    ('single', {}),
  ],
)
def test_no_method_knows_of_the_private_leaves(name, options):
  life, source = _life(name, **options), _patterns(0)
  state = jax.eval_shape(life.start, _PRIVATE_HYPER, source)
  step = lambda s: life.chunk(s, _PRIVATE_HYPER, source, 0, 1)[0]
  state = jax.eval_shape(step, state)
  state, _ = jax.eval_shape(life.end, state, _PRIVATE_HYPER, source)
  state, (kept, _, own) = jax.eval_shape(
    life.archive, state, _PRIVATE_HYPER, source
  )
  every = lambda tree: list(trees.weights(tree, lambda *_: True))
  named = [x for x in every(state.phi) if 'encoder' in x]
  assert named == ['encoder/w'] == list(own)
  for tree in (state.method, kept):
    assert not [path for path in every(tree) if 'encoder' in path]
  w = jax.eval_shape(life.params_for, state, (kept, (), own))
  assert jax.tree.structure(w) == jax.tree.structure(_SHAPES)


def test_the_next_tasks_leaves_and_their_moments_start_anew():
  # α is on the encoder too: what is drawn is its θ, at any α.
  life = _life('ewc', powerprop.Psi(1.5), labels='true', fisher_examples=24)
  source = _patterns(0)
  state = jax.jit(life.start)(_PRIVATE_HYPER, source)
  chunk = jax.jit(life.chunk, static_argnums=4)
  state, _ = chunk(state, _PRIVATE_HYPER, source, np.int32(0), 5)
  state, _ = jax.jit(life.end)(state, _PRIVATE_HYPER, source)
  after, (_, _, own) = jax.jit(life.archive)(state, _PRIVATE_HYPER, source)
  trained = np.sign(state.phi['encoder/w']) * (
    np.abs(state.phi['encoder/w']) ** 1.5
  )
  np.testing.assert_allclose(own['encoder/w'], trained, rtol=1e-5)
  drawn = powerprop.to_theta(after.phi, 1.5)['encoder/w']
  assert (drawn != own['encoder/w']).all()
  # By its own law, 0.3 N(0, 1), of 24 numbers.
  assert 0.15 < np.std(drawn) < 0.6
  for path in ('hidden/w', 'output/w', 'hidden/b'):
    layer, name = path.split('/')
    assert (after.phi[layer][name] == state.phi[layer][name]).all()
  for old, new in zip(
    optax.tree_utils.tree_get_all_with_path(state.opt, 'mu'),
    optax.tree_utils.tree_get_all_with_path(after.opt, 'mu'),
    strict=True,
  ):
    assert (new[1]['encoder/w'] == 0).all() and (old[1]['encoder/w'] != 0).any()
    assert (new[1]['hidden']['w'] == old[1]['hidden']['w']).all()
  # The penalty of what was learned pulls at the decoder alone.
  moved = jax.tree.map(lambda x: x + 1.0, powerprop.to_theta(after.phi, 1.5))
  method = private.around(_ewc(), _ALONE)
  pull = jax.grad(method.continual.penalty.value)(moved, after.method)
  assert (pull['encoder/w'] == 0).all() and (pull['output']['w'] != 0).any()
  assert chunk._cache_size() == 1


def _ewc():
  shapes = private.split(_SHAPES, _ALONE.private)[0]
  return methods.ewc(methods.Tasks(shapes, _TASKS, (), 48, 24))


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('joint', {}),
    ('experience_replay', {}),
    ('a_gem', {}),
    ('vcl', {'coreset': 3}),
  ],
)
def test_what_learns_from_earlier_tasks_examples_is_refused(name, options):
  with pytest.raises(ValueError, match=r'earlier tasks.*\(encoder/w\).*choose'):
    _life(name, **options)


def test_a_private_leaf_that_is_not_there_is_named():
  with pytest.raises(ValueError, match='private has encoder/v but must be of'):
    private.split(_SHAPES, ('encoder/w', 'encoder/v'))
  whole = jax.tree.map(lambda s: jnp.ones(s.shape), _SHAPES)
  shared, own = private.split(whole, _ALONE.private)
  assert set(shared) == {'hidden', 'output'}
  assert jax.tree.structure(private.merged(_SHAPES, shared, own)) == (
    jax.tree.structure(_SHAPES)
  )


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
