"""Importance sampling, held to a model whose likelihood is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from powerprop import likelihood

# x = A z + b + s ε, of three numbers, with two latents.
_A = np.array([[1.0, -0.5], [0.3, 0.8], [-0.7, 0.2]])
_B, _S = np.array([0.1, -0.2, 0.3]), 0.6


def _examples(number):
  rng = np.random.default_rng(0)
  z, eps = rng.standard_normal((number, 2)), rng.standard_normal((number, 3))
  return z @ _A.T + _B + _S * eps


def _log_normal(x, mean, std):
  terms = -0.5 * ((x - mean) / std) ** 2 - jnp.log(std)
  return jnp.sum(terms - 0.5 * np.log(2 * np.pi), -1)


def _known(x):
  """log p(x): x is normal with the covariance A Aᵀ + s² I."""
  covariance = _A @ _A.T + _S**2 * np.eye(3)
  away = x - _B
  exponent = np.einsum('ni,ij,nj->n', away, np.linalg.inv(covariance), away)
  return -0.5 * (exponent + np.linalg.slogdet(2 * np.pi * covariance)[1])


def _proposal(widened, moved=0.0):
  """q is the posterior, its Cholesky factor times a number, and moved."""
  covariance = np.linalg.inv(_A.T @ _A / _S**2 + np.eye(2))
  factor = widened * np.linalg.cholesky(covariance)
  log_det = np.log(np.diag(factor)).sum()

  def sample(mean, key):
    noise = jax.random.normal(key, (2,), mean.dtype)
    return mean + factor @ noise, _log_normal(noise, 0.0, 1.0) - log_det

  return likelihood.Proposal(
    encode=lambda x: covariance @ _A.T @ (x - _B) / _S**2 + moved,
    sample=sample,
    log_joint=lambda x, z: (
      _log_normal(z, 0.0, 1.0) + _log_normal(x, _A @ z + _B, _S)
    ),
    floats=20,
  )


def _estimate(x, proposal, samples, memory=2**20, count=None):
  take = lambda rows: jnp.asarray(x)[rows]
  of = jax.jit(
    lambda key, count: likelihood.importance_weighted(
      proposal, take, len(x), count, key, samples, memory
    )
  )
  return of(jax.random.key(1), len(x) if count is None else count)


def test_a_linear_gaussian_model_has_the_likelihood_that_is_known():
  with jax.enable_x64(True):
    x = _examples(100)
    known = _known(x)
    # With the posterior itself every weight is p(x).
    exact = _estimate(x, _proposal(1.0), 3)
    assert exact.value.dtype == jnp.float64
    np.testing.assert_allclose(exact.value, known.mean(), rtol=1e-12)
    np.testing.assert_allclose(
      exact.error, known.std(ddof=1) / np.sqrt(len(x)), rtol=1e-9
    )
    assert exact.noise < 1e-7
    # Padding of the last part, and examples that do not count, count zero.
    some = _estimate(x, _proposal(1.0), 3, count=70)
    np.testing.assert_allclose(some.value, known[:70].mean(), rtol=1e-12)
    # With another q the draws are noise, of the size that is said.
    found = _estimate(x, _proposal(1.3, 0.2), 2000)
    away = abs(found.value - known.mean())
    assert 0 < found.noise < 5e-3 and away < 5 * found.noise
    # In other parts, of 7 draws of one example, it is the same number.
    parts = _estimate(x[:5], _proposal(1.3, 0.2), 50, memory=4 * 20 * 7)
    whole = _estimate(x[:5], _proposal(1.3, 0.2), 50)
    for one, other in zip(parts, whole, strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-9)


def test_more_draws_make_it_no_looser():
  x = _examples(400).astype(np.float32)
  proposal = _proposal(0.6, 0.5)
  found = [float(_estimate(x, proposal, k).value) for k in (1, 10, 200)]
  # The gaps are far above the noise of 400 examples.
  assert found[0] + 0.3 < found[1] and found[1] + 0.1 < found[2]
  assert found[2] < _known(x).mean() + 0.1


def test_parts_fit_the_memory():
  assert likelihood.parts(2000, 10_000, 5_000, 2**28) == (64, 524)
  assert likelihood.parts(2000, 30, 4, 2**28) == (30, 4)
  assert likelihood.parts(10**9, 30, 4, 2**20) == (1, 1)
  for n, k, memory in ((7, 3, 9000), (500, 10**6, 10**7)):
    rows, draws = likelihood.parts(100, n, k, memory)
    assert rows * draws * 400 <= memory
  with pytest.raises(ValueError, match='samples is 0 but must be at least 1'):
    _estimate(_examples(3), _proposal(1.0), 0)
