"""Sequences of tasks, against what their papers say of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data

_SEEDS = (0, 1)
_TASKS = 3


def _dataset(name='fake', side=4, classes=6, numbers=(30, 12, 9)):
  """Pictures whose pixels all differ; classes have different numbers."""
  rng = np.random.default_rng(0)

  def split(n):
    image = rng.integers(0, 256, (n, side, side, 1), np.uint8)
    label = np.minimum(rng.integers(0, classes + 2, n), classes - 1)
    label[:classes] = np.arange(classes)
    return data.Split(image, label.astype(np.int32))

  train, validation, test = map(split, numbers)
  return data.Dataset(name, train, validation, test, classes, 1 / 255)


@functools.cache
def _tables(name, num_tasks, side=4, seed=0):
  """What the tasks are; it is the same in all scenarios."""
  sequence = data.SEQUENCES[name](_dataset(side=side), num_tasks, 'domain')
  return jax.device_get(jax.jit(sequence.tables)(seed))


def _source(sequence, task, now=None, seed=0):
  """On the host, where nothing is to be compiled."""
  splits = {name: getattr(sequence.dataset, name) for name in data.SPLITS}
  side = sequence.dataset.train.image.shape[1]
  if sequence.num_classes == sequence.dataset.num_classes:
    tables = _tables('permuted', sequence.num_tasks, side, seed)
  else:
    tables = sequence.tables(seed)
  now = task if now is None else now
  return data.Source(splits, tables, jnp.int32(task), jnp.int32(now))


def _take(sequence, task, split='train', rows=None, now=None, seed=0):
  """Examples, as arrays on the host; by default all of the split's."""
  size = int(sequence.sizes[split][task])
  rows = np.arange(size) if rows is None else np.asarray(rows)
  source = _source(sequence, task, now, seed)
  return jax.device_get(data.examples(sequence, source, split, rows))


@pytest.fixture(scope='module')
def orders():
  """Tables of permuted tasks, by seed; [tasks, pixels]."""
  return {seed: _tables('permuted', _TASKS, seed=seed) for seed in _SEEDS}


def test_permutations(orders):
  plain = np.arange(16)
  for seed in _SEEDS:
    assert orders[seed].shape == (_TASKS, 16)
    np.testing.assert_array_equal(orders[seed][0], plain)
    for order in orders[seed]:
      np.testing.assert_array_equal(np.sort(order), plain)
  others = [orders[seed][t] for seed in _SEEDS for t in range(1, _TASKS)]
  assert len({tuple(order) for order in (*others, plain)}) == 2 * _TASKS - 1
  sequence = data.SEQUENCES['permuted'](_dataset(), _TASKS, 'domain')
  np.testing.assert_array_equal(sequence.tables(1), orders[1])


@pytest.mark.parametrize('split', data.SPLITS)
def test_permuted_pictures(orders, split):
  """All pixels of a picture in the task's order, whatever the split."""
  dataset = _dataset()
  sequence = data.SEQUENCES['permuted'](dataset, _TASKS, 'domain')
  plain = getattr(dataset, split)
  n = len(plain.label)
  np.testing.assert_array_equal(sequence.sizes[split], [n] * _TASKS)
  for task in range(_TASKS):
    got = _take(sequence, task, split, seed=1)
    assert got.image.dtype == np.uint8
    pixels = plain.image.reshape(n, -1)[:, orders[1][task]]
    np.testing.assert_array_equal(got.image.reshape(n, -1), pixels)
    np.testing.assert_array_equal(got.label, plain.label)
  # Rows go round.
  got = _take(sequence, 1, split, rows=[n + 2, 2, 3 * n], seed=1)
  np.testing.assert_array_equal(got.label, plain.label[[2, 2, 0]])


@pytest.mark.parametrize('name', ['permuted', 'split'])
def test_mnist_is_padded_and_normalised(name):
  dataset = _dataset('mnist', side=28)
  sequence = data.SEQUENCES[name](dataset, 2, 'domain')
  assert (sequence.mean, sequence.std) == (0.1, 0.2752)
  for split in data.SPLITS:
    old = getattr(dataset, split).image
    new = getattr(sequence.dataset, split).image
    assert new.shape == (len(old), 32, 32, 1)
    assert new.dtype == np.uint8
    np.testing.assert_array_equal(new[:, 2:-2, 2:-2], old)
    assert new.astype(int).sum() == old.astype(int).sum()
  black = data.normalise(np.zeros(1, np.uint8), 1 / 255, 0.1, 0.2752)
  np.testing.assert_allclose(black, -0.1 / 0.2752, rtol=1e-6)
  # Permuted, the border goes all over the picture.
  got = _take(sequence, 1).image
  assert got.shape[1:] == (32, 32, 1)
  assert bool(got[:, 0].any()) == (name == 'permuted')


@pytest.mark.parametrize('name', ['permuted', 'split'])
def test_mnist_may_stay_as_it_is(name):
  dataset = _dataset('mnist', side=28)
  sequence = data.SEQUENCES[name](dataset, 2, 'domain', padded=False)
  assert (sequence.mean, sequence.std) == (0, 1)
  assert _take(sequence, 1).image.shape[1:] == (28, 28, 1)


def test_other_data_sets_stay_as_they_are():
  dataset = _dataset()
  for name in ('permuted', 'split'):
    sequence = data.SEQUENCES[name](dataset, 2, 'domain')
    assert (sequence.mean, sequence.std) == (0, 1)
    assert sequence.dataset.train.image.shape == (30, 4, 4, 1)


def _assert_all_see(examples, outputs):
  shape = len(examples.label), len(outputs)
  wanted = np.broadcast_to(outputs, shape)
  np.testing.assert_array_equal(examples.visible, wanted)


@pytest.mark.parametrize(('name', 'classes'), [('permuted', 6), ('split', 2)])
@pytest.mark.parametrize('scenario', data.SCENARIOS)
def test_scenarios(name, classes, scenario):
  sequence = data.SEQUENCES[name](_dataset(), _TASKS, scenario)
  outputs = classes if scenario == 'domain' else _TASKS * classes
  assert sequence.num_classes == classes
  assert sequence.num_outputs == outputs
  first = 0 if scenario == 'domain' else 2 * classes
  last = _take(sequence, 2)
  assert last.label.dtype == np.int32
  np.testing.assert_array_equal(
    np.unique(last.label), first + np.arange(classes)
  )
  seen = {
    'task': [False, True, False],
    'domain': [True],
    'class': [True, True, True],
  }[scenario]
  after_third = _take(sequence, 1, now=2)
  _assert_all_see(after_third, np.repeat(seen, classes))
  at_once = _take(sequence, 1)
  wanted = [True, True, False] if scenario == 'class' else seen
  _assert_all_see(at_once, np.repeat(wanted, classes))
  assert at_once.visible[np.arange(len(at_once.label)), at_once.label].all()


@pytest.mark.parametrize('split', data.SPLITS)
def test_split_has_every_example_of_its_classes(split):
  dataset = _dataset()
  sequence = data.SEQUENCES['split'](dataset, _TASKS, 'class')
  plain = getattr(dataset, split)
  sizes = sequence.sizes[split]
  assert sizes.sum() == len(plain.label)
  assert len(set(sizes.tolist())) > 1  # or the test would show nothing
  for task in range(_TASKS):
    mine = np.flatnonzero(plain.label // 2 == task)
    assert sizes[task] == len(mine)
    got = _take(sequence, task, split)
    np.testing.assert_array_equal(got.image, plain.image[mine])
    np.testing.assert_array_equal(got.label, plain.label[mine])
    # Rows of a shorter task go round before those of the largest end.
    rows = np.arange(2 * sizes.max())
    got = _take(sequence, task, split, rows=rows)
    wanted = plain.image[mine][rows % len(mine)]
    np.testing.assert_array_equal(got.image, wanted)


def test_split_is_the_same_for_all_seeds():
  sequence = data.SEQUENCES['split'](_dataset(), _TASKS, 'domain')
  jax.tree.map(
    np.testing.assert_array_equal, sequence.tables(0), sequence.tables(1)
  )


def test_classes_that_do_not_divide_evenly():
  """The first tasks have one more."""
  sequence = data.SEQUENCES['split'](_dataset(), 4, 'class')
  assert sequence.num_classes == (2, 2, 1, 1) and sequence.num_outputs == 6
  assert set(np.asarray(_take(sequence, 2).label)) == {4}
  assert data.SEQUENCES['split'](_dataset(), 4, 'domain').num_outputs == 2


@pytest.mark.parametrize('scenario', data.SCENARIOS)
def test_the_classes_of_each_task_may_be_given(scenario):
  """In any order, which is that of the outputs; some may be in none."""
  groups = [[5, 0], [3], [1, 4]]
  sequence = data.SEQUENCES['split'](_dataset(), 3, scenario, classes=groups)
  plain = sequence.dataset.train
  assert sequence.num_classes == (2, 1, 2)
  first = 0
  for task, group in enumerate(groups):
    found = _take(sequence, task)
    mine = np.flatnonzero(np.isin(plain.label, group))
    np.testing.assert_array_equal(found.image, plain.image[mine])
    within = [group.index(c) for c in plain.label[mine]]
    np.testing.assert_array_equal(found.label, first + np.array(within))
    own = range(first, first + len(group))
    wanted = own if scenario != 'class' else range(own.stop)
    _assert_all_see(found, np.isin(np.arange(sequence.num_outputs), wanted))
    first += 0 if scenario == 'domain' else len(group)


def test_so_many_classes_for_each_task():
  """In turn, and the rest in none."""
  mine = data.SEQUENCES['split'](_dataset(), 2, 'class', per_task=2)
  same = data.SEQUENCES['split'](
    _dataset(), 2, 'class', classes=[[0, 1], [2, 3]]
  )
  assert mine.num_classes == 2 and mine.num_outputs == 4
  for split, sizes in same.sizes.items():
    np.testing.assert_array_equal(mine.sizes[split], sizes)
  for task in range(2):
    jax.tree.map(
      np.testing.assert_array_equal, _take(mine, task), _take(same, task)
    )
  for tasks, per_task, classes in ((3, 3, ()), (2, -1, ()), (1, 2, [[0, 1]])):
    with pytest.raises(data.DataError, match=f'per_task is {per_task} but'):
      data.SEQUENCES['split'](
        _dataset(), tasks, 'task', classes=classes, per_task=per_task
      )


@pytest.mark.parametrize(
  ('num_tasks', 'classes', 'match'),
  [
    (7, (), 'num_tasks is 7.*of fake.*lower it to 6'),
    (2, [[0, 1]], 'a list for each task, and num_tasks is 2'),
    (2, [[0, 6], [1]], 'classes of fake, which are 0 to 5'),
    (2, [[0, 1], [1, 2]], 'without any class in two tasks'),
    (2, [[0], []], 'a list of lists'),
    (2, [0, 1], 'a list of lists'),
    (1, [[0.5]], 'a list of lists'),
  ],
)
def test_classes_that_cannot_be_shared_out(num_tasks, classes, match):
  with pytest.raises(data.DataError, match=match):
    data.SEQUENCES['split'](_dataset(), num_tasks, 'domain', classes=classes)


def test_tasks_are_traced():
  """One program for all tasks: what a sequence needs to be compiled once."""
  sequence = data.SEQUENCES['split'](_dataset(), _TASKS, 'task')
  source = jax.tree.map(jnp.asarray, _source(sequence, 0))
  take: Any = jax.jit(
    lambda task, rows: data.examples(
      sequence, source._replace(task=task, now=task), 'test', rows
    )
  )
  rows = jnp.arange(5)
  for task in range(_TASKS):
    got = take(jnp.int32(task), rows)
    wanted = _take(sequence, task, 'test', rows)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
  assert take._cache_size() == 1


def test_a_task_without_examples_is_an_error():
  dataset = _dataset()
  label = np.minimum(dataset.test.label, 3)
  dataset = dataset._replace(test=dataset.test._replace(label=label))
  with pytest.raises(data.DataError, match='task 3 of 3 has no test examples'):
    data.SEQUENCES['split'](dataset, 3, 'domain')


# Tasks of 2, 1 and 3 of the six classes.
_COUNTS, _FIRSTS = (2, 1, 3), np.array([0, 2, 3])


def _unequal(scenario, **fields):
  """A sequence of one's own, whose tasks differ in their classes."""
  dataset = _dataset()
  rows = {
    name: [
      np.flatnonzero((label >= f) & (label < f + n))
      for f, n in zip(_FIRSTS, _COUNTS, strict=True)
    ]
    for name in data.SPLITS
    for label in [getattr(dataset, name).label]
  }
  tables = {
    name: np.stack([np.resize(r, max(map(len, several))) for r in several])
    for name, several in rows.items()
  }

  def pick(tables, split, name, task, rows):
    rows = tables[name][task][rows]
    label = jnp.asarray(split.label)[rows] - jnp.asarray(_FIRSTS)[task]
    return jnp.asarray(split.image)[rows], label

  made = data.Sequence(
    dataset,
    scenario,
    3,
    _COUNTS,
    max(_COUNTS) if scenario == 'domain' else sum(_COUNTS),
    {n: np.array([len(r) for r in several]) for n, several in rows.items()},
    0.0,
    1.0,
    lambda seed: jax.tree.map(jnp.asarray, tables),
    pick,
  )
  return made._replace(**fields)


@pytest.mark.parametrize('scenario', data.SCENARIOS)
def test_tasks_may_differ_in_their_classes(scenario):
  sequence = data.checked_sequence('mine:f', _unequal(scenario))
  splits = {n: getattr(sequence.dataset, n) for n in data.SPLITS}
  for task in range(3):
    source = data.Source(
      splits, sequence.tables(0), jnp.int32(task), jnp.int32(task)
    )
    rows = np.arange(int(sequence.sizes['train'][task]))
    found = data.examples(sequence, source, 'train', rows)
    first = 0 if scenario == 'domain' else _FIRSTS[task]
    mine = np.arange(first, first + _COUNTS[task])
    assert set(np.asarray(found.label)) == set(mine)
    visible = np.flatnonzero(found.visible.any(axis=0))
    expected = {
      'task': mine,
      'class': np.arange(mine[-1] + 1),
      'domain': mine,
    }[scenario]
    np.testing.assert_array_equal(visible, expected)


@pytest.mark.parametrize(
  'made, parts',
  [
    (lambda: [1, 2], ['type list', 'a data.Sequence']),
    (lambda: _unequal('all'), ["scenario 'all'", 'task, domain, class']),
    (lambda: _unequal('task', num_tasks=0), ['num_tasks 0']),
    (lambda: _unequal('task', num_classes=(3, 3)), ['num_classes (3, 3)']),
    (lambda: _unequal('task', num_classes=2.0), ['num_classes 2.0']),
    (lambda: _unequal('task', num_outputs=7), ['num_outputs 7', 'be 6']),
    (lambda: _unequal('domain', num_outputs=6), ['num_outputs 6', 'be 3']),
    (lambda: _unequal('task', sizes={}), ["sizes['train'] None"]),
    (
      lambda: _unequal('task', pick=lambda *_: (jnp.ones(2), jnp.ones(2))),
      ['float32[2] and float32[2]', 'uint8[2, 4, 4, 1] and int32[2]'],
    ),
  ],
)
def test_a_sequence_of_ones_own_breaks_a_promise(made, parts):
  with pytest.raises(data.DataError) as error:
    data.checked_sequence('mine:f', made())
  text = str(error.value)
  assert all(part in text for part in ["sequence 'mine:f'", *parts]), text
  assert text.endswith('.') and '\n' not in text and len(text) < 400
