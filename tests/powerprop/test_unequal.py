"""Tasks of different sizes: each by its own examples, steps and schedule.

The net counts: what a weight has become is how often its row was learned from.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import powerprop
from powerprop import lifetime
from powerprop import methods
from powerprop import train
from powerprop.methods.continual import anchors
from powerprop.methods.continual import sequential
from powerprop.types import Hyper, Problem, Score

_SIZES = (6, 12, 4)
_ROWS, _BATCH = 12, 2
_HYPER = Hyper(jnp.int32(0), jnp.float32(1), jnp.float32(1), jnp.float32(1))
_TASKS = sequential.Tasks({}, len(_SIZES), (), _ROWS, _BATCH)


def _loss(w, state, key, batch):
  del key
  return -jnp.sum(w['net']['seen'][batch['task'], batch['row']]), state


def _nothing(w, state, source, split):
  del w, state, source, split
  return Score(jnp.float32(0), jnp.float32(0), jnp.zeros(2, jnp.uint32))


_COUNTING = Problem(
  init=lambda key: ({'net': {'seen': jnp.zeros((len(_SIZES), _ROWS))}}, {}),
  task=lambda source: source['task'],
  size=lambda source, split: jnp.asarray(_SIZES)[source['task']],
  batch=lambda source, split, rows: {
    'task': jnp.broadcast_to(source['task'], rows.shape),
    'row': rows,
  },
  augment=None,
  loss=_loss,
  score=_nothing,
  least=lambda score, gamma: score,
  log_likelihood=lambda *args: jnp.float32(0),
  outputs=lambda w, state, batch: (jnp.zeros(1), jnp.ones(1, bool)),
  flops=lambda params, state: {},
  any_task=lambda source, key: {
    'task': jax.random.randint(key, (), 0, source['task'] + 1)
  },
  at=lambda source, task: {'task': task},
)
_SOURCES = [{'task': jnp.int32(t)} for t in range(len(_SIZES))]


def _learn(method, steps, batch_size=_BATCH):
  learned = powerprop.learn(
    _COUNTING,
    method,
    _SOURCES,
    optax.sgd,
    steps=steps,
    batch_size=batch_size,
    learning_rate=1.0,
    psi=powerprop.Psi(1.0),
  )
  return np.asarray(learned.state.phi['net']['seen'])


def test_a_task_sees_each_of_its_rows_once_an_epoch():
  """Three epochs of each are as many steps as its size asks for."""
  seen = _learn(methods.naive, [3 * n // _BATCH for n in _SIZES])
  for row, size in zip(seen, _SIZES, strict=True):
    np.testing.assert_array_equal(row, np.where(np.arange(_ROWS) < size, 3, 0))


def test_as_many_steps_for_all_are_epochs_of_ones_own():
  """Six steps: two epochs of the first, one of the next, three of the last."""
  seen = _learn(methods.naive, 6)
  for row, size, epochs in zip(seen, _SIZES, (2, 1, 3), strict=True):
    wanted = np.where(np.arange(_ROWS) < size, epochs, 0)
    np.testing.assert_array_equal(row, wanted)


def test_joint_learning_takes_the_rows_of_the_task_that_it_chose():
  seen = _learn(methods.joint, 40)
  for row, size in zip(seen, _SIZES, strict=True):
    assert (row[:size] > 0).all() and (row[size:] == 0).all()
  assert seen.sum() == len(_SIZES) * 40 * _BATCH


def test_joint_batches_may_have_their_share_of_every_task():
  """Of 8 rows all, then 6 and 2, then 4, 2 and 2: three of the first to one."""
  mixed = lambda tasks: methods.joint(tasks, shares=(3, 1))
  seen = _learn(mixed, [0, 0, 40], batch_size=10)
  for row, size, each in zip(seen, _SIZES, (6, 2, 2), strict=True):
    assert (row[:size] > 0).all() and (row[size:] == 0).all()
    assert row.sum() == 40 * each
  seen = _learn(mixed, [0, 5, 0], batch_size=8)
  assert seen.sum(axis=1).tolist() == [30, 10, 0]
  # Where a share is less than an example, its task has its turn.
  seen = _learn(mixed, [0, 0, 40], batch_size=2)
  assert (seen.sum(axis=1) > 0).all() and seen.sum() == 80


def test_shares_that_cannot_be():
  for shares in ((0.0,), (1.0, -1.0), (float('inf'),), (1, 1, 1, 1)):
    with pytest.raises(ValueError, match='shares is .* above 0, for the 3'):
      methods.joint(_TASKS, shares=shares)
  life = _life(
    methods.joint(_TASKS, shares=(1.0,)),
    (3, 6, 2),
    problem=_COUNTING._replace(at=None),
  )
  with pytest.raises(ValueError, match=r'Problem.at\): leave out shares'):
    jax.eval_shape(
      lambda state: life.chunk(state, _HYPER, _SOURCES[0], 0, 2),
      life.start(_HYPER, _SOURCES[0]),
    )


def test_steps_are_one_number_or_one_for_each_task():
  with pytest.raises(ValueError, match='steps are 2 numbers but there are 3'):
    _learn(methods.naive, [1, 2])


def _life(method, steps, schedule=None, problem=_COUNTING):
  recipe = train.Recipe(
    problem,
    optax.sgd,
    _BATCH,
    _ROWS,
    0.0,
    schedule=schedule,
    unequal=True,
    task_steps=steps,
  )
  return lifetime.make_life(recipe, powerprop.Psi(1.0), method)


def test_a_schedule_is_that_of_the_tasks_own_steps():
  """A factor that is the step adds up; in two windows, of one program."""
  steps = (3, 6, 2)
  life = _life(methods.naive(_TASKS), steps, schedule=lambda at: at)
  chunk = jax.jit(life.chunk, static_argnums=4)
  state = life.start(_HYPER, _SOURCES[0])
  for t, number in enumerate(steps):
    before = float(state.phi['net']['seen'].sum())
    for start in (0, 4):
      state, loss = chunk(state, _HYPER, _SOURCES[t], np.int32(start), 4)
      assert np.isfinite(loss)
    added = float(state.phi['net']['seen'].sum()) - before
    own = np.arange(number) * 6 / number
    np.testing.assert_allclose(added, _BATCH * own.sum(), rtol=1e-5)
  assert int(state.step) == sum(steps)
  assert chunk._cache_size() == 1


def _held(importance, per_example):
  """A penalty that moves a weight by `importance` in a step from 0."""
  update = lambda ending, phi, params, state: state
  made = anchors.method(
    _TASKS, update, 'theta', scale=0.5 / _ROWS, per_example=per_example
  )
  held = lambda phi: anchors.Anchor(
    jax.tree.map(lambda x: jnp.full_like(x, importance), phi),
    jax.tree.map(jnp.ones_like, phi),
  )
  return made._replace(init=lambda key, phi, psi, gradient: (phi, held(phi)))


@pytest.mark.parametrize('per_example', [True, False])
def test_a_penalty_is_divided_by_the_examples_of_its_task(per_example):
  life = _life(_held(24.0, per_example), ())
  state = life.start(_HYPER, _SOURCES[0])
  for t, size in enumerate(_SIZES):
    after, _ = life.chunk(state, _HYPER, _SOURCES[t], np.int32(0), 1)
    other = after.phi['net']['seen'][(t + 1) % len(_SIZES)]
    number = size if per_example else _ROWS
    np.testing.assert_allclose(other, 24.0 / number, rtol=1e-6)


@pytest.mark.parametrize('make', [methods.vcl, methods.online_laplace])
def test_bayes_rule_counts_the_examples(make):
  shapes = {'net': {'w': jax.ShapeDtypeStruct((2, 2), jnp.float32)}}
  made = make(_TASKS._replace(shapes=shapes))
  assert made.continual.penalty.per_example
  assert not methods.ewc(_TASKS).continual.penalty.per_example
