"""Random crops and flips, drawn on the device within a training step."""

from collections.abc import Callable
import functools

import chex
import jax
import jax.numpy as jnp


def crop_flip(
  key: chex.PRNGKey, images: chex.Array, pad: int = 4, reflect: bool = False
) -> jax.Array:
  """Pads pictures, crops them back at random, and mirrors half of them.

  Each picture is drawn on its own: a shift by −pad, …, pad pixels in either
  direction, and whether left and right change places.

  Args:
    key: a random key.
    images: [B, H, W, C] of any dtype.
    pad: pixels on each side, in [0, min(H, W)]; static.
    reflect: whether the border mirrors the picture, its edge included, or is
      zero; static.

  Returns:
    [B, H, W, C] of the same dtype.

  Reference: zeros as in He et al., Deep residual learning (2016), section 4.2;
    mirrored as in the public code of RigL (rigl/cifar_resnet).
  """
  batch, height, width, _ = images.shape
  shift_key, flip_key = jax.random.split(key)
  shifts = jax.random.randint(shift_key, (2, batch, 1), -pad, pad + 1)
  flips = jax.random.bernoulli(flip_key, shape=(batch, 1))

  def sources(shift: jax.Array, size: int) -> jax.Array:
    """[B, size]: the row or column that comes to lie there; `size` is none."""
    i = shift + jnp.arange(size)
    inside = (i >= 0) & (i < size)
    # Mirrored, −1 is 0 and `size` is size − 1.
    outside = jnp.where(i < 0, -1 - i, 2 * size - 1 - i) if reflect else size
    return jnp.where(inside, i, outside)

  rows, columns = sources(shifts[0], height), sources(shifts[1], width)
  columns = jnp.where(flips, columns[:, ::-1], columns)

  def one(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
    # 64 CIFAR pictures on a CPU, within a scan: 0.1 ms; with slices 2 ms.
    image = image.at[row].get(mode='fill', fill_value=0)
    return image.at[:, column].get(mode='fill', fill_value=0)

  return jax.vmap(one)(jnp.asarray(images), rows, columns)


AUGMENTATIONS: dict[str, Callable[[chex.PRNGKey, chex.Array], jax.Array]] = {
  'none': lambda key, images: jnp.asarray(images),
  'crop_flip': crop_flip,
  'reflect_crop_flip': functools.partial(crop_flip, reflect=True),
}
