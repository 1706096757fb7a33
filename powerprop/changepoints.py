"""When a series changes: Bayesian online change-point detection.

`detector` is of any series; `of_losses` watches the loss of a training, which
rises when the task changes.
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Detector(NamedTuple):
  """Pure functions, to be scanned and vmapped at will.

  Attributes:
    init: () -> the state before the first observation.
    update: (state, observation) -> state, Report.
  """

  init: Callable[[], Any]
  update: Callable[[Any, Any], tuple[Any, 'Report']]


class Report(NamedTuple):
  """What is known after an observation.

  Attributes:
    recent: float32 in [0, 1], the probability of a change within the last
      `recent` observations; the first observation of all is no change.
    since: int32 in [1, recent], how many observations there are since the most
      probable of these changes, the first after it among them.
    run: int32 ≥ 1, likewise, of the most probable change of all.
    posterior: float32 [runs], the probability that the present segment has
      1, 2, …, `runs` (or more) observations.
    rise: float32, how far the series is above what it was before `since`; 0
      where it is not known.
  """

  recent: jax.Array
  since: jax.Array
  run: jax.Array
  posterior: jax.Array
  rise: jax.Array


class Runs(NamedTuple):
  """The state of `detector`; entry n is of segments of n observations so far.

  Attributes:
    log_prior: float32 [runs], log probability before the next observation.
    mean: float32 [runs], of the segment's mean.
    scale: float32 [runs] > 0, β of the inverse gamma of its variance.
    seen: int32, how many observations there were.
  """

  log_prior: jax.Array
  mean: jax.Array
  scale: jax.Array
  seen: jax.Array


def detector(
  expected_length: float,
  *,
  runs: int = 64,
  recent: int = 4,
  prior_mean: float = 0.0,
  prior_count: float = 0.05,
  prior_shape: float = 1.0,
  prior_scale: float = 0.02,
) -> Detector:
  r"""Bayesian online change-point detection of a series with Gaussian noise.

  Each segment has a mean and a variance of its own, with a Normal-inverse-gamma
  prior, so that the next observation of a segment has Student's t. Segments end
  with a constant hazard. Of the run length r, the observations of the present
  segment,

  .. math::
    p(r_t = n + 1) ∝ p(r_{t-1} = n) (1 - H) \, t(x_t), \qquad
    p(r_t = 1) ∝ H \, t_0(x_t), \qquad H = 1 / \text{expected_length}

  where the paper counts the observations before x_t, so that a change shows
  one observation later there. Segments of `runs` observations or more share one
  entry, which forgets the oldest.

  Args:
    expected_length: of a segment, in observations, > 1.
    runs: run lengths that are told apart, > `recent`.
    recent: k ≥ 1: changes within the last so many observations are reported.
    prior_mean: of a segment's mean.
    prior_count: κ > 0, of how many observations that prior is worth.
    prior_shape: α > 0, of the inverse gamma.
    prior_scale: β > 0, of the same: β/α is about the noise's variance.

  Returns:
    A detector. It works in log space, in float32. An observation must be
    finite: after one that is not all there is is NaN.

  Raises:
    ValueError: if a value is out of range.

  Reference: Adams and MacKay, Bayesian online changepoint detection, 2007,
    arXiv:0710.3742, algorithm 1; Murphy, Conjugate Bayesian analysis of the
    Gaussian distribution, 2007, for the prior.
  """
  if not 1 < expected_length < math.inf:
    raise ValueError(
      f'expected_length is {expected_length} but a segment must be expected to'
      ' have more than 1 observation'
    )
  if not 1 <= recent < runs:
    raise ValueError(
      f'recent is {recent} but must be at least 1 and below runs, {runs}'
    )
  for name, value in (
    ('prior_count', prior_count),
    ('prior_shape', prior_shape),
    ('prior_scale', prior_scale),
  ):
    if not 0 < value < math.inf:
      raise ValueError(f'{name} is {value} but must be a number above 0')
  numbers = np.arange(runs)
  count, shape = prior_count + numbers, prior_shape + numbers / 2
  # In float64, on the host: differences of large numbers.
  gammas = [math.lgamma(a + 0.5) - math.lgamma(a) for a in shape]
  spread = jnp.asarray(2 * (count + 1) / count, jnp.float32)
  constant = jnp.asarray(np.array(gammas) - 0.5 * np.log(math.pi), jnp.float32)
  power = jnp.asarray(shape + 0.5, jnp.float32)
  gain = jnp.asarray(1 / (count + 1), jnp.float32)
  # What has no room is forgotten: the last entry stays of as many observations.
  kept = jnp.ones(runs).at[-1].set(shape[-1] / (shape[-1] + 0.5))
  stays, ends = math.log1p(-1 / expected_length), -math.log(expected_length)

  def init() -> Runs:
    return Runs(
      log_prior=jnp.where(jnp.arange(runs) == 0, 0.0, -jnp.inf),
      mean=jnp.full(runs, prior_mean, jnp.float32),
      scale=jnp.full(runs, prior_scale, jnp.float32),
      seen=jnp.zeros((), jnp.int32),
    )

  def update(state: Runs, x: Any) -> tuple[Runs, Report]:
    far = jnp.asarray(x, jnp.float32) - state.mean
    wide = spread * state.scale  # ν times the square of Student's scale
    log_t = constant - 0.5 * jnp.log(wide) - power * jnp.log1p(far**2 / wide)
    joint = state.log_prior + log_t
    log_p = joint - jax.nn.logsumexp(joint)
    mean = state.mean + gain * far
    scale = (state.scale + 0.5 * (1 - gain) * far**2) * kept

    def grown(row, first):
      # Of the two that meet in the last entry the likelier one stays.
      last = jnp.where(log_p[-1] >= log_p[-2], row[-1], row[-2])
      return jnp.concatenate(
        [jnp.array([first], row.dtype), row[:-2], last[None]]
      )

    log_prior = jnp.concatenate(
      [
        jnp.array([ends], jnp.float32),
        stays + log_p[:-2],
        stays + jnp.logaddexp(log_p[-2], log_p[-1])[None],
      ]
    )
    after = Runs(
      log_prior,
      grown(mean, prior_mean),
      grown(scale, prior_scale),
      state.seen + 1,
    )
    p = jnp.exp(log_p)
    is_recent = jnp.arange(runs) < jnp.minimum(recent, state.seen)
    since = jnp.argmax(jnp.where(is_recent, p, -1.0))
    return after, Report(
      recent=jnp.clip(jnp.sum(jnp.where(is_recent, p, 0)), 0, 1),
      since=since.astype(jnp.int32) + 1,
      run=jnp.argmax(p).astype(jnp.int32) + 1,
      posterior=p,
      rise=jnp.zeros(()),
    )

  return Detector(init, update)


class Losses(NamedTuple):
  """The state of `of_losses`.

  Attributes:
    inner: of the detector.
    logs: float32 [level + recent], of the last losses, the newest last.
    seen: int32, how many losses there were.
  """

  inner: Any
  logs: jax.Array
  seen: jax.Array


def of_losses(
  expected_length: float,
  *,
  level: int = 5,
  floor: float = 0.05,
  recent: int = 4,
  **options: Any,
) -> Detector:
  r"""Watches the loss of a training, which falls while a task is learned.

  A series that falls has no constant mean. What is watched is how far it is
  above its recent level,

  .. math:: x_t = y_t - \frac{1}{m} \sum_{i = 1}^m y_{t-i}, \qquad
    y = \log(\text{loss} + \text{floor})

  so that a steady fall is a constant, and losses of all sizes have noise of
  about one size. A loss that falls faster, or comes to rest, is a change as
  well: only where `Report.rise`, of y, is well above 0 is the task another.

  Args:
    expected_length: of a task, in observations, > 1; see `detector`.
    level: m ≥ 1; at first it is of as many as there are.
    floor: > 0, in the unit of the loss: what happens below it is noise.
    recent: as in `detector`.
    **options: of `detector`.

  Returns:
    A detector. An observation is a loss ≥ 0, best the mean of some batches,
    each before the step that learns from it; one that is not finite counts as
    a large one. The first loss has nothing before it, and is no observation of
    `detector`: counts of those begin with the second.

  Raises:
    ValueError: if a value is out of range.
  """
  if level < 1:
    raise ValueError(f'level is {level} but must be at least 1')
  if not 0 < floor < math.inf:
    raise ValueError(f'floor is {floor} but must be a number above 0')
  inner = detector(expected_length, recent=recent, **options)
  size = level + recent

  def init() -> Losses:
    return Losses(
      inner.init(), jnp.zeros(size, jnp.float32), jnp.zeros((), jnp.int32)
    )

  def update(state: Losses, loss: Any) -> tuple[Losses, Report]:
    loss = jnp.nan_to_num(
      jnp.asarray(loss, jnp.float32), nan=1e6, posinf=1e6, neginf=1e6
    )
    new = jnp.log(jnp.clip(loss, 0.0, 1e6) + floor)
    age = jnp.arange(size, 0, -1)  # of `logs`, in observations
    before = lambda n: jnp.clip(state.seen - n, 1, level)

    def mean(logs, youngest, number):
      ours = (age > youngest) & (age <= youngest + number)
      return jnp.sum(jnp.where(ours, logs, 0)) / number

    x = new - jnp.where(state.seen > 0, mean(state.logs, 0, before(0)), new)
    # The first has nothing before it, and is no observation.
    told, report = inner.update(state.inner, x)
    first = state.seen == 0
    told = jax.tree.map(
      lambda old, now: jnp.where(first, old, now), state.inner, told
    )
    logs = jnp.concatenate([state.logs[1:], new[None]])
    since = report.since
    older = before(since - 1)
    rise = mean(logs, 0, since) - mean(logs, since, older)
    known = ~first & (state.seen + 1 > since)
    return Losses(told, logs, state.seen + 1), report._replace(
      recent=jnp.where(first, 0.0, report.recent),
      rise=jnp.where(known, rise, 0.0),
    )

  return Detector(init, update)
