"""Change points: against a slow reference, and where they are known."""

import functools
import math

import jax
import numpy as np
import pytest

from powerprop import changepoints

_PRIOR = {
  'prior_mean': 0.5,
  'prior_count': 0.2,
  'prior_shape': 1.5,
  'prior_scale': 0.3,
}


@functools.cache
def _scanned(make, length, **options):
  """Series [T] -> the reports of all its observations; compiled once."""
  made = make(length, **options)
  return jax.jit(lambda xs: jax.lax.scan(made.update, made.init(), xs)[1])


_run = functools.cache(
  lambda length, runs, recent: _scanned(
    changepoints.detector, length, runs=runs, recent=recent, **_PRIOR
  )
)
_losses = functools.cache(lambda: _scanned(changepoints.of_losses, 100.0))


def _reference(series, length):
  """p(r_t = 1, 2, … | x_1 … x_t), by all segments there may be; float64.

  The likelihood of a segment is the product of Student's t of each observation
  given those before it in that segment.
  """
  mean0, count0 = _PRIOR['prior_mean'], _PRIOR['prior_count']
  shape0, scale0 = _PRIOR['prior_shape'], _PRIOR['prior_scale']

  def student(x, before):
    n = len(before)
    average = sum(before) / n if n else 0.0
    squares = sum((b - average) ** 2 for b in before)
    count, shape = count0 + n, shape0 + n / 2
    mean = (count0 * mean0 + n * average) / count
    scale = scale0 + squares / 2
    scale += count0 * n * (average - mean0) ** 2 / (2 * count)
    width = scale * (count + 1) / (shape * count)
    nu = 2 * shape
    return (
      math.gamma((nu + 1) / 2)
      / math.gamma(nu / 2)
      / math.sqrt(nu * math.pi * width)
      * (1 + (x - mean) ** 2 / (nu * width)) ** (-(nu + 1) / 2)
    )

  found, p = [], np.zeros(0)
  for t, x in enumerate(series):
    hazard = 1 / length
    prior = np.array([hazard, *(p * (1 - hazard))]) if t else np.ones(1)
    p = prior * [student(x, series[t - n : t]) for n in range(t + 1)]
    p /= p.sum()
    found.append(p)
  return found


@pytest.fixture(scope='module')
def series():
  """Three segments: the second higher, the third wider."""
  rng = np.random.default_rng(3)
  parts = (0.5, 0.3, 12), (3.0, 0.3, 10), (3.0, 2.0, 8)
  return np.concatenate([m + s * rng.standard_normal(n) for m, s, n in parts])


def test_the_posterior_is_that_of_all_segments(series):
  reports = _run(20.0, 40, 3)(series)
  for t, wanted in enumerate(_reference(series.tolist(), 20.0)):
    got = np.asarray(reports.posterior[t])
    np.testing.assert_allclose(got[: t + 1], wanted, rtol=1e-3, atol=1e-6)
    assert not got[t + 1 :].any()
    # The first observation of all begins a segment, and is no change.
    recent = wanted[: min(3, t)].sum()
    np.testing.assert_allclose(reports.recent[t], recent, rtol=1e-3, atol=1e-6)
    assert reports.run[t] == np.argmax(wanted) + 1
    if t:
      assert reports.since[t] == np.argmax(wanted[: min(3, t)]) + 1


def test_truncation_changes_little(series):
  """With room for 16 of 30 observations the same changes are found."""
  whole, short = _run(20.0, 40, 3)(series), _run(20.0, 16, 3)(series)
  np.testing.assert_allclose(short.posterior.sum(1), 1, rtol=1e-4)
  # Two programs, of arrays of different widths.
  np.testing.assert_allclose(
    short.posterior[:15], whole.posterior[:15, :16], rtol=1e-4, atol=1e-6
  )
  long = np.concatenate([np.resize(series[:12], 200), series[12:]])
  np.testing.assert_allclose(
    _run(20.0, 16, 3)(long).recent[-18:],
    _run(20.0, 240, 3)(long).recent[-18:],
    atol=0.1,
  )


def test_known_changes_are_found_at_once_and_nothing_else():
  rng = np.random.default_rng(1)
  parts = [
    m + 0.3 * rng.standard_normal(n) for m, n in ((0, 14), (8, 12), (0, 4))
  ]
  reports = _run(20.0, 40, 3)(np.concatenate(parts))
  recent, since = np.asarray(reports.recent), np.asarray(reports.since)
  assert (recent[[14, 15, 16, 26, 27, 28]] > 0.99).all()
  assert since[[14, 15, 16, 26, 27, 28]].tolist() == [1, 2, 3, 1, 2, 3]
  assert (recent[4:14] < 0.5).all() and (recent[18:26] < 0.5).all()
  assert reports.run[13] == 14 and reports.run[25] == 12


def test_vmapped_is_looped(series):
  both = np.stack([series, series[::-1]])
  run = _run(20.0, 16, 3)
  together = jax.vmap(run)(both)
  for i, one in enumerate(both):
    np.testing.assert_allclose(
      together.posterior[i], run(one).posterior, rtol=1e-4, atol=1e-6
    )


def _training(rng, lengths):
  """Losses of tasks that are learned one after the other: each falls."""
  parts = [
    (0.02 + 2.4 * np.exp(-np.arange(n) / 6)) * np.exp(0.2 * noise)
    for n in lengths
    for noise in [rng.standard_normal(n)]
  ]
  return np.concatenate(parts)


def test_losses_that_fall_are_no_change_and_rises_are():
  rng = np.random.default_rng(0)
  reports = jax.vmap(_losses())(
    np.stack([_training(rng, (60, 60)) for _ in range(20)])
  )
  alarm = np.asarray((reports.recent > 0.95) & (reports.rise > 0))
  assert not alarm[:, :60].any()
  assert alarm[:, 60].all() and (reports.since[:, 60] == 1).all()
  # Changes there are while the loss begins to fall, but none upwards.
  assert np.asarray(reports.recent > 0.5)[:, :60].any()


def test_a_steady_loss_is_no_change_and_nan_is_one():
  losses = np.full(60, 0.3)
  losses[40:] = np.nan
  reports = _losses()(losses)
  assert not np.asarray(reports.recent[:40] > 0.5).any()
  assert reports.recent[40] > 0.95 and reports.rise[40] > 0
  assert np.isfinite(reports.posterior).all() and reports.recent[0] == 0


@pytest.mark.parametrize(
  'make, length, options, says',
  [
    ('detector', 1.0, {}, 'expected_length is 1.0'),
    ('detector', math.nan, {}, 'expected_length is nan'),
    ('detector', 9.0, {'recent': 0}, 'recent is 0'),
    ('detector', 9.0, {'recent': 64}, 'below runs, 64'),
    ('detector', 9.0, {'prior_scale': 0.0}, 'prior_scale is 0.0'),
    ('of_losses', 9.0, {'level': 0}, 'level is 0'),
    ('of_losses', 9.0, {'floor': math.inf}, 'floor is inf'),
  ],
)
def test_bad_input(make, length, options, says):
  with pytest.raises(ValueError, match=says):
    getattr(changepoints, make)(length, **options)
