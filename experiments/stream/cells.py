"""A learner of a stream: what tells it from others, and its programs."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.continual import cells as continual_cells
from experiments.continual.cells import Course
from experiments.engine import population


class Way(NamedTuple):
  """What tells learners apart, beside transform, α, learning rate and seed.

  Attributes:
    method: its name in the config.
    coefficient: of the penalty.
    boundaries: 'known' or 'detected'.
  """

  method: str
  coefficient: float
  boundaries: str


class Programs(NamedTuple):
  """Pure functions of a learner; those of the same names are a `Life`'s.

  Attributes:
    start: of a life.
    begin: of a life.
    window: (state, hyper, source, rows, tasks, first step, count) -> state,
      mean loss of `count` ≤ w steps on these rows, int32 [w, B], of these true
      tasks, likewise; each loss is from before its step.
    rewindow: the same in the retraining phase; None where there is none.
    end: of a life.
    archive: of a life.
    params_for: of a life.
    recall: of a life.
  """

  start: Callable[..., Any]
  begin: Callable[..., Any]
  window: Callable[..., Any]
  rewindow: Callable[..., Any] | None
  end: Callable[..., Any]
  archive: Callable[..., Any]
  params_for: Callable[..., Any]
  recall: Callable[..., Any]


# Of `population.arrange`, which has a member a cell here: no axis is mapped.
AXES: dict[str, tuple[Any, ...]] = {
  **dict.fromkeys(Programs._fields, (None, None, None)),
  'recall': (None, None, None, population.STATIC),
}


def make_programs(
  plan: Course, transform: str, alpha: float | None
) -> Programs:
  """The functions of one member, not jitted; see `cells.make_life`."""
  life = continual_cells.make_life(plan, transform, alpha)
  again = life.rechunk if max(plan.retrain_steps) else None
  return Programs(
    start=life.start,
    begin=life.begin,
    window=functools.partial(_window, life.chunk),
    rewindow=again and functools.partial(_window, again),
    end=life.end,
    archive=life.archive,
    params_for=life.params_for,
    recall=life.recall,
  )


def _window(chunk, state, hyper, source, rows, tasks, first, count):
  def one(i, carry):
    state, total = carry
    tables = source.tables | {'train': (rows[i], tasks[i])}
    seen = source._replace(tables=tables)
    state, loss = chunk(state, hyper, seen, first + i, 1)
    return state, total + loss.astype(jnp.float32)

  zero = jnp.zeros((), jnp.float32)
  state, total = jax.lax.fori_loop(0, count, one, (state, zero))
  return state, total / count
