"""Exact top-k without a sort, against sorts."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from powerprop import trees

_LENET = ((784, 300), (300, 100), (100, 10))


def sorted_mask(x: jax.Array, k: int) -> jax.Array:
  """The same mask as `trees.top_k_masks`, by a stable sort."""
  index = jnp.argsort(-jnp.abs(x).ravel(), stable=True)[:k]
  return jnp.zeros(x.size, bool).at[index].set(True).reshape(x.shape)


def top_k(
  say: timing.Say,
  size: int = 25_000_000,
  shapes: tuple[tuple[int, ...], ...] = _LENET,
  rounds: int = 3,
  mask_rounds: int = 20,
) -> timing.Table:
  """The k-th magnitude of many weights, and masks of a small net's layers.

  Args:
    say: told what is going on.
    size: how many weights.
    shapes: of the layers to be masked.
    rounds: for the k-th magnitude; see `timing.compare`.
    mask_rounds: for the masks.

  Returns:
    One row per program. Raises AssertionError where two programs disagree.
  """
  x = jax.random.normal(jax.random.key(0), (size,))
  k = trees.kept(size, 0.1)
  by_bits = jax.jit(trees.kth_largest)
  by_sort = jax.jit(lambda x, k: jnp.sort(jnp.abs(x))[x.size - k])
  host = np.asarray(x)
  by_partition = lambda: np.partition(np.abs(host), size - k)[size - k]
  if not by_bits(x, k) == by_sort(x, k) == by_partition():
    raise AssertionError('The k-th magnitudes differ.')
  magnitude = timing.compare(
    {
      'trees.kth_largest': lambda: by_bits(x, k),
      'jnp.sort': lambda: by_sort(x, k),
      'numpy.partition': by_partition,
    },
    'trees.kth_largest',
    rounds,
    say,
  )

  keys = jax.random.split(jax.random.key(1), len(shapes))
  layers = [jax.random.normal(*a) for a in zip(keys, shapes, strict=True)]
  ks = [trees.kept(w.size, 0.05) for w in layers]
  masks = jax.jit(lambda ws: trees.top_k_masks(ws, ks))
  sorts = jax.jit(lambda ws: list(map(sorted_mask, ws, ks)))
  for ours, theirs in zip(masks(layers), sorts(layers), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  small = timing.compare(
    {
      'trees.top_k_masks': lambda: masks(layers),
      'jnp.argsort': lambda: sorts(layers),
    },
    'trees.top_k_masks',
    mask_rounds,
    say,
  )

  rows = []
  for what, times in (
    (f'k-th magnitude of {size:,}', magnitude),
    (f'masks of {len(shapes)} layers', small),
  ):
    for name, t in times.items():
      target = 20 if name == 'jnp.sort' else None
      met = '' if target is None else 'yes' if t.ratio >= target else 'no'
      rows.append(
        {
          'what': what,
          'program': name,
          'ms': 1000 * t.seconds,
          'times ours': t.ratio,
          'low': t.low,
          'high': t.high,
          'target': f'≥ {target}' if target else '',
          'met': met,
        }
      )
  return timing.Table(
    'Exact top-k: bisection on bits against sorts',
    (
      f'k = 10% of {size:,} normal values, {rounds} rounds; 5% of every layer'
      f' of {", ".join("x".join(map(str, s)) for s in shapes)}, {mask_rounds}'
      ' rounds. All programs give the same bits. numpy.partition, which runs'
      ' on the host alone and on one core, stands here for comparison.',
    ),
    rows,
  )
