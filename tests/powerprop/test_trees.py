"""Which leaves are weights, and exact top-k masks against a sort."""

import collections

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerprop import trees

_settings = settings(deadline=None, max_examples=40)
DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)

_jitted = jax.jit(trees.top_k_masks)
_jitted_kth = jax.jit(trees.kth_largest)


def _top_k(x, k):
  """The mask by a stable sort: among ties the lowest index comes first."""
  magnitude = np.abs(np.asarray(x).astype(np.float64)).ravel()
  mask = np.zeros(magnitude.size, bool)
  mask[np.argsort(-magnitude, kind='stable')[:k]] = True
  return mask.reshape(np.shape(x))


# Few distinct values give many ties; a wide range tells every bit apart.
_values = st.one_of(
  st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 2.0**-14]),
  st.floats(-60000, 60000, width=16),
)
_arrays = hnp.arrays(np.float64, (4, 6), elements=_values)
_ties = hnp.arrays(
  np.float64, (4, 6), elements=st.sampled_from([0.0, -0.0, 1.0, -1.0])
)


@pytest.mark.parametrize('dtype', DTYPES, ids=lambda d: d.__name__)
@_settings
@given(values=st.one_of(_arrays, _ties), k=st.integers(0, 24))
def test_masks_against_a_sort(dtype, values, k):
  with jax.enable_x64(dtype == jnp.float64):
    x = jnp.asarray(values, dtype)
    mask = _jitted(x, np.int32(k))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, _top_k(x, k))
    if k > 0:
      kth = _jitted_kth(x, np.int32(k))
      assert kth.dtype == dtype and kth.shape == ()
      assert kth == np.sort(np.abs(np.asarray(x)), axis=None)[-k]


def test_the_smallest_and_largest_magnitudes_are_told_apart():
  info = np.finfo(np.float32)
  x = np.array(
    [
      0,
      info.tiny,
      2 * info.tiny,
      1,
      np.nextafter(np.float32(1), 2),
      info.max,
      -np.inf,
      info.smallest_subnormal,
    ],
    np.float32,
  )
  for k in range(x.size + 1):
    np.testing.assert_array_equal(_jitted(x, k), _top_k(x, k))
    if k > 0:
      # By their bits: a comparison of floats may take a subnormal for a zero.
      kth = np.asarray(_jitted_kth(x, k))
      assert kth.tobytes() == np.sort(np.abs(x))[-k].tobytes()


def test_nan_counts_as_largest():
  x = jnp.array([1.0, jnp.nan, jnp.inf, -jnp.nan])
  for k, kept in ((1, [1]), (2, [1, 3]), (3, [1, 2, 3])):
    assert np.flatnonzero(_jitted(x, k)).tolist() == kept
  kth = [float(_jitted_kth(x, k)) for k in (1, 2, 3, 4)]
  np.testing.assert_array_equal(kth, [np.nan, np.nan, np.inf, 1.0])


def test_each_leaf_of_a_tree_has_its_own_count():
  rng = np.random.default_rng(0)
  ties = np.round(rng.normal(size=(7, 5)), 1)
  scores = {
    'half': jnp.asarray(ties, jnp.float16),
    'nested': [jnp.asarray(rng.normal(size=11)), jnp.asarray(ties)],
    'one': jnp.ones(()),
    'row': jnp.zeros((1, 8)),
  }
  counts = {'half': 9, 'nested': [11, 0], 'one': 1, 'row': np.int64(3)}
  expected = jax.tree.map(_top_k, scores, counts)
  for masks in (trees.top_k_masks(scores, counts), _jitted(scores, counts)):
    jax.tree.map(np.testing.assert_array_equal, masks, expected)


def test_leaves_of_different_width():
  with jax.enable_x64(True):
    x = np.random.default_rng(0).normal(size=(2, 50))
    x[:, 10:20] = x[:, :10]
    scores = [jnp.asarray(x[0], jnp.float32), jnp.asarray(x[1])]
    masks = trees.top_k_masks(scores, [15, 16])
    np.testing.assert_array_equal(masks[0], _top_k(scores[0], 15))
    np.testing.assert_array_equal(masks[1], _top_k(scores[1], 16))


def test_vmapped_is_looped():
  rng = np.random.default_rng(0)
  x = jnp.asarray(np.round(rng.normal(size=(5, 6, 4)), 1), jnp.float32)
  k = jnp.array([0, 1, 7, 12, 24])
  mapped = jax.vmap(trees.top_k_masks)({'w': x}, {'w': k})['w']
  for m, row, count in zip(mapped, x, k, strict=True):
    np.testing.assert_array_equal(m, _top_k(row, int(count)))
  # One array, many counts: the densities of a pruning curve.
  mapped = jax.vmap(trees.top_k_masks, (None, 0))(x[0], k)
  for m, count in zip(mapped, k, strict=True):
    np.testing.assert_array_equal(m, _top_k(x[0], int(count)))
  largest = jax.vmap(trees.kth_largest)(x[1:], k[1:])
  looped = [_jitted_kth(a, b) for a, b in zip(x[1:], k[1:], strict=True)]
  np.testing.assert_array_equal(largest, jnp.stack(looped))


def test_a_large_array_of_ties_keeps_the_lowest_indices():
  x = jnp.ones((1000, 37)).at[500:].set(-1)
  mask = np.asarray(_jitted(x, 12_345)).ravel()
  assert mask[:12_345].all() and not mask[12_345:].any()


def test_an_empty_tree_has_no_masks():
  assert trees.top_k_masks({}, {}) == {}


@pytest.mark.parametrize(
  'size, density, expected',
  [
    (100, 1.0, 100),
    (100, 0.5, 50),
    (100, 0.01, 1),
    (100, 1e-9, 1),
    (3, 0.5, 2),
    (1, 0.3, 1),
    (266_200, 0.1, 26_620),
    (7, 0.9999, 7),
  ],
)
def test_kept(size, density, expected):
  number = trees.kept(size, density)
  assert number == expected and isinstance(number, int)


@pytest.mark.parametrize(
  'path, leaf, expected',
  [
    ('linear/w', jnp.ones((2, 3)), True),
    ('linear/b', jnp.ones(3), False),
    ('linear/b', jnp.ones((1, 3)), False),  # a bias, whatever its axes
    ('conv2_d/w', jnp.ones((3, 3, 1, 1)), True),
    ('conv2_d/w', np.ones((3, 3, 1, 1)), True),
    ('conv2_d/w', jnp.ones((2, 2), jnp.bfloat16), True),
    ('conv2_d/w', jnp.ones((2, 2), jnp.int8), False),
    ('conv2_d/w', jnp.ones((2, 2), bool), False),
    ('batch_norm/scale', jnp.ones((1, 1, 1, 3)), False),
    ('batch_norm/offset', jnp.ones((1, 1, 1, 3)), False),
    ('layer_norm/scale', jnp.ones(3), False),
    ('embed/embeddings', jnp.ones((5, 3)), True),
    ('params/Dense_0/kernel', jnp.ones((2, 3)), True),
    ('params/Dense_0/bias', jnp.ones(3), False),
    ('params/Attention_0/query/bias', jnp.ones((2, 3)), False),
    ('batch_stats/BatchNorm_0/mean', jnp.ones((1, 1, 3)), False),
    ('batch_stats/BatchNorm_0/var', jnp.ones((1, 1, 3)), False),
    ('gamma', jnp.ones((1, 3)), False),
    ('beta', jnp.ones((1, 3)), False),
    ('scale/w', jnp.ones((2, 2)), True),  # only the last name tells
    ('w', jnp.ones(3), False),
    ('', jnp.ones((2, 2)), True),  # a bare array
  ],
)
def test_is_weight(path, leaf, expected):
  assert trees.is_weight(path, leaf) is expected


def test_paths_of_any_container():
  Point = collections.namedtuple('Point', 'kernel bias')
  tree = {'mlp/~/linear_0': {'w': 0}, 'x': [1, (2, Point(3, 4))]}
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  assert [trees.path_name(path) for path, _ in flat] == [
    'mlp/~/linear_0/w',
    'x/0',
    'x/1/0',
    'x/1/1/kernel',
    'x/1/1/bias',
  ]


def test_weights_come_out_by_path_and_go_back():
  tree = {
    'conv': {'w': jnp.ones((2, 2)), 'b': jnp.ones(2)},
    'linear': {'w': jnp.zeros((2, 3)), 'b': jnp.zeros(3)},
  }
  chosen = trees.weights(tree)
  assert list(chosen) == ['conv/w', 'linear/w']
  back = trees.replace_weights(tree, {k: v + 5 for k, v in chosen.items()})
  np.testing.assert_array_equal(back['linear']['w'], jnp.full((2, 3), 5.0))
  np.testing.assert_array_equal(back['conv']['w'], jnp.full((2, 2), 6.0))
  assert back['conv']['b'] is tree['conv']['b']


def test_map_where_takes_further_trees():
  tree = {'w': jnp.ones((2, 2)), 'b': jnp.ones(2)}
  out = trees.map_where(lambda x, y: x + y, trees.is_weight, tree, tree)
  np.testing.assert_array_equal(out['w'], jnp.full((2, 2), 2.0))
  assert out['b'] is tree['b']
