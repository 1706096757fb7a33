"""The end of a task over made-up data, for methods that are tested alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments import data
from powerprop import learning
from powerprop import trees
from powerprop.psi import Psi
from powerprop.types import Ending


def example(image_shape: tuple[int, ...], outputs: int) -> data.Examples:
  """The shapes of a batch of one."""
  return data.Examples(
    jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8),
    jax.ShapeDtypeStruct((1,), jnp.int32),
    jax.ShapeDtypeStruct((1, outputs), bool),
  )


def ending(
  batch: Callable[..., Any],
  logits: Callable[..., jax.Array],
  sizes: dict[str, Any],
  *,
  key: Any = None,
  task: Any = 0,
  alpha: Any = 1.0,
  score: Callable[[Any], Any] = lambda w: jnp.float32(0),
  fresh: Callable[[], Any] = lambda: None,
) -> Ending:
  """An ending of a classification.

  Args:
    batch: (split, rows) -> data.Examples; `visible` may be that of all.
    logits: (w, examples) -> [B, outputs]; −∞ where one takes no part.
    sizes: by split.
    key: as in `Ending`; so are the others.
    task: from 0.
    alpha: of φ.
    score: of weights.
    fresh: θ drawn anew.
  """

  def outputs(w, examples):
    found = logits(w, examples)
    return found, ~jnp.isneginf(found)

  def log_likelihood(w, examples, key, targets):
    found, visible = outputs(w, examples)
    # As in `classification`: −∞ has the gradient NaN.
    found = jnp.where(visible, trees.wide(found), -1e9)
    return learning.mean_log_p(found, examples.label, key, targets)

  def of_each(split, rows):
    found = batch(split, rows)
    shape = (*rows.shape, found.visible.shape[-1])
    return found._replace(visible=jnp.broadcast_to(found.visible, shape))

  return Ending(
    key=jax.random.key(3) if key is None else key,
    task=jnp.int32(task),
    psi=Psi(alpha),
    batch=of_each,
    sizes=sizes,
    score=lambda w, examples=0: score(w),
    least=lambda value, gamma: gamma * value,
    log_likelihood=log_likelihood,
    outputs=outputs,
    recalled=lambda examples: examples,
    fresh=fresh,
  )
