"""Pruning in one call, and what the entry points refuse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import powerprop
from powerprop import methods
from powerprop import reparam
from powerprop import trees
from powerprop.methods import magnitude
from powerprop.psi import Psi
from powerprop.types import Event

_SHAPES = {'conv': (3, 3, 2, 4), 'hidden': (36, 8), 'output': (8, 6)}


def _theta():
  rng = np.random.default_rng(0)
  return {
    name: {
      # 'output' is far smaller: ranked with the others, all of it would go.
      'w': (rng.standard_normal(s) * (1e-3 if name == 'output' else 1)).astype(
        np.float32
      ),
      'b': np.ones(s[-1:], np.float32),
    }
    for name, s in _SHAPES.items()
  }


def _sizes():
  return {f'{n}/w': math.prod(s) for n, s in _SHAPES.items()}


@pytest.mark.parametrize(
  'options, kept',
  [
    ({}, {'conv/w': 22, 'hidden/w': 86, 'output/w': 14}),
    # ⌊0.3·408 + ½⌋ in all; a layer keeps one.
    ({'distribution': 'global'}, {'output/w': 1, '': 122}),
    ({'patterns': {'hidden': 'channel'}}, {'hidden/w': 72}),
    ({'where': lambda path, x: 'hidden' in path and x.ndim > 1}, {'': 86}),
  ],
)
def test_prune_keeps_exactly_the_largest(options, kept):
  theta = _theta()
  pruned, masks = jax.jit(lambda x: powerprop.prune(x, 0.3, **options))(theta)
  count = {n: int(np.sum(m)) for n, m in masks.items()}
  for name, wanted in kept.items():
    assert (count[name] if name else sum(count.values())) == wanted
  before, after = (trees.weights(x, lambda *_: True) for x in (theta, pruned))
  for name, x in after.items():
    wanted = np.where(masks[name], before[name], 0) if name in masks else None
    np.testing.assert_array_equal(x, before[name] if wanted is None else wanted)
    if name in masks and 'patterns' not in options and not masks[name].all():
      x = np.abs(before[name])
      assert x[masks[name]].min() > x[~masks[name]].max()


def test_prune_of_phi_has_the_masks_of_one_shot_pruning_of_theta():
  theta = _theta()
  phi = powerprop.to_phi(theta, 3.0)
  counts = magnitude.counts(theta, [0.3])
  kept = {n: k[0] for n, k in counts.items()}
  wanted = jax.jit(magnitude.masks)(theta, kept)
  pruned, masks = jax.jit(lambda x: powerprop.prune(x, 0.3, alpha=3.0))(phi)
  jax.tree.map(np.testing.assert_array_equal, masks, wanted)
  # Pruning goes with Ψ.
  jax.tree.map(
    np.testing.assert_array_equal,
    powerprop.to_theta(pruned, 3.0),
    magnitude.prune(powerprop.to_theta(phi, 3.0), wanted),
  )


def test_units_of_phi_are_ranked_by_their_sum_in_theta():
  """Σ|θ| prefers one large weight, Σ|φ| several of middling size."""
  theta = {'w': jnp.array([[1.0, 0.3], [0.0, 0.3], [0.0, 0.3]])}
  phi = powerprop.to_phi(theta, 3.0)
  for params, alpha in ((theta, 1.0), (phi, 3.0)):
    _, masks = powerprop.prune(
      params, 0.5, alpha=alpha, patterns={'w': 'channel'}
    )
    assert masks['w'].tolist() == [[True, False]] * 3


_W = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
  'call, match',
  [
    (
      lambda: powerprop.top_k_masks(_W, 0.1),
      r'k is 0.1 but .* whole number in \[0, 8\]; .*powerprop.prune\(params',
    ),
    (
      lambda: powerprop.top_k_masks({'a': {'w': _W}}, {'a': {'w': 9}}),
      'k of a/w is 9 but',
    ),
    (lambda: powerprop.top_k_masks(_W, -1), 'k is -1'),
    (lambda: powerprop.top_k_masks(_W, jnp.int32(9)), 'k is 9'),
    (lambda: powerprop.top_k_masks(_W, True), 'k is True'),
    (lambda: powerprop.top_k_masks([_W, _W], 3), 'counts must have a number'),
    (
      lambda: jax.jit(powerprop.top_k_masks)(_W, 0.1),
      'k is a traced float.* whole number',
    ),
    (
      lambda: powerprop.top_k_masks({'a': np.arange(4)}, {'a': 1}),
      'scores of a are int.* but must be floating',
    ),
    (lambda: powerprop.kth_largest(_W, 0), r'k is 0 but .* in \[1, 8\]'),
    (lambda: powerprop.kth_largest(_W, 9), 'k is 9'),
    (lambda: powerprop.kth_largest(_W, 0.5), 'k is 0.5'),
    (lambda: powerprop.kth_largest(_W[:0], 1), r'k is 1 but .* in \[1, 0\]'),
    (lambda: powerprop.kth_largest(np.arange(4), 1), 'must be floating'),
    (lambda: powerprop.prune({'w': _W}, 10), r'density is 10 .* \(0, 1\]'),
    (lambda: powerprop.prune({'w': _W}, '10%'), "density is '10%'"),
    (lambda: powerprop.prune({}, 0.5), 'no layer is left .* of 0'),
    (lambda: powerprop.prune({'w': _W * np.nan}, 0.5), 'w holds a NaN'),
    (
      lambda: powerprop.prune({'w': np.ones((2, 2), int)}, 0.5),
      'no layer is left',
    ),
    (
      lambda: powerprop.prune({'w': _W}, 0.5, 'unifrom'),
      "distribution is 'unifrom' but must be one of uniform",
    ),
    (lambda: magnitude.counts({'w': _W}, [0.5, 2.0]), 'density is 2.0 but'),
    (lambda: trees.kept(8, 0.0), 'density is 0.0 but'),
    (
      lambda: methods.select(
        methods.make_target({'w': _W}, 0.5), {'w': _W}, 1.5
      ),
      r'share is 1.5 but must be in \[0, 1\]',
    ),
  ],
)
def test_bad_input_gets_a_sentence(call, match):
  with pytest.raises(ValueError, match=match) as error:
    call()
  assert len(str(error.value).splitlines()) == 1


def test_counts_at_both_ends_of_their_range_are_none_and_all():
  assert not powerprop.top_k_masks(_W, 0).any()
  assert powerprop.top_k_masks(_W, np.int64(8)).all()


def test_dsr_leaves_no_layer_empty_before_training():
  """Its first change at step 0, where one layer is drawn a thousandth as large.

  All that layer's weights are among the smallest of all.
  """
  theta = _theta()
  target = methods.make_target(theta, 0.3)
  method = methods.dsr(methods.Brief(target, 100), begin=0, fraction=1.0)
  phi = reparam.to_phi(theta, 2.0)
  init = jax.jit(
    lambda phi: method.init(jax.random.key(0), phi, Psi(2.0), None)
  )
  _, masks = init(phi)

  @jax.jit
  def change(phi, masks):
    event = Event(
      key=jax.random.key(1),
      step=jnp.int32(0),
      phi=phi,
      psi=Psi(2.0),
      opt=(),
      dense=phi,
      reset=lambda opt, phi, chosen: opt,
    )
    return method.change.update(event, masks)

  new_phi, _, after = change(phi, masks)
  counts = {n: int(np.sum(m)) for n, m in after.items()}
  assert sum(counts.values()) == sum(target.kept.values())
  assert min(counts.values()) >= 1
  layer = 'output/w'
  stays = np.asarray(masks[layer] & after[layer])
  old, new = trees.weights(phi)[layer], trees.weights(new_phi)[layer]
  largest = np.argmax(np.where(masks[layer], np.abs(old), -1))
  assert stays.ravel()[largest] and new.ravel()[largest] == old.ravel()[largest]
