"""What a sparse method aims at: how many weights of which layer are left."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from powerprop import trees
from powerprop.methods import patterns as patterns_lib
from powerprop.methods.patterns import Pattern
from powerprop.methods.patterns import Shape
from powerprop.types import Params, Where

# By distribution, what a layer's number of weights is proportional to.
# erdos_renyi and erk: density ∝ Σ/Π of two axes and of all; the size cancels.
_WEIGHTS: dict[str, Callable[[Shape], int]] = {
  'global': math.prod,
  'erdos_renyi': lambda shape: math.prod(shape[:-2]) * sum(shape[-2:]),
  'erk': sum,
}
_FEW = 8  # layers that a message lists
_LARGEST_BITS = np.uint32(0x7F7FFFFF)  # of a finite float32
_BELOW_2_TO_31 = np.float32(2**31 - 128)  # the largest float32 that is


class Target(NamedTuple):
  """How many weights are left in which layer, and in which pattern.

  Attributes:
    shapes: of all governed layers, by path, in the tree's order.
    kept: how many weights of each are left at the end, ≥ 1. If pooled, only
      their sum counts; here it is split in proportion to the sizes.
    pooled: whether weights are ranked over all layers together.
    patterns: of every governed layer.
  """

  shapes: dict[str, Shape]
  kept: dict[str, int]
  pooled: bool
  patterns: dict[str, Pattern]


def make_target(
  params: Params,
  density: float,
  distribution: str = 'uniform',
  *,
  layer_densities: Mapping[str, float] | None = None,
  exclude: Sequence[str] = (),
  patterns: Mapping[str, str] | None = None,
  where: Where = trees.is_weight,
  stem: str | None = None,
) -> Target:
  r"""Spreads a density over layers.

  * 'uniform': every layer has it, but the stem stays dense, as in RigL's
    protocol: of the layers with three axes or more, that with the fewest
    inputs. (The tree does not tell which comes first, as its order is that of
    the names.) A net without such layers, or with a single layer, has no stem.
  * 'erk': the density of layer l is ε·Σ(shape)/Π(shape), at most 1; ε makes
    the total ⌊density·size + ½⌋, exactly. What layers that are dense cannot
    take goes to the others, and every layer keeps at least one weight.
  * 'erdos_renyi': the same with (n_in + n_out)/(n_in·n_out), the last two axes.
  * 'global': weights of all layers are ranked together; the total is exact.

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
    where: which leaves are governed.
    stem: path of the layer that sees the data, where 'uniform' guesses wrong,
      as it does in nets with depthwise kernels; the first one of
      `powerprop.flops`.

  Returns:
    A target.

  Raises:
    ValueError: if a value is out of range or unknown, a regular expression
      matches no layer, or a layer cannot have its pattern.

  References: Evci et al., RigL, ICML 2020, section 3, (1); Mocanu et al.,
    Scalable training of artificial neural networks with adaptive sparse
    connectivity, 2018, eq. (1).

  Example:
    >>> import numpy as np
    >>> net = {'a': {'w': np.ones((300, 100))}, 'b': {'w': np.ones((100, 10))}}
    >>> make_target(net, 0.05, 'erk').kept
    {'a/w': 1216, 'b/w': 334}
  """
  _check_density('density', density)
  if distribution != 'uniform' and distribution not in _WEIGHTS:
    raise ValueError(
      f'distribution is {distribution!r} but must be one of uniform,'
      f' {", ".join(_WEIGHTS)}'
    )
  every = {n: tuple(x.shape) for n, x in trees.weights(params, where).items()}
  exclude = (exclude,) if isinstance(exclude, str) else exclude
  out = _matches('exclude', dict.fromkeys(exclude), every)
  shapes = {name: shape for name, shape in every.items() if name not in out}
  if not shapes:
    raise ValueError(
      f'no layer is left to be made sparse of {len(every)}: exclude fewer, or'
      ' choose others by where'
    )
  own = _matches('layer_densities', layer_densities or {}, shapes)
  for regex, value in (layer_densities or {}).items():
    _check_density(f'layer_densities[{regex!r}]', value)
  asked = _matches('patterns', patterns or {}, shapes)
  kinds = {
    name: patterns_lib.parse(asked.get(name, 'unstructured')) for name in shapes
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
    stem = _stem(every) if stem is None else stem
    if stem is not None and (len(every) < 2 or len(every.get(stem, ())) < 3):
      stem = None
    if stem is not None and stem in shapes and stem not in own:
      wanted[stem], kinds[stem] = 1.0, patterns_lib.UNSTRUCTURED
  else:
    rest = {name: shape for name, shape in shapes.items() if name not in own}
    wanted |= _budgeted(_WEIGHTS[distribution], rest, kinds, density)

  for name, shape in shapes.items():
    patterns_lib.check(kinds[name], name, shape, wanted[name])
  kept = {
    name: _whole(kinds[name], shape, trees.kept(math.prod(shape), wanted[name]))
    for name, shape in shapes.items()
  }
  return Target(shapes, kept, pooled, kinds)


def _check_density(what: str, value: Any) -> None:
  if not (isinstance(value, int | float | np.number) and 0 < value <= 1):
    raise ValueError(f'{what} is {value!r} but must be in (0, 1]')


def _matches(
  what: str, rules: Mapping[str, Any], layers: Iterable[str]
) -> dict[str, Any]:
  """By layer, the value of the first rule that is found in its path."""
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


def _stem(shapes: Mapping[str, Shape]) -> str | None:
  """The convolution that sees the data, if there is one."""
  kernels = [name for name, shape in shapes.items() if len(shape) > 2]
  if not kernels or len(shapes) == 1:
    return None
  return min(kernels, key=lambda name: shapes[name][-2])


def _whole(pattern: Pattern, shape: Shape, count: int) -> int:
  """A number of weights, rounded to whole units, at least one."""
  unit = patterns_lib.quantum(pattern, shape)
  return unit * max(1, math.floor(count / unit + 0.5))


def _budgeted(
  weight: Callable[[Shape], int],
  shapes: Mapping[str, Shape],
  kinds: Mapping[str, Pattern],
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
  kept = _split(weight, shapes, budget)
  smooth = {
    n: shape for n, shape in shapes.items() if kinds[n].kind == 'unstructured'
  }
  if smooth and len(smooth) < len(shapes):
    rough = sum(
      _whole(kinds[n], shape, kept[n])
      for n, shape in shapes.items()
      if n not in smooth
    )
    kept |= _split(weight, smooth, budget - rough)
  return {n: kept[n] / math.prod(shape) for n, shape in shapes.items()}


def _split(
  weight: Callable[[Shape], int], shapes: Mapping[str, Shape], total: int
) -> dict[str, int]:
  """Counts in [1, size] that are ∝ weight(shape) between, with a given sum."""
  sizes = np.array([math.prod(shape) for shape in shapes.values()])
  weights = np.array([float(weight(shape)) for shape in shapes.values()])

  def shares(scale):
    return np.clip(scale * weights, 1, sizes)

  low, high = 0.0, np.max(sizes / weights, initial=0.0)
  for _ in range(100):
    middle = (low + high) / 2
    if shares(middle).sum() <= total:
      low = middle
    else:
      high = middle
  wanted = shares(low)
  out = np.floor(wanted).astype(int)
  # The largest remainders are rounded up.
  order = np.argsort(out - wanted, kind='stable')
  out[order[: max(0, total - out.sum())]] += 1
  return dict(zip(shapes, np.minimum(out, sizes).tolist(), strict=True))


def _in_turn(total: Any, room: Any) -> Any:
  """Fills one after the other until a total is used up."""
  return (total - (room.cumsum() - room)).clip(0, room)


def spread(
  weights: jax.Array, total: int | jax.Array, capacity: jax.Array
) -> jax.Array:
  """Splits a total in proportion to weights, as far as there is room.

  Layers get ⌊scale·weight⌉, capped by the capacity, with the largest scale that
  does not exceed the total; so what one layer cannot take goes to the others.
  The scale is found by bisection on its bits. No sum is a float, which makes
  the total exact. What rounding leaves over, and what is left when all layers
  with a weight are full, is filled in by index. May be jitted and vmapped.

  Args:
    weights: float32 [L], finite, ≥ 0.
    total: int32 scalar ≥ 0.
    capacity: int32 [L], ≥ 0, with a sum below 2³¹.

  Returns:
    int32 [L], at most the capacity, with the sum min(total, Σ capacity).

  Example:
    >>> import jax.numpy as jnp
    >>> spread(jnp.array([3., 1., 1.]), 10, jnp.array([4, 9, 9])).tolist()
    [4, 3, 3]
  """
  weights = jnp.asarray(weights, jnp.float32)
  capacity = jnp.asarray(capacity, jnp.int32)
  total = jnp.asarray(total, jnp.int32)

  def counts(bits):
    scale = jax.lax.bitcast_convert_type(bits, jnp.float32)
    # Not ⌊x + ½⌋, which XLA may compute in another way outside of the loop.
    rounded = jnp.minimum(jnp.round(scale * weights), _BELOW_2_TO_31)
    return jnp.minimum(rounded.astype(jnp.int32), capacity)

  def step(i, bits):
    candidate = bits | jnp.left_shift(jnp.uint32(1), jnp.uint32(30 - i))
    fits = (candidate <= _LARGEST_BITS) & (jnp.sum(counts(candidate)) <= total)
    return jnp.where(fits, candidate, bits)

  bits = jax.lax.fori_loop(0, 31, step, jnp.uint32(0))
  out = counts(bits)
  above = counts(jnp.minimum(bits + 1, _LARGEST_BITS))
  out += _in_turn(total - jnp.sum(out), above - out)
  return out + _in_turn(total - jnp.sum(out), capacity - out)


def _numbers(target: Target, share: float | jax.Array) -> jax.Array:
  """How many weights `select` keeps: int32 [L], or [1] of a pooled target."""
  sizes = np.array([math.prod(s) for s in target.shapes.values()], np.int32)
  kept = np.array(list(target.kept.values()), np.int32)
  units = [
    patterns_lib.quantum(target.patterns[name], shape)
    for name, shape in target.shapes.items()
  ]
  if target.pooled:
    sizes, kept, units = sizes.sum(keepdims=True), kept.sum(keepdims=True), [1]
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
    in their sum, and ties go to the layer that comes first.
  """
  left = _numbers(target, share)
  if target.pooled:
    flat = jnp.concatenate([scores[name].ravel() for name in target.shapes])
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
    k = k // patterns_lib.quantum(pattern, shape)
    if pattern.kind == 'n_m':
      masks[name] = patterns_lib.n_of_m(pattern.m, scores[name], k)
    else:
      units[name] = patterns_lib.unit_scores(pattern, scores[name])
      counts[name] = k
  for name, mask in trees.top_k_masks(units, counts).items():
    pattern, shape = target.patterns[name], target.shapes[name]
    masks[name] = patterns_lib.expand(pattern, mask, shape)
  return {name: masks[name] for name in target.shapes}
