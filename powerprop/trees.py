"""Pytrees of parameters: which leaves are weights, and exact top-k masks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from powerprop.types import Params, Where

# Last path components that name something other than a weight, in Haiku, Flax
# and Optax's own states. Haiku's BatchNorm keeps `scale` with four axes, so the
# number of axes alone does not tell.
_NOT_WEIGHTS = frozenset(
  {'b', 'bias', 'scale', 'offset', 'gamma', 'beta', 'mean', 'var'}
)

_ROW = 32  # entries counted at a time on CPU
_HASH = (0x9E3779B1, 0x85EBCA77)


def path_name(path: tuple[Any, ...]) -> str:
  """Writes a jax key path as 'module/name', as Haiku does."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def is_weight(path: str, leaf: Any) -> bool:
  """The default `where`: matrices and kernels, but no biases and no norms.

  Embeddings, class tokens and any other parameter of two axes or more are taken
  for matrices. A `where` of your own leaves them out:

    lambda path, x: is_weight(path, x) and 'embed' not in path

  Args:
    path: the leaf's path, as 'module/name'.
    leaf: an array.

  Returns:
    Whether the leaf is floating, has two axes or more, and is not named as a
    bias or as a normalisation layer's parameter.
  """
  name = path.rsplit('/', 1)[-1]
  return (
    jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    and jnp.ndim(leaf) >= 2
    and name not in _NOT_WEIGHTS
  )


def map_where(
  fn: Callable[..., Any], where: Where, tree: Params, *rest: Params
) -> Params:
  """Maps `fn` over the leaves that `where` chooses; others stay untouched.

  Args:
    fn: called as fn(leaf, *leaves of rest).
    where: chooses leaves of `tree` by path and value.
    tree: a pytree; the leaves that are left out come back as they are.
    *rest: pytrees of the same structure.

  Returns:
    A pytree of the structure of `tree`.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf, *others: (
      fn(leaf, *others) if where(path_name(path), leaf) else leaf
    ),
    tree,
    *rest,
  )


def weights(tree: Params, where: Where = is_weight) -> dict[str, jax.Array]:
  """The leaves that `where` chooses, by path, in the tree's order."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  named = ((path_name(path), leaf) for path, leaf in flat)
  return {name: leaf for name, leaf in named if where(name, leaf)}


def replace_weights(tree: Params, new: dict[str, jax.Array]) -> Params:
  """Puts leaves back by path; the inverse of `weights`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: new.get(path_name(path), leaf), tree
  )


def hashed(bits: jax.Array, place: jax.Array) -> jax.Array:
  """A hash of bits: sums of them times odd numbers of their places.

  Those of the parts of an array add up to that of the array.

  Args:
    bits: uint32, of any shape.
    place: uint32, of the same shape: where in all of the array they are.

  Returns:
    uint32 [2].
  """
  return jnp.stack(
    [
      jnp.sum(bits * (2 * place * jnp.uint32(m) + 1), dtype=jnp.uint32)
      for m in _HASH
    ]
  )


def copied(tree: Params) -> Params:
  """The same values in arrays of their own.

  For a state that keeps what the caller has as well: who calls may donate both.
  """
  return jax.tree.map(jnp.copy, tree)


def _check(name: str, x: Any, k: Any, least: int) -> None:
  """Raises ValueError where the k largest |x| cannot be told."""
  of = f' of {name}' if name else ''
  dtype = jnp.result_type(x)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f'the scores{of} are {dtype} but must be floating: convert them'
    )
  if isinstance(k, jax.core.Tracer):
    fits, shown = jnp.issubdtype(k.dtype, jnp.integer), f'a traced {k.dtype}'
  else:
    shown = k
    k = np.asarray(k)
    fits = np.issubdtype(k.dtype, np.integer) and k.ndim == 0
    fits = fits and least <= k <= jnp.size(x)
  if not fits:
    raise ValueError(
      f'the number k{of} is {shown} but must be a whole number in'
      f' [{least}, {jnp.size(x)}]; for a share of the weights there is'
      ' powerprop.prune(params, density)'
    )


def wide(x: jax.Array) -> jax.Array:
  """x as float32, or as it is where it is that or wider.

  Half precision has no sums of a layer (65,504 is its largest number) and no
  small constants (below 6e-8 all is zero, in float16).
  """
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _magnitude_bits(x: jax.Array) -> jax.Array:
  """|x| as unsigned integers in the same order (IEEE 754)."""
  x = jnp.abs(x)
  if x.dtype.itemsize < 4:
    x = x.astype(jnp.float32)  # exact
  bits = {4: jnp.uint32, 8: jnp.uint64}[x.dtype.itemsize]
  return jax.lax.bitcast_convert_type(x, bits)


def _count(true: jax.Array) -> jax.Array:
  """The number of true entries, int32."""

  def by_rows(x):
    # XLA's sum of a whole array on CPU writes the compared array to memory in
    # four bytes each; sums of short rows it computes on the fly, which was
    # faster. The barrier keeps it from joining both sums again.
    x = jnp.atleast_1d(x)
    whole = x.shape[-1] - x.shape[-1] % _ROW
    rows = x[..., :whole].reshape(*x.shape[:-1], whole // _ROW, _ROW)
    parts = [jnp.sum(y, -1, dtype=jnp.int32) for y in (rows, x[..., whole:])]
    return sum(map(in_one, jax.lax.optimization_barrier(parts)))

  def in_one(x):
    return jnp.sum(x, dtype=jnp.int32)

  return jax.lax.platform_dependent(true, cpu=by_rows, default=in_one)


def _thresholds(bits: list[jax.Array], ks: list[jax.Array]) -> list[jax.Array]:
  """The largest t with #{b ≥ t} ≥ k, for every b: its k-th largest entry."""
  top = max(b.dtype.itemsize * 8 for b in bits) - 2  # below the sign bit

  def step(i, thresholds):
    shift = top - i
    out = []
    for b, k, t in zip(bits, ks, thresholds, strict=True):
      bit = jnp.where(
        shift < b.dtype.itemsize * 8 - 1,
        jnp.left_shift(jnp.ones((), b.dtype), shift.astype(b.dtype)),
        jnp.zeros((), b.dtype),
      )
      candidate = t | bit
      out.append(jnp.where(_count(b >= candidate) >= k, candidate, t))
    return out

  return jax.lax.fori_loop(
    0, top + 1, step, [jnp.zeros((), b.dtype) for b in bits]
  )


@jax.jit  # outside of a program as well: op by op it took 0.4 s
def _masks(leaves: list[jax.Array], ks: list[jax.Array]) -> list[jax.Array]:
  """`top_k_masks` of checked leaves, one at least."""
  bits = [_magnitude_bits(x) for x in leaves]
  thresholds = _thresholds(bits, ks)

  tied = [b == t for b, t in zip(bits, thresholds, strict=True)]
  over = [b > t for b, t in zip(bits, thresholds, strict=True)]
  wanted = [k - _count(o) for k, o in zip(ks, over, strict=True)]
  index = [jnp.arange(b.size, dtype=jnp.int32).reshape(b.shape) for b in bits]
  # The smallest bound with `wanted` ties at indices below it.
  spare = [_count(e) > w for e, w in zip(tied, wanted, strict=True)]
  low = [jnp.zeros((), jnp.int32) for _ in bits]
  high = [
    jnp.where(s, jnp.int32(b.size), jnp.int32(0))
    for s, b in zip(spare, bits, strict=True)
  ]

  def searching(bounds):
    lows, highs = bounds
    return jnp.any(jnp.stack([a < b for a, b in zip(lows, highs, strict=True)]))

  def index_step(bounds):
    lows, highs = [], []
    for a, b, i, e, w in zip(*bounds, index, tied, wanted, strict=True):
      middle = (a + b) // 2
      enough = _count(e & (i < middle)) >= w
      going = a < b
      lows.append(jnp.where(going & ~enough, middle + 1, a))
      highs.append(jnp.where(going & enough, middle, b))
    return lows, highs

  low, _ = jax.lax.while_loop(searching, index_step, (low, high))
  masks = [
    o | (e & jnp.where(s, i < bound, True))
    for o, e, s, i, bound in zip(over, tied, spare, index, low, strict=True)
  ]
  return masks


def top_k_masks(scores: Params, counts: Params) -> Params:
  """Exact masks of the `counts` largest |scores| of every leaf, without a sort.

  The k-th magnitude is the largest t with #{|x| ≥ t} ≥ k. It is built bit by
  bit from the top: 31 counting passes for float32, for all leaves in one loop.
  Where several values tie with it, those of lowest index are kept, found by a
  second bisection, over the index, that runs only if there are such ties. All
  passes are reductions, so the arrays may be sharded and the call vmapped.

  Args:
    scores: a pytree of floating arrays of any shapes; a NaN counts as largest.
    counts: a pytree of the same structure of integers k in [0, size], which may
      be traced.

  Returns:
    A pytree of boolean arrays with exactly k true entries in each leaf.

  Raises:
    ValueError: if scores are not floating, a leaf has no count, or a count is
      no whole number or, where it is not traced, out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> top_k_masks(jnp.array([1., -3., 2., -2.]), 2).tolist()
    [False, True, True, False]
  """
  leaves, treedef = jax.tree.flatten(scores)
  structure: Any = jax.tree.structure(counts)
  if structure != treedef:
    raise ValueError(
      'counts must have a number for every leaf of the scores: they are'
      f' {structure}, and the scores {treedef}'
    )
  jax.tree_util.tree_map_with_path(
    lambda path, x, k: _check(path_name(path), x, k, 0), scores, counts
  )
  ks = [jnp.asarray(k, jnp.int32) for k in jax.tree.leaves(counts)]
  return jax.tree.unflatten(treedef, _masks(leaves, ks) if leaves else [])


def kth_largest(x: jax.Array, k: int | jax.Array) -> jax.Array:
  """The exact k-th largest |x|, by bisection on bits (see `top_k_masks`).

  Args:
    x: a floating array of any shape.
    k: in [1, x.size]; may be traced.

  Returns:
    A scalar of x's dtype.

  Raises:
    ValueError: if x is not floating, or k is no whole number or, where it is
      not traced, out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> float(kth_largest(jnp.array([1., -3., 2.]), 2))
    2.0
  """
  x = jnp.asarray(x)
  _check('', x, k, 1)
  (found,) = _thresholds([_magnitude_bits(x)], [jnp.asarray(k, jnp.int32)])
  wide = {4: jnp.float32, 8: jnp.float64}[found.dtype.itemsize]
  return jax.lax.bitcast_convert_type(found, wide).astype(x.dtype)


def check_density(what: str, value: Any) -> None:
  """Raises ValueError unless it is a number in (0, 1]."""
  if not (isinstance(value, int | float | np.number) and 0 < value <= 1):
    raise ValueError(f'{what} is {value!r} but must be in (0, 1]')


def kept(size: int, density: float) -> int:
  """How many of `size` weights a density keeps: ⌊size·density + ½⌋, at least 1.

  Args:
    size: number of weights, ≥ 1.
    density: share kept, in (0, 1].

  Returns:
    An integer in [1, size].

  Raises:
    ValueError: if the density is out of range.
  """
  check_density('density', density)
  return min(size, max(1, int(np.floor(size * density + 0.5))))
