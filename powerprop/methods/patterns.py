"""The shapes that a layer's mask may have.

In every one of them a mask is a top-k of units: single weights, blocks or
channels. In n:m sparsity the units are single weights that compete in groups.

Libraries differ in where a layer's weights have their inputs and outputs. All
but `find_axes`, `arrange` and `restore` work on weights as Haiku's `Linear` and
`Conv` keep them, (…, inputs, outputs), with stacked axes before all others.
"""

from collections.abc import Sequence
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

from powerprop import trees

Shape = tuple[int, ...]


class Pattern(NamedTuple):
  """A mask's shape.

  Attributes:
    kind: 'unstructured'; 'n_m': n of every m consecutive inputs; 'block': n
      inputs by m outputs; 'channel': whole outputs.
    n: for 'n_m' and 'block', ≥ 1.
    m: for 'n_m' and 'block', ≥ 1.
  """

  kind: str
  n: int = 1
  m: int = 1


UNSTRUCTURED = Pattern('unstructured')


class Axes(NamedTuple):
  """Which of a layer's axes are what; the others are a kernel's.

  Attributes:
    inputs: index of the inputs' axis.
    outputs: index of the outputs' axis.
    stacked: indices of axes along which layers of one shape are stacked.
  """

  inputs: int = -2
  outputs: int = -1
  stacked: tuple[int, ...] = ()

  def order(self, ndim: int) -> tuple[int, ...]:
    """The axes of an array as (stacked, kernel, inputs, outputs)."""
    if ndim < 2:
      return tuple(range(ndim))
    first = [i % ndim for i in self.stacked]
    last = [self.inputs % ndim, self.outputs % ndim]
    rest = [i for i in range(ndim) if i not in (*first, *last)]
    return (*first, *rest, *last)


# Names that Haiku gives, to modules and to what `layer_stack` stacks.
_TRANSPOSED = re.compile(r'conv[123]_d_transpose(_\d+)?/w$')
_STACK = re.compile(r'__layer_stack_(no|with)_per_layer')


def find_axes(
  name: str, shape: Shape, given: Sequence[int] | None = None
) -> Axes:
  """A layer's axes: as they are given, or by the names that Haiku gives.

  Haiku's `Linear` and `Conv` keep (…, inputs, outputs), its transposed
  convolutions (…, outputs, inputs), and `layer_stack` puts an axis before them.
  Modules with names of their own do not tell.

  Args:
    name: the layer's path.
    shape: the layer's.
    given: (inputs, outputs, *stacked), indices of axes.

  Returns:
    Axes.

  Raises:
    ValueError: if these are no different axes of the layer.

  Example:
    >>> find_axes('conv2_d_transpose/w', (3, 3, 16, 8))
    Axes(inputs=-1, outputs=-2, stacked=())
  """
  ndim = len(shape)
  if given is None:
    stacked = tuple(range(len(_STACK.findall(name))))
    if ndim < 2 + len(stacked):
      return Axes()
    if _TRANSPOSED.search(name) and ndim > 2 + len(stacked):
      return Axes(-1, -2, stacked)
    return Axes(stacked=stacked)
  valid = isinstance(given, tuple | list) and all(
    isinstance(i, int) and -ndim <= i < ndim for i in given
  )
  if not valid or len({i % ndim for i in given}) < max(2, len(given)):
    raise ValueError(
      f'axes are {given!r} for layer {name} of shape {_by(shape)}, but must be'
      ' the indices of its inputs, of its outputs and of any axes that layers'
      f' are stacked along, all different and in [{-ndim}, {ndim})'
    )
  return Axes(given[0], given[1], tuple(given[2:]))


def arrange(axes: Axes, x: jax.Array) -> jax.Array:
  """An array with its axes as (stacked, kernel, inputs, outputs)."""
  order = axes.order(x.ndim)
  return x if order == tuple(range(x.ndim)) else jnp.transpose(x, order)


def restore(axes: Axes, x: jax.Array) -> jax.Array:
  """The inverse of `arrange`."""
  order = axes.order(x.ndim)
  if order == tuple(range(x.ndim)):
    return x
  return jnp.transpose(x, [order.index(i) for i in range(x.ndim)])


def _by(shape: Shape) -> str:
  return 'x'.join(map(str, shape))


def parse(text: str) -> Pattern:
  """Reads a pattern.

  Args:
    text: 'unstructured', 'channel', 'N:M' or 'block:RxC'.

  Returns:
    A pattern.

  Raises:
    ValueError: if it is none of these.

  Example:
    >>> parse('2:4')
    Pattern(kind='n_m', n=2, m=4)
  """
  if text in ('unstructured', 'channel'):
    return Pattern(text)
  found = re.fullmatch(r'(block:)?(\d+)(?(1)x|:)(\d+)', str(text))
  if found:
    n, m = int(found[2]), int(found[3])
    if found[1] and n and m:
      return Pattern('block', n, m)
    if not found[1] and 1 <= n <= m:
      return Pattern('n_m', n, m)
  raise ValueError(
    f"the pattern {text!r} is unknown; choose 'unstructured', 'channel', 'N:M'"
    " with 1 <= N <= M such as '2:4', or 'block:RxC' such as 'block:4x4'"
  )


def check(
  pattern: Pattern, name: str, shape: Shape, axes: Axes, density: float
) -> None:
  """Raises ValueError where a layer cannot have a pattern at a density.

  Args:
    pattern: the layer's.
    name: the layer's path, for the message.
    shape: the layer's, as it is kept.
    axes: what its axes are.
    density: share of its weights that is to be kept.
  """
  kind, n, m = pattern
  what = f'layer {name} of shape {_by(shape)}'
  shape = tuple(shape[i] for i in axes.order(len(shape)))
  if kind != 'unstructured' and len(shape) < 2:
    raise ValueError(
      f'{what} has no inputs and outputs, which the pattern {kind} needs:'
      ' give it no pattern'
    )
  if kind == 'n_m' and shape[-2] % m:
    raise ValueError(
      f'{what} cannot keep {n} of every {m} inputs: {m} does not divide'
      f' {shape[-2]}; give it another pattern, or none'
    )
  if kind == 'n_m' and abs(density - n / m) > 1e-6:
    raise ValueError(
      f'{what} has the pattern {n}:{m}, which keeps {n / m:.4g} of it, but the'
      f' density {density:.4g} is asked for: set its density to {n / m:.4g} in'
      ' layer_densities, or give it another pattern'
    )
  if kind == 'block' and (shape[-2] % n or shape[-1] % m):
    raise ValueError(
      f'{what} cannot be cut into blocks of {n}x{m}, which do not divide'
      f' {shape[-2]}x{shape[-1]}; give it another pattern, or none'
    )


def quantum(pattern: Pattern, shape: Shape, stacked: int = 0) -> int:
  """What the number of weights in a layer's mask is a multiple of.

  Args:
    pattern: the layer's.
    shape: the layer's.
    stacked: how many of its first axes are stacked.

  Returns:
    The size of a unit; for n:m, the number of groups, as each keeps as many.

  Example:
    >>> quantum(parse('block:4x2'), (8, 8)), quantum(parse('2:4'), (8, 8))
    (8, 16)
  """
  if pattern.kind == 'n_m':
    return math.prod(shape) // pattern.m
  if pattern.kind == 'block':
    return pattern.n * pattern.m
  if pattern.kind == 'channel':
    return math.prod(shape[stacked:-1])
  return 1


def unit_scores(pattern: Pattern, x: jax.Array, stacked: int = 0) -> jax.Array:
  """The scores of units that compete in one group.

  Args:
    pattern: the layer's; not 'n_m'.
    x: scores of the layer's weights.
    stacked: how many of its first axes are stacked.

  Returns:
    Σ|x| over the weights of every unit, float32 or wider; x itself where the
    units are single weights.
  """
  if pattern.kind == 'unstructured':
    return x
  x = trees.wide(jnp.abs(x))
  if pattern.kind == 'channel':
    return jnp.sum(x, range(stacked, x.ndim - 1))
  _, n, m = pattern
  *rest, rows, columns = x.shape
  blocks = x.reshape(*rest, rows // n, n, columns // m, m)
  return jnp.sum(blocks, (-3, -1))


def expand(pattern: Pattern, mask: jax.Array, shape: Shape) -> jax.Array:
  """A mask of units as a mask of weights; the counterpart of `unit_scores`.

  Args:
    pattern: the layer's; not 'n_m'.
    mask: bool, of the shape of the units' scores.
    shape: the layer's.

  Returns:
    bool of that shape.
  """
  if pattern.kind == 'block':
    _, n, m = pattern
    *rest, rows, columns = shape
    mask = jnp.broadcast_to(
      mask[..., :, None, :, None], (*rest, rows // n, n, columns // m, m)
    ).reshape(shape)
  if pattern.kind == 'channel':
    kernel = len(shape) - mask.ndim  # with the inputs
    mask = mask.reshape(*mask.shape[:-1], *[1] * kernel, mask.shape[-1])
  return jnp.broadcast_to(mask, shape)


def n_of_m(m: int, x: jax.Array, n: int | jax.Array) -> jax.Array:
  """A mask of the n largest |x| of every m on the last axis but one.

  Args:
    m: divides that axis.
    x: scores of the layer's weights; a NaN counts as infinite.
    n: in [0, m], may be traced; exact, ties are broken by index.

  Returns:
    bool of x's shape.

  Example:
    >>> import jax.numpy as jnp
    >>> n_of_m(4, jnp.array([[1.], [-3.], [2.], [2.]]), 2).ravel().tolist()
    [False, True, True, False]
  """
  x = jnp.where(jnp.isnan(x), jnp.inf, jnp.abs(x))
  groups = x.reshape(*x.shape[:-2], -1, m, x.shape[-1])
  mine, other = groups[..., :, None, :], groups[..., None, :, :]
  first = jnp.tri(m, k=-1, dtype=bool)[:, :, None]  # other's index is lower
  # Groups are short: m² comparisons, which XLA fuses, are faster than a sort.
  ahead = (other > mine) | ((other == mine) & first)
  rank = jnp.sum(ahead, -2, dtype=jnp.int32)
  return (rank < n).reshape(x.shape)
