"""Schedules of masks and of the learning rate: functions of the step."""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp


def progress(step: Any, begin: int, end: int, every: int = 1) -> jax.Array:
  """The share of a window that is gone.

  Args:
    step: int32 of any shape, may be traced.
    begin: the window's first step.
    end: its last step, ≥ begin.
    every: the share moves only at begin, begin + every, … and at `end`.

  Returns:
    float32 in [0, 1]: 0 before `begin`, 1 from `end` on.

  Example:
    >>> [float(progress(s, 10, 20, 5)) for s in (9, 14, 15, 19, 20)]
    [0.0, 0.0, 0.5, 0.5, 1.0]
  """
  step = jnp.asarray(step)
  gone = (step - begin) // every * every
  share = jnp.clip(gone / max(end - begin, 1), 0.0, 1.0)
  return jnp.where(step >= end, 1.0, share).astype(jnp.float32)


def cubic(p: jax.Array) -> jax.Array:
  """1 − (1 − p)³; Zhu and Gupta, To prune, or not to prune, 2017, eq. (1)."""
  return 1 - (1 - p) ** 3


def cosine(p: jax.Array) -> jax.Array:
  """(1 − cos πp)/2."""
  return (1 - jnp.cos(jnp.pi * p)) / 2


# From 0 to 1 with the progress p: how much of what is to be pruned is gone.
SHAPES: dict[str, Callable[[jax.Array], jax.Array]] = {
  'cubic': cubic,
  'cosine': cosine,
  'linear': lambda p: p,
  'one_shot': lambda p: jnp.where(p >= 1, 1.0, 0.0),
}

# From 1 to 0, but for the constant: a factor on the share of weights that a
# method drops. Cosine: Dettmers and Zettlemoyer 2019; RigL, section 3.
DECAYS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'cosine': lambda p: 1 - cosine(p),
  'linear': lambda p: 1 - p,
  'constant': jnp.ones_like,
}


def learning_rate(
  kind: str,
  steps: int,
  warmup: int = 0,
  boundaries: tuple[int, ...] = (),
  factor: float = 0.1,
  final: float = 0.0,
) -> Callable[[Any], jax.Array]:
  """A factor on the learning rate as a function of the step.

  Args:
    kind: 'constant'; 'piecewise': `factor` once more from each boundary on;
      'cosine': from 1 at the end of the warm-up to `final` at `steps`.
    steps: of the training.
    warmup: number of steps in which the factor rises linearly from 0.
    boundaries: steps, rising; for 'piecewise'.
    factor: > 0; for 'piecewise'.
    final: ≥ 0; for 'cosine'.

  Returns:
    step -> float32.

  Raises:
    ValueError: if a value is unknown or out of range, or boundaries do not go
      with the kind.
  """
  if kind not in ('constant', 'piecewise', 'cosine'):
    raise ValueError(
      f'kind is {kind!r} but must be constant, piecewise or cosine'
    )
  for name, given in (('warmup', (warmup,)), ('boundaries', boundaries)):
    if not all(isinstance(n, int) and n is not True for n in given):
      raise ValueError(f'{name} is {given} but must be whole numbers of steps')
  if not 0 <= warmup <= steps:
    raise ValueError(f'warmup is {warmup} but must be in [0, steps = {steps}]')
  if bool(boundaries) != (kind == 'piecewise'):
    need = 'must be given' if kind == 'piecewise' else 'must be left out'
    raise ValueError(f'boundaries is {boundaries} but {need} for kind {kind!r}')
  inside = all(0 <= b <= steps for b in boundaries)
  if not inside or list(boundaries) != sorted(set(boundaries)):
    raise ValueError(
      f'boundaries is {boundaries} but must rise within [0, steps = {steps}]'
    )
  if not 0 < factor < math.inf:
    raise ValueError(f'factor is {factor} but must be finite and above 0')
  if not 0 <= final < math.inf:
    raise ValueError(f'final is {final} but must be finite and at least 0')

  def scale(step):
    step = jnp.asarray(step, jnp.float32)
    rise = jnp.minimum(1.0, step / warmup) if warmup else 1.0
    out = jnp.ones_like(step)
    for b in boundaries:
      out = jnp.where(step >= b, out * factor, out)
    if kind == 'cosine':
      p = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
      out = 1 - (1 - final) * cosine(p)
    return (rise * out).astype(jnp.float32)

  return scale
