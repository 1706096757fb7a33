"""Schedules against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerprop import schedules

_STEPS = np.arange(-2, 40)


@pytest.mark.parametrize(
  'begin, end, every',
  [(0, 30, 1), (5, 30, 5), (5, 31, 7), (0, 0, 1), (7, 7, 3), (0, 10, 20)],
)
def test_progress(begin, end, every):
  def by_hand(step):
    if step >= end:
      return 1.0
    moves = [t for t in range(begin, end, every) if t <= step]
    return (moves[-1] - begin) / (end - begin) if moves else 0.0

  def fn(step):
    return schedules.progress(step, begin, end, every)

  wanted = np.array([by_hand(s) for s in _STEPS], np.float32)
  got = jax.jit(fn)(_STEPS)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, wanted, rtol=1e-6)
  np.testing.assert_array_equal(jax.jit(jax.vmap(fn))(_STEPS), got)
  # Masks are compared with their target: 0 and 1 are to be hit, not nearly.
  np.testing.assert_array_equal(got == 0, wanted == 0)
  np.testing.assert_array_equal(got == 1, wanted == 1)


@pytest.mark.parametrize(
  'name, at_quarter',
  [
    ('cubic', 37 / 64),
    ('cosine', 0.1464466),
    ('linear', 0.25),
    ('one_shot', 0),
  ],
)
def test_shapes_rise_from_0_to_1(name, at_quarter):
  values = np.asarray(schedules.SHAPES[name](jnp.linspace(0, 1, 101)))
  assert values[0] == 0 and values[-1] == 1
  assert np.all(np.diff(values) >= 0)
  np.testing.assert_allclose(values[25], at_quarter, rtol=1e-6)


@pytest.mark.parametrize(
  'name, values',
  [
    ('cosine', (1, 0.8535534, 0)),
    ('linear', (1, 0.75, 0)),
    ('constant', (1, 1, 1)),
  ],
)
def test_decays(name, values):
  got = schedules.DECAYS[name](jnp.array([0, 0.25, 1]))
  np.testing.assert_allclose(got, values, rtol=1e-6)


def test_every_shape_and_decay_is_tested():
  assert set(schedules.SHAPES) == {'cubic', 'cosine', 'linear', 'one_shot'}
  assert set(schedules.DECAYS) == {'cosine', 'linear', 'constant'}


def _rate(kind, steps=30, **kwargs):
  rate = schedules.learning_rate(kind, steps, **kwargs)
  got = jax.jit(rate)(_STEPS[2:])
  assert got.dtype == jnp.float32 and rate(3).shape == ()
  np.testing.assert_allclose(jax.vmap(rate)(_STEPS[2:]), got, rtol=1e-6)
  return np.asarray(got)


def test_constant_rate():
  np.testing.assert_array_equal(_rate('constant'), 1)
  np.testing.assert_allclose(
    _rate('constant', warmup=4)[:6], [0, 0.25, 0.5, 0.75, 1, 1]
  )


def test_piecewise_rate():
  """As RigL's, scaled: up in 5 of 100 epochs, ×0.1 at 30, 70 and 90."""
  got = _rate('piecewise', 30, warmup=2, boundaries=(9, 21, 27), factor=0.1)
  wanted = [0, 0.5] + 7 * [1] + 12 * [0.1] + 6 * [0.01] + 13 * [0.001]
  np.testing.assert_allclose(got, wanted, rtol=1e-6)
  twice = _rate('piecewise', boundaries=(10,), factor=0.2)
  np.testing.assert_allclose(twice, [1.0] * 10 + [0.2] * 30, rtol=1e-6)


@pytest.mark.parametrize('final', [0.0, 0.1])
def test_cosine_rate(final):
  got = _rate('cosine', 30, warmup=10, final=final)
  np.testing.assert_allclose(got[:11], np.arange(11) / 10, rtol=1e-6)
  wanted = final + (1 - final) * (1 + np.cos(np.pi * np.arange(21) / 20)) / 2
  np.testing.assert_allclose(got[10:31], wanted, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(got[30:], final, atol=1e-7)


@pytest.mark.parametrize(
  'kind, kwargs, match',
  [
    ('step', {}, "kind is 'step' but must be constant, piecewise or cosine"),
    ('cosine', {'warmup': 31}, r'warmup is 31 but .* \[0, steps = 30\]'),
    ('cosine', {'warmup': -1}, 'warmup is -1'),
    ('piecewise', {}, r'boundaries is \(\) but must be given'),
    ('cosine', {'boundaries': (3,)}, r'boundaries is \(3,\) but .* left out'),
    ('piecewise', {'boundaries': (9, 3)}, r'\(9, 3\) but must rise within'),
    ('piecewise', {'boundaries': (9, 9)}, r'\(9, 9\) but must rise within'),
    ('piecewise', {'boundaries': (9, 31)}, r'within \[0, steps = 30\]'),
    ('piecewise', {'boundaries': (3,), 'factor': 0}, 'factor is 0'),
    ('cosine', {'final': -0.1}, 'final is -0.1'),
  ],
)
def test_bad_rates_are_named(kind, kwargs, match):
  with pytest.raises(ValueError, match=match):
    schedules.learning_rate(kind, 30, **kwargs)
