"""Whose a run's folder is, and what may change when the run goes on."""

import json
import os
import shutil
import signal
import subprocess

import numpy as np
import pytest

from experiments.continual import settings as continual_settings
from experiments.engine import config_files
from experiments.engine import folder
from experiments.engine import runs
from experiments.engine import settings
from experiments.report import files
from experiments.sparse_training import settings as sparse_settings
from tests import continual_run_tiny
from tests import sparse_tiny
from tests import tiny
from tests.experiments.engine import test_runs


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run that nothing disturbed, and its results."""
  path = tmp_path_factory.mktemp('finished')
  return path, tiny.run(path)


_EXPERIMENTS = {
  'one_shot': (tiny.config, settings),
  'sparse_training': (sparse_tiny.config, sparse_settings),
  'continual': (continual_run_tiny.config, continual_settings),
}


def _open(workdir, experiment, **fields):
  make, lib = _EXPERIMENTS[experiment]
  config = make(**fields)
  rules = lib.rules(lib.check(config))
  folder.open_folder(workdir, config.to_dict(), rules)


def _content(workdir):
  return {p.name: p.read_bytes() for p in workdir.iterdir() if p.is_file()}


def _config(workdir):
  return json.loads((workdir / 'config.json').read_bytes())


@pytest.mark.parametrize(
  'name', ['results.json', 'metrics.jsonl', 'cells/', 'checkpoints/40/']
)
def test_a_folder_without_its_config_takes_no_other(tmp_path, name):
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  path.mkdir() if name.endswith('/') else path.write_bytes(b'{}')
  with pytest.raises(runs.RunError) as error:
    _open(tmp_path, 'one_shot')
  text = str(error.value)
  assert 'no config.json' in text and 'put that file back' in text
  assert name.split('/')[0] in text and text.endswith('.')
  assert not (tmp_path / 'config.json').exists()


def test_a_finished_run_without_its_log_takes_no_other_config(tmp_path):
  _open(tmp_path, 'one_shot')
  (tmp_path / 'results.json').write_bytes(b'{}')
  kept = _content(tmp_path)
  with pytest.raises(runs.RunError, match='seeds was 2 and is now 3'):
    _open(tmp_path, 'one_shot', seeds=3)
  assert _content(tmp_path) == kept


_RIGL = {'methods': 'rigl', 'method_kwargs': {'rigl': {'every': 5}}}
_SNIP = {'methods': ('dense', 'snip', 'static'), 'method_kwargs': {}}
_SET = {'methods': 'set', 'method_kwargs': {'set': {'every': 5, 'end': 30}}}
_FALLS = {'learning_rate_schedule': {'kind': 'cosine'}}


@pytest.mark.parametrize(
  'experiment, base, change, may',
  [
    *((name, {}, {'checkpoint_seconds': 7.0}, True) for name in _EXPERIMENTS),
    *((x, {}, {'labels': {'powerprop': 'ours'}}, True) for x in _EXPERIMENTS),
    ('one_shot', {}, {'chunk_steps': 3}, True),
    ('sparse_training', {}, {'chunk_steps': 3}, True),
    ('continual', {}, {'chunk_steps': 4}, False),
    *((name, {}, {'executor': 'auto'}, False) for name in _EXPERIMENTS),
    *((name, {}, {'seeds': 3}, False) for name in _EXPERIMENTS),
    ('one_shot', {}, {'steps': 60}, True),
    ('one_shot', {}, {'steps': 60, 'chunk_steps': 20}, True),
    ('one_shot', {}, {'steps': 60, 'l2': 0.1}, False),
    ('one_shot', {}, {'steps': 20}, False),
    ('one_shot', _FALLS, {'steps': 60}, False),
    ('sparse_training', _SNIP, {'steps': 60}, True),
    ('sparse_training', _SET, {'steps': 60}, True),
    ('sparse_training', _SET | _FALLS, {'steps': 60}, False),
    ('sparse_training', _RIGL, {'steps': 60}, False),  # ends at 3/4 of them
    ('sparse_training', {}, {'training_multiplier': 2.0}, False),
    ('continual', {}, {'epochs': 9.0}, False),
    ('continual', {}, {'num_tasks': 4}, False),
  ],
  ids=str,
)
def test_what_may_change(tmp_path, experiment, base, change, may):
  _open(tmp_path, experiment, **base)
  (tmp_path / 'metrics.jsonl').write_bytes(b'')
  before, kept = _config(tmp_path), _content(tmp_path)
  if not may:
    with pytest.raises(runs.RunError, match='holds a run with another config'):
      _open(tmp_path, experiment, **base, **change)
    assert _content(tmp_path) == kept
    return
  for _ in range(2):  # the second start finds nothing new
    _open(tmp_path, experiment, **base, **change)
    assert _config(tmp_path) == before | change
    (changed,) = folder.changes(tmp_path)
    assert changed == {k: [before[k], v] for k, v in change.items()}


def test_results_say_what_they_were_made_with(tmp_path):
  """What touches no result does not touch a finished run's config either."""
  _open(tmp_path, 'one_shot')
  (tmp_path / 'results.json').write_bytes(b'{}')
  kept = _content(tmp_path)
  _open(tmp_path, 'one_shot', checkpoint_seconds=7.0)
  assert _content(tmp_path) == kept


def test_a_finished_run_takes_other_labels_and_no_more(tmp_path):
  _open(tmp_path, 'one_shot')
  (tmp_path / 'results.json').write_bytes(b'{}')
  before, labels = _config(tmp_path), {'powerprop': 'ours'}
  _open(tmp_path, 'one_shot', labels=labels, checkpoint_seconds=7.0)
  assert _config(tmp_path) == before | {'labels': labels}
  assert files.labelled({}, tmp_path) == {'labels': labels}


def test_more_steps_are_a_longer_run(finished, tmp_path):
  """Bit for bit, though stopped, with other chunks and other checkpoints."""
  short = tiny.run(tmp_path, steps=20)
  assert short['environment']['config_changes'] == []
  fields = {'chunk_steps': 5, 'checkpoint_seconds': 1e9}
  with test_runs.during_chunk(2, lambda: os.kill(os.getpid(), signal.SIGTERM)):
    with pytest.raises(runs.Interrupted):
      tiny.run(tmp_path, **fields)
  aside = json.loads((tmp_path / 'results_steps_20.json').read_bytes())
  assert aside == json.loads(files.to_json(short))
  assert (tmp_path / 'records_steps_20.npz').exists()
  results = tiny.run(tmp_path, checkpoint_seconds=1e9)
  assert test_runs.numbers(results) == test_runs.numbers(finished[1])
  assert test_runs._digest(tmp_path) == test_runs._digest(finished[0])
  first, second = results['environment']['config_changes']
  assert first == {
    'steps': [20, 40],
    'chunk_steps': [10, 5],
    'checkpoint_seconds': [0, 1e9],
  }
  assert second == {'chunk_steps': [5, 10]}
  assert _config(tmp_path)['steps'] == 40
  log = files.read_metrics(tmp_path)
  assert sorted({r['step'] for r in log}) == [10, 20, 25, 35, 40]


def test_more_steps_of_a_sparse_training(tmp_path):
  fields = _SET | {'alphas': (2.0,), 'seeds': 1, 'densities': (0.1,)}
  fields['method_kwargs'] = {'set': {'every': 5, 'end': 15}}
  whole = sparse_tiny.run(tmp_path / 'whole', **fields)
  sparse_tiny.run(tmp_path / 'two', **fields, steps=20)
  results = sparse_tiny.run(tmp_path / 'two', **fields)
  assert results['rows'] == whole['rows']
  assert test_runs._digest(tmp_path / 'two') == test_runs._digest(
    tmp_path / 'whole'
  )


# All defaults are kept.


@pytest.mark.parametrize('experiment', list(_EXPERIMENTS))
def test_a_record_has_all_defaults(tmp_path, experiment):
  make, lib = _EXPERIMENTS[experiment]
  config = make(
    learning_rate_schedule={'kind': 'cosine'},
    optimizer='adam',
    optimizer_kwargs={'b1': 0.8},
    network_kwargs={'hidden': (8,)},
  )
  with config.unlocked():  # or any other fields that have a default
    for name in ('l2', 'augment', 'retries'):
      if name in config:
        del config[name]
  rules = lib.rules(lib.check(config))
  folder.open_folder(tmp_path, config.to_dict(), rules)
  saved = _config(tmp_path)
  own = {
    'one_shot': (),
    'sparse_training': sparse_settings.SparseSettings._fields,
    'continual': continual_settings.ContinualSettings._fields,
  }[experiment]
  unused = set(getattr(lib, 'UNUSED', {})) | {'training'}
  wanted = {*settings.Settings._fields, *own} - unused
  assert set(saved) == wanted
  assert saved['l2'] == 0
  assert saved['optimizer_kwargs']['b1'] == 0.8
  assert saved['optimizer_kwargs']['b2'] == 0.999
  assert saved['network_kwargs']['with_bias'] is True
  assert saved['learning_rate_schedule']['final'] == 0
  if experiment == 'sparse_training':
    snfs = saved['method_kwargs']['snfs']
    assert snfs['every'] == 6 and snfs['begin'] == 0  # given, and not
  if experiment == 'continual':
    assert saved['method_kwargs']['efficient_packnet']['search'] == 'linear'
    assert saved['retries'] == 2
  # A config that leaves them out is the same one, and so is an older record.
  kept = _content(tmp_path)
  folder.open_folder(tmp_path, config.to_dict(), rules)
  assert _content(tmp_path) == kept
  (tmp_path / 'config.json').write_bytes(files.to_json(config.to_dict()))
  (tmp_path / 'metrics.jsonl').write_bytes(b'')
  folder.open_folder(tmp_path, config.to_dict(), rules)


def test_a_default_that_changed_is_another_config(tmp_path):
  _open(tmp_path, 'one_shot')
  (tmp_path / 'metrics.jsonl').write_bytes(b'')
  old = _config(tmp_path)
  old['network_kwargs']['init_scale'] = 2.0
  (tmp_path / 'config.json').write_bytes(files.to_json(old))
  with pytest.raises(runs.RunError, match='network_kwargs was'):
    _open(tmp_path, 'one_shot')


# Damage that is still JSON, and damage to the log.


@pytest.mark.parametrize(
  'text',
  ['{}', '[]', 'null', '3', '{"rows": []}', '{"rows": [3], "summary": []}'],
)
def test_results_that_are_none(finished, tmp_path, caplog, text):
  shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
  assert files.read_results(tmp_path) is not None
  (tmp_path / 'results.json').write_text(text)
  assert files.read_results(tmp_path) is None
  assert 'results.json' in caplog.text and 'made again' in caplog.text


def test_a_damaged_log_costs_its_lines_and_no_more(finished, tmp_path, caplog):
  path, wanted = finished
  shutil.copytree(path, tmp_path, dirs_exist_ok=True)
  (tmp_path / 'results.json').unlink()
  lines = (tmp_path / 'metrics.jsonl').read_bytes().splitlines(True)
  lines[0] = b'\xff' * (len(lines[0]) - 1) + b'\n'
  lines[5] = b'[]' + b' ' * (len(lines[5]) - 3) + b'\n'
  lines[6] = b'{}' + b' ' * (len(lines[6]) - 3) + b'\n'
  (tmp_path / 'metrics.jsonl').write_bytes(b''.join(lines))
  results = tiny.run(tmp_path)
  assert test_runs.numbers(results) == test_runs.numbers(wanted)
  assert 'is damaged in 3 of 16 lines, the first being line 1' in caplog.text
  with np.load(tmp_path / 'records.npz') as found:
    powers = [found[f'g{g}/alpha_over_steps'] for g in (0, 1)]
  # The third is of a seed that is not drawn.
  assert [int(np.isnan(x).sum()) for x in powers] == [1, 1]


def test_a_record_has_the_commit_of_the_runs_start(tmp_path, monkeypatch):
  head = 'first'

  def git(command, **_):
    text = head if 'rev-parse' in command else ''
    return subprocess.CompletedProcess(command, 0, stdout=text)

  monkeypatch.setattr(runs.subprocess, 'run', git)
  runs.commit.cache_clear()
  try:
    folder.open_folder(tmp_path, {'steps': 1}, settings.Rules())
    head = 'second'  # somebody commits while it trains
    assert runs.environment()['commit'] == 'first'
  finally:
    runs.commit.cache_clear()


@pytest.mark.parametrize('name', ['digits', 'adaptive_mnist', 'fig3_cifar10'])
def test_what_config_json_keeps_is_a_config(name, tmp_path):
  """Infinite defaults and tuples, too, which JSON does not have."""
  config = config_files.read(config_files.find(name))
  module = settings if name != 'fig3_cifar10' else sparse_settings
  folder.open_folder(
    tmp_path, config.to_dict(), module.rules(module.check(config))
  )
  results = {
    'rows': [{}],
    'summary': [],
    'environment': dict.fromkeys(('train_seconds', 'device', 'processor'), 0)
    | {'executor': 'vmap'},
  }
  (tmp_path / 'results.json').write_bytes(files.to_json(results))
  np.savez(tmp_path / 'records.npz', x=np.zeros(1))
  found, _ = folder.finished(tmp_path, module.resolved)
  assert found.executor == 'vmap'
  again = module.resolved(found.to_dict()) | {'executor': config.executor}
  first = module.resolved(config.to_dict())
  assert files.to_json(again) == files.to_json(first)
  module.check(found)
