"""CLNP: whole units for every task, and none of them changes again."""

import functools
import types
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.engine import networks
import powerprop
from powerprop import methods
from powerprop import trees
from powerprop import units as units_lib
from powerprop.methods.continual import clnp as clnp_lib
from powerprop.methods.continual import sequential
from powerprop.psi import Psi
from tests import lifetime_tiny

_HIDDEN = (9, 8)
_LAYERS = ('hidden_0', 'hidden_1')
_STEPS = 20


@pytest.fixture(autouse=True, scope='module')
def _batches():
  with lifetime_tiny.batches_in_turn():
    yield


class Task(NamedTuple):
  """A member on its way through a task; `found` is of all tasks so far."""

  before: Any
  trained: Any
  ended: Any
  archived: Any
  record: Any
  report: Any
  found: list[Any]


def _setup(scenario, retrain_steps=0, **options):
  return lifetime_tiny.setup(
    functools.partial(methods.clnp, **options),
    scenario,
    retrain_steps=retrain_steps,
    hidden=_HIDDEN,
  )


@functools.cache
def _learned(scenario, alpha=1.0, retrain_steps=0, thresholds='shared'):
  """Three tasks, with a margin that lets units go."""
  setup = _setup(scenario, retrain_steps, margin=0.1, thresholds=thresholds)
  life = setup.life
  hyper = lifetime_tiny.hyper(alpha, rate=0.02, coefficient=1e-3)
  chunk = jax.jit(life.chunk, static_argnums=4)
  end, archive = jax.jit(life.end), jax.jit(life.archive)
  recall = jax.jit(life.recall, static_argnums=3)
  state, out = life.start(hyper, lifetime_tiny.source(0)), []
  for t in range(3):
    source = lifetime_tiny.source(t)
    before = life.begin(state, hyper)
    trained, _ = chunk(before, hyper, source, np.int32(0), _STEPS)
    ended, report = end(trained, hyper, source)
    again = ended
    if life.rechunk is not None:
      again, _ = jax.jit(life.rechunk, static_argnums=4)(
        ended, hyper, source, np.int32(0), retrain_steps
      )
    state, record = archive(again, hyper, source)
    found = [
      recall(state, task.record, lifetime_tiny.source(j), 'validation')
      for j, task in enumerate(out)
    ]
    found.append(recall(state, record, source, 'validation'))
    out.append(Task(before, trained, again, state, record, report, found))
  return setup, jax.device_get(out)


def _leaves(tree):
  return trees.weights(jax.device_get(tree), lambda *_: True)


_RUNS = [
  ('domain', 1.0, 0, 'shared'),
  ('domain', 2.0, 0, 'layer'),
  ('task', 1.0, 10, 'shared'),
  ('task', 2.0, 0, 'shared'),
]


@pytest.mark.parametrize('run', _RUNS)
def test_zero_forgetting_bitwise(run):
  _, tasks = _learned(*run)
  for j, first in enumerate(tasks):
    for later in tasks[j + 1 :]:
      np.testing.assert_array_equal(
        later.found[j].fingerprint, first.found[j].fingerprint
      )
  # The second had something to learn with, and did.
  before, after = _leaves(tasks[1].before.phi), _leaves(tasks[1].trained.phi)
  assert any((before[f'{n}/w'] != after[f'{n}/w']).any() for n in _LAYERS)


@pytest.mark.parametrize('run', _RUNS)
def test_weights_into_active_units_never_change(run):
  """And those from inactive to active ones are zero; the rest is drawn anew."""
  _, tasks = _learned(*run)
  for task in tasks:
    active = task.archived.method.active
    new, old = _leaves(task.archived.phi), _leaves(task.ended.phi)
    fixed = _leaves(task.before.phi)
    before = task.before.method.active
    for name in _LAYERS:
      for leaf in (f'{name}/w', f'{name}/b'):
        was = np.broadcast_to(before[name], old[leaf].shape)
        np.testing.assert_array_equal(old[leaf][was], fixed[leaf][was])
        free = np.broadcast_to(~active[name], old[leaf].shape)
        if leaf.endswith('w') and free.any():
          assert (new[leaf][free] != old[leaf][free]).mean() > 0.9
    w = new['hidden_1/w']
    assert not w[np.ix_(~active['hidden_0'], active['hidden_1'])].any()
    kept = w[np.ix_(active['hidden_0'], active['hidden_1'])]
    was = old['hidden_1/w'][np.ix_(active['hidden_0'], active['hidden_1'])]
    np.testing.assert_array_equal(kept, was)


def test_a_single_head_reads_the_tasks_own_units_alone():
  _, tasks = _learned('domain')
  used = np.zeros(_HIDDEN[1], bool)
  for task in tasks[:2]:
    mine = np.asarray(task.archived.method.active['hidden_1']) & ~used
    bits = np.unpackbits(task.record[0].bits, count=sum(_HIDDEN)).astype(bool)
    np.testing.assert_array_equal(bits[_HIDDEN[0] :], mine)
    used |= mine
  assert list(tasks[0].record[0].others) == ['output/b']


@pytest.mark.parametrize('scenario', ['domain', 'task'])
def test_a_tasks_net_is_taken_out_as_the_narrow_net_that_it_is(scenario):
  setup, tasks = _learned(scenario, *_RUNS[2][1:] if scenario == 'task' else ())
  found = setup.tasks.units()
  image = jax.random.uniform(jax.random.key(0), (5, 8, 8, 1))
  for task in tasks[:2]:
    kept = clnp_lib.units_of(found, task.record[0])
    sizes = tuple(int(x.sum()) for x in kept.values())
    assert 0 < sum(sizes) < sum(_HIDDEN)
    theta = setup.method.continual.predict(
      Psi(1.0).to_theta(tasks[-1].archived.phi), task.record[0]
    )
    smaller, _ = units_lib.narrow(found, kept, theta)
    net = networks.mlp(setup.sequence.num_outputs, hidden=sizes)
    wide, thin = (
      n.apply(w, {}, None, image, is_training=False)[0]
      for n, w in ((setup.pictures.net, theta), (net, smaller))
    )
    np.testing.assert_allclose(wide, thin, rtol=1e-5, atol=1e-6)


def _end(setup, net, options, score, activity, state):
  """The end of a task whose units are so active: (state, report)."""
  theta = jax.tree.map(lambda x: jnp.ones(x.shape), setup.tasks.shapes)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(clnp_lib, 'activity', lambda *_: activity)
    ending = _Ending(score, Psi(1.0))
    return clnp_lib.end_task(net, options, ending, theta, state)[1:]


def _cut_off(score, thresholds, search):
  """The units of 17 that are left, by layer; a score is of how many."""
  setup = _setup('task')
  activity = {
    'hidden_0': jnp.arange(9.0),
    'hidden_1': jnp.array([0.5, 3.5, 2.5, 1.5, 9.0, 8.5, 7.5, 6.5]),
  }
  net = clnp_lib._Net(setup.tasks.units(), False, ())
  # Units are counted by their biases.
  of = lambda w, examples=0: score(sum(jnp.sum(w[n]['b']) for n in _LAYERS))
  options = clnp_lib.Options(0.25, thresholds, {}, search=search)
  state, report = _end(setup, net, options, of, activity, clnp_lib.empty(net))
  kept = {n: np.flatnonzero(x).tolist() for n, x in state.mask.items()}
  assert report['new_by_layer'].tolist() == [len(x) for x in kept.values()]
  assert bool(report['reached'])
  return kept


# Four may go: 0, 0.5, 1 and 1.5, or all where the search begins.
_FOUR = {
  'shared': {'hidden_0': [*range(2, 9)], 'hidden_1': [1, 2, 4, 5, 6, 7]},
  'layer': {'hidden_0': [*range(4, 9)], 'hidden_1': [*range(8)]},
}


@pytest.mark.parametrize('search', clnp_lib.SEARCHES)
@pytest.mark.parametrize('thresholds', clnp_lib.THRESHOLDS)
def test_the_threshold_is_the_highest_within_the_margin(thresholds, search):
  """Against every threshold, where the score falls as units go."""
  assert _cut_off(lambda n: n / 17, thresholds, search) == _FOUR[thresholds]


@pytest.mark.parametrize('thresholds', clnp_lib.THRESHOLDS)
def test_the_highest_is_found_where_lower_thresholds_fail(thresholds):
  """Six units are good enough, and seven to twelve are not."""
  score = lambda n: ((n >= 13) | (n == 6)).astype(jnp.float32)
  assert _cut_off(score, thresholds, 'binary') == _FOUR[thresholds]
  six = {
    'shared': {'hidden_0': [7, 8], 'hidden_1': [4, 5, 6, 7]},
    'layer': _FOUR['layer'] | {'hidden_1': [4]},
  }
  assert _cut_off(score, thresholds, 'scan') == six[thresholds]


def test_the_highest_of_many_is_found_in_a_few_tries():
  """Of several members in one program, of whom one has nothing to cut off."""
  ok = jnp.arange(1001)
  ok = (ok <= 200) | ((ok >= 560) & (ok <= 611))
  search = jax.jit(
    jax.vmap(
      lambda number, steps: sequential.highest(lambda i: ok[i], number, steps),
      (0, None),
    ),
    static_argnums=1,
  )
  numbers = jnp.array([1000, 600, 150, 20, 0])
  index, tries = search(numbers, 32)
  assert index.tolist() == [611, 600, 150, 20, 0]
  # From the 32nd to the 19th of 32, and halves of 31 or 32.
  assert 14 + 4 <= tries[0] <= 14 + 5 and tries[1:].tolist() == [1, 1, 1, 0]
  index, tries = search(numbers, 0)
  assert index.tolist() == [200, 200, 150, 20, 0]
  assert max(tries.tolist()) <= 10
  nothing, tries = sequential.highest(lambda i: i < 0, jnp.int32(40), 32)
  assert (int(nothing), int(tries)) == (0, 32)


def test_a_single_head_gives_its_last_unit_to_a_task_that_learns_nothing():
  """So that the last layer is full, and the sequence ends."""
  setup = _setup('domain')
  net = clnp_lib._Net(setup.tasks.units(), True, ())
  state = clnp_lib.empty(net)
  active = state.active | {'hidden_1': jnp.arange(8) != 3}
  nothing = {n: jnp.zeros(len(x)) for n, x in active.items()}
  options = clnp_lib.Options(0.0005, 'shared', {})
  score = lambda w, examples=0: jnp.float32(0.1)
  state = state._replace(active=active)
  state, report = _end(setup, net, options, score, nothing, state)
  assert state.mask['hidden_1'].all()
  assert report['used_by_layer'].tolist() == [1, 8]
  assert report['kept_by_layer'].tolist() == [1, 1]


class _Ending(NamedTuple):
  score: Any
  psi: Any


def test_a_net_of_ones_own_with_all_leaves_under_psi_forgets_nothing():
  """Names that do not sort, a bias in its own module, and NaN elsewhere."""

  def forward(x, is_training):
    for name, size in (('z', 6), ('a', 5)):
      x = jax.nn.relu(hk.Linear(size, name=name)(x))
      x = powerprop.publish(name, x)
    return hk.Bias(name='bias')(hk.Linear(3, False, name='output')(x))

  rng = np.random.default_rng(0)
  x = rng.normal(size=(60, 4)).astype(np.float32)
  sources = []
  for t in range(2):
    y = np.argmax(x @ rng.normal(size=(4, 3)), axis=1).astype(np.int32)
    sources.append(_source(t, x, y))
  net = hk.transform_with_state(forward)
  learned = powerprop.learn(
    powerprop.classifier(net, x[:1]),
    functools.partial(methods.clnp, margin=0.2),
    sources,
    optax.adam,
    steps=40,
    batch_size=20,
    learning_rate=0.02,
    psi=Psi(2.0, where=lambda *_: True),
    coefficient=1e-3,
  )
  assert learned.scores[1, 0] == learned.scores[0, 0] > 0.5
  layers = learned.reports[0]['used_by_layer']
  bits = np.unpackbits(learned.records[0][0].bits, count=11)
  assert layers.tolist() == [bits[:6].sum(), bits[6:].sum()]  # z, then a
  assert learned.reports[1]['reused_by_layer'][1] == 0
  # What the second task has added is read by nobody in the first one's net.
  mine = learned.weights(0)
  spoilt = jax.tree.map(lambda p: p, learned.state.phi)
  spoilt['output']['w'] = jnp.where(
    bits[6:, None] == 1, spoilt['output']['w'], jnp.nan
  )
  setup = methods.clnp(
    methods.Tasks(spoilt, 2, (), 60, 20, units=_units_of(net, x))
  )
  theta = Psi(2.0, where=lambda *_: True).to_theta(spoilt)
  again = setup.continual.predict(theta, learned.records[0][0])
  logits = [net.apply(w, {}, None, x, False)[0] for w in (mine, again)]
  np.testing.assert_array_equal(*logits)
  assert np.isfinite(logits[0]).all()


@pytest.mark.parametrize(
  'net',
  [
    networks.block_conv(
      3, channels=(4,), hidden=(9,), pool_every=1, dropout=(0.1, 0.1)
    ),
    networks.fully_conv(
      3, channels=(5, 16), strides=(1, 2), paddings=(1, 0), norm=False
    ),
  ],
  ids=['block_conv', 'fully_conv'],
)
def test_convolutions_forget_nothing(net):
  """Under dropout, and where the shared outputs are a convolution's."""
  rng = np.random.default_rng(0)
  y = np.arange(60, dtype=np.int32) % 3
  sources = []
  for t in range(2):
    x = rng.integers(0, 100, (60, 8, 8, 1)).astype(np.float32)
    x[np.arange(60), y + 2 * t] += 150  # which row is bright
    sources.append(_source(t, x / 255, y))
  learned = powerprop.learn(
    powerprop.classifier(net, x[:1]),
    functools.partial(methods.clnp, margin=0.3),
    sources,
    optax.adam,
    steps=60,
    batch_size=20,
    learning_rate=0.02,
    coefficient=1e-4,
  )
  assert learned.scores[1, 0] == learned.scores[0, 0] > 0.5
  first = learned.reports[0]
  # The units that the first task has not are severed from its outputs.
  sizes = [x.size for x in _units_of(net, x)().layers.values()]
  bits = np.unpackbits(learned.records[0][0].bits, count=sum(sizes))
  read = np.asarray(learned.weights(0)['output']['w'])
  assert not read[..., bits[-sizes[-1] :] == 0, :].any()
  assert int(first['used_by_layer'][-1]) == bits[-sizes[-1] :].sum()


def _source(task, x, y):
  """A task whose splits are all the same."""
  splits = dict.fromkeys(
    ('train', 'validation', 'test'), powerprop.Labelled(x, y)
  )
  return {'task': np.int32(task), **splits}


def _units_of(net, x):
  return powerprop.classifier(net, x[:1]).units


def test_the_activity_is_of_a_tasks_own_examples(monkeypatch):
  """In batches of 4, and no more of these than they fill; of two members."""
  monkeypatch.setattr(clnp_lib, '_BATCH', 4)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(10, 3)), jnp.float32)
  units = units_lib.Units({'a': units_lib.Layer(3, 'a/w', (), ())}, 'output/w')
  walked = []

  def activations(theta, rows):
    jax.debug.callback(lambda _: walked.append(1), rows)
    return {'a': theta * x[rows]}

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, 0))
  def activity(size, theta):
    ending = types.SimpleNamespace(
      sizes={'train': size},
      batch=lambda split, rows: rows,
      activations=activations,
    )
    net = clnp_lib._Net(units, False, ())
    return clnp_lib.activity(net, ending, theta)['a']

  for size, batches in ((10, 3), (4, 1), (5, 2)):
    found = activity(size, jnp.array([1.0, -2.0]))
    jax.effects_barrier()
    mean = np.abs(x[:size]).mean(axis=0)
    np.testing.assert_allclose(found, [mean, 2 * mean], rtol=1e-5)
    assert len(walked) == batches
    walked.clear()


def test_l1_is_of_the_weights_that_may_change():
  setup = _setup('domain', l1={'output': 0.5, 'hidden_0': 0.0})
  penalty = setup.method.continual.penalty
  theta = jax.tree.map(lambda x: -jnp.ones(x.shape), setup.tasks.shapes)
  _, state = setup.method.init(None, theta, Psi(1.0), None)
  assert float(penalty.value(theta, state)) == 9 * 8 + 0.5 * 8 * 10
  state = state._replace(active=state.active | {'hidden_1': jnp.arange(8) < 6})
  assert float(penalty.value(theta, state)) == 9 * 2 + 0.5 * 2 * 10


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'margin': 1.0}, 'margin is 1.0'),
    ({'margin': -0.1}, 'margin is -0.1'),
    ({'thresholds': 'all'}, "thresholds is 'all'"),
    ({'search': 'linear'}, "search is 'linear'"),
    ({'l1': {'hidden': -1.0}}, r"l1\['hidden'\] is -1.0"),
    ({'l1': {'hiden': 1.0}}, "l1 has 'hiden'"),
  ],
)
def test_what_is_out_of_range(options, message):
  with pytest.raises(ValueError, match=message):
    _setup('domain', **options)


def test_a_net_that_publishes_no_units_is_refused():
  tasks = _setup('domain').tasks._replace(units=None)
  with pytest.raises(ValueError, match='does not say what the units'):
    methods.clnp(tasks)


def test_a_net_whose_averages_cannot_be_frozen_is_refused():
  def forward(x, is_training):
    x = hk.Linear(4, name='a')(x.reshape(len(x), -1))
    x = hk.BatchNorm(True, True, 0.9, name='norm')(x, is_training)
    return hk.Linear(10)(powerprop.publish('a', jax.nn.relu(x)))

  with pytest.raises(
    ValueError, match="'a' has averages .norm.* powerprop.BatchNorm"
  ):
    lifetime_tiny.setup(
      methods.clnp, network=lambda _: hk.transform_with_state(forward)
    )


def test_heads_that_are_not_all_of_the_outputs_are_refused():
  """Later tasks would change what the rest of them answers."""
  tasks = _setup('task').tasks._replace(heads=('output/w',))
  with pytest.raises(ValueError, match='output/b gives the outputs but is of'):
    methods.clnp(tasks)
