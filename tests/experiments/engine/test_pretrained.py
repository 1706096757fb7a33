"""Weights of a file that every seed starts from."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data
from experiments.engine import classification
from experiments.engine import pretrained
from experiments.engine import settings
from experiments.report import weights
import powerprop as pp
from powerprop import train
from tests import tiny


def _params(outputs=10):
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {
    'hidden_0': {'w': draw(64, 8), 'b': draw(8)},
    'output': {'w': draw(8, outputs), 'b': draw(outputs)},
  }


_STATE = {'norm/~/mean_ema': {'average': np.arange(3, dtype=np.float32)}}


def _file(tmp_path, params, state=None):
  path = str(tmp_path / 'net.npz')
  weights.save(path, weights.Weights(params, {}, state or {}, params, 1.0))
  return path


def _settings(path, **fields):
  return settings.check(tiny.config(pretrained=path, **fields))


def _recipe(path, **fields):
  s = _settings(path, **fields)
  return classification.make_recipe(s, data.load('digits'))


def _equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_every_seed_starts_from_the_file(tmp_path):
  params = _params()
  recipe = _recipe(_file(tmp_path, params))
  for seed in (0, 1):
    _equal(train.initial_theta(recipe, seed)[0], params)


def test_what_others_write_is_read_as_well(tmp_path):
  """Masked, in a file of sparse weights; bfloat16 becomes the net's float32."""
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _params())
  mask = params['hidden_0']['w'] > 0
  path = str(tmp_path / 'net.safetensors')
  pp.save_sparse(path, params, {'hidden_0/w': mask})
  theta, _ = train.initial_theta(_recipe(path), 0)
  params['hidden_0']['w'] = np.where(mask, params['hidden_0']['w'], 0)
  assert theta['output']['w'].dtype == np.float32
  _equal(theta, jax.tree.map(lambda x: x.astype(np.float32), params))


def test_the_nets_state_is_read_too(tmp_path):
  s = _settings(_file(tmp_path, _params(), _STATE))
  _, state = pretrained.read(s, _params(), _STATE)
  _equal(state, _STATE)
  with pytest.raises(settings.ConfigError, match="state have 'norm/~/mean_ema"):
    pretrained.read(s, _params(), {})


def test_an_output_layer_of_another_width_is_drawn(tmp_path, caplog):
  params = _params(outputs=7)
  with caplog.at_level(logging.WARNING):
    recipe = _recipe(_file(tmp_path, params))
  assert 'output/b, output/w is of another width' in caplog.text
  one, other = (train.initial_theta(recipe, seed)[0] for seed in (0, 1))
  _equal(one['hidden_0'], params['hidden_0'])
  _equal(other['hidden_0'], params['hidden_0'])
  drawn, _ = recipe.problem.init(jax.random.fold_in(jax.random.key(1), 0))
  _equal(other['output'], drawn['output'])
  assert np.any(one['output']['w'] != other['output']['w'])


def _without(params):
  del params['hidden_0']['b']


def _with(params):
  params['hidden_1'] = {'w': np.ones((8, 8), np.float32)}


def _wider(params):
  params['hidden_0']['w'] = np.ones((64, 9), np.float32)


def _infinite(params):
  params['hidden_0']['w'][3, 4] = np.inf


@pytest.mark.parametrize(
  'change, message',
  [
    (_without, "parameters lack 'hidden_0/b': take a file of network 'mlp'"),
    (_with, "parameters have 'hidden_1/w', which the net has not: take"),
    (
      _wider,
      r"have 'hidden_0/w' of shape \[64, 9\] where the net has \[64, 8\]",
    ),
    (_infinite, "'hidden_0/w', which is not finite all over"),
  ],
)
def test_a_file_of_another_net_is_a_sentence(tmp_path, change, message):
  params = _params()
  change(params)
  with pytest.raises(settings.ConfigError, match=message) as error:
    _recipe(_file(tmp_path, params))
  assert str(error.value).endswith('.')


@pytest.mark.parametrize('name', ['net.npz', 'net.safetensors'])
def test_no_such_file_and_a_damaged_one(tmp_path, name):
  path = tmp_path / name
  with pytest.raises(settings.ConfigError, match='there is no such file'):
    _recipe(str(path))
  path.write_bytes(b'damaged')
  with pytest.raises(settings.ConfigError, match='pretrained: .*damaged'):
    _recipe(str(path))


def test_weights_at_zero_are_told_where_they_do_not_move(tmp_path, caplog):
  params = _params()
  params['hidden_0']['w'][:, :4] = 0
  path = _file(tmp_path, params)
  with caplog.at_level(logging.WARNING):
    _recipe(path, alphas=(1.0,))
    assert not caplog.text
    _recipe(path)
  assert 'in which 256 of 592 weights are zero' in caplog.text
