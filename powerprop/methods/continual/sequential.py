"""What the continual-learning methods have in common."""

from collections.abc import Callable, Iterable, Mapping
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from powerprop import trees
from powerprop.methods import masked
from powerprop.types import Continual, Masks, Method, Params, Where
from powerprop.units import Units


class Tasks(NamedTuple):
  """What every continual-learning method is told.

  Attributes:
    shapes: the net's parameters that tasks share, or their shapes.
    number: how many tasks the sequence has.
    example: a batch of one example, or its shapes.
    num_train: training examples of the largest task.
    batch_size: examples of a training step.
    heads: paths of the leaves whose last axis is the outputs, where not all
      outputs are all tasks'; else (). `Problem.own`.
    retrain_steps: steps that a method may train on after pruning; 0 is none.
    where: which leaves PackNet and EfficientPackNet mask; they treat the others
      as they do biases. Which leaves live under Ψ is another question.
    units: says what the net's hidden units are; `Problem.units`.
  """

  shapes: Params
  number: int
  example: Any
  num_train: int
  batch_size: int
  heads: tuple[str, ...] = ()
  retrain_steps: int = 0
  where: Where = trees.is_weight
  units: Callable[[], Units] | None = None


def method(
  init: Callable[..., tuple[Params, Any]] | None = None, **fields: Any
) -> Method:
  """A `Method` that trains all weights at all steps, but for `fields`.

  Args:
    init: (key, phi, psi, gradient) -> (phi, state); by default φ as it is and
      the state ().
    **fields: of `types.Method` and of `types.Continual`. By default α must be
      constant where weights are constrained or tracked, and for a penalty on φ.

  Returns:
    A method.
  """
  init = init or (lambda key, phi, psi, gradient: (phi, ()))
  continual = Continual(
    **{k: fields.pop(k) for k in Continual._fields if k in fields}
  )
  penalty = continual.penalty
  dense = masked.method(
    init,
    masks=lambda state: Masks({}, {}),
    constant_alpha='constrain' in fields
    or continual.track is not None
    or (penalty is not None and penalty.space == 'phi'),
  )
  return dense._replace(continual=continual, **fields)


def lowest(
  ok: Callable[[jax.Array], jax.Array], number: int
) -> tuple[jax.Array, jax.Array]:
  """The lowest index that is ok, by halves, as if all above it were.

  Args:
    ok: int32 in [0, number) -> bool.
    number: of indices, ≥ 1; static.

  Returns:
    int32 scalars: the index, `number` where none is ok; how many were tried.
  """

  def step(_, bounds):
    low, high = bounds  # low is not ok or is −1, high is ok or is `number`
    middle = (low + high) // 2
    going = high - low > 1
    found = ok(jnp.clip(middle, 0, number - 1))
    return (
      jnp.where(going & ~found, middle, low),
      jnp.where(going & found, middle, high),
    )

  tries = math.ceil(math.log2(number + 1))
  start = (jnp.asarray(-1, jnp.int32), jnp.asarray(number, jnp.int32))
  _, high = jax.lax.fori_loop(0, tries, step, start)
  return high, jnp.asarray(tries, jnp.int32)


def highest(
  ok: Callable[[jax.Array], jax.Array], number: jax.Array, steps: int
) -> tuple[jax.Array, jax.Array]:
  """The highest index that is ok: evenly from the top down, then by halves.

  Down to the first of so many that is ok, and between it and the one above as
  if all below one that is ok were. Without steps by halves alone.

  Args:
    ok: int32 in [1, number] -> bool.
    number: int32 scalar ≥ 0.
    steps: ≥ 0, static; as many as there are indices try them all.

  Returns:
    int32 scalars: the index, 0 where none is ok; how many were tried. Under
    vmap the loop runs until the last member is done.
  """
  most = jnp.minimum(steps, number)

  def going(carry):
    low, high, *_ = carry
    return high - low > 1

  def step(carry):
    low, high, left, tries = carry  # low is ok or is 0, high is not
    down = number * left // jnp.maximum(most, 1)
    i = jnp.where(left > 0, down, (low + high) // 2)
    found = ok(i)
    return (
      jnp.where(found, i, low),
      jnp.where(found, high, i),
      jnp.where(found, 0, jnp.maximum(left - 1, 0)),
      tries + 1,
    )

  zero = jnp.zeros((), jnp.int32)
  low, _, _, tries = jax.lax.while_loop(
    going, step, (zero, number + 1, most, zero)
  )
  return low, tries


def count(masks: Mapping[str, jax.Array], names: Iterable[str]) -> jax.Array:
  """How many entries of each mask are true, int32 [layers], in that order."""
  return jnp.stack([jnp.sum(masks[n], dtype=jnp.int32) for n in names])
