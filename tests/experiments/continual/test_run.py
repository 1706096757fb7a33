"""Continual learning: what a run records, resuming, damage, bad endings."""

import json
import os
import pathlib
import re
import shutil
import signal
import types
from unittest import mock

import jax
import numpy as np
import pytest

from experiments import data
from experiments.continual import asking
from experiments.continual import cells as continual_cells
from experiments.continual import inference
from experiments.continual import learner
from experiments.continual import run as continual_training
from experiments.continual import settings as continual_settings
from experiments.engine import host
from experiments.engine import runs
from experiments.engine.settings import ConfigError
from experiments.export import checking
from experiments.export import narrowing
from experiments.export import nets
from experiments.report import files
from experiments.report import weights
import powerprop
from powerprop import reparam
from powerprop.types import Score
from tests import continual_run_tiny
from tests import forks
from tests import tiny

_PACK = 'efficient_packnet'
# Two α in a program; a coefficient to be chosen: 1e30 diverges whatever the
# learning rate, but in the first task, which has no penalty.
_WHOLE = {
  'methods': ('naive', _PACK, 'l2'),
  'method_kwargs': {
    _PACK: continual_run_tiny.PACKING,
    'l2': {'coefficient': (1e30, 0.0)},
  },
  'method_training': {'l2': {'alphas': (1.0,)}},
  'search_tasks': 2,
}
_NAIVE = {'methods': 'naive'}
_MASKS = {'methods': _PACK}
_FIELDS = {
  *('method', 'transform', 'alpha', 'coefficient', 'learning_rate', 'seed'),
  *('task', 'search', 'accuracy_when_learned', 'accuracy_before_pruning'),
  *('validation_accuracy', 'validation_before_pruning', 'accuracy_before'),
  *('accuracy_at_start', 'final_accuracy', 'final_validation_accuracy'),
  *('used_weights', 'new_weights', 'reused_weights', 'rate', 'reached'),
  *('target', 'pruned_accuracy'),
  *('failed', 'attempts', 'seconds', 'unchanged'),
}
_TOTAL = 64 * 8 + 8 * 10


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run that nothing disturbed, and its results."""
  folder = tmp_path_factory.mktemp('whole')
  return folder, continual_run_tiny.run(folder, **_WHOLE)


def _rows(results, **fields):
  """Rows with these values; those of the search only where it is asked for."""
  fields = {'search': False} | fields
  return [
    r for r in results['rows'] if all(r[k] == v for k, v in fields.items())
  ]


def _untimed(rows):
  return [{k: v for k, v in r.items() if k != 'seconds'} for r in rows]


def _records(folder):
  with np.load(folder / 'records.npz') as file:
    return {name: file[name] for name in file.files}


def _digest(cell):
  """The checksum of a cell's last checkpoint: every bit of its state."""
  steps = list((cell / 'checkpoints').iterdir())
  if not steps:  # of a search that is over
    return None
  last = max(steps, key=lambda p: int(p.name))
  return json.loads((last / 'extra' / 'metadata').read_text())['sha256']


def _assert_same_run(folder, whole):
  """Bit for bit, but for the time that it took."""
  read = lambda f: json.loads((f / 'results.json').read_bytes())
  got, wanted = read(folder), read(whole[0])
  assert _untimed(got.pop('rows')) == _untimed(wanted.pop('rows'))
  for results in (got, wanted):
    del results['environment']
  assert got == wanted
  logs = [_untimed(files.read_metrics(f)) for f in (folder, whole[0])]
  assert logs[0] == logs[1]
  records = [_records(f) for f in (folder, whole[0])]
  assert records[0].keys() == records[1].keys()
  for name, x in records[0].items():
    np.testing.assert_array_equal(x, records[1][name], err_msg=name)
  lived = [p.parent for p in (whole[0] / 'cells').rglob('lived.json')]
  assert len(lived) == 4  # three methods and a search
  for cell in lived:
    mine = folder / cell.relative_to(whole[0])
    assert _digest(mine) == _digest(cell)
    names = sorted(p.name for p in (cell / 'tasks').glob('*'))
    assert names == sorted(p.name for p in (mine / 'tasks').glob('*'))
    for name in names:
      assert (mine / 'tasks' / name).read_bytes() == (
        cell / 'tasks' / name
      ).read_bytes()


# What a run records.


def test_rows(whole):
  folder, results = whole
  saved = json.loads((folder / 'results.json').read_bytes())
  assert saved == json.loads(files.to_json(results))
  names = ('search', 'method', 'alpha', 'coefficient', 'task')
  got = [tuple(row[n] for n in names) for row in saved['rows']]
  wanted = {
    (False, method, alpha, 0.0, task)
    for method in ('naive', _PACK)
    for alpha in (1.0, 2.0)
    for task in range(3)
  } | {
    (search, 'l2', 1.0, c, task)
    for search, tasks in ((False, 3), (True, 2))
    for c in (1e30, 0.0)
    for task in range(tasks)
  }
  assert len(got) == len(wanted) and set(got) == wanted
  shares = [n for n in _FIELDS if 'accuracy' in n or n.startswith('valid')]
  shares.remove('pruned_accuracy')
  for row in results['rows']:
    assert row.keys() >= _FIELDS
    assert (row['transform'], row['seed']) == ('powerprop', 0)
    assert row['learning_rate'] == 0.1 and row['seconds'] > 0
    known = [row[n] for n in shares if row[n] is not None]
    assert all(0 <= x <= 1 for x in known)
    assert len(known) == (3 if row['search'] else len(shares))
    masks = row['method'] == _PACK
    for name in ('used_weights', 'new_weights', 'reused_weights', 'rate'):
      assert (row[name] is not None) == masks
    for name in ('target', 'pruned_accuracy', 'reached'):
      assert (row[name] is not None) == masks
    if masks:
      assert row['reached'] == (row['pruned_accuracy'] >= row['target'])
  assert results['layers'] == ('hidden_0/w', 'output/w')
  assert results['layer_sizes'] == (512, 80) and results['stopped'] == []
  assert results['environment']['executor'] == 'vmap'
  assert results['num_tasks'] == 3 and results['sequence'] == 'permuted'


def test_accuracies_in_rows_are_those_of_the_matrix(whole):
  folder, results = whole
  records = _records(folder)
  members = {name.rsplit('/', 1)[0] for name in records}
  assert len(members) == 6 and not any('search' in m for m in members)
  for row in _rows(results):
    name = (
      f'{row["method"]}/powerprop/alpha_{row["alpha"]:g}'
      f'/coefficient_{row["coefficient"]:g}/lr_0.1/seed_0'
    )
    matrix, t = records[f'{name}/accuracy'], row['task']
    assert matrix.shape == (3, 3) and matrix.dtype == np.float32
    assert matrix[t, t] == np.float32(row['accuracy_when_learned'])
    assert matrix[-1, t] == np.float32(row['final_accuracy'])
    assert np.isfinite(matrix[t, : t + 1]).all()
    assert np.isnan(matrix[t, t + 1 :]).all()


def test_who_forgets_and_who_does_not(whole):
  _, results = whole
  for row in _rows(results):
    # What is learned last has no time to change; what failed changes nothing.
    kept = row['method'] == _PACK or row['coefficient'] or row['task'] == 2
    assert row['unchanged'] == bool(kept)
    if kept:
      assert row['final_accuracy'] == row['accuracy_when_learned']
  old = _rows(results, method='naive', task=0)
  assert any(r['final_accuracy'] != r['accuracy_when_learned'] for r in old)


def test_masks_fill_up(whole):
  folder, results = whole
  records = _records(folder)
  sizes = np.array([512, 80])
  for alpha in (1.0, 2.0):
    rows = _rows(results, method=_PACK, alpha=alpha)
    name = f'{_PACK}/powerprop/alpha_{alpha:g}/coefficient_0/lr_0.1/seed_0'
    used, new, reused, overlap = (
      records[f'{name}/{x}']
      for x in ('used_by_layer', 'new_by_layer', 'reused_by_layer', 'overlap')
    )
    assert used.shape == new.shape == reused.shape == (3, 2)
    np.testing.assert_allclose(used * sizes, np.cumsum(new, 0), rtol=1e-6)
    taken = 0
    for t, row in enumerate(rows):
      kept = row['new_weights'] + row['reused_weights']
      assert kept == int(row['rate'] * _TOTAL + 1e-4)  # float32 rates
      taken += row['new_weights']
      assert row['used_weights'] == pytest.approx(taken / _TOTAL)
      assert (new[t].sum(), reused[t].sum()) == (
        row['new_weights'],
        row['reused_weights'],
      )
    assert rows[0]['reused_weights'] == 0 and taken < _TOTAL
    file = folder / 'cells' / _PACK / 'powerprop' / 'tasks'
    which = int(alpha == 2)  # the member axis
    bits = []
    for path in sorted(file.iterdir()):
      with np.load(path) as saved:
        bits.append(np.unpackbits(saved['0000'][which], count=_TOTAL))
    for i, a in enumerate(bits):
      assert a.sum() == rows[i]['new_weights'] + rows[i]['reused_weights']
      for j, b in enumerate(bits):
        jaccard = (a & b).sum() / (a | b).sum()
        assert overlap[i, j] == pytest.approx(jaccard)


def _restored(folder, method):
  """A finished cell as it was at its end: state, tables, masks of its tasks."""
  s = continual_settings.check(continual_run_tiny.config(**_WHOLE))
  sequence = continual_settings.make_sequence(s, data.load('digits'))
  plans = {method: continual_cells.make_plan(s, method, sequence)}
  keys = continual_cells.keys(s._replace(methods=(method,)), plans)
  members = continual_cells.make_members(
    s, plans, dict.fromkeys(keys, (0.0,)), False
  )
  (cell,) = continual_cells.make_cells(plans, members, 'vmap', 3)
  splits = {
    name: jax.tree.map(jax.numpy.asarray, getattr(sequence.dataset, name))
    for name in data.SPLITS
  }
  lessons = learner.Lessons(sequence, splits, folder)
  found = learner.Learner(cell, lessons, host.World([], host.Clock()))
  found.life.close()
  return found


@pytest.mark.parametrize('method', ['naive', _PACK])
def test_final_accuracies_by_hand(whole, tmp_path, method):
  """From the last checkpoint and the masks, in NumPy."""
  shutil.copytree(whole[0] / 'cells' / method, tmp_path / method)
  found = _restored(tmp_path, method)
  dataset = data.load('digits')
  orders = np.asarray(found.tables)
  for m, alpha in enumerate((1.0, 2.0)):
    layers = jax.tree.map(lambda x, m=m: np.asarray(x[m]), found.life.state.phi)
    w = {
      name: np.sign(x['w']) * np.abs(x['w']) ** alpha
      for name, x in layers.items()
    }
    for row in _rows(whole[1], method=method, alpha=alpha):
      t = row['task']
      masks = {name: np.ones(x.shape) for name, x in w.items()}
      if method == _PACK:
        bits = np.asarray(found.records[t][0].bits[m])
        flat = np.unpackbits(bits, count=_TOTAL)
        masks = {
          'hidden_0': flat[:512].reshape(64, 8),
          'output': flat[512:].reshape(8, 10),
        }
      for split, name in (
        ('test', 'final_accuracy'),
        ('validation', 'final_validation_accuracy'),
      ):
        image, label = getattr(dataset, split)
        assert sorted(orders[m, t]) == list(range(64))
        x = image.reshape(len(label), 64)[:, orders[m, t]] * dataset.scale
        x = np.maximum(
          x @ (w['hidden_0'] * masks['hidden_0']) + layers['hidden_0']['b'], 0
        )
        logits = x @ (w['output'] * masks['output']) + layers['output']['b']
        accuracy = np.mean(logits.argmax(1) == label)
        # A picture or two may fall on the other side.
        assert row[name] == pytest.approx(accuracy, abs=1.5 / 180)


def test_the_net_of_a_task(whole, tmp_path):
  folder, results = whole
  name = f'{_PACK}/powerprop/alpha_2/coefficient_0/lr_0.1/seed_0'
  assert name in weights.names(folder)
  assert not any('search' in n for n in weights.names(folder))
  phi = None
  for row in _rows(results, method=_PACK, alpha=2.0):
    found = weights.of_run(folder, name, row['task'])
    kept = sum(np.count_nonzero(x['w']) for x in found.params.values())
    assert kept == row['new_weights'] + row['reused_weights']
    assert kept == sum(m.sum() for m in found.masks.values())
    assert sorted(found.masks) == ['hidden_0/w', 'output/w']
    theta = reparam.to_theta(found.phi, found.alpha)
    for layer, x in found.params.items():
      mask = found.masks[f'{layer}/w']
      np.testing.assert_allclose(x['w'], theta[layer]['w'] * mask, rtol=1e-5)
    # One φ has the nets of all tasks.
    phi = found.phi if phi is None else phi
    jax.tree.map(np.testing.assert_array_equal, phi, found.phi)
    assert found.alpha == 2 and found.state == {}
  for task, why in ((3, 'has learned 3 tasks'), (-1, 'has learned 3 tasks')):
    with pytest.raises(runs.RunError, match=why):
      weights.of_run(folder, name, task)
  with pytest.raises(ValueError, match='several tasks: say which by --task'):
    weights.of_run(folder, name)
  with pytest.raises(ValueError, match="has no net 'nobody'"):
    weights.of_run(folder, 'nobody', 0)
  with pytest.raises(FileNotFoundError, match='no results.json'):
    weights.of_run(tmp_path, name, 0)
  last, meta = nets.exported(folder, name, 2)
  told = {'method': _PACK, 'alpha': 2.0, 'task': 2, 'network': 'mlp'}
  assert told.items() <= meta.items()
  outputs = last.params['output']['b'].shape
  assert outputs == (meta['num_classes'],) and nets.made(meta)
  sparse = powerprop.Sparse(last.params, {}, last.masks, meta)
  with pytest.raises(ValueError, match='of several tasks'):
    checking.check(sparse, folder)
  dense = weights.of_run(folder, name.replace(_PACK, 'naive'), 0)
  assert dense.masks == {}
  theta = reparam.to_theta(dense.phi, dense.alpha)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    dense.params,
    theta,
  )


def test_coefficients_are_chosen_on_validation_data_alone(whole):
  _, results = whole
  searched = _rows(results, search=True)
  for row in searched:
    for name in ('accuracy_when_learned', 'final_accuracy', 'accuracy_before'):
      assert row[name] is None
    assert row['accuracy_before_pruning'] is None
    assert row['accuracy_at_start'] is None
    assert row['validation_accuracy'] is not None
  score = {
    c: np.mean(
      [
        0 if r['failed'] else r['final_validation_accuracy']
        for r in searched
        if r['coefficient'] == c
      ]
    )
    for c in (1e30, 0.0)
  }
  assert score[0.0] > score[1e30]
  chosen = {c['method']: c['coefficients'] for c in results['chosen']}
  # The protocol's is run as well.
  assert chosen == {'naive': (0.0,), _PACK: (0.0,), 'l2': (1e30, 0.0)}
  assert results['defaults'] == {'naive': 0.0, _PACK: 0.0, 'l2': 1e30}
  (selected,) = (x for x in results['selected'] if x['method'] == 'l2')
  assert selected['coefficient'] == 0


def test_a_penalty_times_nothing_is_naive(whole):
  names = [n for n in _FIELDS if 'accuracy' in n]
  for row in _rows(whole[1], method='l2', coefficient=0.0):
    (twin,) = _rows(whole[1], method='naive', alpha=1.0, task=row['task'])
    for name in names:
      assert row[name] == pytest.approx(twin[name], abs=1.5 / 180)


def test_a_task_that_diverges_is_given_up_and_changes_nothing(whole):
  _, results = whole
  for search, tasks in ((True, 2), (False, 3)):
    rows = _rows(results, method='l2', coefficient=1e30, search=search)
    assert [r['failed'] for r in rows] == [False, True, True][:tasks]
    assert [r['attempts'] for r in rows] == [1, 3, 3][:tasks]
    assert rows[0]['learning_rate_used'] == pytest.approx(0.1)
    assert rows[1]['learning_rate_used'] == pytest.approx(0.1 * 0.3**2)
  assert all(r['unchanged'] for r in rows)
  # The net that is left is that of the first task.
  (first,) = _rows(results, method='naive', alpha=1.0, task=0)
  assert rows[0]['final_accuracy'] == pytest.approx(
    first['accuracy_when_learned'], abs=1.5 / 360
  )
  assert rows[1]['accuracy_when_learned'] == rows[1]['accuracy_before']
  assert not any(r['failed'] for r in results['rows'] if r['coefficient'] == 0)
  entry = {
    x['coefficient']: x for x in results['summary'] if x['method'] == 'l2'
  }
  assert entry[1e30]['failed_tasks_mean'] == 2
  assert entry[0.0]['failed_tasks_mean'] == 0


def test_the_log_has_a_line_for_a_member_and_task(whole):
  folder, results = whole
  log = files.read_metrics(folder)
  assert len(log) == len(results['rows'])
  steps = {(r['task'], r['step']) for r in log}
  assert steps == {(0, 6), (1, 12), (2, 18)}


def test_map_is_vmap(whole, tmp_path):
  """To rounding; a picture or two may fall on the other side."""
  results = continual_run_tiny.run(tmp_path, executor='map', alphas=(2.0,))
  assert results['environment']['executor'] == 'map'
  rows = _rows(results)
  assert len(rows) == 6
  for row in rows:
    (twin,) = _rows(whole[1], method=row['method'], alpha=2.0, task=row['task'])
    assert row.keys() == twin.keys()
    for name in (n for n in _FIELDS if 'accuracy' in n):
      assert row[name] == pytest.approx(twin[name], abs=1.5 / 180)
    for name in ('unchanged', 'rate', 'used_weights', 'new_weights', 'failed'):
      assert row[name] == twin[name]


def test_tasks_of_different_sizes(tmp_path, monkeypatch):
  """Each takes the steps of its own size, by one program for all."""
  cells, make = [], continual_cells.make_cells
  monkeypatch.setattr(
    continual_cells,
    'make_cells',
    lambda *args, **kwargs: cells.extend(made := make(*args, **kwargs)) or made,
  )
  results = continual_run_tiny.run(
    tmp_path,
    sequence='split',
    sequence_kwargs={'classes': [[0, 1, 2, 3], [4], [5, 9]]},
    scenario='domain',
    epochs=1.0,
    executor='map',
    methods='naive',
    alphas=(2.0,),
    forward_transfer=False,
  )
  steps = [r['step'] for r in files.read_metrics(tmp_path)]
  assert steps == [8, 10, 14]  # in chunks of three, 8 + 2 + 4
  assert results['efforts']['naive']['steps'] == 5
  rows = _rows(results)
  assert all(np.isfinite(r['loss']) and not r['failed'] for r in rows)
  # With one output that takes part there is nothing to mistake.
  assert rows[1]['final_accuracy'] == 1 and rows[1]['loss'] == 0
  (programs,) = {id(c.programs): c.programs for c in cells}.values()
  assert programs.chunk._cache_size() == 1


def test_less_evaluation_and_fewer_tasks(whole, tmp_path):
  results = continual_run_tiny.run(
    tmp_path,
    evaluate_every=5,
    forward_transfer=False,
    method_training={_PACK: {'num_tasks': 1}},
  )
  assert len(_rows(results, method=_PACK)) == 2  # α = 1 and 2
  unknown = ('accuracy_before', 'accuracy_at_start')
  for row in _rows(results):
    assert all(row[name] is None for name in unknown)
    (twin,) = _rows(
      whole[1], **{n: row[n] for n in ('method', 'alpha', 'task')}
    )
    for name in ('accuracy_when_learned', 'final_accuracy', 'loss', 'rate'):
      assert row[name] == twin[name]
  records = _records(tmp_path)
  naive = 'naive/powerprop/alpha_2/coefficient_0/lr_0.1/seed_0/accuracy'
  known = np.isfinite(records[naive])
  assert known.tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 1]]
  assert records[naive.replace('naive', _PACK)].shape == (1, 1)


# Bad endings.


def test_a_lower_learning_rate_helps(whole, tmp_path, caplog):
  """2 c η = 2e6 diverges, and 0.2 does not."""
  results = continual_run_tiny.run(
    tmp_path,
    methods='l2',
    method_kwargs={'l2': {'coefficient': 1e7}},
    alphas=(1.0,),
    seeds=2,
    retry_factor=1e-7,
  )
  for row in _rows(results):
    again = row['task'] > 0
    assert row['attempts'] == 1 + again and not row['failed']
    rate = 1e-8 if again else 0.1
    assert row['learning_rate_used'] == pytest.approx(rate)
    assert np.isfinite(row['loss'])
  told = [
    r.getMessage() for r in caplog.records if 'diverged in' in r.getMessage()
  ]
  assert len(told) == 4  # two seeds in two tasks
  assert all('it is tried again with a lower one' in text for text in told)
  assert 'l2/powerprop/alpha_1/coefficient_1e+07/lr_0.1/seed_1' in told[1]


def test_what_fails_a_task_is_told_apart():
  sequence = types.SimpleNamespace(
    cell=types.SimpleNamespace(stacked=True),
    _s=types.SimpleNamespace(failure_accuracy=0.2),
    log=types.SimpleNamespace(stuck=lambda: np.arange(5) == 4),
  )
  state = types.SimpleNamespace(finite=np.arange(5) != 1)
  score = Score(
    value=np.array([0.3, 0.9, 0.9, 0.2, 0.1]),
    loss=np.array([1.0, 1.0, np.nan, 1.0, 1.0]),
    fingerprint=None,
  )
  fine, infinite, no_logit, low, stuck = learner.Learner.failures(
    sequence, state, score
  )
  assert fine == stuck == ''
  assert infinite == no_logit == 'diverged'
  assert 'diverged' not in low
  assert 'accuracy 0.200, and failure_accuracy is 0.2' in low


def test_a_run_trains_no_longer_than_it_takes(whole):
  """Its cells, side by side, may take longer together."""
  spent = whole[1]['environment']
  assert 0 < spent['train_seconds'] <= spent['wall_seconds']


def test_a_first_task_that_diverges(whole, tmp_path, caplog):
  """And beside it, in the same program, a member that learns as ever."""
  results = continual_run_tiny.run(
    tmp_path, alphas=(2.0,), learning_rate=(0.1, 1e30), retries=1
  )
  rows = _rows(results, learning_rate=1e30)
  assert len(rows) == 2 * 3 and all(r['failed'] for r in rows)
  assert {r['attempts'] for r in rows} == {2}
  for row in _rows(results, method=_PACK, learning_rate=1e30):
    assert row['used_weights'] == 0 and row['new_weights'] == 0
    assert row['accuracy_when_learned'] < 0.2  # a net without weights
  assert 'in task 1 at learning rate 3e+29: it is given up' in caplog.text
  for row in _rows(results, learning_rate=0.1):
    (twin,) = _rows(whole[1], method=row['method'], alpha=2.0, task=row['task'])
    for name in (n for n in _FIELDS if 'accuracy' in n):
      assert row[name] == pytest.approx(twin[name], abs=1.5 / 180)
    for name in ('attempts', 'failed', 'new_weights', 'rate', 'unchanged'):
      assert row[name] == twin[name]
  assert results['stopped'] == []


def _packs(**kwargs):
  return {**_MASKS, 'method_kwargs': {_PACK: kwargs}}


_FILLS = _packs(rates=(0.6,), gamma=0.01, reuse=False)


def test_no_free_weights_are_left(whole, tmp_path, caplog):
  """60% and what is left: full after two of three tasks."""
  results = continual_run_tiny.run(tmp_path, **_FILLS)
  for alpha in (1.0, 2.0):
    rows = _rows(results, alpha=alpha)
    assert [r['used_weights'] for r in rows] == [355 / _TOTAL, 1.0]
    assert [r['full_layers'] for r in rows][1] == ['hidden_0/w', 'output/w']
    assert all(r['unchanged'] and not r['failed'] for r in rows)
    name = f'{_PACK}/powerprop/alpha_{alpha:g}/coefficient_0/lr_0.1/seed_0'
    sentence = f'{name}: no free weights are left after task 2 of 3'
    assert sentence in results['stopped']
    told = [r.getMessage() for r in caplog.records if name in r.getMessage()]
    assert len(told) >= 1 and 'after task 2' in told[-1]
    assert 'hidden_0/w' in ' '.join(told) and 'output/w' in ' '.join(told)
    assert told[-1].endswith('this sequence stops there.')
    assert _records(tmp_path)[f'{name}/accuracy'].shape == (2, 2)
  assert len(results['stopped']) == 2


def test_no_free_weights_but_heads(whole, tmp_path, caplog):
  results = continual_run_tiny.run(
    tmp_path, scenario='task', alphas=(2.0,), **_FILLS
  )
  rows = _rows(results)
  assert [r['used_weights'] for r in rows] == [307 / 512, 1.0, 1.0]
  assert rows[2]['new_weights'] == 0 and rows[2]['reused_weights'] == 512
  assert all(r['unchanged'] and not r['failed'] for r in rows)
  # Its head alone is trained, and learns.
  assert rows[2]['accuracy_before'] != rows[2]['accuracy_when_learned']
  assert results['stopped'] == []
  assert 'from here on heads alone are trained' in caplog.text


def test_a_target_out_of_reach(whole, tmp_path, caplog):
  """5 of 592 weights cannot do what all do, after some more training."""
  caplog.set_level('INFO')
  results = continual_run_tiny.run(
    tmp_path,
    epochs=2.0,
    method_training={_PACK: {'num_tasks': 1}},
    checkpoint_seconds=1e9,
    learning_rate=0.5,
    **_packs(rates=(0.01,), gamma=1.0),
  )
  for row in _rows(results):
    assert row['reached'] is False and not row['failed']
    assert row['target'] == row['validation_before_pruning']  # γ is 1
    assert row['pruned_accuracy'] == row['validation_accuracy']
    assert row['new_weights'] == 5 and row['rate'] == pytest.approx(0.01)
    assert row['validation_accuracy'] < row['validation_before_pruning']
  assert 'the mask of task 1 misses its target' in caplog.text
  assert {e['missed_targets_mean'] for e in results['summary']} == {1.0}


# Damage, a full disk.


def _unfinished(whole, folder, *cells):
  """The whole run as it was before these cells wrote what they had found."""
  shutil.copytree(whole[0], folder, dirs_exist_ok=True)
  for path in (folder, *(folder / 'cells' / c / 'powerprop' for c in cells)):
    for name in ('results.json', 'records.npz', 'lived.json', 'lived.npz'):
      (path / name).unlink(missing_ok=True)
  return folder / 'cells' / cells[0] / 'powerprop'


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 255
  path.write_bytes(bytes(content))


@pytest.mark.parametrize(
  'damage, parts',
  [
    (_flip, ['0001.npz is damaged']),
    (lambda path: path.write_bytes(b''), ['0001.npz is damaged']),
    (
      pathlib.Path.unlink,
      ['more tasks than there are files of masks', '(2): 0001.npz is missing'],
    ),
  ],
  ids=['a_byte', 'empty', 'missing'],
)
def test_masks_that_are_damaged(whole, tmp_path, damage, parts):
  cell = _unfinished(whole, tmp_path, _PACK)
  damage(cell / 'tasks' / '0001.npz')
  with pytest.raises(runs.RunError) as error:
    continual_run_tiny.run(tmp_path, **_WHOLE)
  text = str(error.value)
  assert all(part in text for part in parts), text
  assert f'put it back from a copy, or delete {cell}' in text
  assert text.endswith('.') and '\n' not in text and len(text) < 500
  if damage is not _flip:
    return
  # The remedy helps.
  shutil.rmtree(cell)
  continual_run_tiny.run(tmp_path, **_WHOLE)
  _assert_same_run(tmp_path, whole)


def test_damage_that_can_be_mended(whole, tmp_path, caplog):
  """The newest checkpoint of a cell, and what another one had found."""
  cell = _unfinished(whole, tmp_path, _PACK)
  steps = sorted((cell / 'checkpoints').iterdir(), key=lambda p: int(p.name))
  _flip(max(steps[-1].rglob('d/*'), key=lambda p: p.stat().st_size))
  (tmp_path / 'cells' / 'naive' / 'powerprop' / 'lived.json').write_text('{')
  continual_run_tiny.run(tmp_path, **_WHOLE)
  assert 'going back to the one before it' in caplog.text
  assert 'made again from the last checkpoint' in caplog.text
  _assert_same_run(tmp_path, whole)


def test_a_full_disk_loses_nothing(whole, tmp_path, monkeypatch):
  cell = _unfinished(whole, tmp_path, _PACK)
  shutil.rmtree(cell)
  real, left = os.fsync, 3  # then at the end of task 2, whose mask is there

  def fsync(fd):
    nonlocal left
    if 'files.json' in os.readlink(f'/proc/self/fd/{fd}'):
      left -= 1
      if left < 0:
        raise OSError(28, 'No space left on device')
    real(fd)

  with monkeypatch.context() as patch:
    patch.setattr(os, 'fsync', fsync)
    with pytest.raises(runs.RunError, match='is full; free some space'):
      continual_run_tiny.run(tmp_path, **_WHOLE)
  assert left < 0 and not (tmp_path / 'results.json').exists()
  continual_run_tiny.run(tmp_path, **_WHOLE)
  _assert_same_run(tmp_path, whole)


# The binary. A signal comes just before or after a file is written. Two cells
# live at a time, and one may be held up where it is until the process ends.

_BINARY = 'experiments.continual'
_WITHOUT_FIGURES = """
from experiments.continual import plots

plots.draw = lambda workdir: []  # takes a while
"""
_SIGNALS = """
import os, threading
from experiments.engine import population
from experiments.report import files

population.workers = lambda: 2
real, seen = files.write_atomically, [0] * len(places)
waiting = threading.Event()

def write(path, content):
  due = []
  for i, (part, count, when, signum) in enumerate(places):
    here = part in str(path)
    seen[i] += here
    if here and seen[i] == count:
      due.append((when, signum))
  act('before', due)
  real(path, content)
  act('after', due)

def act(now, due):
  for when, signum in due:
    if when == now and signum is None:
      waiting.set()
      threading.Event().wait()
    elif when == now:
      if any(signum is None for *_, signum in places):
        assert waiting.wait(300)
      os.kill(os.getpid(), signum)

files.write_atomically = write
"""


_KILL, _TERM = int(signal.SIGKILL), int(signal.SIGTERM)
_LAST_MASK = f'{_PACK}/powerprop/tasks/0001'
# For each start: part of a file's path, its how manieth, when, the signal; with
# no signal, that cell waits there for the other's.
_STOPS = [
  [['files.json', 2, 'before', _KILL]],  # a task's second checkpoint is torn
  [
    # One in the first task; the other's checkpoint has one task less.
    ['naive/powerprop/checkpoints', 1, 'after', None],
    [_LAST_MASK, 1, 'after', _KILL],
  ],
  [[f'{_PACK}/powerprop/checkpoints', 2, 'after', _TERM]],
  [['records.npz', 1, 'after', _TERM]],  # all is learned, nothing asks for it
]


@pytest.mark.slow
def test_stopped_again_and_again_it_ends_with_the_same_bits(whole, tmp_path):
  workdir = tmp_path / 'stopped'
  flags = continual_run_tiny.flags(workdir, **_WHOLE)

  def start(*flags, stops=()):
    before = f'places = {stops}{_SIGNALS}{_WITHOUT_FIGURES}'
    return forks.run(_BINARY, flags, before=before)

  first, *others = _STOPS
  done = [
    start(*flags, stops=first),
    start(*flags, '--config.epochs=0.7'),
    *(start(*flags, stops=stops) for stops in others),
    start(*flags),
  ]
  statuses = [status for status, _, _ in done]
  assert statuses == [-_KILL, 1, -_KILL, 143, 143, 0], done
  last_lines = [err.strip().splitlines()[-1:] for _, _, err in done]
  (refused,), (stopped,), (late,) = (last_lines[i] for i in (1, 3, 4))
  assert refused.startswith('Error: ') and refused.endswith('.')
  assert 'another config: epochs was 0.3 and is now 0.7' in refused
  assert (
    stopped
    == late
    == (
      f'Stopped by SIGTERM; everything is saved in {workdir}: start the same'
      ' command again to go on.'
    )
  )
  assert not any('Traceback' in err for _, _, err in done)
  _assert_same_run(workdir, whole)


@pytest.mark.usefixtures('sketched')
def test_the_task_of_every_test_picture_is_asked_for(whole, tmp_path, capsys):
  folder = tmp_path / 'asked'
  shutil.copytree(whole[0], folder)
  ways = ('moments', 'energy', 'binary')
  flags = ['--batches=1,5', '--tasks=3', '--examples=100000']
  flags.append(f'--ways={",".join(ways)}')
  with tiny.prepared_once(continual_training):
    assert inference.main([str(folder), *flags]) == 0
  found = json.loads((folder / 'inference.json').read_bytes())
  text = (folder / 'inference.md').read_text()
  assert text in capsys.readouterr().out and 'moments' in text
  assert len(list((folder / 'figures').glob('task_inference*.png'))) == 2
  # What is there is not asked again, and the rest is.
  asks = mock.Mock(return_value=iter([{'way': 'luck', 'tasks': 3}]))
  partly = found | {'rows': found['rows'][: len(found['rows']) // 2]}
  (folder / 'inference.json').write_bytes(files.to_json(partly))
  asked = asking.Asked(ways, (1, 5), (3,), 100_000)
  with (
    tiny.prepared_once(continual_training),
    pytest.MonkeyPatch.context() as m,
  ):
    m.setattr(asking.Asker, 'rows', asks)
    again = asking.measure(folder, asked)
  assert again['rows'][:-1] == partly['rows'] and asks.call_count == 1
  assert again['rows'][-1]['way'] == 'luck'
  assert again == json.loads((folder / 'inference.json').read_bytes())
  names = {row['net'] for row in found['rows']}
  assert len(names) == 2 and all(n.startswith(_PACK) for n in names)
  for name in names:
    rows = [row for row in found['rows'] if row['net'] == name]
    assert [(row['way'], row['batch']) for row in rows] == [
      (way, size) for way in ways for size in (1, 5)
    ]
    mine = _rows(whole[1], method=_PACK, alpha=rows[0]['alpha'])
    final = np.mean([row['final_accuracy'] for row in mine])
    for row in rows:
      assert row['accuracy'] <= 1 and row['seconds'] > 0
      if row['way'] != 'binary':
        # Of all pictures, with the very nets of the run.
        assert row['batch'] * row['batches'] == 3 * 360
        assert row['true_task_accuracy'] == pytest.approx(final, abs=3e-3)
    # Of 3 tasks in two rounds: forward, backward, a mixture and the products.
    for row, size in zip(rows[-2:], (1, 5), strict=True):
      assert row['passes'] == pytest.approx(2 * (3 + 2 * 3 / size))
      assert row['batches'] == 32
    moments = [row for row in rows if row['way'] == 'moments']
    assert all(row['identified'] > 0.95 for row in moments)
    # Where the task is found, its own net answers.
    for row in moments:
      lost = row['true_task_accuracy'] - row['accuracy']
      assert abs(lost) <= 1 - row['identified'] + 1e-6


def test_a_sequence_that_was_full_early_is_left_out(whole, tmp_path, caplog):
  folder = tmp_path / 'asked'
  shutil.copytree(whole[0], folder)
  asks = mock.Mock(side_effect=lambda *_: iter([{'way': 'luck', 'tasks': 3}]))
  asked = asking.Asked(tasks=(3,))
  with (
    tiny.prepared_once(continual_training),
    pytest.MonkeyPatch.context() as m,
  ):
    m.setattr(asking.Asker, 'rows', asks)
    m.setattr(learner.log.Log, 'ends', lambda _: [2, 1])
    with pytest.raises(ConfigError, match='tasks has 3 but 2 were learned'):
      asking.measure(folder, asked)
    assert not (folder / 'inference.json').exists() and not asks.called
    m.setattr(learner.log.Log, 'ends', lambda _: [1, 3])
    caplog.clear()
    found = asking.measure(folder, asked)
  (row,) = found['rows']
  assert row['net'].startswith(f'{_PACK}/powerprop/alpha_2/')
  (told,) = caplog.messages
  assert told.startswith(f'{_PACK}/powerprop/alpha_1/')
  assert 'is left out: 1 task was learned but to infer one takes' in told


def test_numbers_of_tasks_that_some_seeds_have_are_marked():
  rows = [
    {'net': f'a/seed_{seed}', 'tasks': tasks, 'batch': 1, 'way': 'energy'}
    | dict.fromkeys(('identified', 'accuracy', 'true_task_accuracy'), 0.5)
    | {'passes': 2.0, 'seconds': 0.1}
    for seed, tasks in ((0, 2), (0, 3), (1, 2))
  ]
  text = inference.markdown({'rows': rows})
  cells = [x.split('|')[1].strip() for x in text.splitlines() if '|' in x]
  assert cells[2:] == ['2', '3 (n = 1)']


@pytest.mark.parametrize(
  ('flag', 'says'),
  [
    ('--tasks=1', r'tasks is \(1,\) but of fewer than 2 tasks'),
    ('--tasks=4', 'tasks has 4 but 3 were learned'),
    ('--ways=luck', "ways has 'luck' but knows moments"),
    ('--batches=2,3', r'batches is \(2, 3\) but must be .* divisor'),
    ('--batches=1,500', 'batches has 500 but a task has 360 test pictures'),
    ('--examples=5', 'examples is 5 but must be at least 100'),
  ],
)
def test_what_cannot_be_asked_is_a_sentence(whole, flag, says, capsys):
  with tiny.prepared_once(continual_training):
    assert inference.main([str(whole[0]), flag]) == 1
  (sentence,) = capsys.readouterr().err.strip().splitlines()[-1:]
  assert re.match(says, sentence) and sentence.endswith('.')
  assert not (whole[0] / 'inference.json').exists()


def test_what_is_no_number_of_tasks_is_said(whole, capsys):
  with pytest.raises(SystemExit):
    inference.main([str(whole[0]), '--tasks=2,a'])
  assert "--tasks: '2,a' is not whole numbers" in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['stream', 'one_shot'])
def test_runs_of_other_experiments_are_not_asked(tmp_path, kind):
  (tmp_path / 'results.json').write_text(json.dumps({'experiment': kind}))
  with pytest.raises(ConfigError, match=f'is a run of experiments.{kind} but'):
    asking.measure(tmp_path, asking.Asked())


def test_a_run_without_its_checkpoints_has_no_nets(whole, tmp_path):
  folder = tmp_path / 'bare'
  shutil.copytree(whole[0], folder, ignore=lambda *_: ['cells'])
  there = sorted(folder.rglob('*'))
  with (
    tiny.prepared_once(continual_training),
    pytest.raises(runs.RunError, match='checkpoints of .* were not kept'),
  ):
    asking.measure(folder, asking.Asked())
  assert sorted(folder.rglob('*')) == there


def test_nets_that_need_no_task_are_not_asked(whole, tmp_path):
  with pytest.raises(ConfigError, match='no net that has to be told the task'):
    with (
      tiny.prepared_once(continual_training),
      pytest.MonkeyPatch.context() as m,
    ):
      m.setattr(continual_training, 'learned', lambda *_: iter(()))
      asking.measure(whole[0], asking.Asked())
  with pytest.raises(FileNotFoundError):
    asking.measure(tmp_path / 'none', asking.Asked())


def test_the_binary_draws_again_and_says_what_is_wrong(whole, tmp_path):
  folder = tmp_path / 'finished'
  shutil.copytree(whole[0], folder)
  kept = {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}
  flags = continual_run_tiny.flags(folder, **_WHOLE)
  status, out, err = forks.run(_BINARY, flags, before=forks.SKETCHED)
  assert status == 0 and 'Traceback' not in err, err
  assert 'is finished' in out and (folder / 'tables.md').read_text() in out
  drawn = {p.stem for p in (folder / 'figures').glob('*.png')}
  assert {'average_accuracy', 'used_weights', 'masks'} <= drawn
  assert kept == {p: p.stat().st_mtime_ns for p in kept}
  for wrong, wanted, parts in (
    ('num_tasks=4', 1, ['num_tasks was 3 and is now 4', 'another --workdir']),
    ('methods=ewk', 1, ["method 'ewk' is unknown (did you mean 'ewc'?)"]),
    ('num_task=4', 2, ['num_task', '--help']),
    ('scenario=class', 1, ["scenario is 'class'", _PACK, 'choose']),
  ):
    if wrong == 'scenario=class':  # found out when data and net are there
      flags = continual_run_tiny.flags(tmp_path / 'anew', **_WHOLE)
    status, _, err = forks.run(_BINARY, [*flags, f'--config.{wrong}'])
    *_, last = err.strip().splitlines()
    assert status == wanted and 'Traceback' not in err, err
    assert last.startswith('Error: ') and last.endswith('.')
    assert all(part in last for part in parts), last


def test_tasks_of_two_data_sets_are_one_sequence(tmp_path):
  """All of digits, then a few classes of it again; under dropout."""
  results = continual_run_tiny.run(
    tmp_path,
    dataset='digits+digits',
    sequence='split',
    sequence_kwargs={'classes': [list(range(10)), [10, 11], [12, 13, 14]]},
    scenario='task',
    network='block_conv',
    network_kwargs={'channels': (2,), 'hidden': (8,), 'pool_every': 1},
    methods=('joint', 'clnp'),
    method_kwargs={'joint': {'shares': (5, 1)}, 'clnp': {'margin': 0.3}},
    task_epochs=(0.3, 1.0, 1.0),
    retrain_epochs=0.5,
    retrain_factor=0.1,
    alphas=(1.0,),
    executor='map',
  )
  for method in ('joint', 'clnp'):
    rows = _rows(results, method=method)
    assert [r['task'] for r in rows] == [0, 1, 2]
    assert not any(r['failed'] for r in rows)
  assert all(r['unchanged'] for r in _rows(results, method='clnp'))
  assert results['efforts']['joint']['joint']
  # The net of the first task is as wide as it has units.
  name = 'clnp/powerprop/alpha_1/coefficient_1e-05/lr_0.1/seed_0'
  net, meta = nets.exported(tmp_path, name, 0)
  wide = powerprop.Sparse(net.params, net.state, net.masks, meta)
  thin = narrowing.narrow(wide).meta['network_kwargs']
  first = _rows(results, method='clnp')[0]['units_by_layer']
  widths = {'channels': 'conv_0', 'hidden': 'hidden_0'}
  for kind, layer in widths.items():
    assert thin[kind] == [first[layer]['used']]
  layers = {'conv_0': 2, 'hidden_0': 8}
  assert results['masks'] == {'clnp': {'of': 'units', 'layers': layers}}
  used = dict.fromkeys(layers, 0)
  for row in _rows(results, method='clnp'):
    for name, found in row['units_by_layer'].items():
      used[name] += found['new']
      assert used[name] == found['used'] <= layers[name]
      assert found['reused'] <= used[name] - found['new']
    # Heads read all units of earlier tasks, reused or not.
    assert row['mask_density'] == row['used_weights'] == sum(used.values()) / 10
  assert all(
    r['units_by_layer'] is None for r in _rows(results, method='joint')
  )
