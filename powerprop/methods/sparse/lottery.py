"""Lottery tickets: train, prune, rewind, train again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from powerprop import trees
from powerprop.methods import masked
from powerprop.methods import targets
from powerprop.types import Change, Event, Masks, Method, Params


class LotteryState(NamedTuple):
  """State of `lottery`.

  Attributes:
    masks: by layer path.
    saved: φ as it was at the step to which the net is rewound.
  """

  masks: dict[str, jax.Array]
  saved: Params


def lottery(
  brief: masked.Brief,
  *,
  rewind: int = 0,
  at: int | None = None,
  criterion: str = 'magnitude',
) -> Method:
  """Trains densely, prunes by magnitude, rewinds, and trains the ticket.

  All parameters go back to what they were at step `rewind`, biases too; the
  optimiser starts again; the moving averages of normalisation layers go on.
  Both trainings follow the learning rate's whole schedule, compressed into the
  steps that they have.

  Args:
    brief: target and length of both trainings together.
    rewind: the step to which to rewind; 0 is the initialisation.
    at: the step at which to prune; None is half of the training.
    criterion: what goes first, as in `iterative`.

  Returns:
    A method; training costs 3 before `at`, and 3 f_S after it.

  Raises:
    ValueError: unless 0 ≤ rewind < at < steps, or if the criterion is unknown.

  References: Frankle and Carbin, The lottery ticket hypothesis, ICLR 2019;
    Frankle et al., Stabilizing the lottery ticket hypothesis, 2019 (rewinding).
  """
  masked.check_criterion(criterion)
  at = brief.steps // 2 if at is None else at
  if not 0 <= rewind < at < brief.steps:
    raise ValueError(
      f'rewind is {rewind} and at is {at}, but 0 <= rewind < at < steps ='
      f' {brief.steps} must hold'
    )
  target = brief.target

  def init(key, phi, psi, gradient):
    del key, psi, gradient
    return phi, LotteryState(masked.everything(target), trees.copied(phi))

  def save(event: Event, state: LotteryState):
    saved = trees.copied(event.phi)
    return event.phi, event.opt, state._replace(saved=saved)

  def draw(event: Event, state: LotteryState):
    ranks = masked.event_scores(brief, criterion, event)
    masks = targets.select(target, ranks, 1.0)
    opt = event.reset(event.opt, state.saved, None)
    return trees.copied(state.saved), opt, LotteryState(masks, state.saved)

  def update(event: Event, state: LotteryState):
    return jax.lax.cond(
      event.step == at - 1,
      lambda: draw(event, state),
      lambda: save(event, state),
    )

  def clock(step):
    first = step * (brief.steps / at)
    start = rewind * (brief.steps / at)
    rest = (brief.steps - start) / max(brief.steps - at, 1)
    return jnp.where(step < at, first, start + (step - at) * rest)

  def progress(step):
    gone = jnp.where(step < at, 0.0, 1.0)
    return gone, gone

  return masked.method(
    init,
    masks=lambda state: Masks(state.masks, state.masks),
    change=Change(lambda step: (step == rewind - 1) | (step == at - 1), update),
    progress=progress,
    clock=clock,
  )
