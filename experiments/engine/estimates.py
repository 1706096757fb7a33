"""What a run will take, before it starts: trainings, steps, FLOPs, memory."""

import math
import os
import pathlib
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import tabulate

from experiments.engine.validation import ConfigError

MOST_TRAININGS = 100_000
_WEEK = 7 * 24 * 3600.0
# What no device does in a week is not measured for a warning.
_FEW_FLOPS = 1e15
_PREFIXES = ('', 'k', 'M', 'G', 'T', 'P', 'E')


class Estimate(NamedTuple):
  """What a run will take.

  Attributes:
    trainings: how many; in continual learning, sequences.
    programs: of training steps that are compiled.
    parameters: of the net, of the largest where there are several.
    steps: of all trainings together.
    flops: of these steps on dense arrays: three forward passes of each batch.
    device_bytes: data and states that are on the device at the same time;
      activations come on top.
    disk_bytes: checkpoints, the last two of each, and records of tasks.
    measured: FLOPs of what is measured besides, where that is much.
  """

  trainings: int
  programs: int
  parameters: int
  steps: int
  flops: float
  device_bytes: int
  disk_bytes: int
  measured: float = 0.0

  @property
  def work(self) -> float:
    """All FLOPs that are known."""
    return self.flops + self.measured

  def markdown(self) -> str:
    """A table; it measures how fast a matrix product is here."""
    rate = matrix_product_rate()
    rows = [
      ('trainings', f'{self.trainings:,}'),
      ('programs to compile', f'{self.programs:,}'),
      ('parameters of the net', f'{self.parameters:,}'),
      ('steps of all trainings', f'{self.steps:,}'),
      ('FLOPs of these steps, dense', _human(self.flops)),
      (
        'time, at least',
        f'{_duration(self.work / rate)} at {_human(rate)}FLOP/s, as a matrix'
        ' product has here',
      ),
      (
        'memory, at least',
        f'{_human(self.device_bytes)}B of {_human(memory())}B, without'
        ' activations',
      ),
      ('checkpoints, at most', f'{_human(self.disk_bytes)}B'),
    ]
    if self.measured:
      rows.insert(5, ('FLOPs of what is measured', _human(self.measured)))
    table = tabulate.tabulate(rows, ('what', 'estimate'), tablefmt='github')
    return (
      f'{table}\n\nThe time is by FLOPs alone: small nets, compiling and'
      ' evaluating take more.\nNothing was trained, and nothing written.\n'
    )


def few(trainings: int, field: str, value: int) -> None:
  """Raises ConfigError where a population is too large to be listed.

  Args:
    trainings: how many there would be.
    field: of the config, that makes so many.
    value: of the field.
  """
  if trainings > MOST_TRAININGS:
    raise ConfigError(
      f'{field} is {value}, which makes {trainings:,} trainings, but a run has'
      f' at most {MOST_TRAININGS:,}: lower {field}.'
    )


def check(e: Estimate) -> None:
  """Refuses a run for which there is no memory, and warns of a very long one.

  Args:
    e: of the run.

  Raises:
    ConfigError: with what it needs and what there is.
  """
  require_memory(
    e.device_bytes,
    f'{e.trainings:,} trainings of a net with {e.parameters:,} parameters',
  )
  if e.work < _FEW_FLOPS:
    return
  seconds = e.work / matrix_product_rate()
  if seconds > _WEEK:
    logging.warning(
      'this run will take %s or more: its %s steps and what is measured are'
      ' %sFLOPs (--dry_run shows the estimate).',
      _duration(seconds),
      f'{e.steps:,}',
      _human(e.work),
    )


def require_memory(needed: int, what: str) -> None:
  """Raises ConfigError where there is less memory than is needed.

  Args:
    needed: bytes.
    what: needs it.
  """
  if needed > (there := memory()):
    raise ConfigError(
      f'{what} {"need" if what.endswith("s") else "needs"} at least'
      f' {_human(needed)}B of memory, but there is {_human(there)}B: make the'
      ' net smaller, or lower seeds or chunk_steps.'
    )


def size_of(tree: Any, packed: dict[str, float] | None = None) -> int:
  """Bytes of a tree's arrays, or of their shapes.

  Args:
    tree: of arrays.
    packed: by dtype, bytes of an entry where they are not the dtype's.
  """

  def one(x):
    entry = (packed or {}).get(str(x.dtype), x.dtype.itemsize)
    return math.ceil(math.prod(x.shape) * entry)

  return sum(map(one, jax.tree.leaves(tree)))


def memory() -> int:
  """Bytes of all local devices; on a CPU those of the machine, or allowed."""
  device = jax.local_devices()[0]
  limit = (device.memory_stats() or {}).get('bytes_limit')
  if limit:
    return limit * jax.local_device_count()
  there = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  try:  # of a container
    return min(
      there, int(pathlib.Path('/sys/fs/cgroup/memory.max').read_text())
    )
  except (OSError, ValueError):
    return there


def matrix_product_rate(dtype: Any = jnp.float32) -> float:
  """FLOPs per second of a large product on all local devices."""
  n = 1024 if jax.default_backend() == 'cpu' else 8192
  x = jnp.ones((n, n), dtype)
  product = jax.jit(lambda x: x @ x)
  product(x).block_until_ready()
  best = math.inf
  for _ in range(3):
    begun = time.perf_counter()
    product(x).block_until_ready()
    best = min(best, time.perf_counter() - begun)
  devices = 1 if jax.default_backend() == 'cpu' else jax.local_device_count()
  return devices * 2 * n**3 / max(best, 1e-9)


def _human(x: float) -> str:
  """Three digits and a prefix: 25502912 is '25.5 M'."""
  for prefix in _PREFIXES:
    if x < 999.5 or prefix == _PREFIXES[-1]:
      break
    x /= 1000
  return f'{x:.3g} {prefix}'


def _duration(seconds: float) -> str:
  for name, size in (('days', 86_400), ('hours', 3_600), ('minutes', 60)):
    if seconds >= 2 * size:
      number = seconds / size
      text = f'{number:,.0f}' if number >= 100 else f'{number:.3g}'
      return f'{text} {name}'
  return f'{seconds:.3g} seconds'
