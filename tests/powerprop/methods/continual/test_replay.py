"""The three baselines, experience replay and A-GEM."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import data
from experiments.engine import classification
from powerprop import learning
from powerprop import lifetime
from powerprop import train
from powerprop.methods.continual import bounds
from powerprop.methods.continual import replay
from powerprop.methods.continual import sequential
from powerprop.psi import Psi
from powerprop.types import Hyper, Problem
from tests import endings

_SIZES = (5, 3, 7)  # training examples of three tasks
_TASKS = sequential.Tasks(
  shapes={},
  number=3,
  example=endings.example((1, 2, 1), 6),
  num_train=7,
  batch_size=4,
)
_KEY = jax.random.key(3)


def _ending(index, key=_KEY):
  """Example i of task t is the picture (t, i), has label 2t and sees 2t, 2t+1.

  An ending takes a traced index, as in the driver.
  """

  def examples(split, rows):
    assert split == 'train'
    task = jnp.full_like(rows, index)
    image = jnp.stack([task, rows], -1)[:, None, :, None]
    return data.Examples(
      image.astype(jnp.uint8), 2 * task, jnp.arange(6) // 2 == index
    )

  return endings.ending(
    examples,
    lambda w, examples: w,
    {'train': jnp.asarray(_SIZES)[index]},
    key=jax.random.fold_in(key, index),
    task=index,
    alpha=jnp.float32(2),
    fresh=lambda: {'net': {'w': jnp.full((2, 2), -9.0), 'b': jnp.ones(2)}},
  )


def _memories(method):
  """The memory after no task, after one, two and three."""
  _, state = method.init(_KEY, {}, Psi(1.0), None)
  states = [state]
  end = jax.jit(lambda i, s: method.continual.end_task(_ending(i), {}, s)[1])
  for i in range(3):
    states.append(end(jnp.int32(i), states[-1]))
  return states


@pytest.fixture(scope='module')
def filled():
  method = replay.experience_replay(_TASKS, memory_size=8, replay_batch=500)
  return method, _memories(method)


def test_memory_is_full_and_the_tasks_so_far_share_it(filled):
  """Of 8: the five of the first task; 5 and 3; and 3, 2 and 3 of 15."""
  _, states = filled
  assert [int(s.stored) for s in states] == [0, 5, 8, 8]
  for state, counts in zip(states[1:], ([5], [5, 3], [3, 3, 2]), strict=True):
    image, label, visible = map(np.asarray, state.examples)
    assert image.shape == (8, 1, 2, 1) and image.dtype == np.uint8
    assert label.dtype == np.int32 and visible.dtype == bool
    owner = np.repeat(np.arange(len(counts)), counts)
    there = slice(len(owner))
    np.testing.assert_array_equal(image[there, 0, 0, 0], owner)
    np.testing.assert_array_equal(label[there], 2 * owner)
    np.testing.assert_array_equal(
      visible[there], np.arange(6) // 2 == owner[:, None]
    )
    assert not any(x[len(owner) :].any() for x in (image, label, visible))
    pictures = image[there, 0, :, 0]
    assert len(set(map(tuple, pictures))) == len(owner)  # none twice
    assert (pictures[:, 1] < np.array(_SIZES)[owner]).all()
  # Those that stay were there before.
  first, last = (
    {tuple(x) for x in np.asarray(s.examples.image)[:, 0, :, 0] if x[0] == 0}
    for s in (states[1], states[3])
  )
  assert last < first


def test_who_gives_way_is_decided_at_random():
  """Of five examples of the first task, three stay, each as often."""
  method = replay.experience_replay(_TASKS, memory_size=6)

  @jax.jit
  @jax.vmap
  def two_tasks(key):
    state = method.init(key, {}, Psi(1.0), None)[1]
    for task in (0, 1):
      ending = _ending(jnp.int32(task), key)
      state = method.continual.end_task(ending, {}, state)[1]
    return state.examples.image[:, 0, :, 0]

  pictures = np.asarray(two_tasks(jax.random.split(_KEY, 500)))
  assert (np.sum(pictures[:, :, 0] == 0, axis=1) == 3).all()
  rows = pictures[pictures[:, :, 0] == 0][:, 1]
  counts = np.bincount(rows, minlength=5)
  np.testing.assert_allclose(counts, 300, atol=55)  # five deviations


def test_memory_keeps_what_it_is_given():
  """Pixels that are no bytes, and whatever else is in a batch."""
  like = {'x': jax.ShapeDtypeStruct((1, 2), jnp.float32), 'n': jnp.zeros(1)}
  tasks = _TASKS._replace(example=like, number=1)
  batch = lambda split, rows: {
    'x': jnp.stack([0.25 * rows, -rows - 0.5], -1).astype(jnp.float32),
    'n': rows.astype(jnp.float32),
  }
  ending = _ending(jnp.int32(2))._replace(batch=batch)
  memory = replay.store(replay.empty(tasks, 7), tasks, ending, _KEY)
  assert memory.examples['x'].dtype == jnp.float32
  n = np.asarray(memory.examples['n'])
  assert set(n) == set(range(7))
  np.testing.assert_array_equal(
    memory.examples['x'], np.stack([0.25 * n, -n - 0.5], -1)
  )


def test_memory_differs_between_keys_and_is_never_more_than_the_task():
  method = replay.a_gem(_TASKS, memory_size=300)
  init = lambda k: method.init(k, {}, Psi(1.0), None)[1]
  end = lambda k, s: method.continual.end_task(_ending(jnp.int32(2), k), {}, s)[
    1
  ]
  keys = jax.random.split(_KEY, 4)
  state = jax.jit(jax.vmap(lambda k: end(k, init(k))))(keys)
  image = np.asarray(state.examples.image)
  assert image.shape[:2] == (4, 3 * 7)
  # A task of which nothing is stored, as it failed, leaves no gap.
  rows = image[:, :7, 0, 1, 0]
  assert (np.asarray(state.stored) == 7).all()
  np.testing.assert_array_equal(np.sort(rows), np.tile(np.arange(7), (4, 1)))
  assert len({tuple(r) for r in rows}) > 1


def _shaken(make):
  """A weight of what augmentation gave the pictures of a step; they are 0."""

  def augment(key, batch):
    return batch + jax.random.uniform(key, batch.shape)

  problem = Problem(
    init=lambda key: ({'net': {'w': jnp.zeros(1)}}, {}),
    task=lambda source: source,
    size=lambda source, split: jnp.int32(7),
    batch=lambda source, split, rows: jnp.zeros(rows.shape),
    augment=augment,
    loss=lambda w, state, key, batch: (-jnp.mean(w['net']['w'] * batch), {}),
    score=lambda *args: None,
    least=lambda *args: None,
    log_likelihood=lambda *args: jnp.float32(0),
    outputs=lambda *args: None,
    flops=lambda *args: {},
  )
  tasks = _TASKS._replace(example=jax.ShapeDtypeStruct((1,), jnp.float32))
  recipe = train.Recipe(problem, optax.sgd, tasks.batch_size, 7, 0.0)
  life = lifetime.make_life(recipe, Psi(1.0), make(tasks))
  hyper = Hyper(jnp.int32(0), jnp.float32(1), jnp.float32(1))

  @jax.jit
  def run():
    state = life.start(hyper, jnp.int32(0))
    state, _ = life.end(state, hyper, jnp.int32(0))
    ending = lifetime.ending(recipe, Psi(1.0), state, hyper, jnp.int32(0), 2)
    again = ending.augment(_KEY, jnp.zeros(2))
    state, _ = life.chunk(state, hyper, jnp.int32(1), np.int32(0), 1)
    return state.phi['net']['w'][0], again

  weight, again = run()
  np.testing.assert_array_equal(again, jax.random.uniform(_KEY, (2,)))
  return float(weight)


def test_what_is_remembered_is_augmented_by_keys_of_its_own():
  fresh = _shaken(bounds.naive)
  remembered = 2 * _shaken(replay.experience_replay) - fresh
  assert 0.05 < fresh < 0.95 and 0.05 < remembered < 0.95
  assert abs(fresh - remembered) > 1e-3


def test_a_batch_is_drawn_from_what_is_stored(filled):
  method, states = filled
  draw = jax.jit(method.continual.rehearsal.draw)
  for state, tasks in zip(states[1:], (1, 2, 3), strict=True):
    image, label, visible = map(np.asarray, draw(state, _KEY))
    assert label.shape == (500,) and visible.shape == (500, 6)
    counts = np.bincount(label // 2, minlength=3)
    assert (counts[:tasks] > 100).all() and not counts[tasks:].any()
    np.testing.assert_array_equal(image[:, 0, 0, 0], label // 2)
    assert visible[np.arange(500), label].all()
  assert (label != np.asarray(draw(states[-1], jax.random.key(4)).label)).any()
  # Of an empty memory nothing counts, but it makes no NaN that would.
  label, visible = draw(states[0], _KEY)[1:]
  logits = jnp.where(visible, jnp.ones(visible.shape), classification._NEVER)
  loss = learning.mean_log_p(logits, label)
  assert np.isfinite(loss)


def _tree(a, b):
  return {'x': {'w': jnp.array([a], jnp.float32), 'b': jnp.float32(b)}}


def _values(tree):
  return [float(tree['x']['w'][0]), float(tree['x']['b'])]


def test_replay_weighs_gradients_by_their_batches(filled):
  method = replay.experience_replay(_TASKS, memory_size=14, replay_batch=12)
  equal = replay.experience_replay(_TASKS, memory_size=14)
  g, r = _tree(1.0, 8.0), _tree(5.0, -4.0)
  _, states = filled
  mix = jax.jit(
    lambda s: (
      method.continual.rehearsal.combine(g, r, s),
      equal.continual.rehearsal.combine(g, r, s),
    )
  )
  by_size, halves = map(_values, mix(states[1]))
  assert by_size == [1 / 4 + 5 * 3 / 4, 8 / 4 - 4 * 3 / 4]
  assert halves == [3.0, 2.0]
  assert [_values(x) for x in mix(states[0])] == [[1.0, 8.0]] * 2


def test_a_gem_projects_over_all_parameters_at_once(filled):
  method = replay.a_gem(_TASKS, memory_size=14)
  assert jax.eval_shape(
    method.continual.rehearsal.draw, filled[1][1], _KEY
  ).label.shape == (4,)
  cases = [
    # g, g_ref, what is left. In the first, w alone conflicts and b does not:
    # g·g_ref = −6 + 2 = −4, g_ref² = 5, g + 4/5 g_ref.
    ((-3.0, 2.0), (2.0, 1.0), (-3 + 8 / 5, 2 + 4 / 5)),
    ((-1.0, 4.0), (2.0, 1.0), (-1.0, 4.0)),  # product 2: as it is
    ((1.0, -2.0), (2.0, 1.0), (1.0, -2.0)),  # product 0: as it is
    ((-4.0, -2.0), (2.0, 1.0), (0.0, 0.0)),
    ((1.0, 2.0), (0.0, 0.0), (1.0, 2.0)),
    ((1.0, 2.0), (np.nan, 1.0), (1.0, 2.0)),  # of an empty memory
    ((1e-3, 2.0), (-1e-30, 0.0), None),  # finite where g_ref² underflows
  ]
  columns = lambda k: [jnp.array([c[k][i] for c in cases]) for i in (0, 1)]
  run = jax.jit(
    jax.vmap(method.continual.rehearsal.combine, in_axes=(0, 0, None))
  )
  g, r = ({'x': {'w': w[:, None], 'b': b}} for w, b in (columns(0), columns(1)))
  out = run(g, r, filled[1][1])
  got = np.stack([out['x']['w'][:, 0], out['x']['b']], -1)
  assert np.isfinite(got).all()
  for row, (_, _, want) in zip(got, cases, strict=True):
    if want is not None:
      np.testing.assert_allclose(row, want, rtol=1e-6, atol=1e-6)
  same = run(g, r, filled[1][0])
  np.testing.assert_array_equal(same['x']['w'], g['x']['w'])
  np.testing.assert_array_equal(same['x']['b'], g['x']['b'])


@pytest.mark.parametrize('make', [replay.experience_replay, replay.a_gem])
def test_bad_options_are_refused(make):
  with pytest.raises(ValueError, match='memory_size is 2 but .* tasks, 3'):
    make(_TASKS, memory_size=2)
  with pytest.raises(ValueError, match='replay_batch is -1 but'):
    make(_TASKS, replay_batch=-1)


def test_single_keeps_the_net_bit_for_bit_and_draws_a_new_one():
  method = bounds.single(_TASKS)
  phi = {
    'net': {
      'w': jax.random.normal(_KEY, (3, 2, 2)),
      'b': jnp.arange(6.0).reshape(3, 2),
    }
  }

  @jax.jit
  @jax.vmap
  def run(phi):
    ending = _ending(jnp.int32(0))
    theta = ending.psi.to_theta(phi)
    new, state, record = method.continual.archive(ending, phi, ())
    later = ending.psi.to_theta(new)
    return theta, later, method.continual.predict(later, record)

  theta, later, kept = run(phi)
  jax.tree.map(np.testing.assert_array_equal, kept, theta)
  # φ is brought under Ψ: Ψ(Ψ⁻¹(−9)) = −9, and the biases are left alone.
  np.testing.assert_allclose(later['net']['w'], np.full((3, 2, 2), -9.0))
  np.testing.assert_array_equal(later['net']['b'], np.ones((3, 2)))


def test_naive_and_joint_leave_training_alone():
  theta = _tree(1.0, 2.0)
  for make, joint in ((bounds.naive, False), (bounds.joint, True)):
    method = make(_TASKS)
    assert method.continual.joint is joint
    assert (
      method.continual.penalty is None and method.continual.rehearsal is None
    )
    assert method.init(_KEY, theta, Psi(1.0), None) == (theta, ())
    assert _values(method.gradients(theta, theta, ())) == [1.0, 2.0]
    assert method.continual.predict(theta, ()) is theta
