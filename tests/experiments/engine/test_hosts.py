"""Two processes that train together, on loopback."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.engine import cli
from experiments.engine import runs
from experiments.engine.config_files import CommandError
from experiments.report import files
from tests import sparse_tiny
from tests import tiny
from tests.experiments.engine import test_runs
from tests.experiments.sparse_training import test_streamed

_BINARY = 'experiments.sparse_training'
_FIELDS = {
  'methods': ('snfs',),
  'alphas': (2.0,),
  'densities': (0.3,),
  'seeds': 1,
  'batch_size': 32,
}

_LONG = _FIELDS | {'steps': 20_000}


@contextlib.contextmanager
def _hosts(*commands: list[str]):
  """Hosts that know of each other; they are killed at the end, if need be."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  together = [f'--coordinator_address={address}', '--num_processes=2']
  started = [
    subprocess.Popen(
      [sys.executable, '-m', _BINARY, *command, *together, f'--process_id={i}'],
      cwd=tiny.ROOT,
      env=tiny.environment(),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i, command in enumerate(commands)
  ]
  try:
    yield started
  finally:
    for one in started:
      one.kill()
      one.communicate()


def _ended(hosts) -> list[tuple[int, str, str]]:
  """Of each host, its status and what it printed."""
  done = [host.communicate(timeout=300) for host in hosts]
  return [(h.returncode, *d) for h, d in zip(hosts, done, strict=True)]


def _loss(folder: pathlib.Path) -> list[float]:
  return [row['loss'] for row in files.read_metrics(folder)]


def _saved(folder: pathlib.Path) -> int:
  """The last step whose checkpoint is whole."""
  whole = folder.glob('checkpoints/*0/files.json')
  return max((int(path.parent.name) for path in whole), default=0)


def test_two_hosts_are_one(tmp_path, capsys):
  """Stopped on one of them; refused with another config; resumed on one."""
  sparse_tiny.run(tmp_path / 'one', **_FIELDS)
  folder = tmp_path / 'two'
  command = sparse_tiny.flags(folder, **_LONG)
  with _hosts(command, command) as hosts:
    while _saved(folder) < 40:
      assert hosts[0].poll() is None, hosts[0].communicate()[1][-3000:]
      time.sleep(0.05)
    hosts[1].send_signal(signal.SIGTERM)
    (status, out, said), (status_1, out_1, _) = _ended(hosts)
  assert status == status_1 == 128 + signal.SIGTERM, said[-3000:]
  assert 'everything is saved' in said and 'snfs' in out
  assert 'snfs' not in out_1  # nor anything else but what gloo prints
  done = _loss(folder)
  np.testing.assert_allclose(done[:4], _loss(tmp_path / 'one')[:4], rtol=1e-4)

  other = sparse_tiny.flags(folder, **_LONG | {'seeds': 2})
  with _hosts(command, other) as hosts:
    for status, _, said in _ended(hosts):
      assert status == 1
      assert 'config field seeds of host 1 is not that of host 0' in said

  stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
  with test_runs.during_chunk(3, stop), pytest.raises(runs.Interrupted):
    sparse_tiny.run(folder, **_LONG)
  assert f'at step {10 * len(done):,} of' in capsys.readouterr().out
  assert _loss(folder)[: len(done)] == done
  assert len(_loss(folder)) == len(done) + 2


def test_a_host_that_is_killed_stops_the_other(tmp_path):
  """With a sentence, and with what was saved; each reads its pictures."""
  fields = test_streamed.FIELDS | {'methods': ('snfs',)}
  sparse_tiny.run(tmp_path / 'one', **fields)
  folder = tmp_path / 'two'
  # Not in the midst of a checkpoint: what is written together is waited for
  # until JAX itself gives up, after a minute.
  fields |= {'checkpoint_seconds': 5.0}
  command = sparse_tiny.flags(folder, steps=20_000, **fields)
  with _hosts(command, command) as hosts:
    while _saved(folder) < 20:
      assert hosts[0].poll() is None, hosts[0].communicate()[1][-3000:]
      time.sleep(0.05)
    os.kill(hosts[1].pid, signal.SIGKILL)
    (status, _, said), _ = _ended(hosts)
  assert status == 1
  assert 'another host has ended' in said, said[-3000:]
  assert list(folder.glob('checkpoints/*/files.json'))
  assert not (folder / 'results.json').exists()
  wanted = _loss(tmp_path / 'one')[:2]
  np.testing.assert_allclose(_loss(folder)[:2], wanted, rtol=1e-4)


@pytest.mark.parametrize(
  ('flags', 'binary', 'wanted'),
  [
    (['--num_processes=2'], 'sparse_training', 'go together'),
    (['--distributed'], 'one_shot', 'experiments.one_shot runs on one host'),
  ],
)
def test_what_is_wrong_with_hosts_is_said(flags, binary, wanted):
  with pytest.raises(CommandError, match=wanted):
    cli.parse(binary, flags)


def test_slurm_says_whether_there_are_several(monkeypatch):
  place = lambda *flags: cli.parse('sparse_training', flags).place
  monkeypatch.delenv('SLURM_NTASKS', raising=False)
  assert place() is None
  assert place('--distributed') == (None, None, None)
  monkeypatch.setenv('SLURM_NTASKS', '2')
  assert place() is None  # a shell, which has started nothing
  monkeypatch.setenv('SLURM_STEP_ID', '0')
  assert place() == (None, None, None)
  assert place('--nodistributed') is None
  monkeypatch.setenv('SLURM_NTASKS', '1')
  assert place() is None
