"""Tasks of pictures as a problem: how their splits are scored."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data
from experiments.engine import classification


def test_a_small_task_is_scored_on_its_own_batches(monkeypatch):
  """Of 4 rows each, the last one padded; rows beyond them would show."""
  monkeypatch.setattr(classification, '_EVALUATION_BATCH', 4)
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(10, 3)).astype(np.float32)
  label = rng.integers(0, 3, 10).astype(np.int32)
  weights = np.array([1.0, 0.5], np.float32)  # two members

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, None, 0))
  def score(shown, count, w):
    take = lambda rows: data.Examples(rows, jnp.asarray(label)[rows], rows)
    return classification.scored(
      lambda examples: w * shown[examples.image], take, 10, count
    )

  prints = jax.jit(classification.fingerprint)
  for count, batches in ((10, 3), (6, 2), (4, 1), (3, 1)):
    walked = np.arange(10)[:, None] < 4 * batches
    found = score(np.where(walked, logits, np.nan), count, weights)
    for m, w in enumerate(weights):
      mine = w * logits[:count]
      nll = np.log(np.exp(mine).sum(axis=1)) - mine[range(count), label[:count]]
      right = (mine.argmax(axis=1) == label[:count]).mean()
      assert found.value[m] == pytest.approx(right, rel=1e-6)
      assert found.loss[m] == pytest.approx(nll.mean(), rel=1e-5)
      np.testing.assert_array_equal(
        found.fingerprint[m],
        prints(w * logits, np.arange(10), np.arange(10) < count),
      )
