"""How a number of weights is spread over layers, static or traced."""

from collections.abc import Mapping
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from powerprop.methods.patterns import Shape

_LARGEST_BITS = np.uint32(0x7F7FFFFF)  # of a finite float32
_BELOW_2_TO_31 = np.float32(2**31 - 128)  # the largest float32 that is


def split(
  weights: Mapping[str, int], shapes: Mapping[str, Shape], total: int
) -> dict[str, int]:
  """Counts in [1, size] that are ∝ the weights between, with a given sum."""
  sizes = np.array([math.prod(shape) for shape in shapes.values()])
  each = np.array([float(weights[name]) for name in shapes])

  def shares(scale):
    return np.clip(scale * each, 1, sizes)

  low, high = 0.0, np.max(sizes / each, initial=0.0)
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
