"""Sparse training: what a run records, its plan, resuming, bad endings."""

import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from experiments import data
from experiments.engine import classification
from experiments.engine import cli
from experiments.engine import folder
from experiments.engine import making
from experiments.engine import population
from experiments.engine import runs
from experiments.engine import settings
from experiments.engine import trainings
from experiments.report import files
from experiments.report import naming
from experiments.report import weights
from experiments.sparse_training import plan as sparse_plan
from experiments.sparse_training import run as sparse_training
from experiments.sparse_training import settings as sparse_settings
from powerprop import reparam
from powerprop import train
from powerprop import trees
from tests import forks
from tests import sparse_tiny
from tests.experiments.engine import test_runs

_BINARY = 'experiments.sparse_training'
# A program for each kind of state that a method may have.
_SMALL = {
  'methods': ('one_shot', 'lottery', 'top_kast', 'snfs'),
  'alphas': (2.0,),
  'densities': (0.3,),
  'seeds': 1,
}
_WHOLE = {
  'methods': ('dense', 'one_shot', 'top_kast'),
  'executor': 'vmap',
}
_FIELDS = {
  'method',
  'alpha',
  'seed',
  'sparsity',
  'distribution',
  'test_accuracy',
  'training_flops_ratio',
  'inference_flops_ratio',
}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Both α, two seeds, two densities; a program has all members of a kind."""
  folder = tmp_path_factory.mktemp('whole')
  return folder, sparse_tiny.run(folder, **_WHOLE)


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  folder = tmp_path_factory.mktemp('small')
  return folder, sparse_tiny.run(folder, **_SMALL)


def _shapes(config):
  s = sparse_settings.check(config)
  recipe = classification.make_recipe(s.training, data.load(s.training.dataset))
  shapes, _ = jax.eval_shape(lambda: train.initial_theta(recipe, 0))
  return s, recipe, shapes


# What a run records.


def test_rows(whole):
  folder, results = whole
  saved = json.loads((folder / 'results.json').read_bytes())
  assert saved == json.loads(files.to_json(results))
  rows = saved['rows']
  assert all(_FIELDS <= set(row) for row in rows)
  names = ('method', 'alpha', 'seed', 'sparsity')
  got = [tuple(row[n] for n in names) for row in rows]
  wanted = {
    (method, alpha, seed, sparsity)
    for method in ('one_shot', 'top_kast')
    for alpha in (1.0, 2.0)
    for seed in (0, 1)
    for sparsity in (0.7, 0.9)
  } | {('dense', a, seed, 0.0) for a in (1.0, 2.0) for seed in (0, 1)}
  assert len(got) == len(wanted) and set(got) == wanted
  for row in rows:
    assert row['distribution'] == 'erk'
    assert 0 <= row['test_accuracy'] <= 1 and row['test_nll'] > 0
  assert results['environment']['executor'] == 'vmap'
  assert not results['diverged']


def test_measured_densities_are_the_targets(whole, small):
  rows = [*whole[1]['rows'], *small[1]['rows']]
  s, _, shapes = _shapes(sparse_tiny.config())
  total = 64 * 8 + 8 * 10
  for (_, density), target in sparse_settings.make_targets(
    s, shapes, {}
  ).items():
    kept = sum(target.kept.values())
    assert kept == trees.kept(total, density)
    found = [
      row['density']
      for row in rows
      if row['sparsity'] == pytest.approx(1 - density)
    ]
    assert len(found) >= 8 and set(found) == {kept / total}


@pytest.mark.parametrize('name', ['whole', 'small'])
def test_flops_of_finished_trainings_are_the_planned_ones(name, request):
  _, results = request.getfixturevalue(name)
  plans = {(p['method'], p['sparsity']): p for p in results['plans']}
  dense = [p for (m, _), p in plans.items() if m == 'dense']
  assert all(
    (p['training_ratio'], p['inference_ratio']) == (1, 1) for p in dense
  )
  for row in results['rows']:
    if row['method'] == 'dense':
      assert row['training_flops_ratio'] == row['inference_flops_ratio'] == 1
      continue
    plan = plans[row['method'], row['sparsity']]
    for name in ('training', 'inference'):
      got, planned = row[f'{name}_flops_ratio'], plan[f'{name}_ratio']
      # The larger set of top_kast is rounded to whole weights.
      exact = row['method'] != 'top_kast' or name == 'inference'
      assert got == pytest.approx(planned, abs=1e-5 if exact else 1 / 592), row
      # Two layers are all of this net, and one_shot trains densely.
      sparse = name == 'inference' or row['method'] != 'one_shot'
      assert (got < 1) == sparse


def test_the_plan_in_words(whole):
  plans = whole[1]['plans']
  text = sparse_plan.markdown(plans)
  assert 'erk at 70% sparsity' in text and 'erk at 90% sparsity' in text
  for plan in plans:
    row = (
      rf'^[|] {plan["method"]} +[|] erk +[|] {100 * plan["sparsity"]:.0f}% +'
      rf'[|] {plan["training_ratio"]:.3f} +[|] {plan["inference_ratio"]:.3f} +'
    )
    assert len(re.findall(row, text, re.M)) == 1
  short = sparse_plan.markdown(plans, most=1)
  assert 'erk at 70% sparsity' in short and '90% sparsity' not in short
  assert '1 more such tables will be in results.json' in short


def test_one_shot_is_the_dense_net_pruned_by_hand(whole):
  folder, results = whole
  s, recipe, _ = _shapes(sparse_tiny.config())
  members = sparse_training.make_members(s, [])
  assert len(members) == 4  # dense and one_shot share their trainings
  psis = making.psis(s.training.transforms, s.training.transform_kwargs)
  (cell,) = trainings.make_cells(recipe, psis, members, 'vmap')
  split = data.load('digits')
  (state,) = trainings.initial_states(recipe, [cell], split.train)
  for start in range(0, 40, 10):
    state, _ = cell.programs.chunk(state, cell.hyper, split.train, start, 10)
  by_name = {
    (r['method'], r['alpha'], r['seed'], r['sparsity']): r
    for r in results['rows']
  }
  for member, theta in zip(
    members,
    population.unstack(cell, cell.programs.read(state)),
    strict=True,
  ):
    for sparsity, kept in ((0.7, (142, 36)), (0.9, (47, 12)), (0.0, (512, 80))):
      pruned = {k: dict(v) for k, v in theta.items()}
      for layer, k in zip(('hidden_0', 'output'), kept, strict=True):
        w = pruned[layer]['w']
        threshold = np.sort(np.abs(w).ravel())[-k]
        pruned[layer]['w'] = np.where(np.abs(w) >= threshold, w, 0)
      accuracy, nll = train.evaluate(recipe, pruned, {}, split.test)
      method = 'one_shot' if sparsity else 'dense'
      row = by_name[method, member.alpha, member.seed, sparsity]
      assert row['test_accuracy'] == pytest.approx(float(accuracy), abs=1e-6)
      assert row['test_nll'] == pytest.approx(float(nll), rel=1e-4)


def test_the_log_has_what_sparse_nets_cost(whole):
  folder, results = whole
  log = files.read_metrics(folder)
  count = 4 * (1 + 2)  # α × seeds: dense, and top_kast at two densities
  assert [r['step'] for r in log] == [
    step for step in (10, 20, 30, 40) for _ in range(count)
  ]
  names = ('method', 'alpha', 'seed', 'sparsity')
  last = {tuple(r.get(n) for n in names): r for r in log[-count:]}
  for row in results['rows']:
    if row['method'] in sparse_settings.DENSE:
      continue
    seen = last[tuple(row[n] for n in names)]
    for name in ('density', 'training_flops_ratio', 'inference_flops_ratio'):
      assert seen[name] == pytest.approx(row[name], rel=1e-5)


def test_smallest_weights_of_the_dense_nets_are_recorded(whole):
  folder, _ = whole
  with np.load(folder / 'records.npz') as records:
    assert set(records) == {'smallest/1', 'smallest/2'}
    for name in records:
      assert records[name].shape == (2 * (64 * 8 + 8 * 10) // 2,)
      assert np.all(np.diff(records[name]) >= 0)


def test_map_is_vmap(whole, small):
  """To rounding; a picture or two may fall on the other side."""
  names = ('method', 'alpha', 'seed', 'sparsity')
  stacked = {tuple(r[n] for n in names): r for r in whole[1]['rows']}
  rows = [r for r in small[1]['rows'] if r['method'] in _WHOLE['methods']]
  assert len(rows) == 2
  for row in rows:
    twin = stacked[tuple(row[n] for n in names)]
    assert row['test_accuracy'] == pytest.approx(
      twin['test_accuracy'], abs=2.5 / 360
    )
    assert row['test_nll'] == pytest.approx(twin['test_nll'], rel=1e-3)
    assert row['density'] == twin['density']


# Stopped and resumed.


def _layout(folder):
  """Shapes and dtypes of the last checkpoint's arrays."""
  step = max(int(p.name) for p in (folder / 'checkpoints').iterdir())
  path = folder / 'checkpoints' / str(step) / 'extra' / 'metadata'
  return json.loads(path.read_text())['layout']


def test_masks_are_saved_as_bits(small):
  layout = _layout(small[0])
  assert len([x for x in layout if x == 'bool[]']) == 4  # finite: a member's
  assert not [x for x in layout if x.startswith('bool') and x != 'bool[]']
  masks = sorted(x for x in layout if x.startswith('uint8'))
  # 512 and 80 weights: lottery and snfs; the two sets of top_kast.
  assert masks == sorted(
    ['uint8[64]', 'uint8[10]'] * 2 + ['uint8[2, 64]', 'uint8[2, 10]']
  )


def _stopped_and_resumed(workdir, chunk, **fields):
  act = lambda: os.kill(os.getpid(), signal.SIGTERM)
  with test_runs.during_chunk(chunk, act), pytest.raises(runs.Interrupted):
    sparse_tiny.run(workdir, **fields)
  assert not (workdir / 'results.json').exists()
  return sparse_tiny.run(workdir, **fields)


def test_stopped_and_resumed_is_never_stopped(small, tmp_path, capsys):
  """At step 20, where the lottery has just rewound."""
  results = _stopped_and_resumed(tmp_path, 3, **_SMALL)
  plan, after = capsys.readouterr().out.split('Resuming')
  assert 'erk at 70% sparsity' in plan and 'at step 20 of 40' in after
  test_runs._assert_same_run(tmp_path, results, small)


def test_stopped_and_resumed_with_vmap(tmp_path, capsys):
  fields = {**_WHOLE, 'methods': ('one_shot', 'top_kast')}
  finished = tmp_path / 'whole', sparse_tiny.run(tmp_path / 'whole', **fields)
  results = _stopped_and_resumed(tmp_path / 'stopped', 4, **fields)
  assert 'at step 30 of 40' in capsys.readouterr().out
  test_runs._assert_same_run(tmp_path / 'stopped', results, finished)


# Bad endings.

_WILD = {
  'methods': ('one_shot', 'static'),
  'densities': 0.3,
  # α = 60 starts at |φ| near 1, where its slope is 60: too much for SGD.
  'alphas': (1.0, 60.0),
  'executor': 'vmap',
}


def test_members_that_diverge_are_told_and_left_out(tmp_path, caplog):
  results = sparse_tiny.run(tmp_path, learning_rate=2.0, **_WILD)
  lost = results['diverged']
  assert lost and {row['alpha'] for row in lost} == {60.0}
  assert '/alpha_60/lr_2/seed_' in caplog.text and 'left out' in caplog.text
  for entry in results['summary']:
    assert entry['n'] + entry['diverged'] == 2
    assert entry['alpha'] == 60 or entry['n'] == 2
    assert entry['n'] == 0 or np.isfinite(entry['test_accuracy_mean'])


def test_if_all_diverge_the_run_fails_with_a_sentence(tmp_path):
  with pytest.raises(runs.RunError) as error:
    sparse_tiny.run(tmp_path, learning_rate=1e30, **_WILD)
  text = str(error.value)
  assert 'every training diverged' in text and 'now 1e+30' in text
  assert 'lower learning_rate' in text and text.endswith('.')
  assert not (tmp_path / 'results.json').exists()


def test_extended_training_costs_more(tmp_path):
  fields = {**_WILD, 'steps': 20, 'alphas': (1.0, 2.0)}
  results = sparse_tiny.run(tmp_path, training_multiplier=2.0, **fields)
  assert results['steps'] == 40
  assert {r['step'] for r in files.read_metrics(tmp_path)} == {10, 20, 30, 40}
  plans = {p['method']: p['training_ratio'] for p in results['plans']}
  for row in results['rows']:
    forward = row['inference_flops_ratio'] if row['method'] == 'static' else 1
    assert row['training_flops_ratio'] == pytest.approx(2 * forward, rel=1e-5)
    assert plans[row['method']] == pytest.approx(2 * forward, rel=1e-5)


# The binary.


def test_a_finished_run_draws_again_and_does_not_train(small, tmp_path):
  shutil.copytree(small[0], tmp_path, dirs_exist_ok=True)
  kept = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*') if p.is_file()}
  flags = sparse_tiny.flags(tmp_path, **_SMALL)
  done = forks.run(_BINARY, flags, before=forks.SKETCHED)
  assert done.status == 0, done.err
  assert 'is finished' in done.out and '|' in done.out
  assert (tmp_path / 'tables.md').read_text() in done.out
  assert list((tmp_path / 'figures').glob('*.png'))
  assert kept == {p: p.stat().st_mtime_ns for p in kept}


def test_bad_input_loses_nothing_of_what_is_saved(small, tmp_path):
  shutil.copytree(small[0], tmp_path, dirs_exist_ok=True)
  read = lambda: {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
  kept = read()
  with pytest.raises(runs.RunError, match='densities was .0.3. and is now'):
    sparse_tiny.run(tmp_path, **{**_SMALL, 'densities': (0.2,)})
  wrong = {**_SMALL, 'methods': ('rigel',)}
  done = forks.run(_BINARY, sparse_tiny.flags(tmp_path, **wrong))
  assert done.status == 1
  *_, last = done.err.strip().splitlines()
  assert last.startswith(
    "Error: method 'rigel' is unknown (did you mean 'rigl'"
  )
  assert last.endswith('.') and 'Traceback' not in done.err
  assert read() == kept


def test_a_net_that_a_method_cannot_do_leaves_the_folder_free(tmp_path):
  fields = {**_SMALL, 'patterns': {'hidden': 'channel'}}
  with pytest.raises(settings.ConfigError, match='snfs drops and grows'):
    sparse_tiny.run(tmp_path, **fields)
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']
  config = sparse_tiny.config(**_SMALL)
  rules = sparse_settings.rules(sparse_settings.check(config))
  folder.open_folder(tmp_path, config.to_dict(), rules)


@pytest.mark.usefixtures('sketched')
def test_no_steps_prune_the_initial_weights(tmp_path, capsys):
  fields = {**_SMALL, 'methods': ('dense', 'one_shot'), 'steps': 0}
  results = sparse_tiny.run(tmp_path, **fields)
  assert [r['method'] for r in results['rows']] == ['dense', 'one_shot']
  config = sparse_tiny.config(**fields)
  cli.run_or_show('sparse_training', config, tmp_path, None)
  assert 'Figures: ' in capsys.readouterr().out


def test_the_nets_of_a_run_are_those_that_were_measured(whole):
  folder, results = whole
  names = weights.names(folder)
  assert len(names) == len(results['rows'])
  s, recipe, _ = _shapes(sparse_tiny.config(**_WHOLE))
  test = data.load('digits').test
  evaluate = jax.jit(lambda w, state: train.evaluate(recipe, w, state, test))
  wanted = {}
  for name, row in zip(names, results['rows'], strict=True):
    if (row['alpha'], row['seed']) == (2.0, 1) and row['sparsity'] != 0.7:
      wanted[row['method']] = name, row
  assert set(wanted) == {'dense', 'one_shot', 'top_kast'}
  for method, (name, row) in wanted.items():
    found = weights.of_run(folder, name)
    accuracy, nll = evaluate(found.params, found.state)
    assert float(accuracy) == row['test_accuracy']
    np.testing.assert_allclose(float(nll), row['test_nll'], rtol=1e-5)
    kept = sum(int(m.sum()) for m in found.masks.values())
    share = kept / (64 * 8 + 8 * 10) if method != 'dense' else 1.0
    assert share == pytest.approx(row['density'], abs=1e-6)
    theta = reparam.to_theta(found.phi, found.alpha)
    for layer, mask in found.masks.items():
      module, leaf = layer.split('/')
      np.testing.assert_allclose(
        found.params[module][leaf], theta[module][leaf] * mask, rtol=1e-5
      )


def test_pruned_nets_may_be_measured_with_averages_of_their_own(tmp_path):
  found = {}
  for examples in (0, 500):
    results = sparse_tiny.run(
      tmp_path / str(examples),
      network='small_conv',
      network_kwargs={'channels': (), 'hidden': (8,)},
      methods=('one_shot',),
      method_kwargs={},
      densities=(0.2,),
      alphas=(1.0,),
      seeds=1,
      average_examples=examples,
    )
    (found[examples],) = results['rows']
  assert found[0]['test_nll'] != found[500]['test_nll']
  trained = lambda row: {k: v for k, v in row.items() if 'flops' in k}
  assert trained(found[0]) == trained(found[500])
  (name,) = weights.names(tmp_path / '500')
  kept, left = (
    weights.of_run(tmp_path / str(examples), name).state
    for examples in (500, 0)
  )
  mean = lambda state: state['hidden_0_norm/~/mean_ema']['average']
  assert np.any(mean(kept) != mean(left))


def test_methods_start_from_a_trained_net(whole, tmp_path):
  """A dense net of α = 1 under α = 2: at a rate of 0 it is what it was."""
  trained, results = whole
  dense = {'method': 'dense', 'alpha': 1.0, 'seed': 1}
  (name,) = [
    naming.net_name(row)
    for row in results['rows']
    if dense.items() <= row.items()
  ]
  path = str(tmp_path / 'net.npz')
  weights.save(path, weights.of_run(trained, name))
  tuned = sparse_tiny.run(
    tmp_path / 'run',
    pretrained=path,
    executor='vmap',
    methods=('dense', 'fine_tune'),
    method_kwargs={'fine_tune': {'at': 0}},
    densities=(0.3,),
    seeds=1,
    steps=2,
    chunk_steps=2,
    learning_rate=(0.0,),
  )
  # Pruning φ is pruning θ: fine_tune begins as one_shot ends.
  for ours, theirs in (('dense', 'dense'), ('fine_tune', 'one_shot')):
    (wanted,) = [
      row['test_accuracy']
      for row in results['rows']
      if (dense | {'method': theirs}).items() <= row.items()
      and row['sparsity'] in (0.0, 0.7)
    ]
    found = [
      row['test_accuracy'] for row in tuned['rows'] if row['method'] == ours
    ]
    # A picture may fall on the other side.
    assert found == pytest.approx([wanted] * 2, abs=1.5 / 360), ours
