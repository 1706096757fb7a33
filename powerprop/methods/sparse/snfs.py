"""SNFS: drop the smallest weights, grow those with the largest momentum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from powerprop import costs
from powerprop import trees
from powerprop.methods import masked
from powerprop.methods.sparse import drop_grow
from powerprop.types import Event, Masks, Method


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
  regrow: float = 0.5,
) -> Method:
  """Sparse networks from scratch, in RigL's protocol.

  Every layer keeps its number of weights, as in the rows of the tables that
  name a distribution; the paper also moves weights between layers.

  Args:
    brief: target and length of the training.
    begin: this and the others but `momentum`, see `drop_grow.Protocol`.
    end: None is 3/4 of the training.
    every: steps between two changes.
    fraction: that is dropped at first.
    decay: of the fraction.
    momentum: of the average of the dense gradient, in [0, 1].
    regrow: where new weights start for α > 1, against their momentum.

  Returns:
    A method; training costs 2 f_S + f_D. Moments of new weights are reset, as
    in RigL's protocol; the dense average goes on.

  Raises:
    ValueError: if a value is out of range, or a layer has a pattern.

  References: Dettmers and Zettlemoyer, Sparse networks from scratch, 2019;
    Evci et al., RigL, ICML 2020, section 4.
  """
  masked.check_share('momentum', momentum)
  protocol = drop_grow.Protocol(begin, end, every, fraction, decay, regrow)
  start = masked.fixed(brief, 'random')

  def init(key, phi, psi, gradient):
    phi, masks = start.init(key, phi, psi, gradient)
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

  def update(event: Event, state: SnfsState, share):
    downhill = {name: -m for name, m in state.momentum.items()}
    phi, opt, masks = drop_grow.drop_and_grow(
      event, state.masks, share, state.momentum, downhill, regrow
    )
    return phi, opt, state._replace(masks=masks)

  return drop_grow.method(
    brief,
    'snfs',
    protocol,
    update,
    init,
    masks=lambda state: Masks(state.masks, state.masks),
    observe=observe,
    cost=costs.snfs_cost,
  )
