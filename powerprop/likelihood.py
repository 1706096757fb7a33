"""The log-likelihood of a model with latents, by importance sampling."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from powerprop import trees

_AT_ONCE = 64  # examples
_MEMORY = 2**28  # bytes


class Proposal(NamedTuple):
  """A model of x with latents z, and q(z|x) to draw these from.

  All functions are of one example and one z; they are vmapped.

  Attributes:
    encode: x -> whatever q needs to know of it; once for each example.
    sample: (what it knows, key) -> (z, log q(z|x)). By the noise that z is made
      of, it is exact where q is so narrow that z is rounded to its mean.
    log_joint: (x, z) -> log p(x, z).
    floats: numbers that all this holds in memory for one x and one z.
  """

  encode: Callable[[Any], Any]
  sample: Callable[[Any, jax.Array], tuple[Any, jax.Array]]
  log_joint: Callable[[Any, Any], jax.Array]
  floats: int


class Estimate(NamedTuple):
  """What is found of a set of examples; scalars in nats.

  Attributes:
    value: mean of log p(x) over the examples; a lower bound in expectation.
    error: its standard error, of other examples; nan of one example.
    noise: its standard error, of other draws of z, where these are many.
  """

  value: jax.Array
  error: jax.Array
  noise: jax.Array


def importance_weighted(
  proposal: Proposal,
  take: Callable[[jax.Array], Any],
  size: int,
  count: Any,
  key: jax.Array,
  samples: int = 5_000,
  memory: int = _MEMORY,
) -> Estimate:
  r"""log p(x), from K draws of z for each example.

  .. math::
    \log \frac1K \sum_k \frac{p(x, z_k)}{q(z_k|x)}, \quad z_k \sim q(z|x)

  In expectation it is no higher than log p(x), and rises with K; K = 1 is the
  ELBO. The draws of an example depend on the key, its place and k alone, so
  that parts of another size are the same numbers but for rounding. The noise is
  by the delta method, which sees too little of it where few draws have all the
  weight.

  Args:
    proposal: the model and q.
    take: int32 [B] in [0, size) -> examples, a pytree with a first axis of B.
    size: how many examples to walk through, ≥ 1, static.
    count: how many of them count, the first ones; in [1, size], may be traced.
    key: a random key.
    samples: K ≥ 1; any number fits, in parts.
    memory: bytes that a part may take, > 0; one z of one example is taken in
      any case.

  Returns:
    An estimate; one program, whatever K is.

  Raises:
    ValueError: if a number is out of range.

  Reference: Burda et al., Importance weighted autoencoders, ICLR 2016, eq. (8)
    and theorem 1.
  """
  for name, value in (
    ('samples', samples),
    ('size', size),
    ('memory', memory),
    ('floats', proposal.floats),
  ):
    if value < 1:
      raise ValueError(f'{name} is {value} but must be at least 1')
  rows, draws = parts(proposal.floats, size, samples, memory)

  def one(start):
    index = start + jnp.arange(rows, dtype=jnp.int32)
    x = take(jnp.minimum(index, size - 1))
    known = jax.vmap(proposal.encode)(x)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)

    def weight(x, known, key, k):
      z, log_q = proposal.sample(known, jax.random.fold_in(key, k))
      return trees.wide(proposal.log_joint(x, z) - log_q)

    def step(carry, first):
      top, total, squares = carry
      k = first + jnp.arange(draws, dtype=jnp.int32)
      of_all = jax.vmap(weight, (None, None, None, 0))
      found = jax.vmap(of_all, (0, 0, 0, None))(x, known, keys, k)
      found = jnp.where(k < samples, found, -jnp.inf)
      # Weights relative to the largest so far; the first draw always counts.
      new = jnp.maximum(top, jnp.max(found, -1))
      scale, w = jnp.exp(top - new), jnp.exp(found - new[:, None])
      total = total * scale + jnp.sum(w, -1)
      squares = squares * scale**2 + jnp.sum(w**2, -1)
      return (new, total, squares), None

    like = jax.eval_shape(
      weight, *jax.tree.map(lambda a: a[0], (x, known, keys)), jnp.int32(0)
    )
    zero = jnp.zeros(rows, like.dtype)
    firsts = jnp.arange(0, samples, draws, dtype=jnp.int32)
    (top, total, squares), _ = jax.lax.scan(
      step, (zero - jnp.inf, zero, zero), firsts
    )
    # Var(mean w) / (mean w)², by K: what the logarithm makes of it.
    spread = jnp.maximum(squares / total**2 - 1 / samples, 0)
    return top + jnp.log(total) - math.log(samples), spread

  starts = jnp.arange(0, size, rows, dtype=jnp.int32)
  values, spreads = (x.ravel() for x in jax.lax.map(one, starts))
  counts = jnp.arange(len(values)) < count
  mean = lambda x: jnp.sum(jnp.where(counts, x, 0)) / count
  value = mean(values)
  variance = mean((values - value) ** 2) * (count / (count - 1))
  return Estimate(
    value, jnp.sqrt(variance / count), jnp.sqrt(mean(spreads) / count)
  )


def parts(floats: int, size: int, samples: int, memory: int) -> tuple[int, int]:
  """How many examples, and how many draws of each, are computed at once.

  Args:
    floats: of one draw of one example.
    size: number of examples.
    samples: of each.
    memory: bytes for all of them.

  Returns:
    Two numbers ≥ 1, whose product times 4 · `floats` is within the memory
    unless both are 1.
  """
  pairs = max(1, memory // (4 * floats))
  rows = min(size, _AT_ONCE, pairs)
  return rows, min(samples, max(1, pairs // rows))
