"""Augmentation: what a crop and a flip may do, picture by picture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data

_SIZE, _PAD = (5, 6), 2


def _images(batch, dtype=np.uint8):
  # All values differ and none is zero, so where a pixel came from can be told.
  n = batch * np.prod(_SIZE) * 2
  return np.arange(1, n + 1).reshape(batch, *_SIZE, 2).astype(dtype)


def _candidates(image, mode):
  """All results that a picture may have: (2 pad + 1)² shifts, twice."""
  padded = np.pad(image, [(_PAD, _PAD), (_PAD, _PAD), (0, 0)], mode=mode)
  h, w = _SIZE
  for y in range(2 * _PAD + 1):
    for x in range(2 * _PAD + 1):
      crop = padded[y : y + h, x : x + w]
      yield (y, x, False), crop
      yield (y, x, True), crop[:, ::-1]


@pytest.mark.parametrize('reflect', [False, True])
def test_every_result_is_a_crop_and_all_come_up(reflect):
  mode = 'symmetric' if reflect else 'constant'
  image = _images(1, np.int32)
  batch = np.repeat(image, 2000, axis=0)
  fn = functools.partial(data.crop_flip, pad=_PAD, reflect=reflect)
  found = np.asarray(jax.jit(fn)(jax.random.key(0), batch))
  names = {c.tobytes(): name for name, c in _candidates(image[0], mode)}
  assert len(names) == 50
  drawn = [names[x.tobytes()] for x in found]
  # 40 expected of each; fewer than 10 or more than 80 has odds below 1e-6.
  counts = {name: drawn.count(name) for name in names.values()}
  assert min(counts.values()) >= 10 and max(counts.values()) <= 80


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_pictures_keep_their_place_and_dtype(dtype):
  images = _images(3, dtype)
  found = data.crop_flip(jax.random.key(1), images, pad=_PAD)
  assert found.dtype == dtype and found.shape == images.shape
  for image, x in zip(images, np.asarray(found), strict=True):
    assert any(np.array_equal(x, c) for _, c in _candidates(image, 'constant'))


def test_without_padding_only_the_flip_is_left():
  images = _images(64, np.int32)
  found = np.asarray(data.crop_flip(jax.random.key(0), images, pad=0))
  flipped = [
    np.array_equal(x, image[:, ::-1])
    for x, image in zip(found, images, strict=True)
  ]
  kept = [
    np.array_equal(x, image) for x, image in zip(found, images, strict=True)
  ]
  assert all(np.logical_xor(flipped, kept)) and any(flipped) and any(kept)


@pytest.mark.parametrize('name', data.AUGMENTATIONS)
def test_a_key_decides_and_jit_and_vmap_agree(name):
  fn = data.AUGMENTATIONS[name]
  images = np.tile(_images(4), (1, 2, 2, 1))  # large enough for four pixels
  keys = jax.random.split(jax.random.key(0), 3)
  looped = np.stack([fn(key, images) for key in keys])
  stacked = jax.jit(jax.vmap(fn, (0, None)))(keys, jnp.asarray(images))
  np.testing.assert_array_equal(stacked, looped)
  same = np.array_equal(looped[0], looped[1])
  assert same == (name == 'none')
  if name == 'none':
    np.testing.assert_array_equal(looped[0], images)
