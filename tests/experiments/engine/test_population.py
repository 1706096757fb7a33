"""Trainings as functions, populations, executors and sharding."""

import functools
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import data
from experiments.engine import classification
from experiments.engine import feed
from experiments.engine import making
from experiments.engine import networks
from experiments.engine import population
from experiments.engine import trainings
from experiments.engine.settings import ConfigError
from powerprop import batches
from powerprop import reparam
from powerprop import train
from powerprop import transforms
from powerprop.psi import Psi
from tests import tiny

_STEPS = 5
_SHAPE = (6, 6, 1)


def _split(n, seed=0):
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (n, *_SHAPE), np.uint8)
  return data.Split(image, rng.integers(0, 10, n).astype(np.int32))


TRAIN, VALIDATION = _split(40), _split(25, 1)
DATASET = data.Dataset('tiny', TRAIN, VALIDATION, VALIDATION, 10, 1 / 255)
FEED = feed.Held(DATASET, None)


NET = networks.mlp(10, hidden=(16,))


def _problem(net=NET):
  pictures = classification.Pictures(net, _SHAPE, 1 / 255)
  return classification.classification(pictures)


def _recipe(optimizer=optax.sgd, **fields):
  recipe = train.Recipe(
    problem=_problem(),
    optimizer=optimizer,
    batch_size=8,
    num_train=len(TRAIN.label),
    epsilon=0.01,
  )
  return recipe._replace(**fields)


_TRANSFORMS = {
  'powerprop': transforms.powerprop,
  'chain_rule': transforms.chain_rule,
  'adaptive_powerprop': functools.partial(
    transforms.adaptive_powerprop, every=2
  ),
}
_PSIS = {name: Psi(None, transform=fn) for name, fn in _TRANSFORMS.items()}


def _members(alphas=(1.0, 2.0), seeds=2, transform='powerprop', rate=0.1):
  return [
    population.Member(transform, a, rate, seed)
    for a in alphas
    for seed in range(seeds)
  ]


def _advance(cells, states, num_steps=_STEPS, start=0):
  new, reports = [None] * len(cells), [None] * len(cells)
  for i, state, report in trainings.advance(
    cells, states, (start, num_steps), FEED
  ):
    new[i], reports[i] = state, report
  return new, reports


def _by_member(cells, states):
  return {
    m: tree
    for cell, state in zip(cells, states, strict=True)
    for m, tree in zip(
      cell.members, population.unstack(cell, state), strict=True
    )
  }


def _train(recipe, members, executor, chunks=1):
  """By member: the final state, and the report of the last chunk."""
  cells = trainings.make_cells(recipe, _PSIS, members, executor)
  states = trainings.initial_states(recipe, cells, TRAIN)
  for chunk in range(chunks):
    states, reports = _advance(cells, states, start=chunk * _STEPS)
  reports = [trainings.Report(*(np.asarray(x) for x in r)) for r in reports]
  told = {
    m: trainings.Report(*(x[i] for x in r))
    for cell, r in zip(cells, reports, strict=True)
    for i, m in enumerate(cell.members)
  }
  return _by_member(cells, states), told


def _assert_same_bits(got, wanted):
  jax.tree.map(np.testing.assert_array_equal, got, wanted)


def _assert_close(got, wanted, rtol=2e-4, atol=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol),
    got,
    wanted,
  )


def sgd_and_adam(rate):
  """Of the one the output layer, of the other the layer below."""
  which = lambda params: {
    module: dict.fromkeys(leaves, 'output' in module)
    for module, leaves in params.items()
  }
  return optax.partition(
    {True: optax.sgd(rate), False: optax.adam(rate)}, which
  )


def assert_plain_optax(optimizer):
  """At a static α = 1, bit for bit the loop that one would write by hand."""
  recipe = _recipe(optimizer)
  seed, rate = 3, 0.1
  member = population.Member('powerprop', 1.0, rate, seed)
  states, _ = _train(recipe, [member], 'map')
  ours = states[member]

  key = jax.random.key(seed)
  params, net_state = NET.init(
    jax.random.fold_in(key, 0), jnp.zeros((1, *_SHAPE)), is_training=True
  )

  @jax.jit
  def plain(params, train_split):
    tx = optimizer(rate)
    rows_of = batches.batch_indices(
      jax.random.fold_in(key, 1), 0, _STEPS, 40, 8
    )

    def loss_fn(params, rows):
      image = train_split.image[rows].astype(jnp.float32) * (1 / 255)
      logits, _ = NET.apply(params, net_state, None, image, is_training=True)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, train_split.label[rows]
      ).mean()

    def step(carry, rows):
      params, opt = carry
      grads = jax.grad(loss_fn)(params, rows)
      updates, opt = tx.update(grads, opt, params)
      return (optax.apply_updates(params, updates), opt), None

    return jax.lax.scan(step, (params, tx.init(params)), rows_of)[0]

  params, opt = plain(params, TRAIN)
  _assert_same_bits(ours.phi, params)
  _assert_same_bits(jax.tree.leaves(ours.opt.inner), jax.tree.leaves(opt))


@pytest.mark.parametrize('transform', ['powerprop', 'adaptive_powerprop'])
def test_vmapped_is_looped(transform):
  adapts = transform == 'adaptive_powerprop'
  members = _members((1.5, 3.0) if adapts else (1.0, 3.0), transform=transform)
  looped, told = _train(_recipe(), members, 'map')
  stacked, told_stacked = _train(_recipe(), members, 'vmap')
  assert list(looped) == list(stacked) == members
  for m in members:
    _assert_close(stacked[m].phi, looped[m].phi)
    _assert_close(told_stacked[m], told[m])
    assert stacked[m].step == looped[m].step == _STEPS
    assert (told[m].alpha != m.alpha) == adapts


def test_initial_weights_are_the_seeds_whatever_alpha():
  recipe = _recipe()
  members = _members((1.0, 2.0, 3.5), seeds=2)
  cells = trainings.make_cells(recipe, _PSIS, members, 'map')
  states = trainings.initial_states(recipe, cells, TRAIN)
  theta = {
    c.members[0]: c.programs.read(s) for c, s in zip(cells, states, strict=True)
  }
  first = {m.seed: theta[m] for m in members if m.alpha == 1}
  for m in members:
    # Ψ(Ψ⁻¹(θ)) is θ to rounding.
    _assert_close(theta[m], first[m.seed], rtol=1e-5, atol=0)
    wanted, _ = train.initial_theta(recipe, m.seed)
    _assert_close(theta[m], wanted, rtol=1e-5, atol=0)
  assert not np.allclose(
    first[0]['output']['w'], first[1]['output']['w'], atol=0.01
  )


@pytest.mark.parametrize('executor', ['map', 'vmap'])
def test_nothing_is_compiled_twice_and_restored_chunks_have_the_same_bits(
  executor,
):
  recipe = _recipe(optax.adam)
  traces = []

  def apply(*args, **kwargs):
    traces.append(1)
    return NET.apply(*args, **kwargs)

  recipe = recipe._replace(problem=_problem(NET._replace(apply=apply)))
  cells = trainings.make_cells(recipe, _PSIS, _members((2.0,)), executor)
  states = trainings.initial_states(recipe, cells, TRAIN)
  states, _ = _advance(cells, states)
  count = len(traces)
  assert count
  host = jax.tree.map(np.asarray, states)
  on, _ = _advance(cells, states, start=_STEPS)
  restored = jax.tree.map(
    lambda new, old: jax.device_put(new, old.sharding), host, states
  )
  again, _ = _advance(cells, restored, start=_STEPS)
  assert len(traces) == count
  _assert_same_bits(again, on)


@pytest.mark.parametrize('executor', ['map', 'vmap'])
def test_a_member_that_diverges_leaves_the_others_alone(executor):
  """The same program with and without an absurd learning rate in it."""
  good = _members((2.0,), seeds=3)
  bad = [*good[:2], good[2]._replace(learning_rate=1e30)]
  wanted, _ = _train(_recipe(), good, executor, chunks=2)
  got, told = _train(_recipe(), bad, executor, chunks=2)
  for m in good[:2]:
    _assert_same_bits(got[m], wanted[m])
    assert told[m].finite and np.isfinite(told[m].loss)
  assert not told[bad[2]].finite and not np.isfinite(told[bad[2]].loss)


def test_evaluation_in_batches_counts_every_example_once(monkeypatch):
  recipe = _recipe()
  theta, net_state = train.initial_theta(recipe, 0)
  image = data.normalise(VALIDATION.image, 1 / 255)
  logits, _ = NET.apply(theta, net_state, None, image, is_training=False)
  nll = optax.softmax_cross_entropy_with_integer_labels(
    logits, VALIDATION.label
  )
  wanted = np.mean(np.argmax(logits, -1) == VALIDATION.label), np.mean(nll)
  for size in (2_000, 25, 7, 1):
    monkeypatch.setattr(classification, '_EVALUATION_BATCH', size)
    got = jax.jit(functools.partial(train.evaluate, recipe))(
      theta, net_state, jax.tree.map(jnp.asarray, VALIDATION)
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.parametrize('name', making.optimizers())
def test_every_optimizer_that_a_config_may_name_trains(name):
  """By shapes alone, with α and the learning rate traced."""
  recipe = _recipe(getattr(optax, name))
  training = train.make_training(recipe, Psi(None))
  hyper = jax.tree.map(lambda x: x[0], population.hypers(_members()[:1]))
  state = jax.eval_shape(training.init, hyper, TRAIN)
  new, _ = jax.eval_shape(
    lambda s, h, t: training.chunk(s, h, t, 0, 2), state, hyper, TRAIN
  )
  assert jax.tree.structure(new) == jax.tree.structure(state)


def test_what_is_not_finite_is_known_by_the_weights():
  """The loss is of before the update, and may never show it."""
  recipe = _recipe(lambda rate: optax.scale(np.nan))
  (cell,) = trainings.make_cells(recipe, _PSIS, _members((2.0,), 1), 'map')
  states = trainings.initial_states(recipe, [cell], TRAIN)
  states, (report,) = _advance([cell], states, num_steps=1)
  assert np.isfinite(report.loss).all() and not report.finite.any()


def test_one_step_by_hand():
  """Golden: φ after one step of SGD is φ − rate·∂L/∂θ·α|φ|^(α−1)."""
  recipe = _recipe()
  member = _members((3.0,), seeds=1)[0]
  (cell,) = trainings.make_cells(recipe, _PSIS, [member], 'map')
  (state,) = trainings.initial_states(recipe, [cell], TRAIN)
  ((new,), _) = _advance([cell], [state], num_steps=1)
  key = jax.random.key(member.seed)
  rows = batches.batch_indices(jax.random.fold_in(key, 1), 0, 1, 40, 8)[0]
  theta = reparam.to_theta(state.phi, 3.0)

  def loss(theta):
    image = data.normalise(TRAIN.image[np.asarray(rows)], 1 / 255)
    logits, _ = NET.apply(theta, {}, None, image, is_training=True)
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, TRAIN.label[np.asarray(rows)]
    ).mean()

  grads = jax.grad(loss)(theta)
  for module, leaves in state.phi.items():
    w, b = leaves['w'], leaves['b']
    by_hand = w - 0.1 * grads[module]['w'] * 3 * w**2
    _assert_close(new.phi[module]['w'], by_hand, rtol=1e-5, atol=1e-7)
    by_hand = b - 0.1 * grads[module]['b']
    _assert_close(new.phi[module]['b'], by_hand, rtol=1e-5, atol=1e-7)


def test_auto_is_map_on_cpu(monkeypatch):
  assert population.choose_executor('auto') == 'map'
  assert population.choose_executor('vmap') == 'vmap'
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert population.choose_executor('auto') == 'vmap'


def test_every_part_of_a_batch_is_shared_evenly():
  share = functools.partial(population.share_batches, 4, 'map', False)
  assert share(64) == share(64, 16) == 4
  for batch, parts, said in ((66, 1, 'of 4,'), (64, 32, 'times 32, acc')):
    with pytest.raises(ConfigError, match=f'is {batch} but must .*{said}'):
      share(batch, parts)


def test_static_alphas_share_programs_by_transform_and_alpha():
  cells = trainings.make_cells(
    _recipe(), _PSIS, _members((1.0, 2.0), seeds=3), 'map'
  )
  assert len(cells) == 6
  assert len({id(c.programs) for c in cells}) == 2


_AS_USERS = """
  import jax
  import numpy as np
  from tests import lifetime_tiny
  from tests.experiments.engine import test_population as t

  # Drawing takes seconds to compile, and is no part of what is compared.
  ramp = np.linspace(-1, 1, 11, dtype=np.float32)
  jax.random.truncated_normal = lambda *args: np.resize(ramp, args[3])
  with lifetime_tiny.batches_in_turn():
    t.assert_plain_optax(t.sgd_and_adam)
"""
_EIGHT = '--xla_force_host_platform_device_count=8'
_SHARDED = """
  import jax
  from tests.experiments.engine import test_population as t
  from tests import tiny
  from experiments.engine import trainings
  from powerprop import train

  devices = jax.devices()
  assert len(devices) == 8, devices
  recipe = t._recipe()
  single = training = None
  for seeds in (4, 3):  # fills the devices, and does not
    members = t._members((1.0, 2.5), seeds)
    (cell,) = trainings.make_cells(recipe, t._PSIS, members, 'vmap')
    training = training or cell.programs  # is traced once
    cells = [cell._replace(programs=training)]
    states = trainings.initial_states(recipe, cells, t.TRAIN)
    sharded, reports = t._advance(cells, states)
    leaf = sharded[0].phi['output']['w']
    assert len(leaf.sharding.device_set) == 8 and leaf.shape[0] % 8 == 0
    sharded = t._by_member(cells, sharded)
    assert list(sharded) == members

    if single is None:
      jax.devices = lambda: devices[:1]
      (cell,) = trainings.make_cells(recipe, t._PSIS, members, 'vmap')
      alone = [cell._replace(programs=training)]
      states = trainings.initial_states(recipe, alone, t.TRAIN)
      assert len(states[0].phi['output']['w'].sharding.device_set) == 1
      states, _ = t._advance(alone, states)
      assert len(states[0].phi['output']['w'].sharding.device_set) == 1
      single = t._by_member(alone, states)
      jax.devices = lambda: devices
    for m in members:
      t._assert_close(sharded[m], single[m])

  # A run of six that is stopped and resumed.
  import pathlib, sys
  from tests.experiments.engine import test_runs
  folder = pathlib.Path(sys.argv[1])
  fields = dict(executor='vmap', seeds=3)
  whole = tiny.run(folder / 'whole', **fields)
  resumed = test_runs.stopped_and_resumed(folder / 'stopped', chunk=2, **fields)
  assert test_runs.numbers(resumed) == test_runs.numbers(whole)
  assert len(whole['rows']) == 6 * 3
"""


def _run(program: str, environment: dict[str, str], *args: str) -> None:
  """A program that knows these tests, in a process of its own."""
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(program), *args],
    cwd=tiny.ROOT,
    env=environment | {'PYTHONPATH': str(tiny.ROOT)},
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr[-3000:]


def test_static_alpha_one_is_plain_optax():
  """Two programs with the same bits, if compiled as users have them."""
  _run(_AS_USERS, tiny.as_users())


def test_sharded_is_unsharded(tmp_path):
  """On eight simulated CPU devices."""
  flags = [os.environ.get('XLA_FLAGS', ''), _EIGHT]
  _run(_SHARDED, tiny.environment(XLA_FLAGS=' '.join(flags)), str(tmp_path))
