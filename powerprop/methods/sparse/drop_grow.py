"""Drop the smallest weights and grow others: what SET, RigL and SNFS share."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from powerprop import schedules
from powerprop import trees
from powerprop.methods import masked
from powerprop.types import Change, Event, Method, Params

_TINY = 1e-30  # ranks above what is out of the question, below all the rest

Layers = dict[str, jax.Array]


class Protocol(NamedTuple):
  """When masks change, how much of them, and where new weights start.

  SET, RigL, SNFS and DSR have these as arguments: RigL's protocol.

  Attributes:
    begin: first step at which masks change.
    end: they change before it; None is 3/4 of the training.
    every: ΔT, steps between two changes; a change takes the place of a step.
    fraction: share of a layer's weights that is dropped at first.
    decay: how that share falls: 'cosine', 'linear' or 'constant'.
    regrow: where new weights start for α > 1; see `masked.regrow`. The default
      of the four is ours, by validation accuracy: 1 is better on digits, by
      0.2 to 3.3 points, and worse on CIFAR-10, by 3.7 to 5.8 (docs/results).
  """

  begin: int
  end: int | None
  every: int
  fraction: float
  decay: str
  regrow: float


def method(
  brief: masked.Brief,
  name: str,
  protocol: Protocol,
  update: Callable[..., tuple[Params, Any, Any]],
  init: Callable[..., tuple[Params, Any]] | None = None,
  **fields: Any,
) -> Method:
  """A method that drops and grows single weights by the protocol.

  Args:
    brief: target and length of the training.
    name: of the method, for what is said of a mistake.
    protocol: when, how many and where from.
    update: (Event, state, share) -> (phi, opt, state): drops this share of the
      active weights and grows others.
    init: as in `types.Method`; by default random masks.
    **fields: of `masked.method`.

  Returns:
    A method.

  Raises:
    ValueError: if a value is out of range, or a layer has a pattern.
  """
  masked.unstructured_only(brief, name)
  masked.check_regrow(protocol.regrow)
  window = masked.window(brief, protocol.begin, protocol.end, protocol.every)
  share = drop_fraction(window, protocol.fraction, protocol.decay)

  def change(event: Event, state: Any):
    return update(event, state, share(event.step))

  return masked.method(
    init or masked.fixed(brief, 'random').init,
    change=Change(window.due, change, replaces_step=True),
    **fields,
  )


def drop_fraction(
  w: masked.Window, fraction: float, decay: str
) -> Callable[[jax.Array], jax.Array]:
  """step -> share of a layer's active weights that is dropped.

  .. math::
    f_t = f/2 · (1 + cos(π t/T_end))  for decay = 'cosine'

  Args:
    w: the window in which masks change.
    fraction: f in [0, 1], the share at its start.
    decay: 'cosine', 'constant' or 'linear'.

  Returns:
    A function of a step.

  Raises:
    ValueError: if a value is out of range or unknown.

  Reference: Evci et al., RigL, ICML 2020, section 3, (2) 'Update schedule'.
  """
  masked.check_share('fraction', fraction)
  if decay not in schedules.DECAYS:
    raise ValueError(
      f'decay is {decay!r} but must be one of {", ".join(schedules.DECAYS)}'
    )
  fall = schedules.DECAYS[decay]
  return lambda step: fraction * fall(schedules.progress(step, w.begin, w.end))


def dropped(phi: Layers, masks: Layers, numbers: Layers) -> Layers:
  """Masks without the smallest active weights.

  Args:
    phi: stored weights by layer path.
    masks: bool arrays.
    numbers: int32 scalars, how many active weights go.

  Returns:
    Bool arrays, each a subset of its mask.
  """
  ranks = {
    name: jnp.where(masks[name], jnp.maximum(_size(x), _TINY), 0)
    for name, x in phi.items()
  }
  left = {n: jnp.sum(m, dtype=jnp.int32) - numbers[n] for n, m in masks.items()}
  return trees.top_k_masks(ranks, left)


def grown(
  key: jax.Array, ranks: Layers, kept: Layers, numbers: Layers
) -> Layers:
  """The weights to grow: those with the largest |ranks| that are not kept.

  Args:
    key: breaks ties between ranks of zero, as dead units have many of them.
    ranks: arrays by layer path.
    kept: bool arrays.
    numbers: int32 scalars, at most as many as are not kept.

  Returns:
    Bool arrays, each disjoint from `kept`.
  """
  candidates = {}
  seed = jax.random.bits(key, (), jnp.uint32)
  for name, x in ranks.items():
    rank = jnp.maximum(_size(x), _TINY * (1 + _hashed(seed, x.shape)))
    candidates[name] = jnp.where(kept[name], 0, rank)
  return trees.top_k_masks(candidates, numbers)


def _hashed(seed: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Numbers in [0, 1) that look random: good enough to break ties, and cheap.

  A generator of random numbers took longer than all the rest of a change. The
  mixing is Wellons' lowbias32.
  """
  x = jax.lax.iota(jnp.uint32, math.prod(shape)) + seed
  for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
    x = (x ^ (x >> shift)) * jnp.uint32(factor)
  x ^= x >> 16
  return ((x >> 8).astype(jnp.float32) * 2.0**-24).reshape(shape)


def _size(x: jax.Array) -> jax.Array:
  return trees.wide(jnp.abs(x))  # _TINY is zero in half precision


def drop_and_grow(
  event: Event,
  masks: Layers,
  fraction: jax.Array,
  ranks: Layers,
  direction: Layers,
  regrow: float,
  reset: bool = True,
) -> tuple[Any, Any, Layers]:
  """One change of the masks; every layer keeps its number of weights.

  A weight that is dropped and grown again at once keeps its value and moments.

  Args:
    event: of the step.
    masks: bool arrays by layer path.
    fraction: share of the active weights that is dropped.
    ranks: by what weights are grown.
    direction: whose sign a new weight has where α > 1.
    regrow: where they start; see `masked.regrow`.
    reset: whether the moments of new weights are reset.

  Returns:
    φ, the optimiser's state, and the new masks.
  """
  phi = trees.weights(event.phi, lambda path, _: path in masks)
  numbers = {
    name: jnp.floor(fraction * jnp.sum(m, dtype=jnp.int32)).astype(jnp.int32)
    for name, m in masks.items()
  }
  kept = dropped(phi, masks, numbers)
  more = grown(event.key, ranks, kept, numbers)
  return adopt(event, masks, kept, more, direction, regrow, reset)


def adopt(
  event: Event,
  masks: Layers,
  kept: Layers,
  more: Layers,
  direction: Layers,
  regrow: float,
  reset: bool,
) -> tuple[Any, Any, Layers]:
  """Puts new weights in place: their values, moments and masks."""
  phi = trees.weights(event.phi, lambda path, _: path in masks)
  after = {name: kept[name] | more[name] for name in masks}
  new = {name: more[name] & ~masks[name] for name in masks}
  values = masked.regrow(phi, new, kept, direction, event.psi, regrow)
  stored = trees.replace_weights(event.phi, values)
  opt = event.reset(event.opt, stored, new) if reset else event.opt
  return stored, opt, after
