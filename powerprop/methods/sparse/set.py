"""SET: drop the smallest weights, grow random ones."""

from powerprop.methods import masked
from powerprop.methods.sparse import drop_grow
from powerprop.types import Event, Method


def set(  # pylint: disable=redefined-builtin
  brief: masked.Brief,
  *,
  begin: int = 0,
  end: int | None = None,
  every: int = 100,
  fraction: float = 0.3,
  decay: str = 'cosine',
  regrow: float = 0.5,
) -> Method:
  """Sparse evolutionary training, in RigL's protocol.

  Args:
    brief: target and length of the training.
    begin: this and the others, see `drop_grow.Protocol`.
    end: None is 3/4 of the training.
    every: steps between two changes.
    fraction: that is dropped at first.
    decay: of the fraction.
    regrow: where new weights start for α > 1, with a random sign.

  Returns:
    A method; training costs 3 f_S. Moments of new weights are reset.

  Raises:
    ValueError: if a value is out of range, or a layer has a pattern.

  References: Mocanu et al., Scalable training of artificial neural networks,
    Nature Communications 2018; Evci et al., RigL, ICML 2020, section 4.
  """
  protocol = drop_grow.Protocol(begin, end, every, fraction, decay, regrow)

  def update(event: Event, masks, share):
    ranks = masked.event_scores(brief, 'random', event)
    return drop_grow.drop_and_grow(
      event, masks, share, ranks, masked.signs_of(ranks), regrow
    )

  return drop_grow.method(brief, 'set', protocol, update)
