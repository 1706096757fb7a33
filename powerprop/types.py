"""The core types. Imports jax only."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax

# A pytree of arrays: φ, θ, gradients, masks. Structure is the caller's.
Params: TypeAlias = Any
Updates: TypeAlias = Any
# α ≥ 1: a Python number is static (compiled in), an array is traced.
Alpha: TypeAlias = float | jax.Array
Schedule: TypeAlias = Callable[[jax.Array], jax.Array]
# `where(path, leaf)`: does this leaf live under Ψ? `path` is 'module/name'.
Where: TypeAlias = Callable[[str, Any], bool]


class Hyper(NamedTuple):
  """What differs between the members of a population; all may be traced.

  Attributes:
    seed: int32, decides the initial θ and the order of the batches.
    alpha: the power α ≥ 1 (at the start, where a transform adapts it).
    learning_rate: float ≥ 0, the inner optimiser's.
  """

  seed: Any
  alpha: Any
  learning_rate: Any


class TrainState(NamedTuple):
  """Everything that a training needs to go on, for one member.

  Attributes:
    phi: stored parameters φ.
    net: the net's own state (moving averages), {} where it has none.
    opt: the optimiser's state; it also says which α φ is to be read with.
    step: int32, the number of steps done.
    finite: bool, whether every loss so far was finite.
  """

  phi: Params
  net: Any
  opt: Any
  step: jax.Array
  finite: jax.Array
