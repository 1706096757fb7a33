"""The experiment: populations, what a run records, what pruning shows."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments import data
from experiments.engine import cli
from experiments.engine import networks
from experiments.engine import runs
from experiments.engine import settings
from experiments.one_shot import run as one_shot
from experiments.one_shot import tables
from experiments.report import files
from experiments.report import progress
from experiments.report import weights
from tests import tiny


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('finished')
  return folder, tiny.run(folder)


_PLAIN, _NAIVE, _ADAPTS = 'powerprop', 'chain_rule', 'adaptive_powerprop'


@pytest.mark.parametrize(
  'fields, wanted',
  [
    # α = 1 is the same training under every transform: it runs once.
    ({}, {(_PLAIN, 1.0): 2, (_PLAIN, 2.0): 2}),
    (
      {'transforms': (_PLAIN, _NAIVE)},
      {(_PLAIN, 1.0): 2, (_PLAIN, 2.0): 2, (_NAIVE, 2.0): 2},
    ),
    (
      {'transforms': (_ADAPTS, _NAIVE), 'seeds': 1},
      {(_ADAPTS, 2.0): 1, (_NAIVE, 1.0): 1, (_NAIVE, 2.0): 1},
    ),
    (
      {'learning_rate': (0.1, 0.2), 'seeds': 3},
      {(_PLAIN, 1.0): 6, (_PLAIN, 2.0): 6},
    ),
  ],
  ids=str,
)
def test_members(fields, wanted):
  every = {'transform_kwargs': {_ADAPTS: {'every': 5}}}
  s = settings.check(tiny.config(**every, **fields))
  members = one_shot.make_members(s, adaptive=(_ADAPTS,))
  counted = {}
  for m in members:
    counted[m.transform, m.alpha] = counted.get((m.transform, m.alpha), 0) + 1
  assert counted == wanted
  assert len(set(members)) == len(members)


def test_an_adaptive_alpha_cannot_start_at_one(tmp_path):
  with pytest.raises(settings.ConfigError, match='start above 1'):
    tiny.run(
      tmp_path,
      transforms=_ADAPTS,
      transform_kwargs={_ADAPTS: {'every': 5}},
      alphas=1.0,
    )


def test_what_a_run_records(finished):
  folder, results = finished
  with open(folder / 'results.json', encoding='utf-8') as f:
    saved = json.load(f)
  assert saved == json.loads(files.to_json(results))
  assert {'rows', 'summary', 'environment'} <= set(saved)
  rows = saved['rows']
  assert len({(r['alpha'], r['seed'], r['density']) for r in rows}) == 12
  assert len(rows) == 2 * 2 * 3  # alphas, seeds, densities
  for row in rows:
    assert 0 <= row['test_accuracy'] <= 1 and row['test_nll'] > 0
  for entry in saved['summary']:
    ours = [
      r['test_accuracy']
      for r in rows
      if (r['alpha'], r['density']) == (entry['alpha'], entry['density'])
    ]
    assert entry['n'] == 2 == len(ours)
    assert entry['test_accuracy_mean'] == pytest.approx(np.mean(ours))
    assert entry['test_accuracy_std'] == pytest.approx(np.std(ours, ddof=1))
  environment = saved['environment']
  assert environment['steps_per_second'] > 0
  assert environment['wall_seconds'] >= environment['train_seconds'] > 0
  assert environment['executor'] == 'map'

  config = json.loads((folder / 'config.json').read_bytes())
  whole = settings.resolved(tiny.config().to_dict())
  assert config == json.loads(files.to_json(whole))
  log = files.read_metrics(folder)
  assert [r['step'] for r in log] == [10] * 4 + [20] * 4 + [30] * 4 + [40] * 4
  assert all(0 <= r['validation_accuracy'] <= 1 for r in log)
  with np.load(folder / 'records.npz') as records:
    assert records['steps'].tolist() == [10, 20, 30, 40]
  assert list(folder.glob('events.out.tfevents.*'))


def test_vmapped_run_is_the_looped_run(finished, tmp_path):
  _, looped = finished
  stacked = tiny.run(tmp_path, executor='vmap')
  for one, other in zip(looped['rows'], stacked['rows'], strict=True):
    assert one.keys() == other.keys()
    # A picture of the 360 may fall on the other side.
    assert one['test_accuracy'] == pytest.approx(
      other['test_accuracy'], abs=2.5 / 360
    )
    assert one['test_nll'] == pytest.approx(other['test_nll'], rel=1e-3)


@pytest.mark.usefixtures('sketched')
def test_no_steps_prunes_the_initial_weights(tmp_path, capsys):
  results = tiny.run(tmp_path, steps=0)
  cli.run_or_show('one_shot', tiny.config(steps=0), tmp_path, None)
  assert 'Figures: ' in capsys.readouterr().out
  assert {r['mask_overlap'] for r in results['rows']} == {1.0}
  assert results['environment']['steps_per_second'] is None
  for row in results['rows']:  # the same θ for every α of a seed
    twin = next(
      r
      for r in results['rows']
      if (r['seed'], r['density'], r['alpha'])
      == (row['seed'], row['density'], 1.0)
    )
    assert row['test_nll'] == pytest.approx(twin['test_nll'], rel=1e-4)


@pytest.mark.parametrize('executor', ['map', 'vmap'])
def test_members_that_diverge_are_told_and_left_out(
  finished, tmp_path, caplog, executor
):
  """α = 60 starts at |φ| near 1, where its slope is 60: too much for SGD."""
  results = tiny.run(
    tmp_path, alphas=(1.0, 2.0, 60.0), learning_rate=2.0, executor=executor
  )
  lost = results['diverged']
  assert lost and {m['alpha'] for m in lost} == {60.0}
  for member in lost:
    told = f'powerprop/alpha_60/lr_2/seed_{member["seed"]} diverged'
    assert caplog.text.count(told) == 1
  assert 'left out of the means' in caplog.text
  counted = {e['alpha']: e['n'] for e in results['summary']}
  assert counted[1.0] == counted[2.0] == 2
  assert counted.get(60.0, 0) == 2 - len(lost)
  for entry in results['summary']:
    assert np.isfinite(entry['test_nll_mean'])
  assert 'Diverged and left out' in tables.table(results)


def test_if_all_diverge_the_run_fails_with_a_sentence(tmp_path):
  with pytest.raises(runs.RunError) as error:
    tiny.run(tmp_path, learning_rate=1e30)
  text = str(error.value)
  assert 'every training diverged' in text and 'now 1e+30' in text
  assert 'lower learning_rate' in text and text.endswith('.')
  assert not (tmp_path / 'results.json').exists()


def test_pruned_accuracy_improves_with_alpha(tmp_path):
  """At 5% of the weights, by many standard errors of the mean over seeds."""
  density = 0.05
  results = tiny.run(
    tmp_path,
    network_kwargs={'hidden': (64,)},
    alphas=(1.0, 2.0, 4.0),
    seeds=5,
    steps=400,
    chunk_steps=400,
    densities=(1.0, density),
  )
  mean, error = {}, {}
  for e in results['summary']:
    if e['density'] == density:
      mean[e['alpha']] = e['test_accuracy_mean']
      error[e['alpha']] = e['test_accuracy_std'] / np.sqrt(e['n'])
    else:
      assert e['test_accuracy_mean'] > 0.9  # all are good when dense
  assert mean[1.0] < mean[2.0] < mean[4.0]
  assert mean[4.0] - mean[1.0] > 4 * np.hypot(error[4.0], error[1.0])
  assert mean[4.0] - mean[1.0] > 0.1


def test_lines_of_progress_where_there_is_no_terminal(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(progress, '_LINE_SECONDS', 0.0)
  tiny.run(tmp_path)
  lines = capsys.readouterr().err.splitlines()
  assert [x.split(',')[0] for x in lines] == [
    *(f'training 4 nets: {10 * n} of 160 steps' for n in range(1, 17)),
    *(f'pruning at 3 densities: {n} of 4 nets' for n in range(1, 5)),
  ]
  assert all('loss ' in x and 'validation 0.' in x for x in lines[:16])


def test_the_nets_of_a_run_are_those_that_were_measured(finished):
  folder, results = finished
  names = weights.names(folder)
  assert len(names) == len(results['rows'])
  digits = data.load('digits')
  net = networks.mlp(10, hidden=(8,))
  for name, row in zip(names, results['rows'], strict=True):
    if row['seed'] == 0:
      continue
    found = weights.of_run(folder, name)
    for layer, mask in found.masks.items():
      size = found.params[layer.removesuffix('/w')]['w']
      assert np.all((size != 0) <= mask)
    logits, _ = net.apply(
      found.params,
      found.state,
      None,
      digits.test.image * np.float32(digits.scale),
      is_training=False,
    )
    right = np.mean(np.argmax(logits, -1) == digits.test.label)
    assert right == pytest.approx(row['test_accuracy'], abs=1.5 / 360)
    assert found.alpha == row['alpha']
  with pytest.raises(ValueError, match='leave out --task'):
    weights.of_run(folder, names[-1], 0)


def test_a_run_without_its_last_checkpoint_has_no_nets(finished, tmp_path):
  folder, _ = finished
  for name in ('results.json', 'records.npz', 'config.json'):
    shutil.copy(folder / name, tmp_path)
  name = weights.names(tmp_path)[0]
  with pytest.raises(runs.RunError, match='no checkpoint of the last step'):
    weights.of_run(tmp_path, name)
  assert not (tmp_path / 'checkpoints').exists()
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='config.json cannot be read'):
    weights.of_run(tmp_path, name)


_NORM = {
  'network': 'small_conv',
  'network_kwargs': {'channels': (), 'hidden': (8,)},
  'alphas': (2.0,),
  'seeds': 1,
  'densities': (0.2,),
}


def test_a_pruned_net_may_be_measured_with_averages_of_its_own(tmp_path):
  """Of the same training; those of the dense net are of other inputs."""
  left = tiny.run(tmp_path / 'left', **_NORM)
  own = tiny.run(tmp_path / 'own', average_examples=500, **_NORM)
  folders = tmp_path / 'left', tmp_path / 'own'
  (name,) = weights.names(folders[0])
  nets = [weights.of_run(folder, name) for folder in folders]
  jax.tree.map(np.testing.assert_array_equal, nets[0].phi, nets[1].phi)
  (before,), (after,) = left['rows'], own['rows']
  assert before['test_nll'] != after['test_nll']
  # The weights that are saved are those that were measured.
  digits = data.load('digits')
  scale = np.float32(digits.scale)
  net = networks.small_conv(10, **_NORM['network_kwargs'])
  logits, _ = net.apply(
    nets[1].params,
    nets[1].state,
    None,
    digits.test.image * scale,
    is_training=False,
  )
  right = np.mean(np.argmax(logits, -1) == digits.test.label)
  assert right == pytest.approx(after['test_accuracy'], abs=0.01)
  # Averages over some 20 batches of 60 know a mean to a fraction of its spread.
  w = nets[1].params['hidden_0']
  pixels = digits.train.image.reshape(len(digits.train.label), -1) * scale
  inputs = pixels @ w['w'] + w['b']
  kept = nets[1].state['hidden_0_norm/~/mean_ema']['average'][0]
  assert np.all(abs(kept - inputs.mean(0)) < 0.3 * inputs.std(0) + 1e-6)
