"""Pictures that are read while they are learned: how many a core reads."""

from collections.abc import Callable
import functools
import io
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import timing
from experiments.data import pictures
from experiments.data import streaming

_DISTINCT = 32


def pipeline(
  say: timing.Say,
  rate: float = 1000.0,
  number: int = 512,
  rounds: int = 3,
  width: int = 500,
  height: int = 375,
  size: int = 224,
  workers: int | None = None,
) -> timing.Table:
  """Pictures a second of each part, and cores for so many a second.

  Args:
    say: told what is going on.
    rate: pictures a second that a device learns.
    number: of pictures, each time that a part is timed.
    rounds: how often each is timed.
    width: of the JPEG files; ImageNet's are 500 x 375 more often than anything
      else.
    height: likewise.
    size: of the pictures that come out.
    workers: processes; None for one fewer than there are cores, at least 1.

  Returns:
    One row per part; ratios are of the time, to that of a training picture.
  """
  say('drawing pictures')
  files = [_jpeg(i, width, height) for i in range(_DISTINCT)]
  workers = workers or max(1, streaming.cores() - 1)
  batches = {w: _batches(files, size, w) for w in (0, workers)}
  whole = 'a picture to train on'
  programs: dict[str, Callable[[], Any]] = {
    whole: functools.partial(_each, files, number, size, True),
    'decoded only': functools.partial(_decoded, files, number),
    'a picture to test on': functools.partial(
      _each, files, number, size, False
    ),
    'in batches, in this process': functools.partial(
      _taken, batches[0], number
    ),
    f'in batches, {workers} processes': functools.partial(
      _taken, batches[workers], number
    ),
  }
  try:
    timings = timing.compare(programs, whole, rounds, say)
  finally:
    for it in batches.values():
      it.close()
  rows = []
  for name, t in timings.items():
    cores = workers if name.endswith('processes') else 1
    per_core = number / t.seconds / cores
    rows.append(
      {
        'part': name,
        'images/s per core': per_core,
        'ms': 1e3 / per_core,
        f'cores for {rate:,.0f} images/s': rate / per_core,
        **timing.ratio_cells(t),
      }
    )
  kilobytes = sum(map(len, files)) / len(files) / 1e3
  notes = (
    f'{number} JPEG files of {width} x {height}, {kilobytes:.0f} kB each, lying'
    f' in memory, to {size} x {size}; the median of {rounds} rounds.',
    'Cores are those that only read: the process that learns has its own.',
  )
  return timing.Table('The input pipeline alone', notes, rows)


def _jpeg(seed: int, width: int, height: int) -> bytes:
  """A file like a photograph's: large shapes, some detail, and noise."""
  random = np.random.default_rng(seed)
  total = np.zeros((height, width, 3))
  for cells, share in ((4, 110.0), (16, 60.0), (64, 40.0)):
    small = random.uniform(size=(cells, cells, 3)) * 255
    shapes = Image.fromarray(small.astype(np.uint8))
    shapes = shapes.resize((width, height), Image.Resampling.BICUBIC)
    total += np.asarray(shapes) * (share / 255)
  total += random.normal(size=(height, width, 1)) * 6
  out = io.BytesIO()
  image = Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))
  image.save(out, 'JPEG', quality=92)
  return out.getvalue()


def _batches(files: list[bytes], size: int, workers: int) -> Any:
  def where(i: int) -> str:
    return f'picture {i}'

  it = pictures.Pictures(
    len(files), functools.partial(_read, files, size), where
  )
  splits = dict.fromkeys(('train', 'validation', 'test'), it)
  made = streaming.streamed('drawn', splits, 2, (size, size, 3), 0, workers)
  return made.batches(32, 0, (0, 1))


def _read(files: list[bytes], size: int, i: int, random: Any) -> Any:
  return pictures.decode(files[i], size, random), 0


def _each(files: list[bytes], number: int, size: int, train: bool) -> None:
  random = np.random.default_rng(0)
  for i in range(number):
    pictures.decode(files[i % len(files)], size, random if train else None)


def _decoded(files: list[bytes], number: int) -> None:
  for i in range(number):
    Image.open(io.BytesIO(files[i % len(files)])).load()


def _taken(batches: Any, number: int) -> None:
  for _ in range(number // 32):
    next(batches)
