"""Which leaves live under Ψ: what a loop says once reaches every method."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import data
from powerprop import methods
from powerprop import reparam
from powerprop import trees
from powerprop import units
from powerprop.methods import masked
from powerprop.methods import step as steps_lib
from powerprop.methods.continual import efficient_packnet
from powerprop.methods.continual import packing
from powerprop.psi import Psi
from tests import endings

_STEPS = 20
# A change of masks at step 6, where there are any.
_OPTIONS = {
  'fine_tune': {'at': 6},
  'lottery': {'at': 7},
  'iterative': {'begin': 2, 'end': 8, 'every': 2},
  'set': {'every': 3, 'end': 9},
  'rigl': {'every': 3, 'end': 9},
  'snfs': {'every': 3, 'end': 9},
  'dsr': {'every': 3, 'end': 9},
  'ac_dc': {'begin': 4, 'every': 2, 'end': 9},
}


def _functions_of(argument):
  return sorted(
    name
    for name in methods.__all__
    if inspect.isfunction(getattr(methods, name))
    and argument in inspect.signature(getattr(methods, name)).parameters
  )


_SPARSE, _CONTINUAL = _functions_of('brief'), _functions_of('tasks')
_PACKING = ('efficient_packnet', 'packnet')


def _params():
  draw = lambda i, *s: jax.random.normal(jax.random.key(i), s)
  return {'a': {'w': draw(0, 6, 4)}, 'b': {'w': draw(1, 4, 8), 'b': draw(2, 8)}}


def _loss(params):
  out = jnp.tanh(jnp.ones((2, 6)) @ params['a']['w']) @ params['b']['w']
  return jnp.mean(jnp.square(out + params['b']['b'] - 1))


_grad = jax.grad(_loss)


def _program(method, psi):
  """The whole of what a method computes in one's own loop, as text."""
  tx = psi.optimizer(optax.sgd(0.1, momentum=0.9))

  def loop(theta, step):
    phi = psi.to_phi(theta)
    phi, state = method.init(jax.random.key(0), phi, psi, _grad)
    theta = psi.to_theta(phi)
    dense = _grad(method.weights(theta, state))
    event = steps_lib.make_event(tx, jax.random.key(1), step, psi, dense)
    carry = (phi, tx.init(phi), state)
    return steps_lib.take_step(method, tx, event, theta, carry)

  return str(jax.make_jaxpr(loop)(_params(), jnp.int32(6)))


_ONLY_A = lambda path, leaf: path == 'a/w'
_NOWHERE = lambda path, leaf: False
_AIMS = {
  'global': {'distribution': 'global'},
  'patterns': {'patterns': {'a': 'channel', 'b': 'block:2x2'}},
}
_ROWS = [
  # These have no patterns.
  (name, 'global') if name in ('set', 'rigl', 'snfs', 'dsr') else (name, aim)
  for aim in _AIMS
  for name in _SPARSE
]


@pytest.mark.parametrize('name, aim', sorted(dict.fromkeys(_ROWS)))
def test_alpha_is_nothing_to_a_sparse_method_where_no_leaf_is_under_psi(
  name, aim
):
  """The programs of α = 2 and of α = 1 are the same, equation by equation."""
  target = methods.make_target(_params(), 0.5, **_AIMS[aim])
  brief = methods.Brief(target, _STEPS)
  method = getattr(methods, name)(brief, **_OPTIONS.get(name, {}))
  program = lambda *psi: _program(method, Psi(*psi))
  assert program(2.0, _NOWHERE) == program(1.0, _NOWHERE)
  if (name, aim) == ('dense', 'global'):  # the texts can differ
    assert program(2.0, _ONLY_A) != program(1.0, _ONLY_A)


# Continual learning.


def _tasks(where=trees.is_weight):
  shapes = jax.eval_shape(_params)
  width = shapes['a']['w'].shape[-1]
  found = units.Units({'a': units.Layer(width, 'a/w', (), ())}, 'b/w', ('b/b',))
  return methods.Tasks(
    shapes,
    2,
    endings.example((1, 2, 1), 8),
    6,
    2,
    where=where,
    units=lambda: found,
  )


def _examples(split, rows):
  del split
  image = jnp.stack([rows, 1 + rows], -1).astype(jnp.uint8)
  return data.Examples(image[:, None, :, None], rows % 8, jnp.ones(8, bool))


def _activations(w, examples):
  x = examples.image.reshape(-1, 2).astype(jnp.float32)
  return {'a': jnp.tanh(jnp.tile(x, 3) @ w['a']['w'])}


def _logits(w, examples):
  return _activations(w, examples)['a'] @ w['b']['w'] + w['b']['b']


def _life(name, psi, **options):
  """A step of the second task and its end, as text."""
  tx = psi.optimizer(optax.sgd(0.1, momentum=0.9))
  method = getattr(methods, name)(_tasks(), **options)

  def life(theta, key):
    phi = psi.to_phi(theta)
    phi, state = method.init(key, phi, psi, None)
    theta = psi.to_theta(phi)
    w = method.weights(theta, state)
    dense = jax.tree.map(jnp.ones_like, w)
    event = steps_lib.make_event(tx, key, jnp.int32(6), psi, dense, 0.5)
    carry, _ = steps_lib.take_step(
      method, tx, event, theta, (phi, tx.init(phi), state)
    )
    phi, _, state = carry
    ending = endings.ending(
      _examples,
      _logits,
      dict.fromkeys(('train', 'validation'), jnp.int32(6)),
      key=key,
      task=1,
      score=lambda w: jnp.mean(w['b']['b']),
      fresh=_params,
    )._replace(psi=psi, activations=_activations)
    phi, state, report = method.continual.end_task(ending, phi, state)
    phi, state, record = method.continual.archive(ending, phi, state)
    theta = psi.to_theta(phi)
    return state, report, method.continual.predict(theta, record)

  return str(jax.make_jaxpr(life)(_params(), jax.random.key(0)))


_LIVES = [
  *[(name, {}) for name in _CONTINUAL],
  *[(name, {'space': 'phi'}) for name in ('l2', 'si', 'mas', 'ewc')],
  ('vcl', {'coreset': 2}),
]


@pytest.mark.parametrize('name, options', _LIVES, ids=str)
def test_alpha_is_nothing_to_a_method_for_tasks_where_no_leaf_is_under_psi(
  name, options
):
  if 'memory_size' in inspect.signature(getattr(methods, name)).parameters:
    options = options | {'memory_size': 2}
  if name == 'efficient_packnet':
    options = options | {'rates': (0.5, 1.0)}
  life = functools.partial(_life, name, **options)
  assert life(Psi(2.0, _NOWHERE)) == life(Psi(1.0, _NOWHERE))


@pytest.mark.parametrize('name', _PACKING)
def test_packing_masks_what_tasks_choose_and_treats_the_rest_as_biases(name):
  options = {'rates': (0.5, 1.0)} if name == 'efficient_packnet' else {}
  make = functools.partial(getattr(methods, name), **options)
  with pytest.raises(ValueError, match='none of 3 leaves is a weight to share'):
    make(_tasks(_NOWHERE))
  tasks = _tasks(_ONLY_A)
  layout = packing.layout(tasks, 'frozen')
  assert list(layout.shapes) == ['a/w'] and layout.rest == ('b/b', 'b/w')
  # Frozen once the first task has ended.
  method, phi = make(tasks), _params()
  _, state = method.init(None, phi, Psi(2.0), None)
  moved = method.constrain(phi, state._replace(ended=jnp.int32(1)))
  assert np.any(moved['a']['w']) and not np.any(moved['b']['w'])


# In a net of both.


def test_snip_ranks_by_the_gradient_at_the_weights_of_a_mixed_net():
  theta = _params()
  target = methods.make_target(theta, 0.5)
  method, psi = methods.snip(methods.Brief(target, _STEPS)), Psi(2.0, _ONLY_A)
  init = jax.jit(lambda phi: method.init(jax.random.key(0), phi, psi, _grad))
  _, masks = init(psi.to_phi(theta))
  grads = trees.weights(jax.jit(_grad)(theta))
  for name, x in trees.weights(theta).items():
    saliency = np.abs(x * grads[name])
    kept = np.asarray(masks[name])
    assert saliency[kept].min() >= saliency[~kept].max() * (1 - 1e-4)


def test_new_weights_start_at_zero_only_where_psi_does_not_reach():
  phi = trees.weights(_params())
  psi = Psi(2.0, _ONLY_A)
  first = {n: jnp.zeros(x.shape, bool).at[0].set(True) for n, x in phi.items()}
  rest = {n: ~x for n, x in first.items()}
  out = jax.jit(lambda phi: masked.regrow(phi, first, rest, phi, psi, 1.0))(phi)
  np.testing.assert_array_equal(out['b/w'][0], 0)
  common = np.mean(np.abs(phi['a/w'][1:]))
  np.testing.assert_allclose(np.abs(out['a/w'][0]), common, rtol=1e-5)
  for name, x in out.items():
    np.testing.assert_array_equal(x[1:], phi[name][1:])


def test_layers_in_and_outside_of_psi_are_ranked_together_as_theta():
  theta = _params()
  psi = Psi(3.0, _ONLY_A)
  phi = psi.to_phi(theta)
  target = methods.make_target(theta, 0.4, 'global')
  brief = methods.Brief(target, _STEPS)
  ranks = masked.scores(brief, 'magnitude', None, phi, psi, {})
  flat = lambda x: np.concatenate([np.ravel(x[n]) for n in target.shapes])
  got, wanted = np.abs(flat(ranks)), np.abs(flat(trees.weights(theta)))
  np.testing.assert_array_equal(np.argsort(got), np.argsort(wanted))
  # φ itself is another order.
  assert np.any(np.argsort(np.abs(flat(trees.weights(phi)))) != np.argsort(got))
  in_phi = masked.in_phi(trees.weights(phi), psi)
  wanted = flat(trees.weights(reparam.to_phi(theta, 3.0)))
  np.testing.assert_allclose(flat(in_phi), wanted, rtol=1e-5)
  # So does EfficientPackNet.
  layout = packing.layout(_tasks(), 'frozen')
  ranking = efficient_packnet.rank(
    layout, phi, psi, packing.empty(layout), True
  )
  np.testing.assert_array_equal(ranking.ranks, np.abs(flat(in_phi)))
