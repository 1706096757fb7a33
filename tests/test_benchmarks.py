"""The benchmarks' tables on tiny sizes; no time is asserted."""

import importlib.util
import json
import math
import sys

import haiku as hk
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import continual
from benchmarks import generative
from benchmarks import narrow
from benchmarks import pipeline
from benchmarks import run
from benchmarks import selection
from benchmarks import slopes
from benchmarks import sparse
from benchmarks import sparse_kernels
from benchmarks import timing
from benchmarks import training
from tests import lifetime_tiny


def _quiet(unused_what):
  pass


class _Net(hk.Module):
  def __call__(self, x, is_training):
    x = hk.Conv2D(2, 3)(x)
    x = hk.BatchNorm(True, True, 0.9)(x, is_training)
    return hk.Linear(10)(x.reshape(x.shape[0], -1))


_SMALLEST = continual.Size((), 110, 2, 20)
_DRAWN = generative.Size(4, 2, 220, 2, 5)
_NARROW = {
  'tiny': narrow.NETS['small_conv with norms']._replace(
    sizes=(4, 5), shares=(0.5, 0.4), shape=(6, 6, 1)
  )
}
_CONV = sparse.Net(
  'a conv',
  hk.transform_with_state(lambda x, is_training: _Net()(x, is_training)),
  (4, 4, 1),
)


@pytest.fixture(autouse=True, scope='module')
def _batches():
  with lifetime_tiny.batches_in_turn():
    yield


_TINY = {
  'step': lambda: training.step(
    _quiet, 120, 3, 2, alphas=(1.0, None), parts_of=(1.5,)
  ),
  'resnet50': lambda: training.resnet50(_quiet, 2, 4, 2, net=_Net),
  'population': lambda: training.population(
    _quiet, (2.0,), seeds=2, num_train=120, steps=2, rounds=2
  ),
  'top_k': lambda: selection.top_k(_quiet, 1000, ((4, 7), (33,)), 2, 2),
  'method_step': lambda: sparse.method_step(
    _quiet, 120, 3, 2, ('top_kast',), _CONV
  ),
  'method_step_resnet50': lambda: sparse.resnet50(
    _quiet, (_CONV._replace(batch=20, alphas=(1.5,)), 120, 1, 2)
  ),
  'mask_update': lambda: sparse.mask_update(
    _quiet, _CONV.net, _CONV.shape, 2, 2
  ),
  'continual_step': lambda: continual.method_step(
    _quiet, _SMALLEST, 2, ('si',)
  ),
  'continual_seeds': lambda: continual.seeds(_quiet, _SMALLEST, 2, 3),
  'generative_step': lambda: generative.method_step(
    _quiet, _DRAWN, 2, ('efficient_packnet',)
  ),
  'pipeline': lambda: pipeline.pipeline(
    _quiet, 50.0, 32, 2, 40, 30, 8, workers=1
  ),
  'narrow': lambda: narrow.latency(_quiet, _NARROW, (1, 3), 2),
  'sparse_kernels': lambda: sparse_kernels.latency(
    _quiet, {'tiny': (2, ((6, 5), (5, 4)))}, (0.5,), (1, 3), 2
  ),
}
_ROWS = {
  'step': 3 + 2 + 2,
  'resnet50': 3,
  'population': 3,
  'top_k': 5,
  'method_step': 3,
  'method_step_resnet50': 7,
  'mask_update': 8,
  'continual_step': 2,
  'continual_seeds': 3,
  'generative_step': 2,
  'pipeline': 5,
  'narrow': 4,
  'sparse_kernels': 8,
}


@pytest.mark.parametrize('name', _TINY)
def test_a_table_is_well_formed(name):
  table = _TINY[name]()
  assert len(table.rows) == _ROWS[name]
  _check(table)


def _check(table):
  assert len({tuple(row) for row in table.rows}) == 1
  for row in table.rows:
    ratio = row['times ours'] if 'times ours' in row else row['ratio']
    assert 0 < row['low'] <= ratio <= row['high'] < math.inf
    assert (row['met'] == '') == (row['target'] == '')
  lines = run.markdown(table).splitlines()
  assert lines[0] == f'## {table.title}'
  assert sum(x.startswith('|') for x in lines) == len(table.rows) + 2


def test_the_narrow_net_is_the_severed_one():
  severed, thin = narrow._programs(_NARROW['tiny']).values()
  image = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 6, 6, 1)))
  np.testing.assert_allclose(severed(image), thin(image), rtol=1e-4, atol=1e-5)
  assert thin.args[0]['conv_0']['w'].shape == (3, 3, 1, 2)


def test_sparse_kernels_compute_the_same():
  weights = sparse_kernels._weights(((7, 6), (6, 5)), 0.5)
  assert [np.count_nonzero(w) for w in weights] == [21, 15]
  x = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
  wanted = np.maximum(x @ weights[0], 0) @ weights[1]
  found = sparse_kernels.programs(weights, x)
  assert len(found) == 4
  for program in found.values():
    for _ in range(2):  # the second time of the same input
      np.testing.assert_allclose(program(), wanted, rtol=1e-4, atol=1e-5)


def test_a_task_adds_a_bit_for_every_weight():
  table = continual.growth(_quiet, _SMALLEST, 2, (2, 4))
  _check(table)
  size = 1024 * 10 // 8
  assert [row['task'] for row in table.rows] == [2, 4]
  for row in table.rows:
    assert row['bytes a record'] == row['n/8'] == size
    assert row['grows by n/8'] == 'yes'
    assert row['MB of records'] == row['task'] * size / 1e6
  # φ and Adam's two moments in float32, two masks in bytes, and the counters.
  weights, biases = 8 * size, 10
  least = 12 * (weights + biases) + 2 * weights
  assert least < 1e6 * table.rows[0]['MB of state'] < least + 100


def test_searches_differ_in_their_evaluations():
  table = continual.search(_quiet, _SMALLEST, 2, ('linear', 'binary'))
  _check(table)
  tried = {row['what']: row['evaluations'] for row in table.rows}
  assert tried['an epoch of training'] == ''
  # 74 rates and none of them: log2(75) halvings.
  assert tried['binary'] == 7
  assert 1 <= tried['linear'] <= 74


def test_the_parts_of_a_task_are_all_of_it():
  table = continual.parts(_quiet, continual.Size((8,), 256, 2, 128), 2)
  assert sum(row['share'] for row in table.rows) == pytest.approx(1)
  assert len(table.rows) == 5 and all(row['seconds'] > 0 for row in table.rows)


def test_masks_take_a_byte_and_a_bit():
  table = sparse.memory(_quiet, ('static', 'top_kast'))
  assert [row['masks'] for row in table.rows] == [1, 2]
  for row in table.rows:
    assert row['bytes per weight'] == 1 and row['met'] == 'yes'
    bits = row['bits per weight in a checkpoint']
    assert row['masks'] <= bits < row['masks'] + 0.01


def test_end_to_end_reads_a_record(tmp_path):
  path = tmp_path / 'some_run' / 'results.json'
  empty = run.end_to_end(_quiet, path)
  assert not empty.rows and 'run the experiment' in run.markdown(empty)
  path.parent.mkdir()
  environment = {
    'device': '1 x cpu',
    'cores': 2,
    'wall_seconds': 1860,
    'train_seconds': 1800,
    'steps_per_second': 694.4,
  }
  path.write_text(json.dumps({'environment': environment}))
  (row,) = run.end_to_end(_quiet, path).rows
  assert row['run'] == 'some_run' and row['minutes'] == 31
  assert row['met'] == 'no'


def test_ratios_are_paired_and_every_program_is_told():
  said = []
  calls = {'a': 0, 'b': 0}

  def call(name):
    calls[name] += 1

  times = timing.compare(
    {name: lambda name=name: call(name) for name in calls}, 'a', 3, said.append
  )
  assert list(times) == ['a', 'b'] and calls == {'a': 4, 'b': 4}
  assert times['a'][1:] == (1, 1, 1)
  assert any('round 3/3: b' in what for what in said)


def test_without_pytorch_it_says_so(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  table = generative.beside_torch(_quiet, _DRAWN, 2)
  assert not table.rows and 'PyTorch is not installed' in run.markdown(table)


def test_only_what_was_asked_for_is_run_and_written(
  tmp_path, monkeypatch, capsys
):
  argv = ['run', '--only=end_to_end', f'--out={tmp_path / "new"}']
  monkeypatch.setattr(sys, 'argv', argv)
  run.main()
  results = json.loads((tmp_path / 'new' / 'results.json').read_text())
  assert list(results['benchmarks']) == ['end_to_end']
  assert results['environment']['versions']['jax']
  assert capsys.readouterr().out.startswith('## End to end')


def test_the_tried_slopes_by_hand():
  """What configs/large_alpha.py compares; α = 2, slopes 0.2, 1 and 6."""
  phi = {'layer': {'w': jnp.array([[0.1, 0.5, -3.0]])}}
  asked = {'layer': {'w': jnp.array([[2.0, 2.0, 1.0]])}}  # of norm 3
  for make, wanted in (
    (slopes.clipped, [0.4 / 3, 2 / 3, 2.0]),
    (slopes.bounded_slope, [0.4, 2.0, 1.0]),
    (slopes.normalised_slope, [1 / 6, 5 / 6, 2.5]),
  ):
    tx = make(optax.identity(), 2.0)
    updates, _ = tx.update(asked, tx.init(phi), phi)
    np.testing.assert_allclose(updates['layer']['w'][0], wanted, rtol=1e-5)
