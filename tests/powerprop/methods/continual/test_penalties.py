"""Penalties of continual learning, against numbers by hand and plain loops."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import data
from powerprop import train
from powerprop.methods.continual import anchors
from powerprop.methods.continual import fisher
from powerprop.methods.continual.ewc import ewc
from powerprop.methods.continual.ewc import online_ewc
from powerprop.methods.continual.ewc import online_laplace
from powerprop.methods.continual.l2 import l2
from powerprop.methods.continual.mas import mas
from powerprop.methods.continual.sequential import Tasks
from powerprop.methods.continual.si import si
from powerprop.psi import Psi
from powerprop.types import Hyper, Problem
from tests import endings

LOG3 = float(np.log(3))
METHODS = (l2, ewc, online_ewc, online_laplace, si, mas)


def _ending(images, labels, apply, visible, alpha=1.0, index=0, size=None):
  """An ending over arrays, both splits the same; images are [N, pixels]."""
  images = jnp.asarray(images, jnp.uint8)[:, None, None, :]
  labels = jnp.asarray(labels, jnp.int32)

  def look_up(split, rows):
    del split
    return data.Examples(images[rows], labels[rows], jnp.asarray(visible))

  size = jnp.int32(len(labels) if size is None else size)
  sizes = {'train': size, 'validation': size}
  return endings.ending(look_up, apply, sizes, task=index, alpha=alpha)


def _tasks(num_train, batch_size):
  return Tasks({}, 2, endings.example((1, 1, 2), 2), num_train, batch_size)


def _pixels(examples):
  return examples.image.reshape(len(examples.image), -1).astype(jnp.float32)


def _logistic(w, examples):
  """Logits (x·w, 0): the first label has the probability σ(x·w)."""
  z = _pixels(examples) @ w['net']['w']
  return jnp.concatenate([z, jnp.zeros_like(z)], 1)


def _logistic_task(images, labels, index, alpha=1.0):
  return _ending(
    images, labels, _logistic, [True, True], alpha=alpha, index=index
  )


def _column(*values):
  return {'net': {'w': jnp.array(values, jnp.float32)[:, None]}}


def _numbers(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


# At w = 0, p = ½: the gradients are (2, 4)/2 and −(4, 2)/2. The mean of their
# squares is (2.5, 2.5); their mean is (−½, ½), its square times 2 (½, ½).
FIRST = ([[2, 4], [4, 2]], [0, 1])
# At w = (log 3, 0), p = ¾: both gradients are (1, 2)/4.
SECOND = ([[1, 2], [1, 2]], [0, 0])
FIRST_EXAMPLE, FIRST_BATCH = np.array([2.5, 2.5]), np.array([0.5, 0.5])
SECOND_EXAMPLE, SECOND_BATCH = np.array([1, 4]) / 16, np.array([1, 4]) / 8
P1, P2 = np.array([0.0, 0.0]), np.array([LOG3, 0.0])


def _two_tasks(method):
  """The method's state after each task, as arrays [parameters]."""
  phi, state = method.init(None, _column(*P1), Psi(1.0), None)
  start = method.continual.penalty.value(_column(5.0, 5.0), state)
  _, first, _ = method.continual.end_task(_logistic_task(*FIRST, 0), phi, state)
  second_phi = _column(*P2)
  _, second, _ = method.continual.end_task(
    _logistic_task(*SECOND, 1), second_phi, first
  )
  value, grad = jax.value_and_grad(method.continual.penalty.value)(
    _column(2.0, -1.0), second
  )
  return start, first, second, value, grad


@pytest.fixture(scope='module')
def by_hand():
  true: dict[str, Any] = {'labels': 'true'}
  made: dict[str, Any] = {
    'l2': l2,
    'ewc': functools.partial(ewc, **true),
    'ewc_example': functools.partial(ewc, fisher='example', **true),
    'online_ewc': functools.partial(online_ewc, decay=0.5, **true),
    'online_laplace': functools.partial(
      online_laplace, prior_precision=3.0, **true
    ),
  }
  tasks = _tasks(2, 2)
  return jax.jit(
    lambda: {name: _two_tasks(make(tasks)) for name, make in made.items()}
  )()


@pytest.mark.parametrize(
  ('name', 'first', 'second', 'scale'),
  [
    ('l2', 1.0, 1.0, 1.0),
    ('online_ewc', FIRST_BATCH, FIRST_BATCH / 2 + SECOND_BATCH, 1.0),
    (
      'online_laplace',
      3 + 2 * FIRST_EXAMPLE,
      3 + 2 * FIRST_EXAMPLE + 2 * SECOND_EXAMPLE,
      0.25,
    ),
  ],
)
def test_one_anchor(by_hand, name, first, second, scale):
  start, after, last, value, grad = by_hand[name]
  assert start == 0
  np.testing.assert_allclose(
    _numbers(after.importance), first * np.ones(2), 1e-6
  )
  np.testing.assert_allclose(
    _numbers(last.importance), second * np.ones(2), 1e-6
  )
  np.testing.assert_array_equal(_numbers(last.anchor), np.float32(P2))
  away = np.array([2.0, -1.0]) - P2
  np.testing.assert_allclose(value, scale * np.sum(second * away**2), 1e-5)
  np.testing.assert_allclose(_numbers(grad), 2 * scale * second * away, 1e-5)


@pytest.mark.parametrize(
  ('name', 'parts'),
  [
    ('ewc', (FIRST_BATCH, SECOND_BATCH)),
    ('ewc_example', (FIRST_EXAMPLE, SECOND_EXAMPLE)),
  ],
)
def test_an_anchor_for_every_task(by_hand, name, parts):
  start, _, last, value, grad = by_hand[name]
  assert start == 0
  at = np.array([2.0, -1.0])
  both = lambda p: sum(
    np.sum(f * (p - q) ** 2) for f, q in zip(parts, (P1, P2), strict=True)
  )
  expected = sum(2 * f * (at - q) for f, q in zip(parts, (P1, P2), strict=True))
  np.testing.assert_allclose(_numbers(grad), expected, 1e-5)
  # The value is that of the sum but for the constant, its smallest value.
  mean = _numbers(last.anchor)
  np.testing.assert_allclose(value, both(at) - both(mean), 1e-5)


# A net of three outputs, of which the second is not visible.
VISIBLE = np.array([True, False, True])
NUM, BATCH = 20, 4
IMAGES = np.random.default_rng(0).integers(0, 4, (NUM, 2))
CLASSES = np.random.default_rng(1).choice([0, 2], NUM)
NET = {
  'head': {
    'w': jnp.array([[0.5, -0.3, 0.2], [-0.4, 0.1, 0.3]]),
    'b': jnp.array([0.1, 0.2, -0.6]),
  }
}


def _linear(w, examples):
  logits = _pixels(examples) @ w['head']['w'] + w['head']['b']
  return jnp.where(examples.visible, logits, -jnp.inf)


def _linear_task(alpha=1.0, index=0, size=None):
  return _ending(IMAGES, CLASSES, _linear, VISIBLE, alpha, index, size)


def _by_numpy(labels):
  """Gradients of each example's log-likelihood, {'w': [N, 2, 3], 'b': ...}."""
  w, b = (np.asarray(NET['head'][n], np.float64) for n in 'wb')
  logits = IMAGES @ w + b
  odds = np.where(VISIBLE, np.exp(logits), 0)
  p = odds / odds.sum(1, keepdims=True)
  chosen = CLASSES if labels == 'true' else np.argmax(p, 1)
  error = np.eye(3)[chosen] - p
  return {'b': error, 'w': IMAGES[:, :, None] * error[:, None, :]}, p


@pytest.fixture(scope='module')
def diagonals():
  """`fisher.diagonal`, all in one program."""
  measure = functools.partial(fisher.diagonal, theta=NET)

  @jax.jit
  def fn():
    ending = _linear_task()
    tasks = _tasks(NUM, BATCH)
    out = {
      labels: measure(ending, tasks, kind='example', labels=labels)
      for labels in ('true', 'argmax')
    }
    smaller = _linear_task(size=7)
    out['smaller'] = measure(smaller, tasks, kind='example', labels='true')
    out['whole'] = measure(
      ending, _tasks(NUM, NUM), kind='batch', labels='true'
    )
    out['some'] = measure(
      ending, tasks, kind='example', labels='true', num_examples=5
    )
    out['first'] = measure(
      ending,
      tasks,
      kind='example',
      labels='true',
      num_examples=5,
      split='validation',
    )
    # A task whose order does not matter: all minibatches are the same.
    same = _ending(
      np.tile(IMAGES[:1], (NUM, 1)), CLASSES[[0] * NUM], _linear, VISIBLE
    )
    out['same'] = measure(same, tasks, kind='batch', labels='true')
    out['drawn'] = jax.lax.map(
      lambda key: measure(
        ending._replace(key=key), tasks, kind='example', labels='sampled'
      ),
      jax.random.split(jax.random.key(0), 400),
    )
    return out

  return fn()


def _assert_leaves(got, expected, **tolerance):
  for name in 'wb':
    np.testing.assert_allclose(got['head'][name], expected[name], **tolerance)


@pytest.mark.parametrize('labels', ['true', 'argmax'])
def test_fisher_of_examples_is_a_loop_of_gradients(diagonals, labels):
  grads, _ = _by_numpy(labels)
  expected = {name: np.mean(g**2, 0) for name, g in grads.items()}
  _assert_leaves(diagonals[labels], expected, rtol=1e-5)
  # An output that is not visible does not matter, and is no NaN.
  assert not np.any(diagonals[labels]['head']['w'][:, 1])


def test_fisher_of_a_subset(diagonals):
  squares = {name: g**2 for name, g in _by_numpy('true')[0].items()}
  first = lambda n: {name: np.mean(s[:n], 0) for name, s in squares.items()}
  # All examples of a task smaller than the largest, each once.
  _assert_leaves(diagonals['smaller'], first(7), rtol=1e-5)
  _assert_leaves(diagonals['first'], first(5), rtol=1e-5)
  # Five different examples: the sum of their 0/1 indicators would be 5.
  some = 5 * np.asarray(diagonals['some']['head']['b'][0], np.float64)
  assert not np.isclose(some, 5 * first(5)['b'][0], rtol=1e-4)
  assert np.sort(squares['b'][:, 0])[:5].sum() - 1e-5 <= some
  assert some <= np.sort(squares['b'][:, 0])[-5:].sum() + 1e-5


def test_fisher_of_minibatches(diagonals):
  grads, _ = _by_numpy('true')
  whole = {name: NUM * np.mean(g, 0) ** 2 for name, g in grads.items()}
  _assert_leaves(diagonals['whole'], whole, rtol=1e-4, atol=1e-6)
  same = {name: BATCH * g[0] ** 2 for name, g in grads.items()}
  _assert_leaves(diagonals['same'], same, rtol=1e-5)


def test_sampled_labels_give_the_expectation(diagonals):
  _, p = _by_numpy('true')
  # E over labels of (e_y − p)², = p(1 − p) for the bias.
  variance = p * (1 - p)
  expected = {
    'b': variance.mean(0),
    'w': np.mean(IMAGES[:, :, None] ** 2 * variance[:, None, :], 0),
  }
  drawn = jax.tree.map(lambda x: np.mean(x, 0), diagonals['drawn'])
  _assert_leaves(drawn, expected, rtol=0.02)
  assert not np.isclose(
    diagonals['true']['head']['b'][0], expected['b'][0], rtol=0.02
  )
  assert len(np.unique(diagonals['drawn']['head']['b'][:, 0])) > 300


def _mas_by_numpy(batches):
  """The mean of |∂ mean(logits²)/∂p|, given the rows of each minibatch."""
  w, b = (np.asarray(NET['head'][n], np.float64) for n in 'wb')
  out: dict[str, list[Any]] = {'w': [], 'b': []}
  for rows in batches:
    x = IMAGES[rows]
    d = 2 * np.where(VISIBLE, x @ w + b, 0) / (2 * len(x))
    out['w'].append(np.abs(x.T @ d))
    out['b'].append(np.abs(d.sum(0)))
  return {name: np.mean(values, 0) for name, values in out.items()}


@pytest.fixture(scope='module')
def spaces():
  """Importances after one task and two, by method, space and α."""

  @functools.partial(jax.jit, static_argnums=0)
  def fn(space, phi, alpha):
    out: dict[str, Any] = {}
    for make in METHODS:
      method = make(_tasks(NUM, NUM), space=space)
      start, state = method.init(None, phi, Psi(alpha), None)
      if method.continual.track is not None:
        dense = jax.tree.map(lambda x: 0.5 + x, phi)
        before = anchors.in_space(phi, Psi(alpha), 'theta')
        after = jax.tree.map(lambda x: x - 0.25, before)
        state = method.continual.track(dense, before, after, state)
      _, first, report = method.continual.end_task(
        _linear_task(alpha), start, state
      )
      _, second, _ = method.continual.end_task(
        _linear_task(alpha, 1), start, first
      )
      assert not report
      out[make.__name__] = (first, second)
    return out

  phi = jax.tree.map(lambda x: jnp.stack([x, 1.5 * x]), NET)
  alphas = jnp.array([1.0, 2.0])
  both = {
    space: jax.vmap(functools.partial(fn, space))(phi, alphas)
    for space in ('theta', 'phi')
  }
  single = fn('phi', jax.tree.map(lambda x: x[1], phi), alphas[1])
  return both, single, phi


def test_mas(spaces):
  first, second = spaces[0]['theta']['mas']
  expected = _mas_by_numpy([np.arange(NUM)])
  member = lambda state: jax.tree.map(lambda x: x[0], state.importance)
  _assert_leaves(member(first), expected, rtol=1e-5, atol=1e-7)
  twice = {name: 2 * x for name, x in expected.items()}
  _assert_leaves(member(second), twice, rtol=1e-5, atol=1e-7)
  # Minibatches of one example: magnitudes are taken before the mean.
  method = mas(_tasks(NUM, 1))
  phi, state = method.init(None, NET, Psi(1.0), None)
  _, single, _ = jax.jit(
    lambda: method.continual.end_task(_linear_task(), phi, state)
  )()
  singles = _mas_by_numpy([[i] for i in range(NUM)])
  assert not np.allclose(singles['w'], expected['w'], rtol=0.01)
  _assert_leaves(single.importance, singles, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('make', METHODS)
def test_spaces(spaces, make):
  both, _, phi = spaces
  theta, stored = (both[s][make.__name__][0] for s in ('theta', 'phi'))
  # At α = 1, the first member, they are the same numbers.
  for a, b in zip(jax.tree.leaves(theta), jax.tree.leaves(stored), strict=True):
    np.testing.assert_allclose(a[0], b[0], 1e-6)
  # At α = 2 the slope is 2|φ| for the weights, and 1 for the biases.
  weight = np.asarray(phi['head']['w'][1])
  slope = 2 * np.abs(weight)
  np.testing.assert_allclose(
    theta.anchor['head']['w'][1], weight * np.abs(weight), 1e-6
  )
  np.testing.assert_array_equal(stored.anchor['head']['w'][1], weight)
  power = {'ewc': 2, 'online_ewc': 2, 'mas': 1}.get(make.__name__)
  if power is not None:
    np.testing.assert_allclose(
      stored.importance['head']['w'][1],
      slope**power * theta.importance['head']['w'][1],
      1e-5,
    )
    np.testing.assert_allclose(
      stored.importance['head']['b'][1], theta.importance['head']['b'][1], 1e-6
    )


def test_vmapped_is_looped(spaces):
  both, single, _ = spaces
  second = jax.tree.map(lambda x: x[1], both['phi'])
  for a, b in zip(
    jax.tree.leaves(second), jax.tree.leaves(single), strict=True
  ):
    np.testing.assert_allclose(a, b, 1e-5, 1e-6)


def test_si_adds_up_to_what_the_loss_lost():
  curvature, target = jnp.array([[1.0, 0.5]]), jnp.array([[1.0, -2.0]])
  method = si(_tasks(2, 2))
  track = method.continual.track
  assert track is not None
  loss = lambda p: 0.5 * jnp.sum(curvature * jnp.square(p['w'] - target))

  @jax.jit
  def path(rate):
    start = {'w': jnp.zeros((1, 2))}
    start, state = method.init(None, start, Psi(1.0), None)

    def step(carry, _):
      p, state = carry
      dense = jax.grad(loss)(p)
      new = jax.tree.map(lambda x, g: x - rate * g, p, dense)
      return (new, track(dense, p, new, state)), None

    (end, state), _ = jax.lax.scan(step, (start, state), None, 400)
    _, after, _ = method.continual.end_task(
      _logistic_task(*FIRST, 0), end, state
    )
    fall = loss(start) - loss(end)
    return jnp.sum(state.omega['w']) / fall - 1, end, state, after

  coarse, _, _, _ = path(0.1)
  fine, end, state, after = path(0.05)
  # Both are above it by rate/2 · Σ h ω / Σ ω.
  assert 0 < coarse < 0.06
  np.testing.assert_allclose(coarse / fine, 2, 0.05)
  np.testing.assert_allclose(
    after.importance['w'], state.omega['w'] / (end['w'] ** 2 + 0.1), 1e-6
  )
  np.testing.assert_array_equal(after.anchor['w'], end['w'])
  assert not np.any(after.omega['w'])


def test_si_looks_at_the_loss_without_l2_and_without_the_penalty():
  """ω of a step is minus (∂ task's loss) Δθ, whatever else moves θ."""
  goal = jnp.array([[1.0, -2.0]])
  row = {'w': jnp.array([[0.5, 3.0]])}
  problem = Problem(
    init=lambda key: (row, {}),
    task=lambda source: jnp.int32(0),
    size=lambda source, split: jnp.int32(4),
    batch=lambda source, split, rows: rows,
    augment=None,
    loss=lambda w, state, key, rows: (
      0.5 * jnp.sum(jnp.square(w['w'] - goal)),
      state,
    ),
    score=None,
    least=None,
    log_likelihood=None,
    outputs=None,
    flops=None,
  )
  recipe = train.Recipe(problem, optax.sgd, 2, 4, 0.01, l2=3.0)
  training = train.make_training(recipe, Psi(1.0), si(_tasks(4, 2)))
  hyper = Hyper(jnp.int32(0), jnp.float32(1), jnp.float32(0.1), 5.0)

  @jax.jit
  def step(strength, held):
    state = training.begin(hyper, (), row, {})
    kept = state.method._replace(importance=strength, anchor=held)
    state, _ = training.chunk(state._replace(method=kept), hyper, (), 0, 1)
    return state.phi, state.method.omega

  after, omega = step({'w': 1.0 + row['w']}, {'w': -row['w']})
  gradient, moved = row['w'] - goal, after['w'] - row['w']
  pull = 3 * row['w'] + 5 * 2 * (1 + row['w']) * 2 * row['w']
  np.testing.assert_allclose(moved, -0.1 * (gradient + pull), 1e-5)
  np.testing.assert_allclose(omega['w'], -gradient * moved, 1e-5)


@pytest.mark.parametrize(
  ('make', 'options'),
  [(make, {'space': 'psi'}) for make in METHODS]
  + [
    (ewc, {'fisher': 'batches'}),
    (ewc, {'labels': 'false'}),
    (online_ewc, {'decay': 1.5}),
    (online_ewc, {'fisher_examples': -1}),
    (online_laplace, {'prior_precision': -1.0}),
    (si, {'damping': 0.0}),
  ],
)
def test_bad_options(make, options):
  with pytest.raises(ValueError, match=next(iter(options)).split('_')[-1]):
    make(_tasks(2, 2), **options)


def test_validation_needs_a_number():
  with pytest.raises(ValueError, match='validation'):
    fisher.diagonal(
      _linear_task(),
      _tasks(NUM, BATCH),
      NET,
      kind='example',
      labels='true',
      split='validation',
    )


def test_every_method_has_a_coefficient():
  assert set(anchors.COEFFICIENTS) == {make.__name__ for make in METHODS}
