"""Nets of runs as files: what is measured is what was recorded."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import networks
from experiments.export import __main__ as export
from experiments.export import narrowing
from experiments.export import onnx
from experiments.report import weights
import powerprop
from powerprop import sparse_file
from powerprop.sparse_file import Sparse
from tests import sparse_tiny
from tests import tiny


@pytest.fixture(scope='module')
def pruned(tmp_path_factory):
  """A finished one-shot run, of a net with a state."""
  folder = tmp_path_factory.mktemp('one_shot')
  results = tiny.run(
    folder,
    network='small_conv',
    network_kwargs={'channels': (), 'hidden': (8,)},
    alphas=(2.0,),
    seeds=1,
    densities=(0.3, 0.02),
  )
  return folder, results


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A finished sparse training."""
  folder = tmp_path_factory.mktemp('sparse')
  results = sparse_tiny.run(
    folder,
    methods=('dense', 'static'),
    method_kwargs={},
    densities=(0.3,),
    alphas=(2.0,),
    seeds=1,
  )
  return folder, results


def _export(*flags):
  return export.main([str(flag) for flag in flags])


def test_a_run_lists_and_exports_its_nets(pruned, tmp_path, capsys):
  folder, results = pruned
  assert _export(f'--workdir={folder}') == 0
  names = capsys.readouterr()[0].splitlines()
  assert names == weights.names(folder) and len(names) == 2
  out = tmp_path / 'new' / 'net.safetensors'
  flags = f'--workdir={folder}', f'--net={names[1]}', f'--out={out}'
  assert _export(*flags, f'--check={out}') == 0
  printed = capsys.readouterr()[0]
  rows = [x.replace('|', ' ').split() for x in printed.splitlines()]
  # Of 64·8 weights 2%, of 8·10 twice as much.
  assert ['hidden_0/w', '64×8', '10', '1.95%', 'gaps'] in [x[:5] for x in rows]
  assert ['output/w', '8×10', '3', '3.75%', 'gaps'] in [x[:5] for x in rows]
  accuracy = results['rows'][1]['test_accuracy']
  assert f'test accuracy {accuracy!r}, ' in printed
  assert printed.endswith('the same accuracy.\n')

  found, kept = weights.of_run(folder, names[1]), powerprop.load_sparse(out)
  for field in ('params', 'state', 'masks'):
    one, other = getattr(found, field), getattr(kept, field)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
      assert np.asarray(x).tobytes() == y.tobytes() and x.dtype == y.dtype
  assert kept.state['hidden_0_norm/~/mean_ema']
  told = {
    'net': names[1],
    'task': None,
    'method': 'one_shot',
    'alpha': 2.0,
    'network': 'small_conv',
    'num_classes': 10,
    'image_shape': [8, 8, 1],
    'dataset': 'digits',
  }
  assert told.items() <= kept.meta.items()
  # The table has the bytes that there are.
  size = out.stat().st_size
  (line,) = [x for x in printed.splitlines() if 'this file' in x]
  assert f'{size:,}' in line
  leaves = sparse_file.leaves(out)
  assert sum(leaf.size for leaf in leaves) < size

  assert _export(*flags[:2], f'--out={tmp_path / "net.npz"}') == 0
  plain = weights.load(tmp_path / 'net.npz')
  jax.tree.map(np.testing.assert_array_equal, plain.phi, found.phi)


def test_another_process_measures_the_same(pruned, trained, tmp_path):
  """What a file has is all that it takes, beside config and results."""
  commands, wanted = [], []
  for i, (folder, results) in enumerate((pruned, trained)):
    name = weights.names(folder)[-1]
    out = tmp_path / f'{i}.safetensors'
    assert _export(f'--workdir={folder}', f'--net={name}', f'--out={out}') == 0
    (tmp_path / str(i)).mkdir()
    for file in ('config.json', 'results.json', 'records.npz'):
      shutil.copy(folder / file, tmp_path / str(i))
    commands.append([f'--workdir={tmp_path / str(i)}', f'--check={out}'])
    wanted.append(repr(results['rows'][-1]['test_accuracy']))
  program = (
    'import json, sys\n'
    'from experiments.export.__main__ import main\n'
    'sys.exit(sum(map(main, json.loads(sys.argv[1]))))'
  )
  done = subprocess.run(
    [sys.executable, '-c', program, json.dumps(commands)],
    cwd=tiny.ROOT,
    env=os.environ | {'PYTHONPATH': str(tiny.ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) == 2
  for line, accuracy in zip(lines, wanted, strict=True):
    assert f'test accuracy {accuracy}, ' in line
    assert line.endswith(': the same accuracy.')


def test_another_accuracy_is_told(trained, tmp_path, capsys):
  folder, _ = trained
  name = weights.names(folder)[-1]
  out = tmp_path / 'net'
  assert _export(f'--workdir={folder}', f'--net={name}', f'--out={out}') == 0
  found = powerprop.load_sparse(out)
  none = jax.tree.map(np.zeros_like, found.params)
  powerprop.save_sparse(out, none, found.masks, meta=found.meta)
  assert _export(f'--workdir={folder}', f'--check={out}') == 1
  assert 'NOT the same accuracy' in capsys.readouterr()[0]


def test_what_is_wrong_is_a_sentence(pruned, trained, tmp_path, capsys):
  folder, _ = pruned
  out = tmp_path / 'net'
  bare = tmp_path / 'bare'
  powerprop.save_sparse(bare, {'a': {'w': np.ones(3)}}, {})
  name = weights.names(trained[0])[-1]
  other = tmp_path / 'other'
  assert (
    _export(f'--workdir={trained[0]}', f'--net={name}', f'--out={other}') == 0
  )
  run = f'--workdir={folder}'
  capsys.readouterr()
  for flags, sentence in (
    ((run, f'--out={out}'), 'has 2 nets: say which by --net'),
    ((run, '--net=nobody', f'--out={out}'), "has no net 'nobody'"),
    ((f'--workdir={tmp_path}',), 'no results.json in'),
    ((run, f'--check={out}'), f'There is no file {out}.'),
    ((run, f'--check={bare}'), 'does not say of which net of a run'),
    ((run, f'--check={other}'), f'has no net {name!r}'),
    ((f'--check={bare}', f'--onnx={out}'), "does not say its 'network'"),
  ):
    assert _export(*flags) == 1
    printed = capsys.readouterr()
    assert sentence in printed[1] and len(printed[1].splitlines()) == 1
    assert not printed[0] and not out.exists()
  for flags in ((), (f'--out={out}',), (run, f'--onnx={out}')):
    with pytest.raises(SystemExit):
      _export(*flags)


def _made(network, kwargs, shape, seed=0):
  """A net of random weights, with averages of some pictures."""
  net = networks.NETWORKS[network](10, **kwargs)
  image = jnp.asarray(
    np.random.default_rng(seed).uniform(size=(16, *shape)), jnp.float32
  )

  @jax.jit
  def start(key, image):
    params, state = net.init(key, image, is_training=True)
    return params, net.apply(params, state, key, image, is_training=True)[1]

  params, state = start(jax.random.key(seed), image)
  host = lambda tree: jax.tree.map(np.array, tree)
  meta = {
    'network': network,
    'network_kwargs': {
      k: list(v) if isinstance(v, tuple) else v for k, v in kwargs.items()
    },
    'num_classes': 10,
    'image_shape': list(shape),
    'compute_dtype': 'float32',
  }
  return Sparse(host(params), host(state), {}, meta)


def test_units_that_do_nothing_are_taken_out(tmp_path):
  net = _made('small_conv', {'channels': (6, 5), 'hidden': (7,)}, (8, 8, 1))
  layer = net.params
  # Without weights: of conv_0 one answers 0 and one, by its offset, does not.
  for unit, offset in ((1, -0.5), (2, 0.5)):
    layer['conv_0']['w'][..., unit] = 0
    layer['conv_0_norm']['offset'][..., unit] = offset
    layer['conv_0_norm']['scale'][..., unit] = 0
  # Read by nobody: of hidden_0; then all that is read by it alone.
  layer['output']['w'][3] = 0
  others = np.arange(7) != 3
  layer['hidden_0']['w'].reshape(4, 5, 7)[:, 4, others] = 0
  mask = np.ones((20, 7), bool)
  mask[0, 0] = False
  net.masks['hidden_0/w'] = mask
  net.masks['output/w'] = np.ones((7, 10), bool)
  layer['hidden_0']['w'][0, 0] = 0
  thin = narrowing.narrow(net)
  assert thin.meta['network_kwargs'] == {
    'channels': [5, 4],
    'hidden': [6],
  }
  assert thin.params['conv_1']['w'].shape == (3, 3, 5, 4)
  assert thin.params['hidden_0']['w'].shape == (4 * 4, 6)
  assert thin.state['conv_0_norm/~/mean_ema']['average'].shape[-1] == 5
  # A mask of ones is none; another one is cut as its layer is.
  assert list(thin.masks) == ['hidden_0/w']
  assert thin.masks['hidden_0/w'].shape == (16, 6)
  assert np.sum(~thin.masks['hidden_0/w']) == 1
  out = tmp_path / 'net'
  powerprop.save_sparse(
    out, thin.params, thin.masks, state=thin.state, meta=thin.meta
  )
  image = np.random.default_rng(3).uniform(size=(5, 8, 8, 1))
  logits = [
    networks.small_conv(10, **x.meta['network_kwargs']).apply(
      x.params,
      x.state,
      None,
      jnp.asarray(image, jnp.float32),
      is_training=False,
    )[0]
    for x in (net, powerprop.load_sparse(out))
  ]
  np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)


def test_a_layer_keeps_a_unit_and_other_nets_are_refused():
  net = _made('mlp', {'hidden': (4, 3)}, (2, 2, 1))
  net.params['output']['w'][:] = 0
  assert narrowing.narrow(net).meta['network_kwargs'] == {'hidden': [1, 1]}
  for name, layer in (
    ('mnist_conv', 'conv_0'),
    ('mlp', 'conv_0'),
    ('mlp', 'a'),
  ):
    with pytest.raises(ValueError, match=f"'{name}' takes no widths"):
      narrowing._widths(name, {'hidden_0': 3, layer: 3})


def test_onnx_without_its_packages_is_a_sentence(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'jax2onnx', None)
  net = _made('mlp', {'hidden': (4,)}, (2, 2, 1))
  with pytest.raises(ImportError, match=r"pip install 'powerprop\[onnx\]'"):
    onnx.save(tmp_path / 'net.onnx', net)
  assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings('default')  # of other packages
@pytest.mark.parametrize(
  ('network', 'kwargs'),
  [
    ('mlp', {'hidden': (4,)}),
    ('small_conv', {'channels': (3,), 'hidden': (4,)}),
    ('block_conv', {'channels': (3, 3), 'hidden': (4,)}),
  ],
)
def test_a_net_as_onnx_answers_the_same(tmp_path, network, kwargs):
  pytest.importorskip('jax2onnx')
  runtime = pytest.importorskip('onnxruntime')
  net = _made(network, kwargs, (8, 8, 1))
  path = tmp_path / 'net.onnx'
  if network == 'block_conv':
    with pytest.raises(ValueError, match='cannot be written as ONNX'):
      onnx.save(path, net)
    assert not path.exists()
    return
  assert onnx.save(path, net) <= 1e-5
  session = runtime.InferenceSession(
    path.read_bytes(), providers=['CPUExecutionProvider']
  )
  image = np.random.default_rng(0).uniform(size=(5, 8, 8, 1))
  image = image.astype(np.float32)
  (given,) = session.run(None, {session.get_inputs()[0].name: image})
  wanted, _ = networks.NETWORKS[network](10, **kwargs).apply(
    net.params, net.state, None, image, is_training=False
  )
  np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5)
