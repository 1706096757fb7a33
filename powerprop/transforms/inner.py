"""What an inner optimiser must be: one that answers with a step to take.

Powerprop lets that step land on φ, times the slope. So the weights do not get
to where the step alone would have led, and an optimiser that counts on that is
refused; docs/transforms.md has the whole of optax in a table.
"""

from typing import Any, NamedTuple

import jax
import optax
from optax import contrib

from powerprop import checks


class _Refusal(NamedTuple):
  """Why an optimiser cannot be wrapped.

  Attributes:
    name: what a user calls it.
    remedy: what to do instead.
    naive: whether `chain_rule` takes it: there its steps are on φ itself.
  """

  name: str
  remedy: str
  naive: bool


_CHAIN_RULE = 'give it to powerprop.chain_rule'
_ALONE = (
  'use it alone, on a loss that takes φ and calls powerprop.to_theta, or give'
  ' optax.lbfgs(linesearch=None) to powerprop.chain_rule'
)
_REFUSED = {
  optax.ScaleByBacktrackingLinesearchState: _Refusal(
    'a line search (scale_by_backtracking_linesearch)', _ALONE, False
  ),
  optax.ScaleByZoomLinesearchState: _Refusal(
    'a line search (scale_by_zoom_linesearch, as in lbfgs)', _ALONE, False
  ),
  optax.ScaleByLBFGSState: _Refusal('lbfgs', _CHAIN_RULE, True),
  optax.LookaheadState: _Refusal(
    'lookahead',
    'put it around: optax.lookahead(powerprop(inner, alpha), …)',
    False,
  ),
  contrib.COCOBState: _Refusal('contrib.cocob', _CHAIN_RULE, True),
  contrib.MechanicState: _Refusal('contrib.mechanize', _CHAIN_RULE, True),
  contrib.SAMState: _Refusal(
    'contrib.sam',
    'put it around: sam(powerprop(inner, alpha), chain_rule(adversary,'
    ' alpha)), or set its opaque_mode',
    True,
  ),
  contrib.ScheduleFreeState: _Refusal(
    'contrib.schedule_free',
    'put it around: schedule_free(powerprop(inner, alpha), learning_rate)',
    True,
  ),
}


def supported(inner: Any) -> optax.GradientTransformationExtraArgs:
  """Checks that this is an optimiser at all, and lets it take extra arguments.

  Args:
    inner: what a user gave.

  Returns:
    The same, as a transformation that takes extra arguments.

  Raises:
    ValueError: naming what it is instead.
  """
  parts = [getattr(inner, name, None) for name in ('init', 'update')]
  if isinstance(inner, type) or not all(map(callable, parts)):
    hint = ' (what makes one has to be called)' if callable(inner) else ''
    raise ValueError(
      f'inner is {checks.brief(inner)} but must be an optax optimiser, such as'
      f' optax.adam(1e-3){hint}.'
    )
  return optax.with_extra_args_support(inner)


def refuse(state: optax.OptState, naive: bool = False) -> None:
  """Raises where an optimiser needs to know where its steps lead.

  Args:
    state: the inner optimiser's.
    naive: whether its steps are on φ itself, as in `chain_rule`.

  Raises:
    ValueError: naming the optimiser, and what to do instead.
  """

  def refusal(node):
    # SAM in its opaque mode keeps no weights: it asks for gradients as it goes.
    if isinstance(node, contrib.SAMState) and node.cache is None:
      return None
    return _REFUSED.get(type(node))

  nodes = jax.tree.leaves(state, is_leaf=lambda x: refusal(x) is not None)
  found = [r for r in map(refusal, nodes) if r and not (naive and r.naive)]
  if found:
    worst = min(found, key=lambda r: r.naive)
    raise ValueError(
      f'the inner optimiser holds {worst.name}, which must know where its steps'
      f' lead, but under Ψ they lead elsewhere; {worst.remedy}.'
    )
