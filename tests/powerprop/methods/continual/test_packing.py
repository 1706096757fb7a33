"""PackNet and EfficientPackNet: masks, frozen weights, nothing forgotten."""

import functools
import importlib
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import data
from experiments.engine import classification
from experiments.engine import making
from powerprop import methods
from powerprop import train
from powerprop import trees
from powerprop.methods.continual import packing
from powerprop.psi import Psi
from tests import endings
from tests import lifetime_tiny

# The module: in `powerprop.methods` the name is the function.
efficient = importlib.import_module(
  'powerprop.methods.continual.efficient_packnet'
)

_TASKS = 4
_RATES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
_SHAPES = {'hidden_0/w': (64, 7), 'output/w': (7, 10)}
_SIZE = 64 * 7 + 7 * 10
_HIDDEN = 'hidden_0/w'
_REST = ('hidden_0/b', 'output/b')


@pytest.fixture(autouse=True, scope='module')
def _batches():
  with lifetime_tiny.batches_in_turn():
    yield


def _epn(**options):
  return functools.partial(
    methods.efficient_packnet, **{'rates': _RATES, **options}
  )


# -- Lives of four tasks


class Programs(NamedTuple):
  """The compiled functions of one member."""

  setup: lifetime_tiny.Setup
  chunk: Any
  rechunk: Any
  end: Any
  archive: Any
  logits: Any
  recall: Any


def _compiled(setup):
  life, method, recipe = setup.life, setup.method, setup.recipe

  def logits(state, record, source):
    kept, net, _ = record
    w = method.continual.predict(
      train.make_training(recipe, Psi(None)).read(state), kept
    )
    rows = jnp.arange(int(setup.sequence.sizes['test'][0]))
    problem = recipe.problem
    batch = problem.batch(source, 'test', rows)
    return jnp.where(batch.visible, problem.outputs(w, net, batch)[0], -jnp.inf)

  rechunk = life.rechunk
  return Programs(
    setup,
    jax.jit(life.chunk, static_argnums=4),
    None if rechunk is None else jax.jit(rechunk, static_argnums=4),
    jax.jit(life.end),
    jax.jit(life.archive),
    jax.jit(logits),
    jax.jit(life.recall, static_argnums=3),
  )


@functools.cache
def _programs(name, *, scenario='domain', retrain_steps=0, **options):
  """With Adam, but for what does not depend on the optimiser."""
  make = _epn if name == 'efficient_packnet' else _packnet
  return _compiled(
    lifetime_tiny.setup(make(**options), scenario, retrain_steps=retrain_steps)
  )


def _packnet(**options):
  return functools.partial(methods.packnet, **options)


def _slim(state):
  """Without the optimiser's moments: the end of a task does not look there."""
  return state._replace(opt=state.opt._replace(inner=()))


class Task(NamedTuple):
  """A member's states on its way through a task."""

  before: Any
  trained: Any
  ended: Any
  retrained: Any
  archived: Any
  record: Any
  report: Any
  logits: Any  # as the task was learned


def _live(chunk, start, programs, hyper, tasks=_TASKS, steps=3):
  """Tasks in turn; `chunk` is that of any optimiser."""
  out = []
  state = start
  for t in range(tasks):
    source = lifetime_tiny.source(t)
    before = state._replace(
      step=jnp.zeros((), jnp.int32), finite=jnp.asarray(True)
    )
    trained, _ = chunk(before, hyper, source, np.int32(0), steps)
    ended, report = programs.end(_slim(trained), hyper, source)
    retrained = ended._replace(opt=trained.opt)
    if programs.rechunk is not None:
      retrained, _ = programs.rechunk(
        retrained, hyper, source, np.int32(0), steps
      )
    archived, record = programs.archive(_slim(retrained), hyper, source)
    state = archived._replace(opt=retrained.opt)
    logits = programs.logits(_slim(state), record, source)
    out.append(
      Task(before, trained, ended, retrained, state, record, report, logits)
    )
  return out


@functools.cache
def _lived(name, alpha=2.0, **options):
  programs = _programs(name, **options)
  hyper = lifetime_tiny.hyper(alpha, rate=0.05)
  start = programs.setup.life.start(hyper, lifetime_tiny.source(0))
  return jax.device_get(_live(programs.chunk, start, programs, hyper))


def _bits(x):
  return np.asarray(x).view(np.uint32)


def _leaves(tree):
  return trees.weights(jax.device_get(tree), lambda *_: True)


def _differs(a, b):
  """By path: where two trees of parameters have other bits."""
  a, b = _leaves(a), _leaves(b)
  return {n: _bits(x) != _bits(b[n]) for n, x in a.items()}


def _mask(record, shapes=None):
  """A record's bits by NumPy, as masks by path."""
  shapes = shapes or _SHAPES
  sizes = [int(np.prod(s)) for s in shapes.values()]
  row = np.unpackbits(np.asarray(record[0].bits))
  assert len(record[0].bits) == -(-sum(sizes) // 8)  # one bit per weight
  assert not row[sum(sizes) :].any()
  parts = np.split(row[: sum(sizes)].astype(bool), np.cumsum(sizes)[:-1])
  return {
    n: x.reshape(s) for (n, s), x in zip(shapes.items(), parts, strict=True)
  }


_LIVES: tuple[tuple[str, dict[str, Any]], ...] = (
  ('efficient_packnet', {'gamma': 0.6}),
  ('packnet', {'retrain_steps': 3}),
)


@pytest.mark.parametrize(('name', 'options'), _LIVES)
def test_masks_are_counted_and_frozen(name, options):
  """Reports and φ against the records' bits."""
  tasks = _lived(name, **options)
  used = {n: np.zeros(s, bool) for n, s in _SHAPES.items()}
  reused = 0
  for t, task in enumerate(tasks):
    mask = _mask(task.record)
    for n, wanted in task.ended.method.mask.items():
      np.testing.assert_array_equal(mask[n], wanted)
    for field, found in (
      ('used', {n: mask[n] | used[n] for n in mask}),
      ('new', {n: mask[n] & ~used[n] for n in mask}),
      ('reused', {n: mask[n] & used[n] for n in mask}),
    ):
      np.testing.assert_array_equal(
        task.report[f'{field}_by_layer'], [x.sum() for x in found.values()]
      )
    reused += sum((mask[n] & used[n]).sum() for n in mask)
    # What earlier tasks use stays, from one task's begin to the next one's.
    moved = _differs(task.before.phi, task.archived.phi)
    trained = _differs(task.before.phi, task.trained.phi)
    for n, x in used.items():
      assert not moved[n][x].any(), (t, n)
      if not x.all():
        assert trained[n][~x].mean() > 0.2, (t, n)
    for n in _REST:
      assert trained[n].any() == (t == 0), (t, n)
    # Retraining moves the new weights of the mask, and no others.
    again = _differs(task.ended.phi, task.retrained.phi)
    for n in _SHAPES:
      assert not again[n][~mask[n] | used[n]].any(), (t, n)
      if name == 'packnet':
        assert again[n][mask[n] & ~used[n]].mean() > 0.2, (t, n)
    used = {n: mask[n] | used[n] for n in mask}
    for n, x in task.archived.method.used.items():
      np.testing.assert_array_equal(x, used[n])
    assert int(task.archived.method.ended) == t + 1
    # Of the weights in no mask all are drawn anew: no draw repeats a number.
    anew = _differs(task.retrained.phi, task.archived.phi)
    for n, x in used.items():
      np.testing.assert_array_equal(anew[n], ~x)
  assert reused > 0


def test_packnet_fills_every_layer_in_equal_parts():
  tasks = _lived('packnet', retrain_steps=3)
  sizes = np.array([np.prod(s) for s in _SHAPES.values()])
  for t, task in enumerate(tasks):
    wanted = sizes * (t + 1) // _TASKS - sizes * t // _TASKS
    np.testing.assert_array_equal(task.report['new_by_layer'], wanted)
    # All earlier tasks' weights are in the mask.
    used = task.report['used_by_layer']
    np.testing.assert_array_equal(used, sizes * (t + 1) // _TASKS)
    np.testing.assert_allclose(task.report['rate'], used.sum() / _SIZE, 1e-6)
  assert used.sum() == _SIZE
  # They are the largest of those that were free.
  task = tasks[1]
  mask, before = _mask(task.record), _mask(tasks[0].record)
  for n, x in _leaves(task.trained.phi).items():
    if n in _SHAPES:
      new = np.abs(x)[mask[n] & ~before[n]]
      assert new.min() >= np.abs(x)[~mask[n]].max()


@pytest.mark.parametrize(('under', 'alpha'), [('', 1.0), ('hidden', 2.0)])
def test_packnet_over_all_layers_together(under, alpha):
  """1/T of all weights, the largest, but half of a layer is for later tasks."""
  shapes = {'hidden/w': (40, 10), 'output/w': (10, 4)}
  sizes = {n: int(np.prod(s)) for n, s in shapes.items()}
  total, keys = 8, jax.random.split(jax.random.key(0), 8)
  structs = {
    n.removesuffix('/w'): {'w': jax.ShapeDtypeStruct(s, jnp.float32)}
    for n, s in shapes.items()
  }
  method = methods.packnet(
    methods.Tasks(structs, total, None, 8, 2), distribution='global'
  )
  psi = Psi(alpha, lambda path, leaf: path.startswith(under))
  _, state = method.init(None, structs, psi, None)

  def draw(key):
    parts = zip(shapes.items(), jax.random.split(key), strict=True)
    # The output layer's weights are larger, and would all go at once.
    theta = {
      n: (1 if n == 'hidden/w' else 5) * jax.random.normal(k, s)
      for (n, s), k in parts
    }
    return {n.removesuffix('/w'): {'w': x} for n, x in theta.items()}

  @jax.jit
  def end(theta, state, task):
    ending = endings.ending(None, None, {}, task=task)._replace(psi=psi)
    _, state, report = method.continual.end_task(
      ending, psi.to_phi(theta), state
    )
    used = {n: state.mask[n] | x for n, x in state.used.items()}
    return state, report, state._replace(used=used)

  for t in range(total):
    theta = draw(keys[t])
    before = state.used
    ended, report, state = end(theta, state, t)
    new = {n: np.asarray(ended.mask[n] & ~before[n]) for n in shapes}
    size = sum(sizes.values())
    wanted = size * (t + 1) // total - size * t // total
    assert sum(x.sum() for x in new.values()) == wanted
    np.testing.assert_array_equal(
      report['new_by_layer'], [x.sum() for x in new.values()]
    )
    least, capped = {}, {}
    for n in shapes:
      left = (~np.asarray(ended.mask[n])).sum()
      reserve = sizes[n] * (total - 1 - t) // (2 * total)
      assert left >= reserve
      capped[n] = left == reserve
      size_of = np.abs(theta[n.removesuffix('/w')]['w'])
      out = size_of[~np.asarray(ended.mask[n])]
      # In a layer they are the largest of those that were free.
      if new[n].any() and out.size:
        assert size_of[new[n]].min() >= out.max()
      least[n] = size_of[new[n]].min() if new[n].any() else np.inf
    # Nor does any layer's go before larger ones, if these may.
    for n in shapes:
      x = np.abs(theta[n.removesuffix('/w')]['w'])[~np.asarray(ended.mask[n])]
      if x.size and not capped[n]:
        assert x.max() <= min(least.values())
    assert t or capped['output/w']
  assert all(bool(x.all()) for x in state.used.values())


# -- Nothing is forgotten


@functools.cache
def _no_retraining(name):
  """Ends of tasks, which are the same whatever the optimiser."""
  # Four masks of a fifth of the weights leave some free.
  options: dict[str, Any] = {'gamma': 0.6, 'rates': (0.05, 0.1, 0.2)}
  return _programs(name, **(options if name == 'efficient_packnet' else {}))


_OPTIMIZERS: dict[str, dict[str, Any]] = {
  # Decay and momentum move weights without a gradient.
  'adamw': {'weight_decay': 0.1},
  'lion': {'weight_decay': 0.1},
  'sgd': {'momentum': 0.9},
  'adafactor': {'min_dim_size_to_factor': 4},
}


@pytest.mark.parametrize('optimizer', making.optimizers())
def test_zero_forgetting_bitwise(optimizer):
  """All logits of every task after four, under any optimiser and α."""
  make = functools.partial(
    getattr(optax, optimizer), **_OPTIMIZERS.get(optimizer, {})
  )
  # PackNet's training is the same program.
  life = lifetime_tiny.setup(_epn(), optimizer=make).life
  chunk: Any = jax.jit(life.chunk, static_argnums=4)
  for name, alpha in (
    ('efficient_packnet', 1.0),
    ('efficient_packnet', 2.0),
    ('packnet', 1.5),
  ):
    programs = _no_retraining(name)
    hyper = lifetime_tiny.hyper(alpha, rate=0.01)
    start = life.start(hyper, lifetime_tiny.source(0))
    tasks = _live(chunk, start, programs, hyper)
    last = _slim(tasks[-1].archived)
    for t, task in enumerate(tasks):
      assert bool(task.trained.finite)
      moved = _differs(task.before.phi, task.trained.phi)
      free = np.mean(
        np.concatenate(
          [moved[n][~np.asarray(task.before.method.used[n])] for n in _SHAPES]
        )
      )
      assert free > 0.1, t  # or there was nothing to forget
      now = programs.logits(last, task.record, lifetime_tiny.source(t))
      assert np.isfinite(now).all()
      assert np.array_equal(_bits(now), _bits(task.logits)), (name, alpha, t)
  assert chunk._cache_size() == 1


def test_free_biases_forget():
  """The control: what is not frozen does change the logits."""
  tasks, now = _after_four(biases='free')
  for t, task in enumerate(tasks):
    moved = _differs(task.before.phi, task.trained.phi)
    assert all(moved[n].any() for n in _REST), t
    same = np.array_equal(_bits(now[t]), _bits(task.logits))
    assert same == (t == _TASKS - 1)


def test_biases_of_every_task():
  tasks, now = _after_four(biases='per_task')
  for t, task in enumerate(tasks):
    moved = _differs(task.before.phi, task.trained.phi)
    assert all(moved[n].any() for n in _REST), t
    assert np.array_equal(_bits(now[t]), _bits(task.logits)), t
    others, phi = task.record[0].others, _leaves(task.trained.phi)
    assert sorted(others) == sorted(_REST)
    for n in _REST:
      np.testing.assert_array_equal(others[n], phi[n])


def test_heads_of_other_tasks_are_at_rest():
  """Under Adam, whose moments are of the whole head."""
  tasks, now = _after_four(scenario='task')
  for t, task in enumerate(tasks):
    moved = _differs(task.before.phi, task.archived.phi)
    mine = np.arange(10 * _TASKS) // 10 == t
    for n in ('output/w', 'output/b'):
      assert not moved[n][..., ~mine].any(), (t, n)
      assert moved[n][..., mine].mean() > 0.5, (t, n)
    _mask(task.record, {'hidden_0/w': (64, 7)})  # heads are not masked
    assert np.array_equal(_bits(now[t]), _bits(task.logits)), t


def _after_four(**options):
  """Tasks of EfficientPackNet, and their logits after the last."""
  tasks = _lived('efficient_packnet', gamma=0.6, **options)
  logits = _programs('efficient_packnet', gamma=0.6, **options).logits
  last = _slim(tasks[-1].archived)
  return tasks, [
    np.asarray(logits(last, task.record, lifetime_tiny.source(t)))
    for t, task in enumerate(tasks)
  ]


def test_a_fingerprint_sees_the_last_bit_of_any_logit():
  """Through a net whose weights are its logits."""
  net = hk.TransformedWithState(
    None, lambda w, state, key, image, is_training: (w, state)
  )
  it = classification.Pictures(net, (8, 8, 1), 1.0)
  rows, outputs = 40, 10
  split = lifetime_tiny.digits().test

  def prints(bits):
    logits = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return classification.score(it, logits, {}, split, '').fingerprint

  bits = _bits(
    np.random.default_rng(0).normal(size=(rows, outputs)).astype('f')
  )
  flips = np.eye(rows * outputs, dtype=np.uint32).reshape(-1, rows, outputs)
  every = np.concatenate([bits[None], bits ^ flips])
  found = np.asarray(jax.jit(jax.vmap(prints))(every))
  assert len(np.unique(found, axis=0)) == 1 + rows * outputs


# -- Algorithm 1


@functools.cache
def _trained():
  """φ of α = 2 after 60 steps on the first task."""
  programs = _programs('efficient_packnet', gamma=0.6)
  hyper = lifetime_tiny.hyper(2.0, rate=0.05)
  source = lifetime_tiny.source(0)
  state = programs.setup.life.start(hyper, source)
  for step in range(0, 60, 3):
    state, _ = programs.chunk(state, hyper, source, np.int32(step), 3)
  return jax.device_get(state.phi)


def _pixels(image):
  return image.reshape(len(image), -1) * np.float32(1 / 16)


def _accuracy(w, xp):
  """On validation pictures, by NumPy or by JAX."""
  split = lifetime_tiny.digits().validation
  hidden = _pixels(split.image) @ w['hidden_0']['w'] + w['hidden_0']['b']
  logits = xp.maximum(hidden, 0) @ w['output']['w'] + w['output']['b']
  right = xp.argmax(logits, axis=1) == split.label
  return xp.sum(right) / xp.float32(len(split.label))


def _ending(accuracy, alpha=2.0, fresh=lambda: None):
  split = lifetime_tiny.digits().validation
  image, label = map(jnp.asarray, split)

  def apply(w, examples):
    hidden = _pixels(examples.image) @ w['hidden_0']['w'] + w['hidden_0']['b']
    return jax.nn.relu(hidden) @ w['output']['w'] + w['output']['b']

  return endings.ending(
    lambda split, rows: data.Examples(
      image[rows], label[rows], jnp.ones(10, bool)
    ),
    apply,
    {n: jnp.int32(len(label)) for n in ('train', 'validation')},
    key=jax.random.key(0),
    alpha=alpha,
    score=accuracy,
    fresh=fresh,
  )


def _flat(tree):
  leaves = _leaves(tree)
  return np.concatenate([leaves[n].ravel() for n in _SHAPES])


def _masked(theta, row):
  """θ by NumPy with the weights of `row` alone; biases as they are."""
  parts = np.split(_flat(theta) * row, [64 * 7])
  new: dict[str, Any] = {
    n: x.reshape(s).astype(np.float32)
    for (n, s), x in zip(_SHAPES.items(), parts, strict=True)
  }
  return trees.replace_weights(theta, new)


def _algorithm_1(phi, gamma, rates):
  """As the paper has it: (mask, rate, reached, evaluations), by NumPy."""
  theta = jax.tree.map(np.array, phi)
  for layer in theta.values():
    layer['w'] = layer['w'] * np.abs(layer['w'])  # α = 2
  target = np.float32(gamma) * _accuracy(theta, np)
  order = np.argsort(-np.abs(_flat(phi)), kind='stable')
  first = lambda rate: order[: int(rate * _SIZE + 1e-9)]
  kept, tried = None, 0
  for rate in reversed(rates):
    tried += 1
    row = np.isin(np.arange(_SIZE), first(rate))
    if _accuracy(_masked(theta, row), np) < target:
      break
    kept = rate
  chosen = rates[-1] if kept is None else kept
  row = np.isin(np.arange(_SIZE), first(chosen))
  return row, chosen, kept is not None, tried


_SEARCHED = tuple((g, _RATES) for g in (0.3, 0.6, 0.8, 0.95, 1.0)) + (
  (1.0, (0.004, 0.01, 0.02)),
)


@pytest.fixture(scope='module')
def searched():
  """Masks and reports of all searches on a real net, in one program."""
  tasks = lifetime_tiny.setup(_epn()).tasks
  phi = jax.tree.map(jnp.asarray, _trained())

  def run(search, gamma, rates, **options):
    method = methods.efficient_packnet(
      tasks, gamma=gamma, rates=rates, search=search, **options
    )
    _, state = method.init(None, phi, Psi(2.0), None)
    ending = _ending(lambda w: _accuracy(w, jnp))
    ending = ending._replace(coefficient=jnp.float32(0.8))
    _, state, report = method.continual.end_task(ending, phi, state)
    return jnp.concatenate([state.mask[n].ravel() for n in _SHAPES]), report

  keys: list[Any] = [('linear', *c) for c in _SEARCHED]

  def every():
    out = [run(*key) for key in keys]
    out.append(run('linear', None, _RATES))
    out.append(run('binary', 0.8, _RATES))
    return [*out, run('taylor', 0.8, _RATES, compare=True)]

  found = jax.device_get(jax.jit(every)())
  keys += ['coefficient', 'binary', 'taylor']
  return dict(zip(keys, found, strict=True))


@pytest.mark.parametrize(('gamma', 'rates'), _SEARCHED)
def test_algorithm_1(searched, gamma, rates):
  got, report = searched['linear', gamma, rates]
  row, rate, reached, tried = _algorithm_1(_trained(), gamma, rates)
  np.testing.assert_array_equal(got, row)
  np.testing.assert_allclose(report['rate'], rate, rtol=1e-6)
  assert report['reached'] == reached
  assert report['evaluations'] == tried
  assert report['new_by_layer'].sum() == int(rate * _SIZE + 1e-9)


def test_gamma_may_be_the_coefficient_of_the_training(searched):
  got, report = searched['coefficient']
  expected, of_gamma = searched['linear', 0.8, _RATES]
  np.testing.assert_array_equal(got, expected)
  assert report['target'] == of_gamma['target']
  assert report['evaluations'] == of_gamma['evaluations']


def test_algorithm_1_has_something_to_choose():
  found = {_algorithm_1(_trained(), *c)[1:3] for c in _SEARCHED}
  assert len(found) >= 4
  assert (0.02, False) in found  # where no rate is enough, the largest is taken


def test_taylor_tells_the_rate_of_the_linear_search(searched):
  _, true = searched['linear', 0.8, _RATES]
  mask, report = searched['taylor']
  assert report['linear_rate'] == true['rate']
  assert report['evaluations'] == 1
  assert np.isclose(report['rate'], _RATES).any()
  assert mask.sum() == int(report['rate'] * _SIZE + 1e-3)
  _, binary = searched['binary']
  assert binary['rate'] in np.array(_RATES, np.float32)


@pytest.mark.parametrize(
  ('accuracies', 'linear', 'binary'),
  [
    # By rate; what passes has 0.8. On what rises both agree.
    ((0.1, 0.3, 0.5, 0.85, 0.9, 1.0), (3, 4), (3, 3)),
    ((0.8, 0.8, 0.9, 0.9, 1.0, 1.0), (0, 6), (0, 3)),
    ((0.1, 0.1, 0.1, 0.1, 0.1, 0.7), (6, 1), (6, 3)),
    # Where it does not rise the linear search ends on the first that fails.
    ((0.9, 0.3, 0.9, 0.5, 0.9, 1.0), (4, 3), (0, 3)),
  ],
)
def test_searches_by_hand(accuracies, linear, binary):
  at = lambda i: jnp.float32(accuracies)[i]
  passes = lambda x: x >= jnp.float32(0.8)
  assert tuple(map(int, efficient._linear(at, passes, 5))) == linear
  assert tuple(map(int, efficient._binary(at, passes, 5))) == binary


@pytest.mark.parametrize(
  ('at_two', 'chosen'),
  # δL = 0.1 ≤ −log 0.9 at index 2, where accuracy is measured. Of 0.8 it may
  # lose 0.08: at 0.4 accuracy per δL up to 0.2, at 0.1 up to 0.8, at 1.2 none.
  [(0.76, 2), (0.79, 1), (0.68, 3)],
)
def test_taylor_by_hand(at_two, chosen):
  added = jnp.float32([1.0, 0.5, 0.1, 0.0])
  at = lambda i: jnp.where(i == 2, jnp.float32(at_two), jnp.nan)
  found = efficient._taylor(
    at, added, jnp.float32(0.8), 0.9 * jnp.float32(0.8), 0.9, 3
  )
  assert tuple(map(int, found)) == (chosen, 1)


# -- The end of a task, by itself


def _used(share=0.3):
  rng = np.random.default_rng(1)
  return {n: jnp.asarray(rng.random(s) < share) for n, s in _SHAPES.items()}


def test_without_reuse_a_mask_is_the_old_ones_and_the_largest_free():
  phi, used = _trained(), _used()
  method = _epn(reuse=False, rates=(0.1, 0.25, 0.9), gamma=0.5)(
    lifetime_tiny.setup(_epn()).tasks
  )
  _, state = method.init(None, phi, Psi(2.0), None)
  state = state._replace(used=used)
  # Accurate where more than the old ones and 10% are there.
  number = int(sum(x.sum() for x in used.values()))
  enough = number + int(0.1 * _SIZE)
  accuracy = lambda w: jnp.where(
    sum(jnp.sum(w[n]['w'] != 0) for n in ('hidden_0', 'output')) > enough, 1, 0
  )
  _, state, report = jax.jit(
    lambda phi, state: method.continual.end_task(_ending(accuracy), phi, state)
  )(phi, state)
  old = np.concatenate([np.ravel(x) for x in used.values()])
  size = np.where(old, 0, np.abs(_flat(phi)))
  wanted = old.copy()
  wanted[np.argsort(-size)[: int(0.25 * _SIZE)]] = True
  got = np.concatenate([np.ravel(state.mask[n]) for n in _SHAPES])
  np.testing.assert_array_equal(got, wanted)
  assert report['rate'] == np.float32(0.25)
  assert report['reused_by_layer'].sum() == number


@pytest.mark.parametrize(
  ('reuse', 'count', 'wanted'),
  [
    (True, 2, [0, 1, 1, 0]),
    (True, 3, [1, 1, 1, 0]),
    (False, 1, [0, 1, 1, 0]),
    (False, 4, [1, 1, 1, 1]),
  ],
)
def test_a_mask_by_hand(reuse, count, wanted):
  phi = {'a': {'w': jnp.float32([[-1.0, 3.0], [2.0, 0.5]])}}
  used = {'a/w': jnp.array([[False, False], [True, False]])}
  where = packing.Layout({'a/w': (2, 2)}, (), 'free')
  state = packing.empty(where)._replace(used=used)
  ranking = efficient.rank(where, phi, Psi(2.0), state, reuse)
  mask = efficient.mask_of(ranking, jnp.int32(count))
  np.testing.assert_array_equal(mask, np.array(wanted, bool))


def test_loss_that_pruning_adds_by_hand(monkeypatch):
  """δL = Σ ½ h θ² − g θ over what goes, with h = 2 and L = Σ w."""
  theta = {'a': {'w': jnp.float32([[3.0, -1.0, 2.0]])}}
  where = packing.Layout({'a/w': (1, 3)}, (), 'free')
  twos = jax.tree.map(lambda x: 2 * jnp.ones_like(x), theta)
  monkeypatch.setattr(efficient.fisher, 'diagonal', lambda *_, **__: twos)

  fit = lambda w, some, key, targets: -jnp.sum(w['a']['w'])
  ending = _ending(None)._replace(log_likelihood=fit)
  used = {'a/w': jnp.array([[True, False, False]])}
  state = packing.empty(where)._replace(used=used)
  # By weight: 9 − 3, 1 + 1 and 4 − 2.
  for reuse, wanted in ((True, [10, 4, 2, 0]), (False, [4, 2, 0, 0])):
    ranking = efficient.rank(where, theta, Psi(1.0), state, reuse)
    added = efficient.added_loss(ending, None, where, theta, ranking, 1)
    np.testing.assert_allclose(added, wanted, atol=1e-5)


@pytest.mark.parametrize('name', ['efficient_packnet', 'packnet'])
def test_weights_in_no_mask_are_drawn_anew(name):
  """φ = Ψ⁻¹(fresh θ) where unused, and nowhere else."""
  phi, used = jax.tree.map(jnp.asarray, _trained()), _used()
  fresh = jax.tree.map(
    lambda x: jnp.asarray(
      np.random.default_rng(x.size).normal(size=x.shape), jnp.float32
    ),
    phi,
  )
  tasks = lifetime_tiny.setup(_epn()).tasks
  make = {'efficient_packnet': _epn, 'packnet': _packnet}[name]

  def archive(reinitialise, alpha):
    method = make(reinitialise=reinitialise)(tasks)
    _, state = method.init(None, phi, Psi(alpha), None)
    state = state._replace(used=_used(0.2), mask=used)
    ending = _ending(None, alpha, lambda: fresh)
    return method.continual.archive(ending, phi, state)[:2]

  found = jax.jit(
    lambda: [archive(True, 1.0), archive(True, 2.0), archive(False, 2.0)]
  )()
  either = {n: np.asarray(used[n] | x) for n, x in _used(0.2).items()}
  for (new, state), alpha in zip(found, (1.0, 2.0, None), strict=True):
    new, old, drawn = map(_leaves, (new, phi, fresh))
    for n in _REST:
      np.testing.assert_array_equal(new[n], old[n])
    for n, kept in either.items():
      np.testing.assert_array_equal(state.used[n], kept)
      np.testing.assert_array_equal(new[n][kept], old[n][kept])
      if alpha is None:
        np.testing.assert_array_equal(new[n], old[n])
        continue
      wanted = np.sign(drawn[n]) * np.abs(drawn[n]) ** (1 / alpha)
      rtol = 0 if alpha == 1 else 1e-6
      np.testing.assert_allclose(new[n][~kept], wanted[~kept], rtol=rtol)


@pytest.mark.parametrize('alpha', [1.0, 2.0])
def test_what_is_drawn_anew_is_as_large_as_asked(alpha):
  """By layer; but no smaller than by the net's own law."""
  used = _used()
  size = {n: 10.0 if n == _HIDDEN else 1e-3 for n in _SHAPES}
  theta = {
    n: jnp.where(used[n], size[n], 0.5) * jnp.ones(s, jnp.float32)
    for n, s in _SHAPES.items()
  }
  tasks = lifetime_tiny.setup(_epn()).tasks
  shapes = jax.tree.map(lambda x: jnp.zeros(x.shape), tasks.shapes)
  psi = Psi(alpha)
  phi = psi.to_phi(trees.replace_weights(shapes, theta))
  fresh = jax.tree.map(lambda x: 0.1 * jnp.ones(x.shape), tasks.shapes)
  method = _epn(fresh_scale=0.25)(tasks)
  _, state = method.init(None, phi, psi, None)
  ending = _ending(None, alpha, lambda: fresh)
  new = method.continual.archive(ending, phi, state._replace(mask=used))[0]
  found = _leaves(psi.to_theta(new))
  for n, there in used.items():
    np.testing.assert_allclose(found[n][there], size[n], rtol=1e-5)
    wanted = 2.5 if n == _HIDDEN else 0.1
    np.testing.assert_allclose(found[n][~there], wanted, rtol=1e-5)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'fresh_scale': -1.0}, 'fresh_scale is -1.0'),
    ({'fresh_scale': 1.0, 'reinitialise': False}, 'reinitialise is False'),
    ({'gamma': 0.0}, 'gamma is 0.0'),
    ({'gamma': 1.1}, 'gamma is 1.1'),
    ({'rates': ()}, 'rates'),
    ({'rates': (0.5, 1.5)}, r'rates has \[1.5\]'),
    ({'rates': (0.5, 0.2)}, 'must rise'),
    ({'rates': (0.001, 1.0)}, 'keeps none of 518'),
    ({'search': 'golden'}, "search is 'golden'"),
    ({'curvature_examples': 0}, 'curvature_examples is 0'),
    ({'biases': 'shared'}, "biases is 'shared'"),
    ({'distribution': 'erk'}, "distribution is 'erk' but must be one of"),
  ],
)
def test_what_is_out_of_range(options, message):
  tasks = lifetime_tiny.setup(_epn()).tasks
  if 'distribution' in options:
    with pytest.raises(ValueError, match=message):
      methods.packnet(tasks, **options)
    return
  with pytest.raises(ValueError, match=message):
    _epn(**options)(tasks)
  if 'biases' in options:
    with pytest.raises(ValueError, match=message):
      methods.packnet(tasks, **options)


# Without earlier tasks' weights.


def test_a_new_task_does_without_earlier_weights():
  """In one layer: it neither computes with them nor has them in its mask."""
  tasks, now = _after_four(without=('hidden',))
  used = np.zeros(_SHAPES[_HIDDEN], bool)
  reused = 0
  for t, task in enumerate(tasks):
    mask = _mask(task.record)
    assert not (mask[_HIDDEN] & used).any()
    reused += int(task.report['reused_by_layer'].sum())
    used |= mask[_HIDDEN]
    assert np.array_equal(_bits(now[t]), _bits(task.logits)), t
  assert used.any() and reused > 0  # in the other layer
  # Whatever is there, the training of the next task is the same.
  task = tasks[1]
  programs = _programs('efficient_packnet', gamma=0.6, without=('hidden',))
  there = np.asarray(task.before.method.used[_HIDDEN])
  layer = _HIDDEN.split('/')[0]
  phi = {k: dict(v) for k, v in task.before.phi.items()}
  phi[layer]['w'] = np.where(there, 7.0, phi[layer]['w']).astype(np.float32)
  hyper = lifetime_tiny.hyper(2.0, rate=0.05)
  trained, _ = programs.chunk(
    task.before._replace(phi=phi),
    hyper,
    lifetime_tiny.source(1),
    np.int32(0),
    3,
  )
  moved = _differs(task.trained.phi, trained.phi)
  np.testing.assert_array_equal(moved.pop(_HIDDEN), there)
  assert there.any() and not any(x.any() for x in moved.values())


@pytest.mark.parametrize('reuse', [True, False])
def test_a_mask_without_earlier_weights_by_hand(reuse):
  phi = {
    'a': {'w': jnp.float32([[-1.0, 3.0], [2.0, 0.5]])},
    'b': {'w': jnp.float32([[0.7, 4.0]])},
  }
  used = {
    'a/w': jnp.array([[False, True], [False, False]]),
    'b/w': jnp.array([[True, False]]),
  }
  shapes = {'a/w': (2, 2), 'b/w': (1, 2)}
  where = packing.Layout(shapes, (), 'free', ('a/w',))
  state = packing.empty(where)._replace(used=used)
  w = packing.computing(where, phi, state)
  assert w['a']['w'].tolist() == [[-1, 0], [2, 0.5]]
  assert w['b']['w'].tolist() == phi['b']['w'].tolist()
  ranking = efficient.rank(where, phi, Psi(2.0), state, reuse)
  masks = [
    efficient.mask_of(ranking, jnp.int32(k)).astype(int).tolist()
    for k in (2, 6)
  ]
  # 4 and 2 are the largest; the 0.7 of b is in if it is not ranked.
  first = [0, 0, 1, 0, int(not reuse), 1]
  assert masks == [first, [1, 0, 1, 1, 1, 1]]


def test_what_it_does_without_is_named_by_layers():
  tasks = lifetime_tiny.setup(_epn()).tasks
  assert packing.layout(tasks, 'free', ('.',)).without == tuple(_SHAPES)
  assert packing.layout(tasks, 'free').without == ()
  with pytest.raises(
    ValueError, match="without has 'hiden', which is found in"
  ):
    _epn(without=('hiden',))(tasks)


def test_a_trial_takes_the_way_with_the_lowest_loss():
  programs = _programs(
    'efficient_packnet', gamma=0.6, without=('.',), trial_steps=3
  )
  life, hyper = programs.setup.life, lifetime_tiny.hyper(2.0, rate=0.05)
  source = lifetime_tiny.source(0)
  choose = jax.jit(life.choose)
  state = choose(life.begin(life.start(hyper, source), hyper), hyper, source)
  assert not np.any(state.method.tried)  # equal losses: the first way
  state, _ = programs.chunk(state, hyper, source, np.int32(0), 3)
  ended, _ = programs.end(_slim(state), hyper, source)
  archived, _ = programs.archive(ended, hyper, source)
  # What the first task left in the hidden layer is in the way of the second.
  used = archived.method.used[_HIDDEN]
  layer = _HIDDEN.split('/')[0]
  phi = {k: dict(v) for k, v in archived.phi.items()}
  phi[layer]['w'] = jnp.where(used, 2.0, phi[layer]['w'])
  before = life.begin(archived._replace(phi=phi, opt=state.opt), hyper)
  source = lifetime_tiny.source(1)
  chosen = choose(before, hyper, source)
  losses = []
  for way in range(1 + len(_SHAPES)):
    tried = jnp.arange(len(_SHAPES)) == way - 1
    method = before.method._replace(tried=tried)
    one = programs.chunk(
      before._replace(method=method), hyper, source, np.int32(0), 3
    )
    losses.append(float(one[1]))
  best = 1 + list(_SHAPES).index(_HIDDEN)
  assert losses[best] < min(x for i, x in enumerate(losses) if i != best) - 0.05
  np.testing.assert_array_equal(
    chosen.method.tried, [n == _HIDDEN for n in _SHAPES]
  )
  # It is but a choice: the net has not moved, and is learned that way.
  assert not any(x.any() for x in _differs(before.phi, chosen.phi).values())
  trained, _ = programs.chunk(chosen, hyper, source, np.int32(0), 3)
  ended, report = programs.end(_slim(trained), hyper, source)
  assert report['without_by_layer'].tolist() == [n == _HIDDEN for n in _SHAPES]
  assert not (ended.method.mask[_HIDDEN] & used).any()


def test_a_trial_that_chose_a_layer_is_the_same_as_naming_it():
  tasks = lifetime_tiny.setup(_epn()).tasks
  tried = packing.layout(tasks, 'free', ('.',), 5)
  named = packing.layout(tasks, 'free', (_HIDDEN,))
  state = packing.empty(tried)
  used = {
    n: jax.random.bernoulli(jax.random.key(i), 0.5, s)
    for i, (n, s) in enumerate(_SHAPES.items())
  }
  way = packing.trial(tried)
  assert way.ways == 1 + len(_SHAPES) and way.steps == 5
  one = way.state(
    state._replace(used=used), jnp.int32(1 + list(_SHAPES).index(_HIDDEN))
  )
  two = packing.empty(named)._replace(used=used)
  phi = (
    lifetime_tiny.setup(_epn())
    .life.start(lifetime_tiny.hyper(2.0), lifetime_tiny.source(0))
    .phi
  )
  for f in (
    lambda where, s: packing.computing(where, phi, s),
    lambda where, s: efficient.rank(where, phi, Psi(2.0), s, True)[:3],
  ):
    jax.tree.map(np.testing.assert_array_equal, f(tried, one), f(named, two))
  none = way.state(one, jnp.int32(0))
  assert packing.trial(named) is None
  jax.tree.map(
    np.testing.assert_array_equal, packing.computing(tried, phi, none), phi
  )


@pytest.mark.parametrize(
  'options', [{'trial_steps': 5}, {'trial_steps': -1, 'without': ('.',)}]
)
def test_a_trial_needs_layers_to_try(options):
  tasks = lifetime_tiny.setup(_epn()).tasks
  with pytest.raises(ValueError, match='trial_steps is'):
    _epn(**options)(tasks)
