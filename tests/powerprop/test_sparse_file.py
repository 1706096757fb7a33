"""Files of sparse weights: the same bits again, or a sentence."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import powerprop
from powerprop import sparse_file

safetensors_numpy = pytest.importorskip('safetensors.numpy')


def _random(*shape, dtype=np.float32):
  """Values with all that a copy by value might lose."""
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  odd = np.float32([-0.0, np.inf, -np.inf, 1e-45, -1e-40, np.nan])
  x.ravel()[: odd.size] = odd[: x.size]
  return x.astype(dtype)


def _n_of_m(shape, n, m, axis=-2):
  scores = np.random.default_rng(1).uniform(size=shape)
  groups = np.moveaxis(scores, axis, -1).reshape(-1, m)
  mask = np.argsort(np.argsort(groups, -1), -1) < n
  turned = np.moveaxis(scores, axis, -1).shape
  return np.moveaxis(mask.reshape(turned), -1, axis)


def _some(shape, density):
  return np.random.default_rng(2).uniform(size=shape) < density


_ONE = np.zeros((40, 30), bool)
_ONE[39, 29] = True
_HALVES = np.arange(16)[:, None] < 8
# By name: the leaf, its mask, and how it is to lie in the file.
_LEAVES = {
  'dense': (_random(6, 4), None, 'dense'),
  'full': (_random(6, 4), np.ones((6, 4), bool), 'full'),
  'none left': (_random(40, 30), np.zeros((40, 30), bool), 'gaps'),
  'the last': (_random(40, 30), _ONE, 'gaps'),
  'half': (_random(7, 9), _some((7, 9), 0.5), 'bits'),
  'few': (_random(70, 90), _some((70, 90), 0.02), 'gaps'),
  'a kernel': (_random(3, 3, 5, 7), _some((3, 3, 5, 7), 0.3), 'bits'),
  '2:4': (_random(16, 5), _n_of_m((16, 5), 2, 4), '2:4'),
  '1:4': (_random(3, 3, 8, 5), _n_of_m((3, 3, 8, 5), 1, 4), '1:4'),
  '1:16': (_random(32, 3), _n_of_m((32, 3), 1, 16), '1:16'),
  '4:8, which a bit takes less of': (
    _random(16, 6),
    _n_of_m((16, 6), 4, 8) ^ np.zeros((16, 6), bool),
    'bits',
  ),
  'transposed': (
    _random(3, 3, 5, 8),
    _n_of_m((3, 3, 5, 8), 2, 4, axis=-1),
    '2:4',
  ),
  'one of each two': (_random(8, 2), np.tile([[True], [False]], (4, 2)), '1:2'),
  'a scalar': (np.float32(-0.0), None, 'dense'),
  'a masked scalar': (np.float32(3), np.array(False), 'gaps'),
  'a vector': (_random(20), _some(20, 0.5), 'bits'),
  'no weights': (np.zeros((0, 3), np.float32), np.zeros((0, 3), bool), 'full'),
  'bfloat16': (
    np.asarray(jnp.asarray(_random(8, 8)).astype(jnp.bfloat16)),
    _some((8, 8), 0.5),
    'bits',
  ),
  'dense bfloat16': (np.asarray(jnp.ones(3, jnp.bfloat16)), None, 'dense'),
  'float16': (_random(8, 8, dtype=np.float16), _some((8, 8), 0.5), 'bits'),
  'a counter': (np.int32(3), None, 'dense'),
}
_NAMES = {'transposed': 'conv2_d_transpose'}
_NAME = lambda name: _NAMES.get(name, name)


def _tree(leaves=None):
  leaves = _LEAVES if leaves is None else leaves
  params = {_NAME(n): {'w': x} for n, (x, _, _) in leaves.items()}
  masks = {
    f'{_NAME(n)}/w': m for n, (_, m, _) in leaves.items() if m is not None
  }
  return params, masks


def _assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert (x.shape, x.dtype) == (np.shape(y), np.asarray(y).dtype)
    assert x.tobytes() == np.asarray(y).tobytes()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A file of all kinds of leaves."""
  path = tmp_path_factory.mktemp('sparse') / 'net.safetensors'
  params, masks = _tree()
  state = {'norm/~/mean_ema': {'average': _random(4), 'counter': np.int32(7)}}
  meta = {'alpha': 2.5, 'network': 'mlp', 'network_kwargs': {'hidden': [8]}}
  powerprop.save_sparse(path, params, masks, state=state, meta=meta)
  return path, (params, masks, state, meta)


def test_everything_comes_back_to_the_bit(whole):
  path, (params, masks, state, meta) = whole
  found = powerprop.load_sparse(path)
  masked = {
    n: {
      'w': np.where(masks[f'{n}/w'], leaf['w'], np.zeros((), leaf['w'].dtype))
      if f'{n}/w' in masks
      else leaf['w']
    }
    for n, leaf in params.items()
  }
  _assert_same(found.params, masked)
  _assert_same(found.masks, masks)
  _assert_same(found.state, state)
  assert found.meta == meta
  assert not list(path.parent.glob('*.part'))


def test_masks_lie_as_they_take_least(whole):
  path, _ = whole
  leaves = {x.keys[1]: x for x in sparse_file.leaves(path)}
  for name, (x, mask, kind) in _LEAVES.items():
    leaf = leaves[_NAME(name)]
    assert leaf.kind == kind, name
    kept = x.size if mask is None else int(mask.sum())
    assert leaf.kept == kept
    most = kept * x.dtype.itemsize + (0 if mask is None else -(-x.size // 8))
    assert leaf.size <= most
  # 2 bits an index, 2 of every 4; a byte for every weight of a few.
  assert leaves['2:4'].size == 80 // 2 * 4 + 80 // 8
  few = leaves['few']
  assert few.kept * 5 <= few.size < few.kept * 5 + 10


def test_the_library_alone_reads_the_values(whole):
  path, (params, masks, _, _) = whole
  plain = safetensors_numpy.load_file(path)
  values = plain['params/half/w.values']
  bits = np.unpackbits(plain['params/half/w.mask'])[: 7 * 9].reshape(7, 9)
  np.testing.assert_array_equal(bits, masks['half/w'])
  np.testing.assert_array_equal(values, params['half']['w'][bits == 1])


@pytest.mark.parametrize('number', range(12))
def test_any_mask_comes_back(tmp_path, number):
  random = np.random.default_rng(number)
  shape = tuple(random.integers(1, 12, size=random.integers(1, 5)))
  mask = random.uniform(size=shape) < random.uniform() ** 3
  if number % 2:
    mask = np.repeat(mask, random.integers(1, 60), 0)  # long gaps
  params = {'m': {'w': _random(*mask.shape)}}
  path = tmp_path / 'net'
  # Arrays of the device, and masks of numbers.
  powerprop.save_sparse(
    path, jax.tree.map(jnp.asarray, params), {'m/w': mask.astype(np.float32)}
  )
  found = powerprop.load_sparse(path)
  _assert_same(found.masks, {'m/w': mask})
  _assert_same(found.params, {'m': {'w': np.where(mask, params['m']['w'], 0)}})
  assert found.state == {} and found.meta == {}


def test_two_ways_to_the_same_name(tmp_path):
  params = {
    'a/b': {'c': np.ones(2)},
    'a': {'b/c': np.zeros(3), 'b': {'c': np.ones(1)}},
  }
  powerprop.save_sparse(tmp_path / 'net', params, {})
  _assert_same(powerprop.load_sparse(tmp_path / 'net').params, params)


@pytest.mark.parametrize(
  ('params', 'masks', 'more', 'sentence'),
  [
    ({'a': {'w': np.ones(3)}}, {'b/w': np.ones(3)}, {}, "mask of 'b/w', but"),
    ({'a': {'w': np.ones(3)}}, {'a/w': np.ones(4)}, {}, r'\[4\].*\[3\]'),
    ({'a': {'w': np.ones(3)}}, {'a/w': np.full(3, 2)}, {}, 'zeros and ones'),
    ({'a': (np.ones(3),)}, {}, {}, r'params\[.a.\]\[0\].*not of dicts'),
    (np.ones(3), {}, {}, 'not of dicts'),
    ({}, {}, {'state': {'a': [np.ones(3)]}}, 'state.*not of dicts'),
    ({}, {}, {'meta': {'a': np.ones(3)}}, 'meta must be of JSON'),
    ({}, {}, {'meta': {'a': float('nan')}}, 'meta must be of JSON'),
  ],
)
def test_what_cannot_be_saved_is_refused(
  tmp_path, params, masks, more, sentence
):
  with pytest.raises(ValueError, match=sentence):
    powerprop.save_sparse(tmp_path / 'net', params, masks, **more)
  assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'net'
  powerprop.save_sparse(path, {'a': {'w': np.ones(3)}}, {})
  before = path.read_bytes()

  def full(*unused_args):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(sparse_file.os, 'fsync', full)
  with pytest.raises(OSError, match='No space'):
    powerprop.save_sparse(path, {'a': {'w': np.zeros(3)}}, {})
  assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_damaged_file_is_a_sentence(tmp_path, whole):
  path = tmp_path / 'net.safetensors'
  params, masks = _tree({n: _LEAVES[n] for n in ('dense', 'half', '2:4')})
  powerprop.save_sparse(path, params, masks, meta={'a': 1})
  content = path.read_bytes()
  damaged = [content[:n] for n in range(0, len(content), 97)]
  damaged += [content + b'more', b'no safetensors file at all']
  for place in range(0, len(content), 7):
    flipped = bytes([content[place] ^ 0x20])
    damaged.append(content[:place] + flipped + content[place + 1 :])
  first = powerprop.load_sparse(path)
  read = 0
  for wrong in damaged:
    path.write_bytes(wrong)
    try:
      found = powerprop.load_sparse(path)
    except ValueError as e:
      text = str(e)
      assert text.startswith(str(path)) and text.endswith('.')
      assert '\n' not in text and len(text) < 500
    else:  # a byte that says nothing
      _assert_same(found.params, first.params)
      _assert_same(found.masks, first.masks)
      assert found.meta == first.meta
      read += 1
  assert read < 5


def _forged(path, contents=None, about=None, drop=(), **tensors):
  """The same file as another program might write it, its checksum right."""
  made, said = sparse_file._pack(*_tree({'half': _LEAVES['half']}), {}, {})
  made = {n: x for n, x in {**made, **tensors}.items() if n not in drop}
  text = json.dumps(said if contents is None else contents(said))
  sure = {'sha256': sparse_file._digest(text, made), 'contents': text}
  sure |= {'format': 'powerprop.sparse', 'version': '1', **(about or {})}
  path.write_bytes(safetensors_numpy.save(made, sure))


def _leaf(**fields):
  """Contents in which a leaf is said to be otherwise."""
  return lambda said: {
    **said,
    'leaves': [x._replace(**fields) for x in said['leaves']],
  }


def test_a_file_that_does_not_fit_itself_is_refused(tmp_path):
  path = tmp_path / 'net'
  _forged(path)
  assert powerprop.load_sparse(path).masks['half/w'].shape == (7, 9)
  values = 'params/half/w.values'
  few = np.zeros(3, np.float32)
  for fields, sentence in (
    ({'about': {'version': '2'}}, 'is of version 2 .* reads version 1'),
    ({'about': {'sha256': '0' * 64}}, 'its checksum does not match'),
    ({'about': {'format': 'another'}}, 'none of powerprop.save_sparse'),
    ({values: few}, 'not the shapes .* at half/w'),
    ({'drop': (values,)}, 'not the shapes .* at half/w'),
    ({'contents': _leaf(shape=(9, 9))}, 'not the shapes .* at half/w'),
    ({'contents': _leaf(kind='dense')}, 'not the shapes .* at half/w'),
    ({'contents': _leaf(kind='2:4')}, 'not the shapes .* at half/w'),
    ({'contents': _leaf(kind='gaps')}, 'not the shapes .* at half/w'),
    ({'contents': lambda said: []}, 'does not say what is in it'),
    ({'contents': _leaf(keys=5)}, 'does not say what is in it'),
  ):
    _forged(path, **fields)
    with pytest.raises(ValueError, match=sentence) as error:
      powerprop.load_sparse(path)
    assert str(error.value).startswith(str(path)), fields
  safetensors_numpy.save_file({'w': few}, path)
  with pytest.raises(ValueError, match='none of powerprop.save_sparse'):
    powerprop.load_sparse(path)
  with pytest.raises(FileNotFoundError, match='no file .*none.$'):
    powerprop.load_sparse(tmp_path / 'none')


def test_without_safetensors_there_is_a_sentence(whole, monkeypatch):
  monkeypatch.setitem(sys.modules, 'safetensors', None)
  with pytest.raises(ImportError, match=r"pip install 'powerprop\[export\]'"):
    powerprop.load_sparse(whole[0])
  with pytest.raises(ImportError, match=r"pip install 'powerprop\[export\]'"):
    powerprop.save_sparse(whole[0], {}, {})
