"""Batches as functions of a key: each example once an epoch, any window."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerprop import batches

_SIZES = [(12, 4), (13, 4), (7, 7), (9, 5), (5, 1)]


@functools.cache
def _whole(num_examples, batch_size):
  """The first 15 steps of a key: three epochs or more of every size."""
  return batches.batch_indices(
    jax.random.key(1), 0, 15, num_examples, batch_size
  )


def _windows(key, sizes, num_examples, batch_size, start=0):
  rows = []
  for size in sizes:
    rows.append(
      batches.batch_indices(key, start, size, num_examples, batch_size)
    )
    start += size
  return np.concatenate(rows)


@pytest.mark.parametrize(('num_examples', 'batch_size'), _SIZES)
def test_an_epoch_holds_each_example_at_most_once(num_examples, batch_size):
  per_epoch = num_examples // batch_size
  rows = _whole(num_examples, batch_size)
  assert rows.shape == (15, batch_size)
  assert rows.dtype == jnp.int32
  epochs = np.asarray(rows[: 3 * per_epoch]).reshape(3, per_epoch * batch_size)
  for epoch in epochs:
    assert len(set(epoch)) == per_epoch * batch_size
    assert set(epoch) <= set(range(num_examples))
  if num_examples > batch_size > 1:
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize(('num_examples', 'batch_size'), _SIZES)
def test_windows_compose(num_examples, batch_size):
  key, whole = jax.random.key(1), _whole(num_examples, batch_size)
  for sizes in ((1,) * 15, (7, 1, 7), (1, 7, 7), (7, 7, 1)):
    np.testing.assert_array_equal(
      _windows(key, sizes, num_examples, batch_size), whole
    )


def test_all_orders_are_equally_likely():
  keys = jax.random.split(jax.random.key(2), 12_000)
  epochs = jax.vmap(lambda k: batches.batch_indices(k, 5, 1, 3, 3))(keys)
  orders, counts = np.unique(epochs, axis=0, return_counts=True)
  assert orders.shape == (6, 1, 3)
  np.testing.assert_allclose(counts, 2_000, atol=200)  # 4.9 deviations.


def test_large_splits_are_shuffled_well():
  """Neither an example's place nor its neighbour tells where it goes."""
  n = 50_000
  order = np.asarray(batches.batch_indices(jax.random.key(3), 0, 1, n, n)[0])
  np.testing.assert_array_equal(np.sort(order), np.arange(n))
  place = np.argsort(order)
  for other in (np.arange(n), np.roll(place, 1)):
    assert abs(np.corrcoef(place, other)[0, 1]) < 5 / np.sqrt(n)
  # Close neighbours stay in order half of the time.
  assert np.mean(place[1:] > place[:-1]) == pytest.approx(0.5, abs=0.01)


def test_start_may_be_traced():
  key = jax.random.key(1)

  def body(start, _):
    return start + 5, batches.batch_indices(key, start, 5, 13, 4)

  _, rows = jax.jit(lambda: jax.lax.scan(body, jnp.int32(0), length=3))()
  np.testing.assert_array_equal(rows.reshape(15, 4), _whole(13, 4))


def test_new_windows_do_not_recompile():
  batches.batch_indices.clear_cache()
  for start in (0, 4, 1_000):
    batches.batch_indices(jax.random.key(0), start, 4, 13, 4)
  assert batches.batch_indices._cache_size() == 1


def test_vmapped_equals_looped_and_keys_differ():
  keys = jax.random.split(jax.random.key(4), 3)
  vmapped = jax.vmap(lambda k: batches.batch_indices(k, 2, 6, 13, 4))(keys)
  looped = np.stack([batches.batch_indices(k, 2, 6, 13, 4) for k in keys])
  np.testing.assert_array_equal(vmapped, looped)
  assert not np.array_equal(looped[0], looped[1])


def test_of_all_examples_the_first_alone():
  """As an epoch of so many; all of them are what they are without."""
  key = jax.random.key(1)
  rows = lambda start, number, size: batches.batch_indices(
    key, start, number, 13, 4, jnp.int32(size)
  )
  np.testing.assert_array_equal(rows(0, 15, 13), _whole(13, 4))
  batches.batch_indices.clear_cache()
  for size in (4, 8, 10):
    whole = np.asarray(rows(0, 15, size))
    parts = [rows(start, 5, size) for start in (0, 5, 10)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    per_epoch = size // 4
    for epoch in np.split(whole[: 6 * per_epoch], 6):
      assert len(set(epoch.ravel())) == epoch.size
      assert epoch.max() < size
    assert not np.array_equal(whole[:per_epoch], whole[per_epoch:][:per_epoch])
  assert batches.batch_indices._cache_size() == 2  # of 15 steps, and of 5
  few = np.asarray(rows(0, 6, 3))  # less than a batch
  assert (np.sort(few)[:, [0, -1]] == [0, 2]).all()


@pytest.mark.parametrize(
  ('num_steps', 'batch_size', 'match'),
  [
    (0, 4, 'num_steps'),
    (1, 0, 'batch_size'),
    (1, 14, r'\[1, num_examples = 13\], got 14'),
  ],
)
def test_batch_arguments_out_of_range(num_steps, batch_size, match):
  with pytest.raises(ValueError, match=match):
    batches.batch_indices(jax.random.key(0), 0, num_steps, 13, batch_size)
