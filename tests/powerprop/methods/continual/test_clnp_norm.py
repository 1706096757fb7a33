"""CLNP under batch normalisation: what is active has averages that stay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import networks
from powerprop import methods
from powerprop import units as units_lib
from powerprop.methods.continual import clnp as clnp_lib
from tests import lifetime_tiny

_NET = functools.partial(networks.small_conv, channels=(6,), hidden=(20,))
_NORMS = {'conv_0': 'conv_0_norm/~/', 'hidden_0': 'hidden_0_norm/~/'}
_STEPS = 20


@pytest.fixture(autouse=True, scope='module')
def _batches():
  with lifetime_tiny.batches_in_turn():
    yield


@functools.cache
def _learned(scenario, retrain_steps=0):
  """Two tasks: the states before and after each, records, and evaluations."""
  setup = lifetime_tiny.setup(
    functools.partial(methods.clnp, margin=0.2, average_examples=60),
    scenario,
    retrain_steps=retrain_steps,
    network=_NET,
  )
  life, hyper = setup.life, lifetime_tiny.hyper(rate=0.02, coefficient=1e-3)
  chunk = jax.jit(life.chunk, static_argnums=4)

  @jax.jit
  def finish(state, source):
    state, report = life.end(state, hyper, source)
    if life.rechunk is not None:
      state, _ = life.rechunk(state, hyper, source, 0, retrain_steps)
    return *life.archive(state, hyper, source), report

  recall = jax.jit(
    lambda state, record, source: life.recall(
      state, record, source, 'validation'
    )
  )
  states = [life.start(hyper, lifetime_tiny.source(0))]
  trained, records, reports, found = [], [], [], []
  for t in range(2):
    source = lifetime_tiny.source(t)
    state = life.begin(states[-1], hyper)
    state, _ = chunk(state, hyper, source, np.int32(0), _STEPS)
    trained.append(state)
    state, record, report = finish(state, source)
    states.append(state)
    records.append(record)
    reports.append(report)
    found.append(
      [recall(state, r, lifetime_tiny.source(j)) for j, r in enumerate(records)]
    )
  return setup, jax.device_get((states, trained, records, reports, found))


_RUNS = [('domain', 0), ('task', 8)]


@pytest.mark.parametrize('run', _RUNS)
def test_earlier_tasks_stay_bit_for_bit(run):
  setup, (states, trained, records, reports, found) = _learned(*run)
  np.testing.assert_array_equal(
    found[1][0].fingerprint, found[0][0].fingerprint
  )
  for t, report in enumerate(reports):  # the score is that of what is kept
    if not run[1]:
      assert report['pruned_accuracy'] == found[t][t].value
    assert report['reached']
  active = states[1].method.active
  assert 0 < sum(map(np.sum, active.values())) < 26
  old, new = records[0][1], trained[1].net
  for name, norm in _NORMS.items():
    for which in ('mean_ema', 'var_ema'):
      module = norm + which
      was, now = old[module]['average'], new[module]['average']
      mine = np.broadcast_to(active[name], was.shape)
      # Those of active units are the first task's, and the others have moved.
      np.testing.assert_array_equal(now[mine], was[mine])
      assert not np.any(now[~mine] == was[~mine])
      np.testing.assert_array_equal(new[module]['frozen'], active[name])
      assert not states[0].net[module]['frozen'].any()
      own = records[1][1][module]['average']
      np.testing.assert_array_equal(own[mine], was[mine])


def test_a_frozen_channel_answers_as_its_task_did_whatever_the_batch():
  setup, (states, _, records, _, _) = _learned(*_RUNS[0])
  active = states[1].method.active
  theta = states[1].phi  # α is 1
  rng = np.random.default_rng(0)
  first = rng.uniform(size=(4, 8, 8, 1)).astype(np.float32)
  batches = [
    np.concatenate([first, scale * rng.uniform(size=first.shape)])
    for scale in (1.0, 9.0)
  ]

  @functools.partial(jax.jit, static_argnums=2)
  def answers(net_state, x, is_training):
    apply = functools.partial(setup.pictures.net.apply, theta, net_state, None)
    return units_lib.with_activations(apply)(x, is_training=is_training)[1]

  one, other = (
    answers(states[1].net, x.astype(np.float32), True) for x in batches
  )
  task = answers(records[0][1], batches[0].astype(np.float32), False)
  for name, which in active.items():
    mine = [np.asarray(x[name])[:4] for x in (one, other, task)]
    assert mine[0][..., which].any()
    np.testing.assert_array_equal(mine[0][..., which], mine[1][..., which])
    np.testing.assert_allclose(
      mine[0][..., which], mine[2][..., which], rtol=1e-4, atol=1e-5
    )
    if not which.all():
      assert np.abs(mine[0] - mine[1])[..., ~which].max() > 1e-3


@pytest.mark.parametrize('run', _RUNS)
def test_a_tasks_net_is_the_narrow_net_that_it_is(run):
  """`test_units` has it to the bit, where no sum is rounded."""
  setup, (states, _, records, _, _) = _learned(*run)
  found = setup.tasks.units()
  image = jax.random.uniform(jax.random.key(0), (5, 8, 8, 1))
  for record, net_state, _ in records:
    kept = clnp_lib.units_of(found, record)
    theta = setup.method.continual.predict(states[-1].phi, record)
    smaller, its_state = units_lib.narrow(found, kept, theta, net_state)
    sizes = [int(x.sum()) for x in kept.values()]
    net = networks.small_conv(
      setup.sequence.num_outputs, (sizes[0],), (sizes[1],)
    )
    wide, thin = (
      n.apply(w, s, None, image, is_training=False)[0]
      for n, w, s in (
        (setup.pictures.net, theta, net_state),
        (net, smaller, its_state),
      )
    )
    np.testing.assert_allclose(wide, thin, rtol=1e-4, atol=1e-5)
    # And learns on: frozen channels of a narrow net are those of the wide one.
    _, after = net.apply(smaller, its_state, None, image, is_training=True)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, its_state)


def test_averages_below_0_are_refused():
  with pytest.raises(ValueError, match='average_examples is -1'):
    lifetime_tiny.setup(functools.partial(methods.clnp, average_examples=-1))
