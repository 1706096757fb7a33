"""SNFS: drop the smallest weights, grow those with the largest momentum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from powerprop import costs
from powerprop import trees
from powerprop.methods import masked
from powerprop.methods.sparse import drop_grow
from powerprop.types import Change, Event, Masks, Method


class SnfsState(NamedTuple):
  """State of `snfs`.

  Attributes:
    masks: by layer path.
    momentum: moving average of the dense gradient, by layer path; float32 or
      wider.
  """

  masks: dict[str, jax.Array]
  momentum: dict[str, jax.Array]


def snfs(
  brief: masked.Brief,
  *,
  begin: int = 0,
  end: int | None = None,
  every: int = 100,
  fraction: float = 0.3,
  decay: str = 'cosine',
  momentum: float = 0.9,
  regrow: float = 1.0,
) -> Method:
  """Sparse networks from scratch, in RigL's protocol.

  Every layer keeps its number of weights, as in the rows of the tables that
  name a distribution; the paper also moves weights between layers.

  Args:
    brief: target and length of the training.
    begin: first step at which masks change.
    end: they change before it; None is 3/4 of the training.
    every: steps between two changes; a change takes the place of a step.
    fraction: share of a layer's weights that is dropped at first.
    decay: how that share falls: 'cosine', 'linear' or 'constant'.
    momentum: of the average of the dense gradient, in [0, 1].
    regrow: where new weights start for α > 1, against their momentum; see
      `masked.regrow`. The value is ours, the best of four for RigL and
      SET on validation data (docs/results).

  Returns:
    A method; training costs 2 f_S + f_D. Moments of new weights are reset, as
    in RigL's protocol; the dense average goes on.

  Raises:
    ValueError: if a value is out of range, or a layer has a pattern.

  References: Dettmers and Zettlemoyer, Sparse networks from scratch, 2019;
    Evci et al., RigL, ICML 2020, section 4.
  """
  masked.unstructured_only(brief, 'snfs')
  start_at = masked.regrowth(brief, regrow)
  masked.check_share('momentum', momentum)
  w = masked.window(brief, begin, end, every)
  drop = drop_grow.drop_fraction(w, fraction, decay)
  start = masked.fixed(brief, 'random')

  def init(key, phi, alpha, gradient):
    phi, masks = start.init(key, phi, alpha, gradient)
    layers = masked.leaves(brief.target, phi)
    zeros = {n: jnp.zeros_like(trees.wide(x)) for n, x in layers.items()}
    return phi, SnfsState(masks, zeros)

  def observe(dense, state: SnfsState):
    grads = masked.leaves(brief.target, dense)
    average = {
      name: momentum * m + (1 - momentum) * trees.wide(grads[name])
      for name, m in state.momentum.items()
    }
    return state._replace(momentum=average)

  def update(event: Event, state: SnfsState):
    downhill = {name: -m for name, m in state.momentum.items()}
    phi, opt, masks = drop_grow.drop_and_grow(
      event, state.masks, drop(event.step), state.momentum, downhill, start_at
    )
    return phi, opt, state._replace(masks=masks)

  return masked.method(
    init,
    masks=lambda state: Masks(state.masks, state.masks),
    observe=observe,
    change=Change(w.due, update, replaces_step=True),
    cost=costs.snfs_cost,
    where=brief.where,
  )
