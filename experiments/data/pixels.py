"""Pixels as nets want them."""

import chex
import jax
import jax.numpy as jnp


def normalise(
  images: chex.Array,
  scale: chex.Numeric,
  mean: float = 0.0,
  std: float = 1.0,
) -> jax.Array:
  """Returns pixels as floats, (images * scale - mean) / std.

  Args:
    images: uint8 [..., H, W, C].
    scale: the data set's `scale`, which takes pixels to [0, 1].
    mean: of the pixels in [0, 1], subtracted from them.
    std: by which they are then divided.

  Returns:
    float32 [..., H, W, C].
  """
  pixels = jnp.asarray(images).astype(jnp.float32) * jnp.float32(scale)
  return pixels if (mean, std) == (0, 1) else (pixels - mean) / std
