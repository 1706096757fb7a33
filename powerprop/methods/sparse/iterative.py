"""Pruning while training: gradual magnitude pruning, and pruning once."""

import jax.numpy as jnp

from powerprop import schedules
from powerprop.methods import masked
from powerprop.methods import targets
from powerprop.types import Change, Event, Method

_TINY = 1e-30


def iterative(
  brief: masked.Brief,
  *,
  begin: int | None = None,
  end: int | None = None,
  every: int | None = None,
  schedule: str = 'cubic',
  criterion: str = 'magnitude',
) -> Method:
  """Prunes more and more weights, from dense to the target.

  .. math::
    s_t = s_f · (1 − (1 − p_t)^3),  p_t = (t − begin)/(end − begin)

  in every layer. A mask is made anew from all weights each time; those that are
  masked keep the value that they had, and so may come back if others shrink
  below them, as in the public code of the method.

  Args:
    brief: target and length of the training.
    begin: first step at which something is pruned; None is 5/16 of the
      training, as in RigL's protocol (10,000 of 32,000 steps).
    end: step at which the target is reached; None is 3/4 of the training.
    every: steps between two prunings; None is 1/32 of the training, as in
      RigL's protocol (1,000 of 32,000 steps).
    schedule: 'cubic', 'cosine', 'linear', or 'one_shot' (all at `end`).
    criterion: 'magnitude', 'saliency' or 'random': what goes first. With the
      latter two, weights that are gone stay so.

  Returns:
    A method; training costs E_t[3 f_S(t)]. Moments are kept.

  Raises:
    ValueError: if a value is out of range or unknown.

  Reference: Zhu and Gupta, To prune, or not to prune, 2017, eq. (1).
  """
  masked.check_criterion(criterion)
  if schedule not in schedules.SHAPES:
    raise ValueError(
      f'schedule is {schedule!r} but must be one of'
      f' {", ".join(schedules.SHAPES)}'
    )
  begin = brief.steps * 5 // 16 if begin is None else begin
  every = max(1, brief.steps // 32) if every is None else every
  w = masked.window(brief, begin, end, every)
  shape = schedules.SHAPES[schedule]

  def share(step):
    return shape(schedules.progress(step, w.begin, w.end, w.every))

  def init(key, phi, psi, gradient):
    del key, psi, gradient
    return phi, masked.everything(brief.target)

  def update(event: Event, masks):
    ranks = masked.event_scores(brief, criterion, event)
    if criterion != 'magnitude':
      # Those that are gone rank below all others, those of score zero as well.
      ranks = {
        name: jnp.where(masks[name], jnp.maximum(jnp.abs(x), _TINY), 0)
        for name, x in ranks.items()
      }
    masks = targets.select(brief.target, ranks, share(event.step))
    return event.phi, event.opt, masks

  def progress(step):
    # What was pruned at a step counts from the next one.
    gone = share(step - 1)
    return gone, gone

  return masked.method(
    init,
    change=Change(lambda step: w.due(step) | (step == w.end), update),
    progress=progress,
  )


def fine_tune(
  brief: masked.Brief, *, at: int | None = None, criterion: str = 'magnitude'
) -> Method:
  """Trains densely, prunes once, and trains what is left.

  Args:
    brief: target and length of the training.
    at: the step at which to prune; None is half of the training.
    criterion: what goes first, as in `iterative`.

  Returns:
    A method; training costs 3 before `at`, and 3 f_S after it.

  Reference: Han et al., Learning both weights and connections, NeurIPS 2015.
  """
  at = brief.steps // 2 if at is None else at
  return iterative(
    brief,
    begin=at,
    end=at,
    every=1,
    schedule='one_shot',
    criterion=criterion,
  )
