"""What users pass to the library, looked at: one sentence for a mistake."""

from typing import Any
import warnings

import jax
import numpy as np

from powerprop import trees
from powerprop.types import Alpha, Params, Where


def brief(value: Any) -> str:
  """A value as a sentence names it: on one line, and cut where it is long."""
  number = isinstance(value, float | np.number | np.ndarray | jax.Array)
  text = ' '.join((str(value) if number else repr(value)).split())
  return text if len(text) <= 60 else text[:59] + '…'


def check_where(where: Any) -> None:
  """Raises where `where` is no function.

  Args:
    where: should choose leaves, as `where(path, leaf)`.

  Raises:
    ValueError: saying what it must be.
  """
  if not callable(where):
    raise ValueError(
      f'where is {brief(where)} but must be a function (path, leaf) -> bool,'
      " such as powerprop.is_weight or lambda path, leaf: path.endswith('/w')."
    )


def warn_of_stuck(params: Params, alpha: Alpha, where: Where) -> None:
  """Warns of leaves that α > 1 leaves stuck, as they start at zero all over.

  At zero Ψ has no slope: such a leaf stays zero for good, and so what stands
  before it in the net has no gradient. Some zeros in a leaf are not meant:
  pruned weights, a padding row. No more is whatever is traced, as within jit.

  A warning and no error, as those that know better are in the right: pretrained
  weights may take the place of these, or a layer may have been pruned away.

  Args:
    params: φ or θ: they are zero at the same places.
    alpha: the power to start with.
    where: which leaves live under Ψ.
  """
  traced = lambda x: isinstance(x, jax.core.Tracer)
  if not traced(alpha) and np.asarray(alpha) == 1:
    return
  chosen = trees.weights(params, where)
  if not chosen and where is trees.is_weight and jax.tree.leaves(params):
    warnings.warn(
      'no parameter is under Ψ, so that α has no effect: by default it takes'
      ' arrays with two axes or more; choose others with `where`.',
      stacklevel=3,
    )
  if traced(alpha):
    return
  # NumPy's `any`, as within jit jax.numpy's would be traced for a constant too.
  stuck = [
    repr(name)
    for name, x in chosen.items()
    if not traced(x)
    and getattr(x, 'is_fully_addressable', True)
    and np.size(x)
    and not np.any(np.asarray(x))
  ]
  if stuck:
    more = f' and {len(stuck) - 3} more' if len(stuck) > 3 else ''
    warnings.warn(
      f'all zero, and so stuck at α = {float(alpha):g}:'
      f' {", ".join(stuck[:3])}{more}. Ψ has no slope at zero; give them'
      ' another initialiser, or leave them out of Ψ (with `where`, in the net'
      ' and in the optimiser).',
      stacklevel=3,
    )
