"""AC/DC: training alternates between compressed and dense phases."""

import jax
import jax.numpy as jnp

from powerprop import trees
from powerprop.methods import masked
from powerprop.methods import targets
from powerprop.types import Change, Event, Method


def ac_dc(
  brief: masked.Brief,
  *,
  begin: int | None = None,
  end: int | None = None,
  every: int | None = None,
  regrow: float = 0.5,
) -> Method:
  """Alternating compressed and decompressed training.

  A dense warm-up until `begin`; then phases of `every` steps, compressed to the
  largest weights and dense by turns, the last dense one lasting until `end`;
  compressed from there on. Weights that were pruned start a dense phase at
  zero.

  Args:
    brief: target and length of the training.
    begin: end of the warm-up; None is a tenth of the training.
    end: start of the last, compressed phase; None is 85% of the training.
    every: length of a phase; None is 5% of the training. The paper has 10, 85
      and 5 of 100 epochs.
    regrow: where pruned weights start the dense phase for α > 1, with the sign
      that they had; see `masked.regrow`. The value is a default of ours.

  Returns:
    A method; training costs E_t[3 f_S(t)]. All moments are reset when a dense
    phase begins, as in public code of the method.

  Raises:
    ValueError: if a value is out of range.

  Reference: Peste et al., AC/DC, NeurIPS 2021, Algorithm 1 and section 4.
  """
  masked.check_regrow(regrow)
  part = lambda given, percent: (
    max(1, brief.steps * percent // 100) if given is None else given
  )
  w = masked.window(brief, part(begin, 10), part(end, 85), part(every, 5))

  def compressed(step):
    phase = (step - w.begin) // w.every
    # The last dense phase goes on until `end`.
    whole = w.begin + (phase + 1) * w.every < w.end
    inside = (step >= w.begin) & (phase % 2 == 0) & whole
    return (step >= w.end) | inside

  def init(key, phi, psi, gradient):
    del key, psi, gradient
    return phi, masked.everything(brief.target)

  def compress(event: Event, masks):
    del masks
    ranks = masked.event_scores(brief, 'magnitude', event)
    return event.phi, event.opt, targets.select(brief.target, ranks, 1.0)

  def decompress(event: Event, masks):
    phi = masked.leaves(brief.target, event.phi)
    new = {name: ~m for name, m in masks.items()}
    values = masked.regrow(phi, new, masks, phi, event.psi, regrow)
    stored = trees.replace_weights(event.phi, values)
    opt = event.reset(event.opt, stored, None)
    return stored, opt, masked.everything(brief.target)

  def update(event: Event, masks):
    return jax.lax.cond(
      compressed(event.step),
      lambda: compress(event, masks),
      lambda: decompress(event, masks),
    )

  def due(step):
    return compressed(step) != compressed(step - 1)

  def progress(step):
    gone = jnp.where(compressed(step - 1), 1.0, 0.0)
    return gone, gone

  return masked.method(
    init,
    change=Change(due, update),
    progress=progress,
  )
