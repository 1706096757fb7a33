"""One-shot pruning by magnitude: exact counts, ties, what stays dense."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerprop.methods import magnitude

_SIZES = {'hidden/w': (20, 10), 'output/w': (10, 5)}


_masks = jax.jit(magnitude.masks)


def _params(fill=None):
  keys = jax.random.split(jax.random.key(0), len(_SIZES))
  return {
    name.split('/')[0]: {
      'w': jnp.full(shape, fill) if fill else jax.random.normal(key, shape),
      'b': jnp.ones(shape[1:]),
    }
    for key, (name, shape) in zip(keys, _SIZES.items(), strict=True)
  }


@pytest.mark.parametrize(
  'density, scale, hidden, output',
  [
    (1.0, 2.0, 200, 50),
    (0.7, 2.0, 140, 50),  # the output layer: min(1, 2·0.7)
    (0.5, 2.0, 100, 50),
    (0.25, 2.0, 50, 25),
    (0.1, 2.0, 20, 10),
    (0.1, 1.0, 20, 5),
    (0.013, 2.0, 3, 1),  # ⌊2.6 + ½⌋, ⌊1.3 + ½⌋
    (1e-9, 2.0, 1, 1),  # at least 1
  ],
)
def test_counts(density, scale, hidden, output):
  counts = magnitude.counts(_params(), [density], {'output/w': scale})
  assert {k: v.tolist() for k, v in counts.items()} == {
    'hidden/w': [hidden],
    'output/w': [output],
  }
  shapes = jax.eval_shape(_params)
  again = magnitude.counts(shapes, [density], {'output/w': scale})
  jax.tree.map(np.testing.assert_array_equal, counts, again)


@pytest.mark.parametrize('fill', [None, 1.0, -0.5], ids=str)
@pytest.mark.parametrize('density', [1.0, 0.31, 1e-6])
def test_masks_keep_exactly_that_many_and_the_largest(fill, density):
  params = _params(fill)
  counts = magnitude.counts(params, [density])
  kept = {k: v[0] for k, v in counts.items()}
  masks = _masks(params, kept)
  assert list(masks) == list(_SIZES)
  for name, mask in masks.items():
    w = np.asarray(params[name.split('/')[0]]['w']).ravel()
    order = np.argsort(-np.abs(w), kind='stable')  # ties by index
    wanted = np.zeros(w.size, bool)
    wanted[order[: kept[name]]] = True
    np.testing.assert_array_equal(np.ravel(mask), wanted)


def test_pruning_zeroes_the_rest_and_leaves_biases():
  params = _params()
  kept = {k: v[0] for k, v in magnitude.counts(params, [0.2]).items()}
  masks = magnitude.masks(params, kept)
  pruned = magnitude.prune(params, masks)
  for module, leaves in params.items():
    mask = np.asarray(masks[f'{module}/w'])
    np.testing.assert_array_equal(pruned[module]['b'], leaves['b'])
    np.testing.assert_array_equal(
      pruned[module]['w'], np.where(mask, leaves['w'], 0)
    )


def test_phi_tells_weights_apart_that_underflow_in_theta():
  phi = {'w': jnp.array([[1e-12, 3e-12, 2e-12, 0.0]])}
  theta = {'w': phi['w'] ** 4}  # all zero in float32
  assert not np.any(theta['w'])
  mask = magnitude.masks(phi, {'w': 2})['w']
  assert mask.tolist() == [[False, True, True, False]]
