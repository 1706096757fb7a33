"""RigL: drop the smallest weights, grow those with the largest gradient."""

from powerprop import costs
from powerprop.methods import masked
from powerprop.methods.sparse import drop_grow
from powerprop.types import Event, Method


def rigl(
  brief: masked.Brief,
  *,
  begin: int = 0,
  end: int | None = None,
  every: int = 100,
  fraction: float = 0.3,
  decay: str = 'cosine',
  regrow: float = 0.5,
) -> Method:
  """The rigged lottery.

  Args:
    brief: target and length of the training.
    begin: this and the others, see `drop_grow.Protocol`.
    end: None is 3/4 of the training.
    every: ΔT, steps between two changes.
    fraction: that is dropped at first.
    decay: of the fraction.
    regrow: where new weights start for α > 1, against their gradient.

  Returns:
    A method; training costs 3 f_S, and 2 f_S + f_D where masks change. Moments
    of new weights are reset.

  Raises:
    ValueError: if a value is out of range, or a layer has a pattern.

  Reference: Evci et al., RigL, ICML 2020, Algorithm 1.
  """
  protocol = drop_grow.Protocol(begin, end, every, fraction, decay, regrow)

  def update(event: Event, masks, share):
    dense = masked.leaves(brief.target, event.dense)
    downhill = {name: -g for name, g in dense.items()}
    return drop_grow.drop_and_grow(event, masks, share, dense, downhill, regrow)

  return drop_grow.method(brief, 'rigl', protocol, update, cost=costs.rigl_cost)
