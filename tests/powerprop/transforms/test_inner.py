"""All of optax inside Powerprop: what works, and what is refused and why."""

import functools
import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib
import pytest

from experiments.engine import making
from powerprop import reparam
from powerprop.transforms import adaptive_powerprop
from powerprop.transforms import chain_rule
from powerprop.transforms import current_alpha
from powerprop.transforms import powerprop

PAGE = pathlib.Path(__file__).parents[3] / 'docs' / 'transforms.md'
RATE = 0.05
_X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 4)), jnp.float32)
_BEST = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)
# The signs are those of the best weights: for α > 1 none crosses zero.
_START = {'w': 0.3 * _BEST, 'b': jnp.full(3, 0.2)}


def _loss(theta):
  return jnp.mean((_X @ (theta['w'] - 0.6 * _BEST) + theta['b'] - 0.4) ** 2)


_value_and_grad = jax.jit(jax.value_and_grad(_loss))
_to_theta = jax.jit(reparam.to_theta, static_argnums=1)


def _public(name):
  """What optax calls so."""
  return functools.reduce(getattr, name.split('.'), optax)


def _sgd(*args):
  return optax.chain(*args, optax.sgd(RATE))


def _everything(params):
  return jax.tree.map(lambda x: True, params)


# Names within optax, and what makes one; for those of `_named`, a rate does.
def _named(names, make):
  return {n: functools.partial(make, _public(n)) for n in names.split()}


WORKS = {
  **_named(
    """adabelief adafactor adagrad adam adamax adamaxw adamw adan amsgrad
    fromage lamb lion nadam nadamw novograd optimistic_adam_v2
    optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd signum sm3 yogi
    scale_by_learning_rate contrib.acprop contrib.ademamix contrib.adopt
    contrib.galore contrib.madgrad contrib.muon""",
    lambda make: make(RATE),
  ),
  'adadelta': lambda: optax.adadelta(20.0),
  'lars': lambda: optax.lars(20.0),
  'noisy_sgd': lambda: optax.noisy_sgd(RATE, key=0),
  'contrib.dpsgd': lambda: contrib.dpsgd(RATE, 9.0, 0.0, 0),
  'contrib.simplified_ademamix': lambda: contrib.simplified_ademamix(1e-3),
  'contrib.sophia': lambda: contrib.sophia(0.01, gamma=1.0),
  # Parts of optimisers, in front of SGD.
  **_named(
    """centralize identity normalize_by_update_norm scale_by_adam
    scale_by_adamax scale_by_adan scale_by_amsgrad scale_by_belief
    scale_by_factored_rms scale_by_lion scale_by_novograd
    scale_by_optimistic_gradient scale_by_param_block_norm
    scale_by_param_block_rms scale_by_radam scale_by_rms scale_by_rss
    scale_by_sign scale_by_sm3 scale_by_stddev scale_by_trust_ratio
    scale_by_yogi zero_nans contrib.normalize contrib.reduce_on_plateau
    contrib.scale_by_acprop contrib.scale_by_ademamix contrib.scale_by_adopt
    contrib.scale_by_galore""",
    lambda make: _sgd(make()),
  ),
  **_named(
    """adaptive_grad_clip clip clip_by_block_rms clip_by_global_norm ema trace
    """,
    lambda make: _sgd(make(0.5)),
  ),
  'add_decayed_weights': lambda: _sgd(optax.add_decayed_weights(0.01)),
  'add_noise': lambda: _sgd(optax.add_noise(1e-4, 0.5, key=0)),
  'apply_every': lambda: _sgd(optax.apply_every(2)),
  'measure_with_ema': lambda: _sgd(
    optax.monitor({'norm': optax.measure_with_ema(optax.tree.norm, 0.9)})
  ),
  'monitor': lambda: _sgd(optax.monitor({'norm': optax.tree.norm})),
  'scale': lambda: optax.scale(-RATE),
  'scale_by_adadelta': lambda: optax.chain(
    optax.scale_by_adadelta(), optax.scale(-20.0)
  ),
  'scale_by_rprop': lambda: optax.chain(
    optax.scale_by_rprop(RATE), optax.scale(-1.0)
  ),
  'scale_by_schedule': lambda: optax.scale_by_schedule(lambda i: -RATE),
  'set_to_zero': optax.set_to_zero,
  'snapshot': lambda: _sgd(optax.snapshot('norm', optax.tree.norm)),
  'stateless': lambda: optax.stateless(
    lambda updates, params: jax.tree.map(lambda u: -RATE * u, updates)
  ),
  'stateless_with_tree_map': lambda: optax.stateless_with_tree_map(
    lambda u, p: -RATE * u
  ),
  'contrib.differentially_private_aggregate': lambda: _sgd(
    contrib.differentially_private_aggregate(9.0, 0.0, 0)
  ),
  'contrib.scale_by_madgrad': lambda: contrib.scale_by_madgrad(RATE),
  'contrib.scale_by_muon': lambda: _sgd(
    optax.masked(
      contrib.scale_by_muon(
        weight_dimension_numbers=lambda params: jax.tree.map(
          lambda x: contrib.MuonDimensionNumbers(), params
        )
      ),
      {'w': True, 'b': False},
    )
  ),
  'contrib.scale_by_simplified_ademamix': lambda: optax.chain(
    contrib.scale_by_simplified_ademamix(), optax.scale(-1e-3)
  ),
}

# They decide for themselves how far to go.
LENGTH = {
  'polyak_sgd': lambda: optax.polyak_sgd(0.5),
  'scale_by_polyak': lambda: optax.chain(
    optax.sgd(0.5), optax.scale_by_polyak()
  ),
  'scale_by_distance_over_gradients': lambda: optax.chain(
    optax.scale_by_distance_over_gradients(0.1), optax.scale(-1.0)
  ),
  'contrib.dadapt_adamw': lambda: contrib.dadapt_adamw(estim_lr0=0.01),
  'contrib.dog': lambda: contrib.dog(init_step=('learning_rate', RATE)),
  'contrib.dowg': lambda: contrib.dowg(init_estim_sq_dist=0.01),
  'contrib.momo': lambda: contrib.momo(0.1),
  'contrib.momo_adam': lambda: contrib.momo_adam(RATE),
  'contrib.prodigy': lambda: contrib.prodigy(estim_lr0=0.01),
}

# Inside as well as outside: what makes one of an optimiser.
WRAPPERS = {
  'MultiSteps': lambda tx: optax.MultiSteps(tx, 2),
  'apply_if_finite': lambda tx: optax.apply_if_finite(tx, 3),
  'chain': optax.chain,
  'conditionally_mask': lambda tx: optax.conditionally_mask(
    tx, lambda step: step >= 0
  ),
  'conditionally_transform': lambda tx: optax.chain(
    tx, optax.conditionally_transform(optax.clip(1.0), lambda step: step >= 0)
  ),
  'freeze': lambda tx: optax.chain(tx, optax.freeze({'w': False, 'b': True})),
  'masked': lambda tx: optax.masked(tx, _everything),
  'multi_transform': lambda tx: optax.multi_transform({True: tx}, _everything),
  'named_chain': lambda tx: optax.named_chain(('only', tx)),
  'partition': lambda tx: optax.partition({True: tx}, _everything),
  'selective_transform': lambda tx: optax.selective_transform(
    tx, freeze_mask={'w': False, 'b': True}
  ),
  'with_extra_args_support': optax.with_extra_args_support,
  'contrib.split_real_and_imaginary': contrib.split_real_and_imaginary,
}
# Inside only; what makes them takes no optimiser, or φ would be no matrix.
INSIDE = {
  'flatten': lambda: optax.flatten(optax.sgd(RATE)),
  'inject_hyperparams': lambda: optax.inject_hyperparams(optax.sgd)(RATE),
}


def _adversary(wrap=lambda tx: tx):
  return wrap(optax.chain(contrib.normalize(), optax.sgd(0.01)))


# Refused inside: what makes one, and, put around, what to do instead.
AROUND = {
  'lookahead': (
    lambda: optax.lookahead(optax.sgd(RATE), 3, 0.5),
    lambda a: optax.lookahead(powerprop(optax.sgd(RATE), a), 3, 0.5),
  ),
  'contrib.sam': (
    lambda: contrib.sam(optax.sgd(RATE), _adversary()),
    lambda a: contrib.sam(
      powerprop(optax.sgd(RATE), a),
      _adversary(lambda tx: chain_rule(tx, a)),
    ),
  ),
  **{
    name: (
      make,
      lambda a: contrib.schedule_free(powerprop(optax.sgd(RATE), a), RATE),
    )
    for name, make in {
      'contrib.schedule_free': lambda: contrib.schedule_free(
        optax.sgd(RATE), RATE
      ),
      'contrib.schedule_free_adamw': lambda: contrib.schedule_free_adamw(RATE),
      'contrib.schedule_free_sgd': lambda: contrib.schedule_free_sgd(RATE),
    }.items()
  },
}
# Outside as well, but without a state that would give it away.
UNSEEN = {'keep_params_nonnegative': optax.keep_params_nonnegative}
NAIVE = {
  'lbfgs': lambda: optax.lbfgs(memory_size=2, linesearch=None),
  'scale_by_lbfgs': lambda: optax.chain(
    optax.scale_by_lbfgs(2), optax.scale(-1.0)
  ),
  'contrib.cocob': contrib.cocob,
  'contrib.scale_by_cocob': contrib.scale_by_cocob,
  'contrib.mechanize': lambda: contrib.mechanize(optax.sgd(1.0), s_init=0.1),
}
SEARCHES = {
  'scale_by_backtracking_linesearch': lambda: _sgd(
    optax.scale_by_backtracking_linesearch(3)
  ),
  'scale_by_zoom_linesearch': lambda: optax.lbfgs(),
}

# Neither optimisers nor made for use alone; the last three are deprecated.
_OTHERS = {
  *"""bias_correction matrix_inverse_pth_root sigmoid_binary_cross_entropy
  update_infinity_moment update_moment update_moment_per_elem_norm
  contrib.hutchinson_estimator_diag_hessian contrib.schedule_free_eval_params
  inject_stateful_hyperparams optimistic_adam""".split()
}


def _train(name, tx, alpha, steps):
  """Steps of an optimiser.

  Returns:
    The losses at both ends, the last parameters and state.
  """
  params = reparam.to_phi(_START, alpha)
  if name == 'lookahead':
    params = optax.LookaheadParams.init_synced(params)
  tx = optax.with_extra_args_support(tx)
  state = tx.init(params)
  per_example = 'private' in name or 'dpsgd' in name

  def update(value, grads, state, params):
    extra = {}
    if any(x in name for x in ('polyak', 'momo', 'plateau')):
      extra['value'] = value
    if 'sophia' in name:
      extra['obj_fn'] = _loss
    if 'opaque' in name:
      extra['grad_fn'] = lambda theta, i: _value_and_grad(theta)[1]
    if per_example:
      grads = jax.tree.map(lambda g: g[None], grads)
    updates, state = tx.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state

  losses = []
  for _ in range(steps):
    theta = _to_theta(getattr(params, 'fast', params), alpha)
    value, grads = _value_and_grad(theta)
    losses.append(float(value))
    # Else each condition in it would be compiled, anew in every step.
    with jax.disable_jit():
      params, state = update(value, grads, state, params)
  return losses, params, state


def _assert_falls(losses):
  assert np.all(np.isfinite(losses)) and losses[-1] < 0.97 * losses[0], losses


def _assert_works(name, wrapped, plain):
  """The loss falls at α = 2; at α = 1 all bits are those of plain optax."""
  losses, _, state = _train(name, wrapped(2.0), 2.0, 4)
  if name == 'set_to_zero':
    assert len(set(losses)) == 1
  else:
    _assert_falls(losses)
  assert current_alpha(state) == 2.0
  _, actual, _ = _train(name, wrapped(1.0), 1.0, 2)
  _, expected, _ = _train(name, plain, 1.0, 2)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


_ALONE = {
  **WORKS,
  **LENGTH,
  **INSIDE,
  'contrib.sam, opaque': lambda: contrib.sam(
    optax.sgd(RATE), _adversary(), opaque_mode=True
  ),
}


@pytest.mark.filterwarnings('ignore:"seed" is deprecated')  # optax's own use
@pytest.mark.parametrize('name', _ALONE)
def test_inside_it_works(name):
  make = _ALONE[name]
  _assert_works(name, lambda a: powerprop(make(), a), make())


@pytest.mark.parametrize('name', WRAPPERS)
def test_inside_and_outside_it_works(name):
  wrap, plain = WRAPPERS[name], optax.sgd(RATE)
  _assert_works(name, lambda a: powerprop(wrap(plain), a), wrap(plain))
  _assert_works(name, lambda a: wrap(powerprop(plain, a)), wrap(plain))


def _refused(make, name):
  """The sentence with which an optimiser is refused."""
  with pytest.raises(ValueError, match='must know where its steps lead') as e:
    make.init(_START)
  assert name.removeprefix('contrib.') in str(e.value) and '\n' not in str(e)
  return str(e.value)


@pytest.mark.parametrize('name', AROUND)
def test_refused_inside_it_works_around(name):
  make, around = AROUND[name]
  kind = 'schedule_free' if 'schedule_free' in name else name
  assert 'put it around' in _refused(powerprop(make(), 2.0), kind)
  _refused(adaptive_powerprop(make(), 2.0, every=2), kind)
  losses, *_, state = _train(name, around(2.0), 2.0, 8)
  _assert_falls(losses)
  assert current_alpha(state) == 2.0
  # With α = 1 it is as if Powerprop were not there.
  if kind == name:
    losses, actual, _ = _train(name, around(1.0), 1.0, 4)
    _, expected, _ = _train(name, make(), 1.0, 4)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize('name', NAIVE)
def test_refused_inside_it_works_with_the_chain_rule(name):
  make = NAIVE[name]
  kind = name.replace('scale_by_', '')
  assert 'powerprop.chain_rule' in _refused(powerprop(make(), 2.0), kind)
  _assert_falls(_train(name, chain_rule(make(), 2.0), 2.0, 4)[0])


def test_what_keeps_weights_is_on_phi_itself_under_the_chain_rule():
  """So that the steps are those of the plain optimiser on ∂L/∂φ."""
  through = jax.jit(jax.grad(lambda p: _loss(reparam.to_theta(p, 2.0))))
  for make in (contrib.cocob, AROUND['contrib.sam'][0]):
    tx, plain = chain_rule(make(), 2.0), make()
    phi = by_hand = reparam.to_phi(_START, 2.0)
    state, other = tx.init(phi), plain.init(phi)
    for _ in range(4):
      _, grads = _value_and_grad(_to_theta(phi, 2.0))
      updates, state = tx.update(grads, state, phi)
      phi = optax.apply_updates(phi, updates)
      updates, other = plain.update(through(by_hand), other, by_hand)
      by_hand = optax.apply_updates(by_hand, updates)
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4), phi, by_hand
    )
    assert not np.allclose(phi['w'], reparam.to_phi(_START, 2.0)['w'])


@pytest.mark.parametrize('name', SEARCHES)
def test_line_searches_are_refused(name):
  for make in (powerprop, chain_rule):
    sentence = _refused(make(SEARCHES[name](), 2.0), name)
    assert 'line search' in sentence and 'linesearch=None' in sentence


def test_a_line_search_alone_goes_through_psi():
  """What the sentence advises."""
  loss = lambda phi: _loss(reparam.to_theta(phi, 2.0))
  tx = _sgd(optax.scale_by_backtracking_linesearch(3))
  phi = reparam.to_phi(_START, 2.0)

  @jax.jit
  def step(phi, state):
    value, grads = jax.value_and_grad(loss)(phi)
    updates, state = tx.update(
      grads, state, phi, value=value, grad=grads, value_fn=loss
    )
    return optax.apply_updates(phi, updates), state, value

  state, losses = tx.init(phi), []
  for _ in range(5):
    phi, state, value = step(phi, state)
    losses.append(float(value))
  _assert_falls(losses)


@pytest.mark.parametrize('name', WRAPPERS)
def test_what_is_refused_is_found_within_wrappers(name):
  _refused(powerprop(WRAPPERS[name](contrib.cocob()), 2.0), 'cocob')


def test_nonnegative_weights_are_kept_so_outside_only():
  """Inside, what it answers would be a weight of zero, times the slope."""
  keep = UNSEEN['keep_params_nonnegative']()
  outside = optax.chain(powerprop(optax.sgd(1.0), 2.0), keep)
  phi = {'w': jnp.array([[0.5, 2.0]])}
  grads = {'w': jnp.array([[0.1, 9.0]])}
  updates, _ = outside.update(grads, outside.init(phi), phi)
  np.testing.assert_allclose(phi['w'] + updates['w'], [[0.4, 0.0]])
  inside = powerprop(optax.chain(optax.sgd(1.0), keep), 2.0)
  updates, _ = inside.update(grads, inside.init(phi), phi)
  assert np.min(phi['w'] + updates['w']) < 0


def test_flattened_outside_nothing_is_under_psi():
  tx = optax.flatten(powerprop(optax.sgd(RATE), 2.0))
  with pytest.warns(UserWarning, match='no parameter is under Ψ'):
    tx.init(_START)


TABLE = {
  'works inside': {**WORKS, **INSIDE},
  'works inside and outside': WRAPPERS,
  'works inside, but goes its own way': LENGTH,
  'refused: put it around': AROUND,
  'refused: give it to `chain_rule`': NAIVE,
  'refused by both: use it alone': SEARCHES,
  'works outside only; nobody can refuse it': UNSEEN,
}


def test_all_of_optax_is_in_the_table():
  found = set()
  for module, prefix in ((optax, ''), (optax.transforms, ''), (contrib, 'c')):
    for name, fn in vars(module).items():
      if name.startswith('_') or inspect.ismodule(fn) or isinstance(fn, type):
        continue
      try:
        gives = str(inspect.signature(fn).return_annotation)
      except (TypeError, ValueError):  # a type alias
        continue
      if 'GradientTransformation' in gives or gives == str(inspect._empty):
        found.add(f'contrib.{name}' if prefix else name)
  known = {name for row in TABLE.values() for name in row}
  # `optax` has types that can be called, but are none of these.
  found = {n for n in found if not n.removeprefix('contrib.')[0].isupper()}
  assert found - known == _OTHERS & found
  assert set(making.optimizers()) <= set(WORKS)


def test_the_page_has_the_table():
  text = PAGE.read_text(encoding='utf-8')
  rows = re.findall(r'^\| \*\*(.*?)\*\*.*? \| (.*?) \|', text, re.M)
  on_page = {kind: re.findall(r'`([\w.]+)`', names) for kind, names in rows}
  assert {k: sorted(v) for k, v in on_page.items()} == {
    kind: sorted(names) for kind, names in TABLE.items()
  }


def _schedule(count):
  return 0.1


@pytest.mark.parametrize(
  'inner, hint',
  [
    ('adam', ''),
    (optax.adam, 'has to be called'),
    (optax.MultiSteps, 'has to be called'),
    (functools.partial(optax.adam, b1=0.5), 'has to be called'),
    (_schedule, 'has to be called'),
    (2.0, ''),
    (None, ''),
    ({'adam': 1e-3}, ''),
    ((optax.adam(1e-3).init, optax.adam(1e-3).update), ''),
  ],
)
def test_what_is_no_optimiser_gets_a_sentence(inner, hint):
  for make in (
    powerprop,
    chain_rule,
    functools.partial(adaptive_powerprop, every=2),
  ):
    with pytest.raises(ValueError, match=r'^inner is .*optax\.adam') as error:
      make(inner, 2.0)
    assert hint in str(error.value) and '\n' not in str(error.value)
  # In the wrong order.
  with pytest.raises(ValueError, match='^inner is 2.0 but must be an optax'):
    powerprop(2.0, optax.adam(1e-3))
