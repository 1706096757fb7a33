"""The gradient of a batch that goes through the net in parts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from powerprop import trees
from powerprop.types import Params


def gradient(
  loss: Callable[..., tuple[jax.Array, Any]], parts: int
) -> Callable[..., tuple[tuple[jax.Array, Any], Params]]:
  """The gradient of a mean over examples, in the memory of one part of them.

  It is the mean of the parts' gradients, added up in float32 or wider. The
  net's state goes from part to part; so batch normalisation sees each part by
  itself. Each has a random key of its own.

  Args:
    loss: `Problem.loss`.
    parts: A ≥ 1, a divisor of the number of examples.

  Returns:
    (w, net state, key, batch) -> ((loss, the net's new state), ∂L/∂w), as
    `jax.value_and_grad` has it, whose program it is for one part. It raises
    ValueError where a batch has no such parts.
  """
  whole = jax.value_and_grad(loss, has_aux=True)
  if parts == 1:
    return whole

  def in_parts(w, net_state, key, examples):
    number = len(jax.tree.leaves(examples)[0])
    if parts < 1 or number % parts:
      raise ValueError(
        f'accumulate is {parts} but must be a divisor of the number of examples'
        f' in a batch, {number}'
      )
    # Part i has the examples i, i + parts, …: where the batch is sharded, those
    # of a device stay on it.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]), examples)

    def one(carry, i):
      net_state, *sums = carry
      part = jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, i, 1, keepdims=False), split
      )
      own_key = jax.random.fold_in(key, i)
      (value, net_state), grads = whole(w, net_state, own_key, part)
      new = jax.tree.map(lambda s, x: s + x, sums, [value, grads])
      return (net_state, *new), None

    zero = lambda x: jnp.zeros_like(trees.wide(x))
    start = (net_state, jnp.zeros(()), jax.tree.map(zero, w))
    (net_state, value, total), _ = jax.lax.scan(
      one, start, jnp.arange(parts, dtype=jnp.int32)
    )
    grads = jax.tree.map(lambda s, x: (s / parts).astype(x.dtype), total, w)
    return (value / parts, net_state), grads

  return in_parts
