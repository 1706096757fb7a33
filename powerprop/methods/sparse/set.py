"""SET: drop the smallest weights, grow random ones."""

from powerprop.methods import masked
from powerprop.methods.sparse import drop_grow
from powerprop.types import Change, Event, Method


def set(  # pylint: disable=redefined-builtin
  brief: masked.Brief,
  *,
  begin: int = 0,
  end: int | None = None,
  every: int = 100,
  fraction: float = 0.3,
  decay: str = 'cosine',
  regrow: float = 1.0,
) -> Method:
  """Sparse evolutionary training, in RigL's protocol.

  Args:
    brief: target and length of the training.
    begin: first step at which masks change.
    end: they change before it; None is 3/4 of the training.
    every: steps between two changes; a change takes the place of a step.
    fraction: share of a layer's weights that is dropped at first.
    decay: how that share falls: 'cosine', 'linear' or 'constant'.
    regrow: where new weights start for α > 1, with a random sign; see
      `masked.regrow`. The value is ours, the best of four for RigL and
      SET on validation data (docs/results).

  Returns:
    A method; training costs 3 f_S. Moments of new weights are reset.

  Raises:
    ValueError: if a value is out of range, or a layer has a pattern.

  References: Mocanu et al., Scalable training of artificial neural networks,
    Nature Communications 2018; Evci et al., RigL, ICML 2020, section 4.
  """
  masked.unstructured_only(brief, 'set')
  start_at = masked.regrowth(brief, regrow)
  w = masked.window(brief, begin, end, every)
  drop = drop_grow.drop_fraction(w, fraction, decay)
  start = masked.fixed(brief, 'random')

  def update(event: Event, masks):
    ranks = masked.event_scores(brief, 'random', event)
    return drop_grow.drop_and_grow(
      event, masks, drop(event.step), ranks, masked.signs_of(ranks), start_at
    )

  return masked.method(
    start.init,
    change=Change(w.due, update, replaces_step=True),
    where=brief.where,
  )
