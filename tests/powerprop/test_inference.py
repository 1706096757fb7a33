"""Which task an example is of: each way against what it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerprop import inference
from powerprop.types import Continual

_INPUTS, _OUTPUTS = 6, 4


def _records(number, seed=0):
  """A matrix for each task, and a net's state with a counter."""
  w = jax.random.normal(jax.random.key(seed), (number, _INPUTS, _OUTPUTS))
  return w, {'count': jnp.arange(number), 'shift': 0.1 * w[:, 0, 0]}, {}


def _nets(number, seen=None):
  """Linear nets: a record's share of θ, moved by the net's state."""
  continual = Continual(
    predict=lambda theta, kept: theta * kept, needs_identity=True
  )
  return inference.of_records(
    continual,
    jnp.full((_INPUTS, _OUTPUTS), 2.0),
    _records(number),
    lambda w, state, x: x @ w + state['shift'] * (state['count'] >= 0),
    seen,
  )


def _matrix(number):
  w, state, _ = _records(number)
  return 2 * np.asarray(w, np.float64), np.asarray(state['shift'])


def _inputs(*shape):
  return jax.random.normal(jax.random.key(1), (*shape, _INPUTS))


def test_answers_are_those_of_each_net():
  x = _inputs(5)
  found = inference.answers(_nets(3), x)
  w, shift = _matrix(3)
  for t in range(3):
    logits = np.asarray(x) @ w[t] + shift[t]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(
      found.energy[t], np.log(np.exp(logits).sum(-1)), rtol=1e-4
    )
    np.testing.assert_allclose(
      found.entropy[t], (p * np.log(p)).sum(-1) / np.log(4), rtol=1e-3
    )
    np.testing.assert_array_equal(found.label[t], logits.argmax(-1))


def test_a_task_answers_with_its_own_outputs():
  seen = jnp.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]], bool)
  found = inference.answers(_nets(3, seen), _inputs(50))
  assert set(np.unique(found.label[0])) == {0, 1}
  assert set(np.unique(found.label[1])) == {2, 3}
  # Of one output there is nothing to be unsure of: it says nothing.
  assert (found.label[2] == 3).all() and (found.entropy[2] == -1).all()
  assert (np.asarray(found.entropy[:2]) > -1.001).all()
  mean = inference.mixture(_nets(3, seen), jnp.array([0.5, 0.5, 0.0]))
  assert _nets(3, seen).answer(mean, _inputs(2))[1].all()


def test_batches_are_asked_together():
  scores = jnp.array([[3.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
  assert inference.chosen(scores).tolist() == [0, 1, 1, 1]
  assert inference.chosen(scores, 2).tolist() == [0, 1]


def test_a_mixture_is_the_mean_of_its_nets():
  nets = _nets(5)
  shares = jnp.full(5, 1 / 3)
  found, state, _ = inference.mixture(nets, shares, 1, 4)
  w, shift = _matrix(5)
  np.testing.assert_allclose(found, w[1:4].mean(0), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(state['shift'], shift[1:4].mean(), rtol=1e-5)
  assert state['count'].dtype == nets.net(jnp.int32(0))[1]['count'].dtype


def _spread(x, w, shift):
  return np.log(np.var(np.asarray(x, np.float64) @ w + shift, axis=-1))


def _halved(x, number):
  """The search, task by task in plain Python, and its narrowest decision."""
  w, shift = _matrix(number)
  levels, node, margin = (number - 1).bit_length(), 0, np.inf
  for level in range(1, levels + 1):
    edges = [number * (2 * node + k) >> level for k in range(3)]
    halves = [range(*edges[:2]), range(*edges[1:])]
    scores = [
      _spread(x, w[h].mean(0), shift[h].mean()).mean() if h else -np.inf
      for h in halves
    ]
    margin = min(margin, abs(scores[1] - scores[0]))
    node = 2 * node + int(scores[1] > scores[0])
  return number * node >> levels, margin


@pytest.mark.parametrize(('number', 'block'), [(2, 1), (3, 3), (5, 1), (8, 3)])
def test_halves_are_those_of_a_plain_search(number, block):
  units = _inputs(7, 2)
  found = jax.jit(lambda x: inference.by_halves(_nets(number), x, block))(units)
  wanted = [_halved(x, number) for x in units]
  assert min(margin for _, margin in wanted) > 1e-3
  assert found.tolist() == [task for task, _ in wanted]
  assert number < 5 or len(set(found.tolist())) > 1


def _derivatives(x, alive):
  """By hand, of a mixture of these tasks."""
  w, shift = _matrix(len(alive))
  share = alive / alive.sum()

  def mean(s):
    return _spread(x, np.tensordot(s, w, 1), s @ shift).mean()

  step = 1e-5 * np.eye(len(alive))
  return np.array([(mean(share + e) - mean(share - e)) / 2e-5 for e in step])


@pytest.mark.parametrize('number', [2, 5])
def test_gradients_are_those_of_the_shares(number):
  nets = _nets(number)
  once = jax.jit(inference.by_gradient, static_argnums=(0, 2))
  for seed in range(3):
    x = _inputs(4, 8)[seed]
    found = _derivatives(x, np.ones(number))
    assert np.diff(np.sort(found))[-1] > 1e-3
    assert once(nets, x, False) == found.argmax()
    alive = np.ones(number)
    while alive.sum() > 1:
      found = np.where(alive, _derivatives(x, alive), -np.inf)
      order, left = np.argsort(-found), int(alive.sum() + 1) // 2
      # Or rounding would decide.
      assert found[order[left - 1]] - found[order[left]] > 1e-3
      alive = np.isin(np.arange(number), order[:left])
    assert once(nets, x, True) == alive.argmax()


def test_small_outputs_are_told_apart():
  """Where the entropy of a mixture is that of chance to the last bit."""
  seen = jnp.ones(4, bool)
  outputs = 1e-7 * jnp.array([[0.0, 1.0, 0.0, 1.0], [0.0, 3.0, 0.0, 3.0]])
  low, high = inference.spread(outputs, seen)
  np.testing.assert_allclose(high - low, 2 * np.log(3), rtol=1e-4)
  assert np.isfinite(inference.spread(jnp.zeros((1, 4)), seen)).all()


def test_inputs_say_which_order_they_are_in():
  rng = np.random.default_rng(0)
  orders = [rng.permutation(20) for _ in range(30)]
  x = rng.normal(np.linspace(0, 4, 20), 1.0, (600, 20)).astype(np.float32)
  x[:, 3] = 1.0  # always the same
  kept = [inference.moments(jnp.asarray(x[:500][:, o])) for o in orders]
  kept = jax.tree.map(lambda *a: jnp.stack(a), *kept)
  some = jnp.asarray(np.concatenate([x[500:510][:, o] for o in orders]))
  scores = inference.log_likelihood(kept, some)
  assert np.isfinite(scores).all()
  true = np.repeat(np.arange(30), 10)
  assert np.mean(inference.chosen(scores) == true) > 0.9
  assert (inference.chosen(scores, 10) == true[::10]).all()


def test_nothing_to_infer_is_a_sentence():
  outputs = lambda w, state, x: x @ w
  masks = Continual(needs_identity=True)
  with pytest.raises(ValueError, match='a record of 1 task .* at least 2'):
    inference.of_records(masks, 1.0, _records(1), outputs)
  with pytest.raises(ValueError, match='one net, so there is no task to infer'):
    inference.of_records(Continual(), 1.0, (), outputs)
