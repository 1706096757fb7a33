"""Files of weights: the same bits again, or a sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.report import weights


def _weights(**fields):
  random = np.random.default_rng(0)
  w = random.normal(size=(3, 4)).astype(np.float32)
  w[0, :3] = [np.nan, -0.0, np.inf]
  tree = {
    'mlp/~/linear_0': {'w': w, 'b': np.zeros(4, np.float32)},
    'mlp/~/linear': {'0/w': np.asarray(jnp.arange(6.0, dtype=jnp.bfloat16))},
    # Two ways to the same name.
    'a/b': {'c': np.float16([1, 2])},
    'a': {'b/c': np.int8([3])},
  }
  found = weights.Weights(
    params=tree,
    masks={'mlp/~/linear_0/w': w > 0},
    state={'norm': {'counter': np.int32(3), 'empty': np.zeros((0, 2))}},
    phi={'mean': tree, 'scale': {'x': {'w': w}}},
    alpha=2.5,
  )
  return found._replace(**fields)


def _assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    x, y = np.asarray(x), np.asarray(y)
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert x.tobytes() == y.tobytes()


def test_trees_come_back_to_the_bit(tmp_path):
  path = tmp_path / 'net.npz'
  weights.save(path, _weights())
  found = weights.load(path)
  _assert_same(found, _weights())
  assert found.alpha == 2.5 and isinstance(found.alpha, float)
  with np.load(path, allow_pickle=False) as plain:
    np.testing.assert_array_equal(
      plain['params/mlp/~/linear_0/w'], _weights().params['mlp/~/linear_0']['w']
    )
    assert plain['masks/mlp/~/linear_0/w'].dtype == bool
    assert plain['alpha'] == 2.5


def test_arrays_of_the_device_are_taken(tmp_path):
  found = jax.tree.map(jnp.asarray, _weights(state={}))
  weights.save(tmp_path / 'net.npz', found)
  _assert_same(weights.load(tmp_path / 'net.npz').phi, found.phi)


def test_a_tree_of_other_nodes_is_refused(tmp_path):
  path = tmp_path / 'net.npz'
  with pytest.raises(ValueError, match='state.*only such trees can be saved'):
    weights.save(path, _weights(state={'norm': (np.zeros(2),)}))
  assert not path.exists()


def test_a_damaged_file_is_a_sentence(tmp_path):
  path = tmp_path / 'net.npz'
  weights.save(path, _weights())
  whole = path.read_bytes()
  read = 0
  damaged = [whole[:n] for n in range(0, len(whole), 211)]
  for place in range(0, len(whole), 17):
    flipped = bytes([whole[place] ^ 0x20])
    damaged.append(whole[:place] + flipped + whole[place + 1 :])
  for content in damaged:
    path.write_bytes(content)
    try:
      found = weights.load(path)
    except ValueError as e:
      text = str(e)
      assert text.startswith(f'{path} is damaged, or no file of weights')
      assert text.endswith('.') and '\n' not in text and len(text) < 500
    else:  # a byte that says nothing, such as a date
      _assert_same(found, _weights())
      read += 1
  assert read < len(damaged) / 4


def test_other_files_are_refused(tmp_path):
  path = tmp_path / 'net.npz'
  np.savez(path, w=np.ones(3))
  with pytest.raises(ValueError, match='no file of weights'):
    weights.load(path)
  np.savez(path, w=np.array([{}], object))
  with pytest.raises(ValueError, match='no file of weights'):
    weights.load(path)
  with pytest.raises(FileNotFoundError):
    weights.load(tmp_path / 'none.npz')
