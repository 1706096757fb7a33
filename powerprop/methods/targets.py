"""What a sparse method aims at: how many weights of which layer are left."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import trees
from powerprop.methods import budgets
from powerprop.methods import patterns as patterns_lib
from powerprop.methods.patterns import Axes
from powerprop.methods.patterns import Pattern
from powerprop.methods.patterns import Shape
from powerprop.types import Params, Where

# By distribution, what a layer's number of weights is proportional to, from its
# arranged shape and the number of stacked axes.
# erdos_renyi and erk: density ∝ Σ/Π of two axes and of all; the size cancels.
_WEIGHTS: dict[str, Callable[[Shape, int], int]] = {
  'global': lambda shape, s: math.prod(shape),
  'erdos_renyi': lambda shape, s: math.prod(shape[:-2]) * sum(shape[-2:]),
  'erk': lambda shape, s: math.prod(shape[:s]) * sum(shape[s:]),
}
# What Haiku, Flax and Equinox call the weights of a convolution.
_KERNELS = ('w', 'kernel', 'weight')
_FEW = 8  # layers that a message lists


class Target(NamedTuple):
  """How many weights are left in which layer, and in which pattern.

  Attributes:
    shapes: of all governed layers, by path, in the tree's order.
    kept: how many weights of each are left at the end, ≥ 1. If pooled, only
      their sum counts; here it is split in proportion to the sizes.
    pooled: whether weights are ranked over all layers together.
    patterns: of every governed layer.
    axes: of the layers that do not keep (…, inputs, outputs).
  """

  shapes: dict[str, Shape]
  kept: dict[str, int]
  pooled: bool
  patterns: dict[str, Pattern]
  axes: dict[str, Axes] = {}


def make_target(
  params: Params,
  density: float,
  distribution: str = 'uniform',
  *,
  layer_densities: Mapping[str, float] | None = None,
  exclude: Sequence[str] = (),
  patterns: Mapping[str, str] | None = None,
  axes: Mapping[str, Sequence[int]] | None = None,
  where: Where = trees.is_weight,
  stem: str | None = None,
) -> Target:
  r"""Spreads a density over layers.

  * 'uniform': every layer has it, but the stem stays dense, as in RigL's
    protocol: of the layers with axes of a kernel, that with the fewest inputs.
    (The tree does not tell which comes first, as its order is that of the
    names.) Where leaves have names such as 'w', 'kernel' and 'weight', others
    with three axes, as of embeddings, are no such layers. A net without them,
    or with a single layer, has no stem.
  * 'erk': the density of layer l is ε·Σ(shape)/Π(shape), at most 1; ε makes
    the total ⌊density·size + ½⌋, exactly. What layers that are dense cannot
    take goes to the others, and every layer keeps at least one weight.
  * 'erdos_renyi': the same with (n_in + n_out)/(n_in·n_out).
  * 'global': weights of all layers are ranked together; the total is exact, and
    every layer keeps its largest weight, so that none dies.

  Args:
    params: the net's parameters, arrays or `jax.ShapeDtypeStruct`s.
    density: share of the weights that is kept, in (0, 1].
    distribution: see above.
    layer_densities: regular expression -> density in (0, 1] of the layers whose
      path it is found in (`re.search`); the first that is found counts. They
      take no part in the distribution or in its total.
    exclude: regular expressions; what they are found in stays dense, and is not
      governed.
    patterns: regular expression -> 'unstructured', 'N:M', 'block:RxC' or
      'channel'; see `powerprop.methods.patterns`. What is kept of such a layer
      is rounded to whole units, of which there is at least one; 'erk' and
      'erdos_renyi' make up for that in the layers without a pattern, as far
      as these can.
    axes: regular expression -> (inputs, outputs), the indices of these axes in
      the layers whose path it is found in, and of any axes after them that
      layers are stacked along; the first that is found counts. Patterns,
      'erk', 'erdos_renyi' and the stem go by them. By default (−2, −1), as in
      Haiku and Flax; (−1, −2) in Haiku's transposed convolutions, and
      `hk.experimental.layer_stack`'s first axis is stacked, as far as their
      modules have the names that Haiku gives. Equinox and PyTorch have
      {'': (1, 0)} everywhere.
    where: which leaves are governed.
    stem: path of the layer that sees the data, where 'uniform' guesses wrong,
      as it does in nets with depthwise kernels; the first one of
      `powerprop.flops`. '' is none.

  Returns:
    A target.

  Raises:
    ValueError: if a value is out of range or unknown, a regular expression
      matches no layer, a layer cannot have its pattern, or a leaf is not
      floating or has no weights.

  References: Evci et al., RigL, ICML 2020, section 3, (1); Mocanu et al.,
    Scalable training of artificial neural networks with adaptive sparse
    connectivity, 2018, eq. (1).

  Example:
    >>> import numpy as np
    >>> net = {'a': {'w': np.ones((300, 100))}, 'b': {'w': np.ones((100, 10))}}
    >>> make_target(net, 0.05, 'erk').kept
    {'a/w': 1216, 'b/w': 334}
  """
  trees.check_density('density', density)
  if distribution != 'uniform' and distribution not in _WEIGHTS:
    raise ValueError(
      f'distribution is {distribution!r} but must be one of uniform,'
      f' {", ".join(_WEIGHTS)}'
    )
  leaves = trees.weights(params, where)
  every = {n: tuple(jnp.shape(x)) for n, x in leaves.items()}
  shapes = _governed(leaves, every, exclude)
  own = matches('layer_densities', layer_densities or {}, shapes)
  for regex, value in (layer_densities or {}).items():
    trees.check_density(f'layer_densities[{regex!r}]', value)
  asked = matches('patterns', patterns or {}, shapes)
  kinds = {
    name: patterns_lib.parse(asked.get(name, 'unstructured')) for name in shapes
  }
  told = matches('axes', axes or {}, every)
  places = {
    name: patterns_lib.find_axes(name, shape, told.get(name))
    for name, shape in every.items()
  }
  pooled = distribution == 'global'
  if pooled and (own or any(k.kind != 'unstructured' for k in kinds.values())):
    raise ValueError(
      "distribution is 'global', which ranks single weights of all layers"
      ' together, so no layer can have a density or a pattern of its own: leave'
      ' out layer_densities and patterns, or choose another distribution'
    )
  wanted = {name: own.get(name, density) for name in shapes}
  if distribution == 'uniform':
    stem = _stem(every, places) if stem is None else stem
    kernel = stem in every and _has_kernel(every[stem], places[stem])
    if kernel and len(every) > 1 and stem in shapes and stem not in own:
      wanted[stem], kinds[stem] = 1.0, patterns_lib.UNSTRUCTURED
  else:
    rest = {name: shape for name, shape in shapes.items() if name not in own}
    wanted |= _budgeted(distribution, rest, kinds, places, density)
  for name, shape in shapes.items():
    patterns_lib.check(kinds[name], name, shape, places[name], wanted[name])
  kept = {
    name: _whole(
      kinds[name],
      shape,
      places[name],
      trees.kept(math.prod(shape), wanted[name]),
    )
    for name, shape in shapes.items()
  }
  unusual = {n: places[n] for n in shapes if places[n] != Axes()}
  return Target(shapes, kept, pooled, kinds, unusual)


def _governed(
  leaves: Mapping[str, Any], shapes: Mapping[str, Shape], exclude: Sequence[str]
) -> dict[str, Shape]:
  """The layers that are to be made sparse, checked."""
  exclude = (exclude,) if isinstance(exclude, str) else exclude
  out = matches('exclude', dict.fromkeys(exclude), shapes)
  left = {name: shape for name, shape in shapes.items() if name not in out}
  if not left:
    raise ValueError(
      f'no layer is left to be made sparse of {len(shapes)}: exclude fewer, or'
      ' choose others by where'
    )
  for name, shape in left.items():
    dtype = jnp.result_type(leaves[name])
    if not (math.prod(shape) and jnp.issubdtype(dtype, jnp.floating)):
      raise ValueError(
        f'{name} is {dtype} of shape {shape}, but what is made sparse must be'
        ' floating and have weights: leave it out by where'
      )
  return left


def matches(
  what: str, rules: Mapping[str, Any], layers: Iterable[str]
) -> dict[str, Any]:
  """By layer, the value of the first rule that is found in its path.

  Args:
    what: has these rules, for the errors.
    rules: by regular expression.
    layers: paths.

  Returns:
    By path, of the layers in which some rule is found.

  Raises:
    ValueError: if a rule is no regular expression, or is found nowhere.
  """
  layers = list(layers)
  out: dict[str, Any] = {}
  for rule, value in rules.items():
    try:
      found = [name for name in layers if re.search(rule, name)]
    except re.error as e:
      raise ValueError(
        f'{what} has {rule!r}, which is no regular expression: {e}'
      ) from None
    if not found:
      few = ', '.join(layers[:_FEW]) + (', …' if len(layers) > _FEW else '')
      raise ValueError(
        f'{what} has {rule!r}, which is found in no layer; the layers are {few}'
      )
    out = {**dict.fromkeys(found, value), **out}
  return out


def _arranged(shape: Shape, axes: Axes) -> Shape:
  """A layer's shape as (stacked, kernel, inputs, outputs)."""
  return tuple(shape[i] for i in axes.order(len(shape)))


def _has_kernel(shape: Shape, axes: Axes) -> bool:
  """Whether a layer has more axes than those of inputs and outputs."""
  return len(shape) - len(axes.stacked) > 2


def _stem(shapes: Mapping[str, Shape], axes: Mapping[str, Axes]) -> str | None:
  """The convolution that sees the data, if there is one."""
  named = [n for n in shapes if n.rsplit('/', 1)[-1] in _KERNELS]
  kernels = [n for n in named or shapes if _has_kernel(shapes[n], axes[n])]
  if not kernels:
    return None
  return min(kernels, key=lambda n: shapes[n][axes[n].inputs])


def _axes(target: Target, name: str) -> Axes:
  """A layer's axes where they matter: single weights may lie as they will."""
  if target.patterns[name] == patterns_lib.UNSTRUCTURED:
    return Axes()
  return target.axes.get(name, Axes())


def _unit(pattern: Pattern, shape: Shape, axes: Axes) -> int:
  """What the number of weights in a layer's mask is a multiple of."""
  shape = _arranged(shape, axes)
  return patterns_lib.quantum(pattern, shape, len(axes.stacked))


def _whole(pattern: Pattern, shape: Shape, axes: Axes, count: int) -> int:
  """A number of weights, rounded to whole units, at least one."""
  unit = _unit(pattern, shape, axes)
  return unit * max(1, math.floor(count / unit + 0.5))


def _budgeted(
  distribution: str,
  shapes: Mapping[str, Shape],
  kinds: Mapping[str, Pattern],
  axes: Mapping[str, Axes],
  density: float,
) -> dict[str, float]:
  """Densities of layers that share the total ⌊density·size + ½⌋."""
  total = sum(map(math.prod, shapes.values()))
  budget = trees.kept(total, density)
  if budget < len(shapes):
    raise ValueError(
      f'the density {density:g} leaves {budget} of {total} weights for'
      f' {len(shapes)} layers: raise it, so that every layer keeps one'
    )
  weights = {
    name: _WEIGHTS[distribution](
      _arranged(shape, axes[name]), len(axes[name].stacked)
    )
    for name, shape in shapes.items()
  }
  kept = budgets.split(weights, shapes, budget)
  smooth = {
    n: shape for n, shape in shapes.items() if kinds[n].kind == 'unstructured'
  }
  if smooth and len(smooth) < len(shapes):
    rough = sum(
      _whole(kinds[n], shape, axes[n], kept[n])
      for n, shape in shapes.items()
      if n not in smooth
    )
    kept |= budgets.split(weights, smooth, budget - rough)
  return {n: kept[n] / math.prod(shape) for n, shape in shapes.items()}


def _numbers(target: Target, share: float | jax.Array) -> jax.Array:
  """How many weights `select` keeps: int32 [L], or [1] of a pooled target."""
  sizes = np.array([math.prod(s) for s in target.shapes.values()], np.int32)
  kept = np.array(list(target.kept.values()), np.int32)
  units = [
    _unit(target.patterns[name], shape, _axes(target, name))
    for name, shape in target.shapes.items()
  ]
  if target.pooled:
    sizes, kept, units = sizes.sum(keepdims=True), kept.sum(keepdims=True), [1]
  if isinstance(share, int | float | np.number) and not 0 <= share <= 1:
    raise ValueError(f'share is {share} but must be in [0, 1]')
  share = jnp.asarray(share, jnp.float32)
  gone = jnp.floor(share * (sizes - kept).astype(np.float32) + 0.5)
  left = jnp.clip(sizes - gone.astype(jnp.int32), kept, sizes)
  # float32 cannot count odd numbers above 2²⁴.
  left = jnp.where(share >= 1, kept, left)
  return -(-left // np.array(units)) * np.array(units)


def count_kept(target: Target, share: float) -> dict[str, int]:
  """How many weights of every layer `select` keeps.

  Args:
    target: what is aimed at.
    share: in [0, 1], static.

  Returns:
    By layer; the total under '' if the target is pooled.
  """
  names = [''] if target.pooled else target.shapes
  left = np.asarray(_numbers(target, share)).tolist()
  return dict(zip(names, left, strict=True))


def select(
  target: Target, scores: Mapping[str, jax.Array], share: float | jax.Array
) -> dict[str, jax.Array]:
  """Masks of the largest |scores|, on the way from dense to the target.

  .. math::
    k = size − ⌊share · (size − kept) + ½⌋

  weights of a layer are left, exactly, and in whole units: rounded up. The
  score of a unit of several weights is Σ|score|. Ties are broken by index.

  Args:
    target: what is aimed at.
    scores: by layer path, floating arrays.
    share: scalar in [0, 1], may be traced: 0 keeps all, 1 what is aimed at.

  Returns:
    By layer path, boolean arrays. If the target is pooled, the counts are exact
    in their sum, every layer keeps its largest, and ties go to the layer that
    comes first.

  Raises:
    ValueError: if the share is out of range, unless traced.
  """
  left = _numbers(target, share)
  if target.pooled:
    flat = jnp.concatenate([_first_above(scores[n]) for n in target.shapes])
    sizes = [math.prod(shape) for shape in target.shapes.values()]
    parts = jnp.split(
      trees.top_k_masks(flat, left[0]), np.cumsum(sizes)[:-1].tolist()
    )
    return {
      name: part.reshape(shape)
      for (name, shape), part in zip(target.shapes.items(), parts, strict=True)
    }

  masks, units, counts = {}, {}, {}
  for (name, shape), k in zip(target.shapes.items(), left, strict=True):
    pattern = target.patterns[name]
    axes = _axes(target, name)
    k = k // _unit(pattern, shape, axes)
    x = patterns_lib.arrange(axes, scores[name])
    if pattern.kind == 'n_m':
      masks[name] = patterns_lib.n_of_m(pattern.m, x, k)
    else:
      units[name] = patterns_lib.unit_scores(pattern, x, len(axes.stacked))
      counts[name] = k
  for name, mask in trees.top_k_masks(units, counts).items():
    shape = _arranged(target.shapes[name], _axes(target, name))
    masks[name] = patterns_lib.expand(target.patterns[name], mask, shape)
  return {
    name: patterns_lib.restore(_axes(target, name), masks[name])
    for name in target.shapes
  }


def _first_above(x: jax.Array) -> jax.Array:
  """|x| in a row, the first of the largest above all: it counts as NaN."""
  x = jnp.abs(x.ravel())
  return jnp.where(jnp.arange(x.size) == jnp.argmax(x), jnp.nan, x)
