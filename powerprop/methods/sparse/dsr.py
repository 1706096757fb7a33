"""DSR: drop the smallest weights of all layers, grow where many are left."""

import jax
import jax.numpy as jnp

from powerprop.methods import budgets
from powerprop.methods import masked
from powerprop.methods.sparse import drop_grow
from powerprop.types import Event, Method


def dsr(
  brief: masked.Brief,
  *,
  begin: int | None = None,
  end: int | None = None,
  every: int = 100,
  fraction: float = 0.3,
  decay: str = 'cosine',
  regrow: float = 0.5,
) -> Method:
  """Dynamic sparse reparameterisation.

  The smallest active weights of all layers together are dropped, and as many
  random ones are grown, given to the layers in proportion to the weights that
  they have left. The total stays exact; the layers' shares do not. A layer that
  would lose all of its weights keeps the largest: it could not grow any, and
  the net would be cut in two. The paper
  finds the threshold under which weights are dropped by halving and doubling
  it; here exactly the share that is wanted goes.

  Args:
    brief: target and length of the training; its distribution is the start.
    begin: first step at which masks change; None is `every`: before any
      training, magnitudes are those of the layers' initialisation alone.
    end: this and the others, see `drop_grow.Protocol`.
    every: steps between two changes.
    fraction: of all active weights, that is dropped at first.
    decay: of the fraction.
    regrow: where new weights start for α > 1, with a random sign.

  Returns:
    A method; training costs 3 f_S. Moments of new weights are reset.

  Raises:
    ValueError: if a value is out of range, or a layer has a pattern.

  Reference: Mostafa and Wang, Parameter efficient training of deep
    convolutional neural networks, ICML 2019, Algorithm 1.
  """
  end = brief.steps * 3 // 4 if end is None else end
  begin = min(every, end) if begin is None else begin
  protocol = drop_grow.Protocol(begin, end, every, fraction, decay, regrow)

  def update(event: Event, masks, share):
    phi = masked.leaves(brief.target, event.phi)
    phi = masked.in_phi(phi, event.psi)
    phi = _largest_above(phi, masks)
    flat = lambda tree: {'': jnp.concatenate([tree[n].ravel() for n in masks])}
    together = flat(masks)
    total = jnp.sum(together[''], dtype=jnp.int32)
    number = jnp.floor(share * total).astype(jnp.int32)
    number = jnp.minimum(number, total - len(masks))
    left = drop_grow.dropped(flat(phi), together, {'': number})['']
    kept, offset = {}, 0
    for name, m in masks.items():
      kept[name] = left[offset : offset + m.size].reshape(m.shape)
      offset += m.size
    remaining = jnp.stack([jnp.sum(k, dtype=jnp.int32) for k in kept.values()])
    sizes = jnp.array([m.size for m in masks.values()], jnp.int32)
    shares = budgets.spread(
      remaining.astype(jnp.float32), number, sizes - remaining
    )
    ranks = masked.event_scores(brief, 'random', event)
    numbers = dict(zip(masks, shares, strict=True))
    more = drop_grow.grown(event.key, ranks, kept, numbers)
    signs = masked.signs_of(ranks)
    return drop_grow.adopt(event, masks, kept, more, signs, regrow, True)

  return drop_grow.method(brief, 'dsr', protocol, update)


def _largest_above(
  phi: dict[str, jax.Array], masks: dict[str, jax.Array]
) -> dict[str, jax.Array]:
  """φ with each layer's largest active weight above all: it counts as NaN."""
  out = {}
  for name, m in masks.items():
    size = jnp.where(m, jnp.abs(phi[name]), -1).ravel()
    largest = (jnp.arange(m.size) == jnp.argmax(size)).reshape(m.shape)
    out[name] = jnp.where(largest, jnp.nan, phi[name])
  return out
