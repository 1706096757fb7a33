"""docs/transforms.md: its code runs, and does what the text says."""

import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.engine import making
from experiments.engine import settings
import powerprop
from tests import tiny

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'transforms.md'


@pytest.fixture(scope='module')
def page():
  """The names that the page's code blocks define, run in order as one module.

  The blocks have asserts of their own.
  """
  text = PAGE.read_text(encoding='utf-8')
  blocks = list(re.finditer(r'^```python\n(.*?)^```$', text, re.M | re.S))
  assert len(blocks) == 7
  names = {}
  for block in blocks:
    # Blank lines before it give a traceback the page's own line numbers.
    line = text.count('\n', 0, block.start(1))
    exec(compile('\n' * line + block[1], PAGE, 'exec'), names)
  return names


def test_counterexample_has_the_numbers_of_the_text(page):
  np.testing.assert_allclose(page['phi'], [0.092, 1.08], rtol=1e-5)
  np.testing.assert_allclose(page['slope'], [0.184, 2.16], rtol=1e-5)
  np.testing.assert_allclose(
    page['updates'], -0.01 * np.array([3 * 0.184, -2.16]), rtol=1e-5
  )
  np.testing.assert_allclose(page['in_theta'], -0.02, rtol=1e-5)
  np.testing.assert_allclose(
    page['in_phi'], -0.01 * (3 * 0.184**2 - 2.16**2), rtol=1e-4
  )


def _steps(tx, phi, steps=3):
  state = tx.init(phi)
  out = []
  for i in range(steps):
    grads = jax.tree.map(lambda x, i=i: jnp.cos(3 * x + i), phi)
    updates, state = tx.update(grads, state, phi)
    phi = optax.apply_updates(phi, updates)
    out.append(updates)
  return out, state


PHI = {'w': jnp.array([[0.0, -1.5], [0.01, 0.6]]), 'b': jnp.array([0.0, 0.5])}


def _assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_example_without_a_floor_is_powerprop(page):
  inner = optax.adamw(0.1)
  make = page['floored_powerprop']
  actual, state = _steps(make(inner, 2.5, floor=0.0), PHI)
  expected, expected_state = _steps(powerprop.powerprop(inner, 2.5), PHI)
  _assert_equal(actual, expected)
  _assert_equal(state, expected_state)


def test_example_at_alpha_one_is_the_inner_optimiser(page):
  inner = optax.adamw(0.1)
  actual, _ = _steps(page['floored_powerprop'](inner, 1), PHI)
  _assert_equal(actual, _steps(inner, PHI)[0])


def test_example_lifts_only_the_slopes_below_the_floor(page):
  tx = page['floored_powerprop'](optax.sgd(1.0), 2.0, floor=0.1)
  grads = jax.tree.map(jnp.ones_like, PHI)
  updates, state = tx.update(grads, tx.init(PHI), PHI)
  # 2|φ|, and at least 0.1; a bias has no slope.
  np.testing.assert_allclose(updates['w'], [[-0.1, -3.0], [-0.1, -1.2]])
  np.testing.assert_array_equal(updates['b'], [-1.0, -1.0])
  assert powerprop.current_alpha(state) == 2.0


def test_example_composes_as_an_optax_transformation_does(page):
  make = page['floored_powerprop']
  alone, _ = _steps(make(optax.sgd(0.1), 2.0), PHI, 1)
  chained, state = _steps(
    optax.chain(optax.identity(), make(optax.sgd(0.1), jnp.float32(2.0))),
    PHI,
    1,
  )
  for a, b in zip(
    jax.tree.leaves(chained), jax.tree.leaves(alone), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  assert powerprop.current_alpha(state) == 2.0


def test_example_refuses_what_it_cannot_use(page):
  make = page['floored_powerprop']
  with pytest.raises(ValueError, match='floor is -1 but must be at least 0'):
    make(optax.sgd(0.1), 2.0, floor=-1)
  with pytest.raises(ValueError, match='alpha is 0.5'):
    make(optax.sgd(0.1), 0.5)
  with pytest.raises(ValueError, match='line search'):
    make(optax.lbfgs(), 2.0).init(PHI)
  tx = make(optax.sgd(0.1), 2.0)
  with pytest.raises(ValueError, match='with the current φ'):
    tx.update(PHI, tx.init(PHI))


def test_a_config_names_the_example_as_it_stands(tmp_path, monkeypatch):
  text = PAGE.read_text(encoding='utf-8')
  blocks = re.findall(r'^```python\n(.*?)^```$', text, re.M | re.S)
  (code,) = [b for b in blocks if 'def floored_powerprop' in b]
  (tmp_path / 'floored_by_page.py').write_text(code)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  checked = settings.check(
    tiny.config(
      transforms=('powerprop', 'floored_by_page:floored_powerprop'),
      transform_kwargs={'floored_powerprop': {'floor': 0.1}},
    )
  )
  psis = making.psis(checked.transforms, checked.transform_kwargs)
  psi = psis['floored_powerprop']._replace(alpha=2.0)
  grads = jax.tree.map(jnp.ones_like, PHI)
  tx = psi.optimizer(optax.sgd(1.0))
  updates, _ = tx.update(grads, tx.init(PHI), PHI)
  np.testing.assert_allclose(updates['w'], [[-0.1, -3.0], [-0.1, -1.2]])


def test_the_page_names_things_that_exist():
  text = PAGE.read_text(encoding='utf-8')
  root = PAGE.parents[1]
  for path in re.findall(r'`((?:powerprop|tests|docs)/[\w./]+)`', text):
    assert (root / path).exists(), path
  for name in re.findall(r'powerprop\.(\w+)\(', text):
    assert hasattr(powerprop, name), name
  headings = {
    re.sub(r'[^\w -]', '', h.lower()).replace(' ', '-')
    for h in re.findall(r'^#+ (.*)$', text, re.M)
  }
  for anchor in re.findall(r'\(#([\w-]+)\)', text):
    assert anchor in headings, anchor
