"""What the continual-learning methods have in common."""

from collections.abc import Callable
from typing import Any, NamedTuple

from powerprop import trees
from powerprop.methods import masked
from powerprop.types import Continual, Masks, Method, Params, Where
from powerprop.units import Units


class Tasks(NamedTuple):
  """What every continual-learning method is told.

  Attributes:
    shapes: the net's parameters, or their shapes.
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
