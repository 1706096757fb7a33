"""`powerprop.methods.step`: what a step does with any optimiser and method."""

import functools
import inspect

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import data
from experiments.engine import classification
from experiments.engine import making
from experiments.engine import settings
from experiments.sparse_training import settings as sparse_settings
from powerprop import methods
from powerprop import reparam
from powerprop import transforms
from powerprop import trees
from powerprop import units
from powerprop.methods import masked
from powerprop.methods import step as steps_lib
from powerprop.methods.continual import packing
from powerprop.methods.sparse import drop_grow
from powerprop.psi import Psi
from tests import endings
from tests import tiny

# Resetting moments.

_PHI = {
  'a': {'w': jnp.full((4, 5), 0.5), 'b': jnp.ones(5)},
  'c': {'w': jnp.full((5, 3), 0.7)},
}
_RATE = optax.linear_schedule(0.1, 0.0, 100)
_ADAM = optax.adam(_RATE)


def _by_name(params):
  """Labels for multi_transform: 'w' and 'b'."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, params)


def _two(weights):
  return optax.multi_transform(
    {'w': weights, 'b': optax.sgd(0.1, momentum=0.9)}, _by_name
  )


def _bare():
  """A momentum whose state is no more than a tree like φ."""
  return optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params=None: (
      grads,
      jax.tree.map(jnp.add, state, grads),
    ),
  )


# By optimiser: how the paths begin of what goes on when all moments are reset;
# of what is inside of `powerprop`, from there.
_INNER = {
  'adam': (lambda: optax.adam(0.1), ()),
  'a schedule': (lambda: _ADAM, ('[1].count',)),
  'injected': (
    lambda: optax.inject_hyperparams(optax.adam)(learning_rate=_RATE),
    ('.count', '.hyperparams', '.hyperparams_states'),
  ),
  'masked': (
    lambda: optax.masked(_ADAM, {'a': True, 'c': False}),
    ('.inner_state[1].count',),
  ),
  'multi_transform': (
    lambda: _two(_ADAM),
    (".inner_states['w'].inner_state[1].count",),
  ),
  'muon': (lambda: optax.contrib.muon(0.1), ()),
  'sm3': (lambda: optax.sm3(0.1), ()),
  'adafactor': (
    lambda: optax.adafactor(_RATE, min_dim_size_to_factor=4),
    ('[2].count',),
  ),
  'rprop': (lambda: optax.rprop(0.1), ()),
  'multi_steps': (
    lambda: optax.MultiSteps(_ADAM, 2),
    ('.inner_opt_state[1].count',),
  ),
  'an average': (
    lambda: optax.chain(optax.ema(0.9), optax.scale_by_schedule(_RATE)),
    ('[1].count',),
  ),
  'a bare tree': (_bare, ()),
}
_OPTIMISERS = {
  name: (
    lambda make=make: transforms.powerprop(make(), 2.0),
    ('.count', *(f'.inner{path}' for path in on)),
  )
  for name, (make, on) in _INNER.items()
} | {
  'multi_transform outside': (
    lambda: _two(transforms.powerprop(_ADAM, 2.0)),
    (
      ".inner_states['w'].inner_state.count",
      ".inner_states['w'].inner_state.inner[1].count",
    ),
  ),
  'a scheduled α': (
    lambda: transforms.powerprop(
      optax.adam(0.1), optax.linear_schedule(1.0, 2.0, 9)
    ),
    ('.count', '.alpha'),
  ),
  'a bare tree under a scheduled α': (
    lambda: transforms.powerprop(_bare(), optax.linear_schedule(1.0, 2.0, 9)),
    ('.count', '.alpha'),
  ),
  'an adaptive α': (
    lambda: transforms.adaptive_powerprop(optax.adam(0.1), 2.0, 2),
    ('.base.count', '.base.alpha', '.near_zero', '.initial_phase'),
  ),
}
_CHOSEN = jnp.arange(20).reshape(4, 5) % 3 == 0


@functools.cache
def _states(name):
  """An optimiser, its state at the start, and one in which all has changed."""
  tx = _OPTIMISERS[name][0]()
  fresh = tx.init(_PHI)

  def later(x):
    x = np.asarray(x)
    return jnp.asarray(~x if x.dtype == bool else x + x.dtype.type(1))

  return tx, fresh, jax.tree.map(later, fresh)


def _leaves(tree):
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in flat}


@pytest.mark.parametrize('name', _OPTIMISERS)
def test_a_reset_of_all_moments_is_a_fresh_start_but_for_schedules(name):
  """The count of Adam's correction goes with its moments; α does not."""
  tx, fresh, opt = _states(name)
  got = _leaves(steps_lib.reset_moments(tx, opt, _PHI, None))
  start, before = _leaves(fresh), _leaves(opt)
  assert got.keys() == start.keys()
  on = _OPTIMISERS[name][1]
  for path, x in got.items():
    wanted = before if path.startswith(on) else start
    np.testing.assert_array_equal(x, wanted[path], path)
  for begun in on:
    assert any(path.startswith(begun) for path in got), begun


@pytest.mark.parametrize('name', _OPTIMISERS)
def test_a_reset_of_chosen_moments_leaves_all_else_alone(name):
  """Masked states and such as have a list where a weight has an array too."""
  tx, fresh, opt = _states(name)
  got = _leaves(steps_lib.reset_moments(tx, opt, _PHI, {'a/w': _CHOSEN}))
  start, before = _leaves(fresh), _leaves(opt)
  reset = 0
  for path, x in got.items():
    wanted = before[path]
    if "['a']['w']" in path and x.shape == _CHOSEN.shape:
      wanted = np.where(_CHOSEN, start[path], wanted)
      reset += 1
    np.testing.assert_array_equal(x, wanted, path)
  # Adafactor has no moments of single weights here.
  assert bool(reset) == (name != 'adafactor')


def test_weights_whose_moments_are_shared_are_named():
  shared = {
    name: steps_lib.shared_moments(_states(name)[0], _PHI)
    for name in ('adam', 'masked', 'muon', 'multi_transform', 'sm3')
  }
  assert shared.pop('sm3') == ['a/w', 'c/w']
  assert not any(shared.values())


def test_an_optimiser_whose_moments_cannot_be_found_is_named():
  tx = transforms.powerprop(optax.flatten(optax.adam(0.1)), 2.0)
  with pytest.raises(ValueError, match='cannot be told.*optax.flatten'):
    steps_lib.reset_moments(tx, tx.init(_PHI), _PHI, None)


# What is masked does not matter.

_LAYERS = {
  'a': {
    'b': jax.ShapeDtypeStruct((5,), jnp.float32),
    'w': jax.ShapeDtypeStruct((6, 5), jnp.float32),
  },
  'b': {'w': jax.ShapeDtypeStruct((5, 4), jnp.float32)},
}
_SPARSE = sorted(set(sparse_settings.method_names()) - {'one_shot'})
_PACKING = ('efficient_packnet', 'packnet')


def _random(seed, dtype=jnp.float32):
  """A tree of numbers like `_LAYERS`."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape), dtype), _LAYERS
  )


def _masks(seed):
  """Masks by path of half the weights."""
  return {n: x > 0 for n, x in trees.weights(_random(seed)).items()}


def _functions(argument):
  """Names of methods that are told such a thing."""
  for name, fn in vars(methods).items():
    if inspect.isfunction(fn) and argument in inspect.signature(fn).parameters:
      yield name


def _make(name, **more):
  """A method by its name, 'in phi' where that is its space."""
  name, _, space = name.partition(' in ')
  if name in _SPARSE:
    brief = methods.Brief(methods.make_target(_LAYERS, 0.5), 20, 0.01)
    return getattr(methods, name)(brief)
  options = {'space': space} if space else _CONTINUAL.get(name, {})
  found = units.Units({'a': units.Layer(5, 'a/w', ('a/b',), ())}, 'b/w')
  tasks = methods.Tasks(
    _LAYERS,
    2,
    endings.example((2, 3, 1), 4),
    4,
    2,
    retrain_steps=1,
    units=lambda: found,
  )
  return getattr(methods, name)(tasks, **options | more)


_CONTINUAL = {
  'efficient_packnet': {'rates': (0.5,), 'biases': 'per_task'},
  'packnet': {'biases': 'per_task'},
  'a_gem': {'memory_size': 4},
}


@functools.cache
def _freezing(name):
  """(method, a state with frozen weights, masks of those that learn), each."""
  method = _make(name)
  if name in _PACKING:
    used, mask = _masks(1), _masks(2)
    state = packing.Packing(used, mask, jnp.int32(1))
    free = {n: ~m for n, m in used.items()}
    again = {n: mask[n] & m for n, m in free.items()}
    return [(method, state, free), (method.continual.retraining, state, again)]
  method = method._replace(change=None)
  shapes = jax.eval_shape(
    lambda phi: method.init(
      jax.random.key(0), phi, Psi(2.0), lambda theta: theta
    ),
    _LAYERS,
  )[1]
  half = iter(_masks(1).values())
  codes = np.array([0, 1, 3], np.uint8)  # not in B, in B alone, in A too

  def fill(x):
    if x.dtype == bool:
      return next(half)
    some = np.resize(codes, x.shape) if x.dtype == np.uint8 else 0
    return jnp.broadcast_to(jnp.asarray(some, x.dtype), x.shape)

  state = jax.tree.map(fill, shapes)
  return [(method, state, method.masks(state).backward)]


_NORMS = {
  'adamw': functools.partial(optax.adamw, weight_decay=0.1),
  'adafactor': functools.partial(
    optax.adafactor, min_dim_size_to_factor=4, weight_decay_rate=0.1
  ),
  'fromage': optax.fromage,
  'lamb': functools.partial(optax.lamb, weight_decay=0.1),
  'lars': functools.partial(optax.lars, weight_decay=0.1),
}


@pytest.mark.parametrize(
  ('name', 'optimiser'),
  [(name, 'lamb') for name in (*_SPARSE, *_PACKING)]
  + [('rigl', name) for name in _NORMS if name != 'lamb'],
)
def test_values_of_frozen_weights_do_not_matter_to_the_others(name, optimiser):
  """Bit for bit, whatever the optimiser makes of its params."""
  tx = transforms.powerprop(_NORMS[optimiser](0.1), 2.0)
  phi = _random(3)
  opt = tx.init(phi)
  for method, state, learns in _freezing(name):
    # Not jitted: that would compile as many programs.
    def step(phi, method=method, state=state):
      event = steps_lib.make_event(
        tx, jax.random.key(0), jnp.int32(0), Psi(2.0), _random(10)
      )
      theta = reparam.to_theta(phi, 2.0)
      carry = phi, opt, state
      (phi, *_), _ = steps_lib.take_step(method, tx, event, theta, carry)
      return trees.weights(phi)

    old = trees.weights(phi)
    moved = {n: jnp.where(m, old[n], 5 * old[n] + 1) for n, m in learns.items()}
    other = trees.replace_weights(phi, moved)
    one, two = step(phi), step(other)
    for path, x in one.items():
      on = np.asarray(learns.get(path, np.ones(x.shape, bool)))
      np.testing.assert_array_equal(x[on], two[path][on])
      assert np.all(x[on] != old[path][on])
      if not on.all():
        np.testing.assert_array_equal(two[path][~on], moved[path][~on])


# Learning rates.


def test_rates_that_only_the_first_state_sees_are_known():
  """Of all optimisers that a config may name; Rprop's are step sizes."""
  x = jnp.full((2, 2), 0.3)
  of_the_start = []
  for name in making.optimizers():
    if making.rate_is_of_the_start(making.optimizer(name, {})):
      of_the_start.append(name)
  assert of_the_start == ['rprop']
  for name in ('adam', *of_the_start):
    made = getattr(optax, name)
    state = made(0.1).init(x)
    one, two = (made(rate).update(x, state, x)[0] for rate in (0.1, 0.05))
    assert bool(jnp.all(one == two)) == (name in of_the_start)
  # Without a schedule or with a sweep there is nothing wrong.
  settings.check(
    tiny.config(
      optimizer='rprop',
      learning_rate=(0.1, 0.01),
      learning_rate_schedule={'kind': 'constant', 'warmup': 0},
    )
  )


# An α that moves.


def _scheduled():
  schedule = optax.linear_schedule(1.0, 2.0, 9)
  return transforms.powerprop(optax.sgd(0.1), schedule)


_ALPHAS = {
  'a schedule': _scheduled,
  'adaptive': lambda: transforms.adaptive_powerprop(optax.sgd(0.1), 1.5, 2),
  'within others': lambda: optax.chain(
    optax.clip(1.0), optax.apply_if_finite(_scheduled(), 3)
  ),
  'a number': lambda: transforms.powerprop(optax.sgd(0.1), 2.0),
  'an array': lambda: transforms.powerprop(optax.sgd(0.1), jnp.float32(2)),
}
# Methods that hold nothing: α may move.
_FREE = ('dense', 'naive', 'a_gem', 'ewc')


def test_what_methods_say_of_themselves():
  """By methods with masks of tasks, and by those that keep a task's net."""
  names = sorted({*_functions('tasks')})
  made = {name: _make(name).continual for name in names}
  packs = {name for name in names if made[name].layers}
  assert packs == {*_PACKING, 'clnp'}
  assert made['packnet'].layers == {'a/w': 30, 'b/w': 20}
  keep = {name for name in names if made[name].zero_forgetting}
  need = {name for name in names if made[name].needs_identity}
  assert keep == need == {*_PACKING, 'clnp', 'single'}
  assert made['clnp'].layers == {'a': 5}
  free = _make('packnet', biases='free').continual
  assert not free.zero_forgetting and free.layers == made['packnet'].layers


def _holding(name):
  """A method with the shapes of a state."""
  if name in (*_SPARSE, *_PACKING):
    return _freezing(name)[0][:2]
  method = _make(name)
  init = lambda phi: method.init(jax.random.key(0), phi, Psi(2.0), None)[1]
  return method, jax.eval_shape(init, _LAYERS)


@pytest.mark.parametrize(
  ('name', 'alpha'),
  [
    (name, 'a schedule')
    for name in (*_SPARSE, *_PACKING, *_FREE[1:], 'ewc in phi', 'si')
  ]
  + [
    (name, alpha)
    for name in ('rigl', 'dense')
    for alpha in _ALPHAS
    if alpha != 'a schedule'
  ],
)
def test_an_alpha_that_moves_is_refused_where_weights_are_held(name, alpha):
  tx = _ALPHAS[alpha]()
  method, state = _holding(name)

  def step(phi, state):
    opt = tx.init(phi)
    now = transforms.current_alpha(opt)
    event = steps_lib.make_event(
      tx, jax.random.key(0), jnp.int32(0), Psi(now), _random(1)
    )
    theta = reparam.to_theta(phi, now)
    return steps_lib.take_step(method, tx, event, theta, (phi, opt, state))

  if alpha in ('a number', 'an array') or name in _FREE:
    jax.eval_shape(step, _LAYERS, state)
  else:
    with pytest.raises(ValueError, match='alpha follows .* a constant alpha'):
      jax.eval_shape(step, _LAYERS, state)


def test_an_optimiser_for_another_alpha_is_refused():
  tx, psi, phi = Psi(3.0).optimizer(optax.sgd(0.1)), Psi(2.0), _random(0)
  event = steps_lib.make_event(tx, None, jnp.int32(0), psi, _random(1))
  carry = phi, tx.init(phi), ()
  with pytest.raises(ValueError, match='made for alpha = 3 but psi has alpha'):
    steps_lib.take_step(methods.dense(), tx, event, psi.to_theta(phi), carry)
  # A plain optimiser has none, and an array is not looked at.
  for other in (optax.sgd(0.1), Psi(jnp.float32(2)).optimizer(optax.sgd(0.1))):
    carry = phi, other.init(phi), ()
    steps_lib.take_step(methods.dense(), other, event, phi, carry)


# Buffers.


def _linear(w, some):
  return jnp.ones((len(some.label), 6)) @ w['a']['w']


def _ending(phi, alpha, logits=_linear):
  """The end of a task of four pictures, on a linear net of the first layer."""

  def examples(split, rows):
    del split
    image = jnp.zeros((*rows.shape, 2, 3, 1), jnp.uint8)
    return data.Examples(image, rows % 4, jnp.ones(4, bool))

  return endings.ending(
    examples,
    logits,
    {'train': jnp.int32(4), 'validation': jnp.int32(4)},
    key=jax.random.key(1),
    alpha=alpha,
    score=lambda w: jnp.float32(1),
    fresh=lambda: _random(5, jax.tree.leaves(phi)[0].dtype),
  )


def _buffers(tree):
  """Where arrays lie, by path."""
  data = lambda x: (
    jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    else x
  )
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path): data(x).unsafe_buffer_pointer()
    for path, x in flat
    if x.size
  }


def _assert_apart(*given):
  places = _buffers(given)
  assert len(set(places.values())) == len(places), places


@pytest.mark.parametrize(
  'name',
  (
    *(name for name in _SPARSE if name not in ('set', 'rigl', 'dsr', 'snip')),
    *_PACKING,
    *('l2', 'si', 'vcl', 'mas', 'a_gem', 'single'),
    *('l2 in phi', 'si in phi'),
  ),
)
def test_no_buffer_is_in_a_state_and_elsewhere(name):
  """Whoever calls may donate φ, the state and what is kept of a task.

  At α = 1, where Ψ gives back the very array.
  """
  method = _make(name)
  key, phi = jax.random.key(0), _random(0)
  phi, state = method.init(key, phi, Psi(1.0), lambda theta: theta)
  _assert_apart(key, phi, state)
  if name in _SPARSE:
    return
  ending = _ending(phi, 1.0)
  phi, state, _ = method.continual.end_task(ending, phi, state)
  _assert_apart(phi, state)
  phi, state, record = method.continual.archive(ending, phi, state)
  _assert_apart(phi, state, record)


def test_a_lottery_in_a_loop_that_donates():
  method = _make('lottery')._replace(change=None)
  tx = transforms.powerprop(optax.sgd(0.1), 1.0)
  phi, state = method.init(jax.random.key(0), _random(0), Psi(1.0), None)

  @functools.partial(jax.jit, donate_argnums=(0, 2))
  def step(phi, opt, state):
    dense = jax.tree.map(jnp.ones_like, phi)
    event = steps_lib.make_event(
      tx, jax.random.key(0), jnp.int32(0), Psi(1.0), dense
    )
    carry = phi, opt, state
    return steps_lib.take_step(method, tx, event, phi, carry)[0]

  carry = step(phi, tx.init(_random(0)), state)
  carry = step(*carry)
  jax.tree.map(np.testing.assert_array_equal, carry[2].saved, _random(0))


# Number formats.

_FORMATS = (
  # Weights, and whether JAX's numbers have 64 bits where nothing else is said.
  (jnp.float16, False),
  (jnp.float32, True),
  (jnp.float64, True),
)


def _cast(tree, dtype):
  return jax.tree.map(lambda x: x.astype(dtype), tree)


@pytest.mark.parametrize(
  'name',
  (*_SPARSE, *_PACKING, *_FREE[1:], 'mas', 'si', 'si in phi', 'vcl', 'single'),
)
def test_every_method_keeps_the_dtypes_that_it_is_given(name):
  """Its programs are traced, not run; see below for their numbers."""
  method = _make(name)

  def life(phi):
    tx = transforms.powerprop(optax.sgd(0.1, momentum=0.9), 2.0)
    key = jax.random.key(0)
    carry = method.init(key, phi, Psi(2.0), lambda theta: theta)
    kept = [carry]
    phi, state = carry
    theta = reparam.to_theta(phi, 2.0)
    dense = method.weights(theta, state)
    if method.continual.rehearsal is not None:
      dense = method.continual.rehearsal.combine(dense, dense, state)
    event = steps_lib.make_event(
      tx, key, jnp.int32(0), Psi(2.0), dense, jnp.float32(1)
    )
    carry = phi, tx.init(phi), state
    (phi, opt, state), _ = steps_lib.take_step(method, tx, event, theta, carry)
    kept.append((phi, state))
    if name not in _SPARSE:
      ending = _ending(phi, 2.0)
      phi, state, _ = method.continual.end_task(ending, phi, state)
      kept.append((phi, state))
      phi, state, _ = method.continual.archive(ending, phi, state)
      kept.append((phi, state))
    return kept, carry[1], opt

  for dtype, x64 in _FORMATS:
    with jax.enable_x64(x64):
      phi = jax.tree.map(
        lambda x, dtype=dtype: jax.ShapeDtypeStruct(x.shape, dtype), _LAYERS
      )
      (first, *later), opt, new_opt = jax.eval_shape(life, phi)
      assert all(x.dtype == dtype for x in jax.tree.leaves(first[0]))
      for carry in later:
        assert jax.tree.map(_form, carry) == jax.tree.map(_form, first)
      assert jax.tree.map(_form, opt) == jax.tree.map(_form, new_opt)


def _form(x):
  return x.shape, x.dtype


def _near(got, wanted, rtol):
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    x, y = (np.asarray(v, np.float64) for v in (x, y))
    assert np.all(np.isfinite(y))
    np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(y).max())
  assert any(np.any(y) for y in jax.tree.leaves(wanted))


@pytest.mark.parametrize(
  ('size', 'dtype'),
  [(512, jnp.float16), (512, jnp.bfloat16), (1000, jnp.float16)],
)
def test_new_weights_of_a_large_layer_start_where_they_should(size, dtype):
  """The sum of 512 x 512 weights, and the number of 1000 x 1000, overflow."""
  x = np.random.default_rng(0).normal(size=(size, size))
  phi = {'w': jnp.asarray(x, dtype)}
  new = {'w': jnp.arange(size * size).reshape(size, size) % 7 == 0}
  kept = {'w': ~new['w']}

  def start(phi):
    return masked.regrow(phi, new, kept, phi, Psi(2.0), 0.5)['w']

  got = start(phi)
  assert got.dtype == dtype
  _near(got, start(_cast(phi, jnp.float32)), 0.01)


@pytest.mark.parametrize(
  ('name', 'dtype'),
  [
    (name, jnp.float16)
    for name in ('ewc in phi', 'mas', 'si', 'si in phi', 'vcl', 'a_gem')
  ]
  + [('si in phi', jnp.bfloat16), ('a_gem', jnp.bfloat16)],
)
def test_half_precision_does_what_float32_does(name, dtype):
  """On numbers whose products, squares or count are none in float16."""
  method = _make(name)
  # θ = Ψ(φ) would be rounded, and so the distance from the last task's.
  alpha = 2.0 if name.endswith('phi') else 1.0
  # All of them are numbers of the dtype, and some weights are zero.
  phi = jax.tree.map(
    lambda x: jnp.where(x > 1, 0, 0.1 * x).astype(dtype), _random(0)
  )
  small = jax.tree.map(lambda x: (1e-4 * x).astype(dtype), _random(1))
  large = jax.tree.map(lambda x: (1e2 * x).astype(dtype), _random(2))
  after = jax.tree.map(lambda x, d: x + 10 * d, phi, small)
  opposed = jax.tree.map(
    lambda x, y: (50 * y - x).astype(dtype), large, _random(5)
  )

  def numbers(kind):
    at, step, far, new = (_cast(t, kind) for t in (phi, small, large, after))
    first, state = method.init(jax.random.key(0), at, Psi(alpha), None)
    if name == 'a_gem':
      state = state._replace(stored=jnp.int32(1))
      return method.continual.rehearsal.combine(
        far, _cast(opposed, kind), state
      )
    if name == 'vcl':
      moved = {**first, 'mean': new}
    else:
      moved = new
      if method.continual.track is not None:
        state = method.continual.track(step, at, new, state)
      scale, more = (1e2, 40_000) if name == 'mas' else (1e-3, 0)

      def logits(w, some):
        x = scale * jnp.ones((len(some.label), 6), kind)
        return jnp.pad(x @ w['a']['w'], ((0, 0), (0, more)))

      _, state, _ = method.continual.end_task(
        _ending(at, alpha, logits), at, state
      )
    theta = reparam.to_theta(moved, alpha)
    return steps_lib.penalty_gradient(method, moved, theta, Psi(alpha), state)

  with jax.disable_jit():  # two steps of a loop need no program
    _near(numbers(dtype), numbers(jnp.float32), 0.05)


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_small_saliencies_and_free_weights_at_zero_are_told_from_nothing(dtype):
  brief = methods.Brief(methods.make_target(_LAYERS, 0.5), 20)
  phi, dense = _random(0, dtype), _cast(_random(1), jnp.float32)
  dense = jax.tree.map(lambda g: (1e-6 * g).astype(dtype), dense)

  def scores(kind):
    return masked.scores(
      *(brief, 'saliency', jax.random.key(0)),
      *(_cast(phi, kind), Psi(2.0), _cast(dense, kind)),
    )

  _near(scores(dtype), scores(jnp.float32), 1e-5)
  used = _masks(1)
  phi = trees.replace_weights(
    phi, {n: jnp.where(m, 1, 0).astype(dtype) for n, m in used.items()}
  )
  state = packing.Packing(used, used, jnp.int32(1))
  method = _make('packnet')
  _, new, _ = jax.jit(
    lambda: method.continual.end_task(
      _ending(phi, 1.0)._replace(task=1), phi, state
    )
  )()
  free = {n: ~m for n, m in used.items()}
  for n, m in new.mask.items():
    assert int(jnp.sum(m & free[n])) == min(m.size // 2, int(jnp.sum(free[n])))


def test_ties_are_broken_by_numbers_below_1_with_64_bits_too():
  numbers = []
  for x64 in (False, True):
    with jax.enable_x64(x64):
      phi = {'w': jnp.zeros((9, 9), jnp.float32)}
      nothing = {'w': jnp.zeros((9, 9), bool)}
      new = drop_grow.grown(
        jax.random.key(3), phi, nothing, {'w': jnp.int32(20)}
      )
      numbers.append(np.asarray(new['w']))
      hashed = drop_grow._hashed(
        jax.random.bits(jax.random.key(3), (), jnp.uint32), (9, 9)
      )
      assert 0 <= float(hashed.min()) < float(hashed.max()) < 1
  assert numbers[0].sum() == 20
  np.testing.assert_array_equal(*numbers)


@pytest.mark.parametrize(
  ('dtype', 'x64'), [(jnp.float16, False), (jnp.float64, True)]
)
def test_logits_of_any_precision_are_scored(dtype, x64):
  """Whether labels are right, and by a hash of all of their bits."""
  with jax.enable_x64(x64):
    image = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    split = data.Split(image, np.arange(6, dtype=np.int32) % 3)

    def apply(w, state, key, image, is_training):
      del key, is_training
      label = jnp.round(image[:, 0, 0, 0]).astype(jnp.int32) % 3
      logits = jax.nn.one_hot(label, 3, dtype=dtype) + w.astype(dtype)
      return logits, state

    it = classification.Pictures(
      hk.TransformedWithState(None, apply), (1, 1, 1), 1.0
    )
    score = jax.jit(lambda w: classification.score(it, w, {}, split, ''))
    one, two = score(jnp.zeros(3)), score(jnp.array([0.0, 0.0, 1e-3]))
    assert float(one.value) == 1 and np.isfinite(one.loss)
    assert np.any(one.fingerprint != two.fingerprint)
