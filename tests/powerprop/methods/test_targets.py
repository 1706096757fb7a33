"""Targets, patterns and exact selection."""

import functools
import math
from typing import Any

import haiku as hk
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import powerprop
from powerprop import methods
from powerprop import trees
from powerprop.methods import budgets
from powerprop.methods import patterns
from powerprop.methods import targets

_SHARES = (0.0, 0.1, 0.37, 0.5, 0.99, 1.0)


def _params(shapes):
  return {
    name: {'w': jax.ShapeDtypeStruct(shape, jnp.float32)}
    for name, shape in shapes.items()
  }


def _resnet50():
  """Its kernels: 53 convolutions and the last layer."""
  shapes = {'conv': (7, 7, 3, 64)}
  width = 64
  for i, blocks in enumerate((3, 4, 6, 3)):
    inner, outer = 64 * 2**i, 256 * 2**i
    for j in range(blocks):
      name = f'group_{i}_block_{j}'
      if j == 0:
        shapes[f'{name}_shortcut'] = (1, 1, width, outer)
      shapes[f'{name}_conv_0'] = (1, 1, width, inner)
      shapes[f'{name}_conv_1'] = (3, 3, inner, inner)
      shapes[f'{name}_conv_2'] = (1, 1, inner, outer)
      width = outer
  return shapes | {'output': (width, 1000)}


_LENET = {'hidden_0': (784, 300), 'hidden_1': (300, 100), 'output': (100, 10)}
_CONV = {
  'conv_0': (5, 5, 3, 6),
  'conv_1': (5, 5, 6, 16),
  'hidden': (64, 20),
  'output': (20, 10),
}
_NETS = {'resnet50': _resnet50(), 'lenet': _LENET, 'conv': _CONV}


def _size(shapes):
  return sum(math.prod(s) for s in shapes.values())


def _raw(distribution, shape):
  axes = {'erk': shape, 'erdos_renyi': shape[-2:], 'global': ()}[distribution]
  return sum(axes) / math.prod(axes) if axes else 1.0


def _usual_loop(distribution, shapes, budget):
  """ε as in RigL's public code: what overflows is dense, the rest refills."""
  dense: set[str] = set()
  while True:
    left = budget - sum(math.prod(shapes[n]) for n in dense)
    scale = left / sum(
      _raw(distribution, s) * math.prod(s)
      for n, s in shapes.items()
      if n not in dense
    )
    over = {
      n
      for n, s in shapes.items()
      if n not in dense and scale * _raw(distribution, s) > 1
    }
    if not over:
      break
    dense |= over
  return {
    n: math.prod(s) * (1 if n in dense else scale * _raw(distribution, s))
    for n, s in shapes.items()
  }


# Distributions.


@pytest.mark.parametrize('distribution', ['erk', 'erdos_renyi', 'global'])
@pytest.mark.parametrize('net', _NETS)
def test_budgets_are_exact_and_as_the_usual_loop_has_them(net, distribution):
  shapes = _NETS[net]
  total = _size(shapes)
  for density in (1.0, 0.997, 0.8, 0.5, 1 / 3, 0.2, 0.1, 0.05, 0.01):
    target = methods.make_target(_params(shapes), density, distribution)
    budget = math.floor(density * total + 0.5)
    assert list(target.shapes) == sorted(f'{n}/w' for n in shapes)
    assert sum(target.kept.values()) == budget
    assert target.pooled == (distribution == 'global')
    for name, wanted in _usual_loop(distribution, shapes, budget).items():
      kept = target.kept[f'{name}/w']
      assert 1 <= kept <= math.prod(shapes[name])
      assert abs(kept - wanted) < 1 or kept == 1, name


def test_erk_by_hand():
  """ε·(n_in + n_out + kh + kw)/(n_in n_out kh kw)."""
  target = methods.make_target(_params(_CONV), 0.1, 'erk')
  density = {n: k / math.prod(target.shapes[n]) for n, k in target.kept.items()}
  factor = {n: sum(s) / math.prod(s) for n, s in target.shapes.items()}
  scale = [density[n] / factor[n] for n in density]
  np.testing.assert_allclose(scale, scale[0], rtol=0.05)
  assert target.kept == {
    # 433 of 4330 weights in proportion to 19, 32, 84 and 30.
    'conv_0/w': 50,
    'conv_1/w': 84,
    'hidden/w': 220,
    'output/w': 79,
  }


def test_erk_leaves_eight_layers_of_resnet50_dense_at_80_percent():
  target = methods.make_target(_params(_resnet50()), 0.2, 'erk')
  sizes = {n: math.prod(s) for n, s in target.shapes.items()}
  assert sum(k == sizes[n] for n, k in target.kept.items()) == 8


@pytest.mark.parametrize('distribution', ['erk', 'erdos_renyi', 'global'])
def test_every_layer_keeps_a_weight_as_long_as_there_are_enough(distribution):
  shapes = {'big': (1000, 1000), **{f'x{i}': (2, 2) for i in range(9)}}
  total = _size(shapes)
  for budget in (10, 11, 25):
    target = methods.make_target(_params(shapes), budget / total, distribution)
    assert sum(target.kept.values()) == budget
    assert min(target.kept.values()) == 1
  with pytest.raises(ValueError, match='leaves 9 of 1000036 weights for 10'):
    methods.make_target(_params(shapes), 9 / total, distribution)


def test_uniform():
  target = methods.make_target(_params(_LENET), 0.1)
  assert target.kept == {
    'hidden_0/w': 23520,
    'hidden_1/w': 3000,
    'output/w': 100,
  }
  assert not target.pooled
  assert set(target.patterns.values()) == {patterns.UNSTRUCTURED}


def test_parameters_and_their_shapes_give_the_same_target():
  shapes = _params(_CONV)
  arrays = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  arrays['conv_0']['b'] = jnp.zeros(6)
  assert methods.make_target(arrays, 0.1) == methods.make_target(shapes, 0.1)


@pytest.mark.parametrize('name', ['a', 'initial_conv', 'z'])
def test_uniform_leaves_the_stem_dense_wherever_its_name_puts_it(name):
  shapes = {name: (3, 3, 3, 6), 'block': (3, 3, 6, 8), 'output': (8, 10)}
  target = methods.make_target(_params(shapes), 0.5)
  kept = {f'{name}/w': 162, 'block/w': 216, 'output/w': 40}
  assert target.kept == kept
  assert list(target.shapes) == sorted(kept)


def test_who_has_no_stem():
  alone = methods.make_target(_params({'conv': (3, 3, 3, 8)}), 0.5)
  assert alone.kept == {'conv/w': 108}
  # Its density was chosen.
  own = methods.make_target(_params(_CONV), 0.5, layer_densities={'_0': 0.2})
  assert own.kept['conv_0/w'] == 90 and own.kept['conv_1/w'] == 1200
  # It is dense already; no other layer takes its place.
  out = methods.make_target(_params(_CONV), 0.5, exclude=['conv_0'])
  assert out.kept == {'conv_1/w': 1200, 'hidden/w': 640, 'output/w': 100}
  # The other distributions know of none.
  erk = methods.make_target(_params(_NETS['resnet50']), 0.01, 'erk')
  assert erk.kept['conv/w'] < 7 * 7 * 3 * 64


@pytest.mark.parametrize('distribution', ['uniform', 'erk'])
def test_layers_of_their_own_and_excluded_ones(distribution):
  target = methods.make_target(
    _params(_LENET),
    0.1,
    distribution,
    layer_densities={'^output/w$': 0.5, 'output|hidden_1': 0.25},
    exclude='hidden_0',
  )
  # The first expression that is found counts.
  assert target.kept == {'hidden_1/w': 7500, 'output/w': 500}
  rest = methods.make_target(
    _params(_LENET), 0.1, distribution, layer_densities={'output': 1.0}
  )
  # Neither is it taken from the budget of the others.
  assert rest.kept['output/w'] == 1000
  assert rest.kept['hidden_0/w'] + rest.kept['hidden_1/w'] == 26520


def test_where():
  target = methods.make_target(
    {'a': {'w': jnp.ones((4, 5)), 'b': jnp.ones(8)}},
    0.5,
    'erk',
    where=lambda path, x: True,
  )
  # A vector's density is ε: 14 in proportion to 8 and 4 + 5.
  assert target.kept == {'a/b': 7, 'a/w': 7}


@pytest.mark.parametrize(
  'kwargs, match',
  [
    ({'density': 0}, r'density is 0 but must be in \(0, 1\]'),
    ({'density': 1.01}, 'density is 1.01'),
    ({'density': math.nan}, 'density is nan'),
    (
      {'distribution': 'ekr'},
      "distribution is 'ekr' .* uniform, global, erdos",
    ),
    ({'layer_densities': {'conv': 2}}, r"layer_densities\['conv'\] is 2 but"),
    ({'layer_densities': {'conv': '1'}}, r"layer_densities\['conv'\] is '1'"),
    (
      {'layer_densities': {'dense': 0.5}},
      "'dense', which is found in no layer; the layers are conv_0/w, conv_1/w",
    ),
    ({'exclude': ['x']}, "exclude has 'x', which is found in no layer"),
    ({'exclude': ['(']}, r"exclude has '\(', which is no regular expression"),
    ({'exclude': ['w']}, 'no layer is left to be made sparse of 4'),
    ({'patterns': {'x': '2:4'}}, "patterns has 'x'"),
    # What is excluded is not there any more.
    (
      {'exclude': ['output'], 'patterns': {'output': 'channel'}},
      "patterns has 'output'",
    ),
    ({'patterns': {'conv': '5:4'}}, "'5:4' is unknown.*'2:4'"),
    (
      {'patterns': {'conv_1': '2:4'}, 'density': 0.5},
      'conv_1/w of shape 5x5x6x16 .* 2 of every 4 inputs: 4 does not divide 6',
    ),
    (
      {'patterns': {'hidden': '2:4'}, 'density': 0.4},
      'hidden/w of shape 64x20 .* 2:4, which keeps 0.5 .* density 0.4 is asked'
      '.* layer_densities',
    ),
    (
      {'patterns': {'hidden': '2:4'}, 'distribution': 'erk'},
      'hidden/w .* 2:4',
    ),
    (
      {'patterns': {'hidden': 'block:8x8'}},
      'hidden/w of shape 64x20 .* blocks of 8x8, which do not divide 64x20',
    ),
    (
      {'patterns': {'hidden': 'channel'}, 'distribution': 'global'},
      "distribution is 'global'.*leave out",
    ),
    (
      {'layer_densities': {'hidden': 0.5}, 'distribution': 'global'},
      "distribution is 'global'.*leave out",
    ),
  ],
)
def test_what_is_wrong_is_named(kwargs, match):
  with pytest.raises(ValueError, match=match):
    methods.make_target(_params(_CONV), **{'density': 0.1, **kwargs})


def test_a_vector_has_no_pattern():
  with pytest.raises(ValueError, match=r'a of shape 8 has no inputs'):
    methods.make_target(
      {'a': jnp.ones(8)},
      0.5,
      patterns={'a': 'channel'},
      where=lambda path, x: True,
    )


# Patterns.


@pytest.mark.parametrize(
  'text, wanted',
  [
    ('unstructured', ('unstructured', 1, 1)),
    ('channel', ('channel', 1, 1)),
    ('1:16', ('n_m', 1, 16)),
    ('4:4', ('n_m', 4, 4)),
    ('block:1x32', ('block', 1, 32)),
  ],
)
def test_parse(text, wanted):
  assert patterns.parse(text) == wanted


@pytest.mark.parametrize(
  'text', ['', '2', '0:4', '5:4', '2x4', 'block:4', 'block:2:4', 'block:0x4', 4]
)
def test_parse_names_what_it_cannot_read(text):
  with pytest.raises(ValueError, match=f'pattern {text!r} is unknown'):
    patterns.parse(text)


_STRUCTURED = {
  'a': (3, 3, 8, 12),
  'b': (16, 24),
  'c': (2, 2, 8, 6),
  'd': (8, 9),
  'e': (40, 30),
}
_PATTERNS = {'a/': '2:4', 'b/': 'block:4x3', 'c/': 'channel', 'd/': '1:2'}


def _structured(distribution='uniform', density=0.5):
  return methods.make_target(
    _params(_STRUCTURED),
    density,
    distribution,
    layer_densities={'a/|d/': 0.5},
    patterns=_PATTERNS,
  )


@pytest.mark.parametrize('distribution', ['uniform', 'erk', 'erdos_renyi'])
@pytest.mark.parametrize('density', [0.05, 0.3, 0.5, 0.9])
def test_kept_is_whole_units(distribution, density):
  target = _structured(distribution, density)
  kept = target.kept
  assert kept['a/w'] == 432 and kept['d/w'] == 36
  assert kept['b/w'] % 12 == 0 and kept['c/w'] % 32 == 0
  assert min(kept.values()) > 0
  if distribution == 'uniform':
    for name in ('b/w', 'c/w', 'e/w'):
      unit = patterns.quantum(target.patterns[name], target.shapes[name])
      size = math.prod(target.shapes[name])
      assert abs(kept[name] - density * size) <= unit / 2 or kept[name] == unit
  else:
    # The layer without a pattern makes up for the rounding of the others.
    total = sum(kept[n] for n in ('b/w', 'c/w', 'e/w'))
    assert total == math.floor(density * (384 + 192 + 1200) + 0.5)


def test_one_unit_is_kept_at_least():
  shapes = {'a': (10, 10), 'b': (10, 10)}
  target = methods.make_target(
    _params(shapes), 0.01, patterns={'a': 'channel', 'b': 'block:5x5'}
  )
  assert target.kept == {'a/w': 10, 'b/w': 25}


def test_the_stem_has_no_pattern_of_a_sparse_layer():
  target = methods.make_target(
    _params({'conv': (3, 3, 1, 8), 'hidden': (8, 8), 'output': (8, 4)}),
    0.5,
    patterns={'.': '2:4'},
  )
  assert target.kept['conv/w'] == 72
  assert target.patterns['conv/w'] == patterns.UNSTRUCTURED
  assert target.patterns['hidden/w'] == ('n_m', 2, 4)


# Selection.


def _scores(target, kind, seed=0):
  rng = np.random.default_rng(seed)
  draw: Any = {
    'normal': rng.standard_normal,
    'ties': lambda s: rng.integers(-2, 3, s),
    'zeros': np.zeros,
  }[kind]
  return {n: draw(s).astype(np.float32) for n, s in target.shapes.items()}


def _top(scores, k):
  """By a stable sort: among ties the lowest index comes first."""
  mask = np.zeros(scores.size, bool)
  mask[np.argsort(-scores.ravel(), kind='stable')[:k]] = True
  return mask.reshape(scores.shape)


def _kept_first(scores):
  """|scores| in a row, the largest above all: every layer keeps it."""
  flat = np.abs(scores).ravel()
  flat[np.argmax(flat)] = np.inf
  return flat


def _by_sorts(pattern, x, k):
  """A layer's mask of k weights, with loops over groups and units."""
  x = np.abs(x)
  mask = np.zeros(x.shape, bool)
  if pattern.kind == 'unstructured':
    return _top(x, k)
  if pattern.kind == 'channel':
    sums = x.sum(tuple(range(x.ndim - 1)))
    mask[..., _top(sums, k * x.shape[-1] // x.size)] = True
    return mask
  # Views with all axes but the last two in one.
  flat, out = (y.reshape(-1, *x.shape[-2:]) for y in (x, mask))
  n, m = pattern.n, pattern.m
  if pattern.kind == 'n_m':
    for i, column in np.ndindex(len(flat), x.shape[-1]):
      for row in range(0, x.shape[-2], m):
        group = flat[i, row : row + m, column]
        out[i, row : row + m, column] = _top(group, k * m // x.size)
    return mask
  sums = np.array(
    [
      [
        [f[r : r + n, c : c + m].sum() for c in range(0, x.shape[-1], m)]
        for r in range(0, x.shape[-2], n)
      ]
      for f in flat
    ]
  )
  for i, r, c in np.argwhere(_top(sums, k // (n * m))):
    out[i, n * r : n * r + n, m * c : m * c + m] = True
  return mask


_NET = _params(_CONV)
_TARGETS = {
  'uniform': methods.make_target(_NET, 0.3),
  'erk': methods.make_target(_NET, 0.3, 'erk'),
  'global': methods.make_target(_NET, 0.3, 'global'),
  'patterns': _structured('erk', 0.35),
}


@functools.cache
def _programs(name):
  """`select` of a share, and of all shares at once."""
  fn = functools.partial(methods.select, _TARGETS[name])
  return jax.jit(fn), jax.jit(jax.vmap(fn, (None, 0)))


@pytest.mark.parametrize('kind', ['normal', 'ties', 'zeros'])
@pytest.mark.parametrize('name', _TARGETS)
def test_select_against_sorts(name, kind):
  """At every share, one by one and vmapped."""
  target = _TARGETS[name]
  scores = _scores(target, kind)
  one, several = _programs(name)
  every = jax.device_get(several(scores, np.array(_SHARES, np.float32)))
  for i, share in enumerate(_SHARES):
    masks = jax.device_get(one(scores, share))
    assert set(masks) == set(target.shapes)
    for n, mask in masks.items():
      np.testing.assert_array_equal(every[n][i], mask)
    counts = targets.count_kept(target, share)
    if target.pooled:
      flat = np.concatenate([_kept_first(scores[n]) for n in target.shapes])
      got = np.concatenate([masks[n].ravel() for n in target.shapes])
      np.testing.assert_array_equal(got, _top(flat, counts['']))
      continue
    for n, mask in masks.items():
      assert mask.dtype == bool and mask.shape == target.shapes[n]
      assert np.sum(mask) == counts[n]
      wanted = _by_sorts(target.patterns[n], scores[n], counts[n])
      np.testing.assert_array_equal(mask, wanted)


def test_select_without_jit_and_with_a_static_share():
  target = _TARGETS['patterns']
  scores = _scores(target, 'ties')
  masks = methods.select(target, scores, 0.37)
  assert list(masks) == list(target.shapes)
  jitted, _ = _programs('patterns')
  jax.tree.map(np.testing.assert_array_equal, masks, jitted(scores, 0.37))


@pytest.mark.parametrize('name', _TARGETS)
def test_counts_are_the_formula(name):
  target = _TARGETS[name]
  for share in (*_SHARES, *np.linspace(0.01, 0.98, 23)):
    counts = targets.count_kept(target, share)
    sizes = {n: math.prod(s) for n, s in target.shapes.items()}
    kept = target.kept
    if target.pooled:
      sizes, kept = {'': sum(sizes.values())}, {'': sum(kept.values())}
    assert list(counts) == list(sizes)
    for n, size in sizes.items():
      wanted = size - math.floor(share * (size - kept[n]) + 0.5)
      unit = 1
      if n:
        unit = patterns.quantum(target.patterns[n], target.shapes[n])
      assert counts[n] == math.ceil(wanted / unit) * unit
  ends = [targets.count_kept(target, share) for share in (0.0, 1.0)]
  assert ends == [sizes, kept]


@pytest.mark.parametrize('more', [-1, 1])
def test_counts_that_float32_does_not_have(more):
  """2²⁵ ± 1 weights go; float32 has neither number."""
  size = 2**26
  kept = 2**25 + more
  target = targets.Target(
    {'a': (2**13, 2**13)}, {'a': kept}, False, {'a': patterns.UNSTRUCTURED}
  )
  assert targets.count_kept(target, 1.0) == {'a': kept}
  assert targets.count_kept(target, 0.0) == {'a': size}
  assert abs(targets.count_kept(target, 0.5)['a'] - 1.5 * 2**25) <= 4
  pooled = target._replace(pooled=True)
  assert targets.count_kept(pooled, 1.0) == {'': kept}


@pytest.mark.parametrize('name', _TARGETS)
def test_masks_shrink_as_the_share_grows(name):
  """So a backward set contains its forward set."""
  target = _TARGETS[name]
  for kind in ('normal', 'ties'):
    scores = _scores(target, kind)
    last = {n: np.ones(s, bool) for n, s in target.shapes.items()}
    for share in np.linspace(0, 1, 9):
      masks = jax.device_get(_programs(name)[0](scores, share))
      for n, mask in masks.items():
        assert not np.any(mask & ~last[n])
      last = masks


def test_vmapped_over_scores_is_looped():
  one, _ = _programs('patterns')
  several = [_scores(_TARGETS['patterns'], 'ties', seed) for seed in range(3)]
  stacked = jax.tree.map(lambda *x: np.stack(x), *several)
  masks = jax.device_get(jax.jit(jax.vmap(one, (0, None)))(stacked, 0.8))
  for i, scores in enumerate(several):
    wanted = one(scores, 0.8)
    jax.tree.map(
      lambda got, mask, i=i: np.testing.assert_array_equal(got[i], mask),
      masks,
      wanted,
    )


def test_half_precision_blocks_do_not_overflow():
  pattern = patterns.parse('channel')
  x = jnp.full((16, 3), 60_000, jnp.float16).at[0].set(jnp.array([0, 2, 1]))
  np.testing.assert_array_equal(
    jnp.argsort(patterns.unit_scores(pattern, x)), [0, 2, 1]
  )


def test_a_nan_counts_as_large_and_counts_stay_exact():
  x = jnp.array([[1.0], [jnp.nan], [-2.0], [jnp.nan], [3.0], [0.0]])
  for n in range(7):
    wanted = sorted([1, 3, 4, 2, 0, 5][:n])
    mask = patterns.n_of_m(6, x, n)
    np.testing.assert_array_equal(np.flatnonzero(mask), wanted)


# Layers that would die.


def test_global_leaves_no_layer_empty_and_the_total_exact():
  target = _TARGETS['global']
  scores = _scores(target, 'normal')
  one, _ = _programs('global')
  usual = one(scores, 1.0)
  scores['hidden/w'] *= 1e-3  # now all of it would go
  masks = one(scores, 1.0)
  total = sum(target.kept.values())
  for chosen in (usual, masks):
    assert sum(int(np.sum(m)) for m in chosen.values()) == total
  (kept,) = np.flatnonzero(masks['hidden/w'])
  assert kept == np.argmax(np.abs(scores['hidden/w']))
  for name in ('conv_0/w', 'conv_1/w', 'output/w'):  # the others are as before
    x = np.abs(scores[name])
    assert x[masks[name]].min() > x[~masks[name]].max()


# Where inputs and outputs are.


# (…, inputs, outputs), stacked axes first; another order, and its axes.
_PLACES = {
  'linear': ((8, 12), (1, 0), (1, 0)),  # of Equinox and PyTorch
  'conv': ((3, 2, 8, 12), (3, 2, 0, 1), (1, 0)),  # and their convolutions
  'transposed': ((3, 2, 8, 12), (0, 1, 3, 2), (-1, -2)),  # Haiku's
  'stacked': ((4, 8, 12), (1, 0, 2), (0, 2, 1)),
}


def test_patterns_lie_along_inputs_and_outputs():
  """Whatever the order of the axes, the same weights are kept."""
  rng = np.random.default_rng(0)
  usual, other, usual_axes, other_axes, patterns_of = {}, {}, {}, {}, {}
  rows = [(kind, 'channel') for kind in _PLACES]
  for kind, pattern in (*rows, ('conv', '2:4'), ('conv', 'block:4x3')):
    shape, order, axes = _PLACES[kind]
    name = f'{kind}_{pattern[0]}'
    usual[name] = {'w': rng.standard_normal(shape).astype(np.float32)}
    other[name] = {'w': usual[name]['w'].transpose(order)}
    usual_axes[name] = (-2, -1, *range(len(axes) - 2))
    other_axes[name], patterns_of[name] = axes, pattern

  def masks(params, axes):
    target = methods.make_target(
      params, 0.5, patterns=patterns_of, axes=axes, stem=''
    )
    scores = trees.weights(params)
    return target.kept, jax.jit(functools.partial(methods.select, target))(
      scores, 1.0
    )

  kept, mine = masks(usual, usual_axes)
  kept_there, theirs = masks(other, other_axes)
  assert kept == kept_there
  for name, pattern in patterns_of.items():
    shape, order, axes = _PLACES[name.split('_')[0]]
    mask = np.asarray(mine[f'{name}/w'])
    np.testing.assert_array_equal(theirs[f'{name}/w'], mask.transpose(order))
    assert mask.sum() == kept[f'{name}/w'] == mask.size // 2
    if pattern == '2:4':
      groups = mask.reshape(*shape[:-2], 2, 4, 12)
      assert np.all(groups.sum(-2) == 2), name
    elif pattern == 'channel':  # in a stack, of every layer its own
      rest = tuple(range(len(axes) - 2, mask.ndim - 1))
      assert np.all(mask.all(rest) == mask.any(rest)), name


def _net_with_names():
  """Every module whose axes are found by name, and what shapes do not tell."""

  def net(x):
    x = hk.Conv2D(4, 3)(x)
    x = hk.Conv2DTranspose(6, 3)(x)
    x = powerprop.PowerPropConv2DTranspose(10, 3)(x)
    x = hk.Flatten()(x)
    for _ in range(2):
      x = hk.Linear(8)(x)
    block = lambda x: jax.nn.relu(hk.Linear(8)(x))
    x = hk.experimental.layer_stack(3)(block)(x)
    return x + hk.get_parameter('cls', (1, 1, 8), init=jnp.zeros)

  net = hk.transform(net)
  return jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 4, 4, 3)))


def test_axes_are_found_by_the_names_that_haiku_gives():
  target = methods.make_target(_net_with_names(), 0.5)
  stack = '__layer_stack_no_per_layer/linear/w'
  assert target.axes == {
    'conv2_d_transpose/w': (-1, -2, ()),
    'power_prop_conv2_d_transpose/w': (-1, -2, ()),
    stack: (-2, -1, (0,)),
  }
  # The stem is the convolution, neither the stack nor the token.
  size = {n: math.prod(s) for n, s in target.shapes.items()}
  whole = [n for n, kept in target.kept.items() if kept == size[n]]
  assert whole == ['conv2_d/w'] and target.shapes['~/cls'] == (1, 1, 8)
  # A stack of layers has the density of one of them.
  erk = methods.make_target(
    _params({'a': (3, 8, 8), 'b': (8, 8)}), 0.3, 'erk', axes={'a': (1, 2, 0)}
  )
  assert erk.kept == {'a/w': 58, 'b/w': 19}


@pytest.mark.parametrize(
  'axes', [(0, 0), (1, -3), (0, 4), (0,), 'ab', 3, (0.0, 1)]
)
def test_axes_that_there_are_not(axes):
  with pytest.raises(
    ValueError, match='axes are .* layer conv_0/w of shape 5x'
  ):
    methods.make_target(_NET, 0.5, axes={'conv_0': axes})


@pytest.mark.parametrize(
  'leaf, match',
  [
    (np.zeros((0, 4), np.float32), r'a is float32 of shape \(0, 4\)'),
    (np.zeros((2, 4), int), r'a is int\d+ of shape \(2, 4\)'),
  ],
)
def test_leaves_that_cannot_be_sparse(leaf, match):
  with pytest.raises(ValueError, match=match):
    methods.make_target(
      {'a': leaf, 'b': np.ones((2, 2))}, 0.5, where=lambda path, x: True
    )


# Spreading a total over layers.

_jitted = jax.jit(budgets.spread)
_sizes = st.one_of(st.integers(0, 5), st.integers(0, 2**26))


@settings(deadline=None, max_examples=200)
@given(
  weights=st.lists(
    st.one_of(st.just(0.0), st.floats(2.0**-10, 2.0**25, width=32)),
    min_size=6,
    max_size=6,
  ),
  capacity=st.lists(_sizes, min_size=6, max_size=6),
  share=st.floats(0, 1.2),
)
def test_spread_is_exact_and_proportional(weights, capacity, share):
  weights = np.array(weights, np.float32)
  capacity = np.array(capacity, np.int32)
  total = int(share * capacity.sum())
  got = np.asarray(_jitted(weights, total, capacity))
  assert got.sum() == min(total, capacity.sum())
  assert np.all(got >= 0) and np.all(got <= capacity)
  # No layer with room is worse off, to its weight, than any other.
  room = (got < capacity) & (weights > 0)
  for i in np.flatnonzero(room):
    fair = (got[i] + 1) / weights[i]
    assert np.all((got - 1) * (1 - 1e-6) <= fair * weights * (1 + 1e-6))


def test_spread_refills_where_a_layer_overflows():
  weights = jnp.array([100.0, 2.0, 1.0, 0.0])
  capacity = jnp.array([10, 50, 50, 50])
  for total, wanted in (
    (5, [5, 0, 0, 0]),
    (40, [10, 20, 10, 0]),
    (95, [10, 50, 35, 0]),
    (130, [10, 50, 50, 20]),
    (999, [10, 50, 50, 50]),
  ):
    np.testing.assert_array_equal(_jitted(weights, total, capacity), wanted)
  none = _jitted(jnp.zeros(4), 70, capacity)
  np.testing.assert_array_equal(none, [10, 50, 10, 0])


def test_spread_vmapped_is_looped():
  rng = np.random.default_rng(0)
  weights = rng.integers(0, 50, (5, 7)).astype(np.float32)
  capacity = rng.integers(0, 40, (5, 7))
  total = rng.integers(0, 200, 5)
  got = jax.jit(jax.vmap(_jitted))(weights, total, capacity)
  for i in range(5):
    np.testing.assert_array_equal(
      got[i], _jitted(weights[i], total[i], capacity[i])
    )
