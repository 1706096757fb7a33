"""RigL: drop the smallest weights, grow those with the largest gradient."""

from powerprop import costs
from powerprop.methods import masked
from powerprop.methods.sparse import drop_grow
from powerprop.types import Change, Event, Method


def rigl(
  brief: masked.Brief,
  *,
  begin: int = 0,
  end: int | None = None,
  every: int = 100,
  fraction: float = 0.3,
  decay: str = 'cosine',
  regrow: float = 1.0,
) -> Method:
  """The rigged lottery.

  Args:
    brief: target and length of the training.
    begin: first step at which masks change.
    end: they change before it; None is 3/4 of the training.
    every: ΔT, steps between two changes; a change takes the place of a step.
    fraction: share of a layer's weights that is dropped at first.
    decay: how that share falls: 'cosine', 'linear' or 'constant'.
    regrow: where new weights start for α > 1, against their gradient; see
      `masked.regrow`. The value is ours, the best of four for RigL and
      SET on validation data (docs/results).

  Returns:
    A method; training costs 3 f_S, and 2 f_S + f_D where masks change. Moments
    of new weights are reset.

  Raises:
    ValueError: if a value is out of range, or a layer has a pattern.

  Reference: Evci et al., RigL, ICML 2020, Algorithm 1.
  """
  masked.unstructured_only(brief, 'rigl')
  start_at = masked.regrowth(brief, regrow)
  w = masked.window(brief, begin, end, every)
  drop = drop_grow.drop_fraction(w, fraction, decay)
  start = masked.fixed(brief, 'random')

  def update(event: Event, masks):
    dense = masked.leaves(brief.target, event.dense)
    downhill = {name: -g for name, g in dense.items()}
    return drop_grow.drop_and_grow(
      event, masks, drop(event.step), dense, downhill, start_at
    )

  return masked.method(
    start.init,
    change=Change(w.due, update, replaces_step=True),
    cost=costs.rigl_cost,
    where=brief.where,
  )
