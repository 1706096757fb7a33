"""Files of pictures, decoded: a random crop to train on, the middle to test.

Both are those of the public TPU code (tensorflow/tpu, models/official/resnet,
resnet_preprocessing), whose input pipeline RigL's code imports. Its bicubic
resizing takes 4x4 pixels however much it shrinks; Pillow's takes all of them.

Pixels come from Pillow alone, also where a faster decoder is installed: what is
learned does not depend on that.
"""

from collections.abc import Callable
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

_AREA = 0.08, 1.0  # of a random crop, as shares of the picture's
_RATIO = 3 / 4, 4 / 3  # its width over its height
_ATTEMPTS = 10
_MIDDLE = 7 / 8  # of the shorter side: 224 of 256 pixels


class Pictures(NamedTuple):
  """Labelled pictures that are read one by one, by any process.

  Attributes:
    number: of them.
    read: (place in [0, number), random numbers) -> the picture, uint8
      [H, W, C], and its label. Without random numbers it is not augmented.
      Whatever it raises means that this picture cannot be read.
    where: place -> what to call that picture in a message.
  """

  number: int
  read: Callable[[int, np.random.Generator | None], tuple[np.ndarray, int]]
  where: Callable[[int], str]


class Box(NamedTuple):
  """A part of a picture, in pixels.

  Attributes:
    left: of its columns, the first.
    top: of its rows, the first.
    width: number of columns.
    height: number of rows.
  """

  left: int
  top: int
  width: int
  height: int


def random_box(random: np.random.Generator, width: int, height: int) -> Box:
  """A random part of a picture.

  Its ratio of width to height is uniform in [3/4, 4/3], and its height among
  those with which its area is 8 to 100% of the picture's and it fits in. After
  ten ratios with no such height it is `middle_box`.

  Args:
    random: random numbers.
    width: of the picture.
    height: of the picture.

  Returns:
    The part.

  Reference: Szegedy et al., Going deeper with convolutions (2015), section 6,
    as TensorFlow's sample_distorted_bounding_box draws it.
  """
  for _ in range(_ATTEMPTS):
    ratio = random.uniform(*_RATIO)
    low, high = (np.sqrt(s * width * height / ratio) for s in _AREA)
    high = min(high, height, width / ratio)
    first, last = int(np.ceil(low)), int(high)
    if 1 <= first <= last:
      tall = int(random.integers(first, last + 1))
      wide = min(max(1, round(tall * ratio)), width)
      left = int(random.integers(width - wide + 1))
      top = int(random.integers(height - tall + 1))
      return Box(left, top, wide, tall)
  return middle_box(width, height)


def middle_box(width: int, height: int) -> Box:
  """The square in the middle of a picture, 7/8 of its shorter side.

  What is left of it after resizing is what a picture has that is resized to
  8/7 of the size, its shorter side, and then cropped.

  Args:
    width: of the picture.
    height: of the picture.

  Returns:
    The part.
  """
  side = max(1, int(_MIDDLE * min(width, height)))
  left, top = (width - side + 1) // 2, (height - side + 1) // 2
  return Box(left, top, side, side)


def decode(
  file: str | bytes, size: int, random: np.random.Generator | None
) -> np.ndarray:
  """A picture's crop, resized and, every second time, mirrored.

  Args:
    file: its path, or what is in it: whatever Pillow reads.
    size: rows and columns of the result.
    random: random numbers; None for the middle, as it is.

  Returns:
    uint8 [size, size, 3], RGB. Grey pictures have three equal channels, and
    what an alpha channel says is ignored.

  Raises:
    Exception: of any kind that Pillow raises for a file that it cannot read.
  """
  with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as it:
    width, height = it.size
    if random is None:
      box, mirrored = middle_box(width, height), False
    else:
      box = random_box(random, width, height)
      mirrored = random.random() < 0.5
    # A large JPEG is decoded at 1/2, 1/4 or 1/8, as long as the crop still has
    # the pixels that are wanted.
    it.draft(
      None,
      (
        max(1, int(width * size / box.width)),
        max(1, int(height * size / box.height)),
      ),
    )
    x, y = it.size[0] / width, it.size[1] / height
    edges = (
      box.left * x,
      box.top * y,
      min((box.left + box.width) * x, it.size[0]),
      min((box.top + box.height) * y, it.size[1]),
    )
    rgb = it if it.mode == 'RGB' else _to_rgb(it)
    resized = rgb.resize((size, size), Image.Resampling.BICUBIC, edges)
  pixels = np.asarray(resized)
  return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)


def _to_rgb(image: Any) -> Any:
  if image.mode.startswith('I'):  # 16 bits, of which Pillow would cut the upper
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  elif image.mode in ('P', 'PA') and 'transparency' in image.info:
    image = image.convert('RGBA')
  return image.convert('RGB')
