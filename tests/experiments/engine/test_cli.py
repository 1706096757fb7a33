"""The whole of the binaries' `main`, in this process: signals, terminals."""

import gc
import io
import logging
import os
import pathlib
import signal
import sys
import tempfile
import warnings

import absl.logging
import jax
import pytest

from experiments.data import cache
from experiments.engine import cli
from experiments.engine import runs


@pytest.fixture
def main(monkeypatch, tmp_path):
  """Calls `cli.main` with an experiment; what it sets is put back."""
  signals = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
  handlers = logging.root.handlers[:]
  monkeypatch.setattr(warnings, 'formatwarning', warnings.formatwarning)

  def call(experiment, *flags):
    argv = ['one_shot', '--nocompilation_cache', f'--workdir={tmp_path}/run']
    monkeypatch.setattr(sys, 'argv', [*argv, *flags])
    cli.main('one_shot', 'A test.', experiment)

  yield call
  for signum, handler in signals.items():
    signal.signal(signum, handler)
  logging.root.handlers[:] = handlers


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_where_nothing_waits_for_one(
  main, monkeypatch, capfd, tmp_path, signum
):
  """As after training, while figures are drawn; JAX calls back like that."""
  statuses = []
  monkeypatch.setattr(os, '_exit', statuses.append)
  # An exception would be lost here.
  main(lambda *_: _in_a_callback(lambda: os.kill(os.getpid(), signum)))
  assert statuses == [128 + signum]
  assert capfd.readouterr().err.strip() == (
    f'Stopped by {signum.name}; what was saved in {tmp_path}/run is kept: start'
    ' the same command again to go on.'
  )


def _in_a_callback(act):
  def callback(phase, info):
    gc.callbacks.remove(callback)
    act()

  gc.callbacks.append(callback)
  gc.collect()


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_has_saved(main, monkeypatch, capfd, tmp_path, signum):
  statuses = []
  monkeypatch.setattr(os, '_exit', statuses.append)

  def experiment(*_):
    raise runs.Interrupted(signum)

  main(experiment)
  assert statuses == [128 + signum]
  assert capfd.readouterr().err.strip() == (
    f'Stopped by {signum.name}; everything is saved in {tmp_path}/run: start'
    ' the same command again to go on.'
  )


def test_a_signal_in_training_says_so_at_once(capfd):
  with runs.stop_signals() as signals:
    os.kill(os.getpid(), signal.SIGINT)
    assert signals == [signal.SIGINT]
    assert capfd.readouterr().err.strip().startswith('Stopping')


def test_warnings_are_sentences_for_people(main, capsys):
  def experiment(*_):
    absl.logging.warning('%s is odd.', 'This')
    absl.logging.info('Not for people.')
    logging.getLogger('a.library').error('That is wrong.')

  main(experiment)
  assert capsys.readouterr().err.splitlines() == [
    'Warning: This is odd.',
    'Error: That is wrong.',
  ]
  told = warnings.formatwarning(UserWarning('Here too.'), UserWarning, 'f', 3)
  assert told == 'Warning: Here too.\n'


def test_printing_fails_on_no_terminal(main, monkeypatch):
  streams = {}
  for name in ('stdout', 'stderr'):
    streams[name] = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, name, streams[name])

  def experiment(*_):
    print('α = 1: 98.2 ± 0.1 …')
    print('a folder called 漢\udcff')
    absl.logging.warning('θ ≥ 0')

  main(experiment)
  out, err = (
    streams[name].detach().getvalue().decode().splitlines() for name in streams
  )
  assert out == ['alpha = 1: 98.2 +/- 0.1 ...', 'a folder called ??']
  assert err == ['Warning: theta >= 0']


def test_a_backend_for_windows_plays_no_part(main, monkeypatch):
  monkeypatch.setenv('MPLBACKEND', 'no such backend')
  found = []
  main(lambda *_: found.append(os.environ['MPLBACKEND']))
  assert found == ['agg']


def test_a_cache_that_the_user_has_chosen_stays(main, monkeypatch, tmp_path):
  set_to = []
  monkeypatch.setattr(jax.config, 'update', lambda *what: set_to.append(what))
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
  main(lambda *_: None, '--compilation_cache')
  assert set_to == []
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  main(lambda *_: None, '--compilation_cache')
  folder = tmp_path / 'powerprop' / 'jax'
  assert ('jax_compilation_cache_dir', str(folder)) in set_to


def test_a_user_without_a_home_has_a_cache(monkeypatch, tmp_path):
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  monkeypatch.setattr(os.path, 'expanduser', lambda path: path)
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  folder = pathlib.Path(cache.user_folder())
  assert folder == tmp_path / f'powerprop-{os.getuid()}'
  assert folder.stat().st_mode & 0o777 == 0o700
  assert cache.user_folder() == str(folder)
  # Programs are loaded from it: that of another user is not taken.
  folder.rmdir()
  folder.symlink_to(tmp_path)
  assert pathlib.Path(cache.user_folder()).parent == tmp_path
  assert cache.user_folder() != str(folder)
