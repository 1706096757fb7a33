"""A run's folder: resuming after every kind of stop, damage, signals."""

import contextlib
import json
import os
import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from experiments.engine import runs
from experiments.engine import trainings
from experiments.report import files
from tests import forks
from tests import tiny


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run that nothing disturbed, and its results."""
  folder = tmp_path_factory.mktemp('finished')
  return folder, tiny.run(folder)


def numbers(results):
  """What must not depend on how often a run was stopped."""
  return files.to_json({k: v for k, v in results.items() if k != 'environment'})


@contextlib.contextmanager
def during_chunk(chunk, act):
  """Calls act() while a run does its chunk of that number, from 1."""
  real, calls = trainings.advance, 0

  def advance(*args):
    nonlocal calls
    calls += 1
    for i, one in enumerate(real(*args)):
      if calls == chunk and i == 0:
        act()
      yield one

  trainings.advance = advance
  try:
    yield
  finally:
    trainings.advance = real


def stopped_and_resumed(workdir, chunk, signum=signal.SIGTERM, **fields):
  """Results of a run that a signal stopped in that chunk."""
  with during_chunk(chunk, lambda: os.kill(os.getpid(), signum)):
    with pytest.raises(runs.Interrupted) as stopped:
      tiny.run(workdir, **fields)
  assert stopped.value.signum == signum
  assert not (workdir / 'results.json').exists()
  return tiny.run(workdir, **fields)


def _steps(workdir):
  return sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir())


def _digest(workdir):
  """The checksum of the last checkpoint: every bit of every state."""
  path = workdir / 'checkpoints' / str(_steps(workdir)[-1])
  return json.loads((path / 'extra' / 'metadata').read_text())['sha256']


def _assert_same_run(workdir, results, finished):
  folder, wanted = finished
  assert numbers(results) == numbers(wanted)
  log = 'metrics.jsonl'
  assert (workdir / log).read_bytes() == (folder / log).read_bytes()
  assert _digest(workdir) == _digest(folder)


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize('every', [0.0, 1e9], ids=['often', 'at_the_end'])
def test_a_signal_saves_and_the_same_command_goes_on(
  finished, tmp_path, capsys, signum, every
):
  fields = {'checkpoint_seconds': every}
  results = stopped_and_resumed(tmp_path, 3, signum, **fields)
  # The chunk of the signal is done again.
  assert 'at step 20 of 40' in capsys.readouterr().out
  _assert_same_run(tmp_path, results, finished)


@pytest.mark.parametrize('chunk, step', [(1, 0), (4, 30)])
def test_a_signal_in_the_first_and_in_the_last_chunk(
  finished, tmp_path, capsys, chunk, step
):
  results = stopped_and_resumed(tmp_path, chunk)
  assert f'at step {step} of 40' in capsys.readouterr().out
  _assert_same_run(tmp_path, results, finished)


def test_a_signal_while_the_last_checkpoint_is_saved(
  finished, tmp_path, monkeypatch
):
  save = runs.Checkpoints.save

  def slow(self, step, *args):
    if step == 40:
      os.kill(os.getpid(), signal.SIGTERM)
    save(self, step, *args)

  with monkeypatch.context() as patch:
    patch.setattr(runs.Checkpoints, 'save', slow)
    with pytest.raises(runs.Interrupted):
      tiny.run(tmp_path)
  assert _steps(tmp_path)[-1] == 40
  _assert_same_run(tmp_path, tiny.run(tmp_path), finished)


def test_signal_handlers_are_put_back():
  before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
  with runs.stop_signals() as got:
    assert got == []
  after = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
  assert before == after


# Checkpoints that were damaged.


def _copy_unfinished(folder, to):
  """The finished run as it was before it wrote its results."""
  shutil.copytree(folder, to, dirs_exist_ok=True)
  for name in ('results.json', 'records.npz'):
    (to / name).unlink()


def _largest(path):
  files = [p for p in path.rglob('*') if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def _truncate(path):
  largest = _largest(path)
  largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def _flip(path):
  largest = _largest(path)
  content = bytearray(largest.read_bytes())
  middle = len(content) // 2
  content[middle : middle + 8] = bytes(255 - b for b in content[middle:][:8])
  largest.write_bytes(bytes(content))


def _remove_file(path):
  _largest(path).unlink()


def _empty(path):
  shutil.rmtree(path)
  path.mkdir()


def _no_state(path):
  shutil.rmtree(path / 'state')


def _no_extra(path):
  (path / 'extra' / 'metadata').write_text('{"half":')


def _no_manifest(path):
  (path / runs._MANIFEST).unlink()  # killed just before it was written


def _another_content(path):
  """Readable, but not what was saved: only the checksum tells."""
  extra = path / 'extra' / 'metadata'
  content = json.loads(extra.read_text())
  extra.write_text(json.dumps(content | {'sha256': '0' * 64}))
  (path / runs._MANIFEST).write_bytes(files.to_json(runs._files(path)))


_DAMAGES = (
  _truncate,
  _flip,
  _remove_file,
  _empty,
  _no_state,
  _no_extra,
  _no_manifest,
  _another_content,
)


@pytest.mark.parametrize('damage', _DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
  finished, tmp_path, capsys, caplog, damage
):
  _copy_unfinished(finished[0], tmp_path)
  assert _steps(tmp_path) == [30, 40]
  damage(tmp_path / 'checkpoints' / '40')
  results = tiny.run(tmp_path)
  assert 'step 40' in caplog.text and 'is damaged' in caplog.text
  assert 'going back to the one before' in caplog.text
  assert 'at step 30 of 40' in capsys.readouterr().out
  _assert_same_run(tmp_path, results, finished)


def test_all_checkpoints_damaged_starts_again(
  finished, tmp_path, capsys, caplog
):
  _copy_unfinished(finished[0], tmp_path)
  _truncate(tmp_path / 'checkpoints' / '40')
  _remove_file(tmp_path / 'checkpoints' / '30')
  results = tiny.run(tmp_path)
  assert 'starting again from step 0' in caplog.text
  assert 'Resuming' not in capsys.readouterr().out
  _assert_same_run(tmp_path, results, finished)


def test_what_a_killed_save_left_is_cleared_away(finished, tmp_path):
  _copy_unfinished(finished[0], tmp_path)
  folder = tmp_path / 'checkpoints'
  half = folder / '40.orbax-checkpoint-tmp-0'
  shutil.move(folder / '40', half)
  _truncate(half)
  results = tiny.run(tmp_path)
  assert not half.exists()
  _assert_same_run(tmp_path, results, finished)


def test_a_checkpoint_of_another_program_is_kept(finished, tmp_path):
  """Not damage: nothing is deleted, and the sentence says what to do."""
  _copy_unfinished(finished[0], tmp_path)
  (tmp_path / 'config.json').write_bytes(
    files.to_json(tiny.config(executor='vmap').to_dict())
  )
  with pytest.raises(runs.RunError, match='another executor or number of dev'):
    tiny.run(tmp_path, executor='vmap')
  assert _steps(tmp_path) == [30, 40]


def test_a_run_of_another_version_of_the_code_cannot_go_on(
  finished, tmp_path, monkeypatch
):
  _copy_unfinished(finished[0], tmp_path)
  monkeypatch.setattr(runs, '_FORMAT', runs._FORMAT + 1)
  with pytest.raises(runs.RunError, match='begun with another version of this'):
    tiny.run(tmp_path)
  assert _steps(tmp_path) == [30, 40]


@pytest.mark.parametrize('content', [None, b'{"step": 10}\n'])
def test_a_log_shorter_than_its_checkpoint_is_an_error(
  finished, tmp_path, content
):
  _copy_unfinished(finished[0], tmp_path)
  (tmp_path / 'metrics.jsonl').unlink()
  if content:
    (tmp_path / 'metrics.jsonl').write_bytes(content)
  with pytest.raises(runs.RunError, match='metrics.jsonl has .* put it back'):
    tiny.run(tmp_path)


def test_checkpoints_hold_any_tree_and_only_the_last_two(tmp_path):
  tree = {
    'a': [np.arange(6, dtype=np.int32).reshape(2, 3), np.asarray(True)],
    'b': jax.numpy.full((3,), 0.5, jax.numpy.bfloat16),
    'c': np.float64(0.1),
  }
  checkpoints = runs.Checkpoints(tmp_path)
  assert checkpoints.restore(tree) is None
  for step in (0, 5, 7):
    checkpoints.save(step, tree, {'note': step})
  checkpoints.close()
  assert _steps(tmp_path) == [5, 7]
  checkpoints = runs.Checkpoints(tmp_path)
  step, got, extra = checkpoints.restore(tree)
  checkpoints.close()
  assert (step, extra['note']) == (7, 7)
  assert jax.tree.structure(got) == jax.tree.structure(tree)
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(tree), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


# Small parts.


def test_json_is_strict_whatever_goes_in():
  value = {
    'a': float('nan'),
    'b': [np.float32('inf'), np.int64(3)],
    'c': np.array([1.0, np.nan]),
    1: (True, None, 'x'),
  }
  assert json.loads(files.to_json(value)) == {
    'a': None,
    'b': [None, 3],
    'c': [1.0, None],
    '1': [True, None, 'x'],
  }


def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
  path = tmp_path / 'file'
  files.write_atomically(path, b'old')

  def fails(fd):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', fails)
  with pytest.raises(OSError, match='No space'):
    files.write_atomically(path, b'new')
  assert path.read_bytes() == b'old'
  assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_only_one_process_at_a_time(tmp_path):
  with runs.lock(tmp_path):
    with pytest.raises(runs.RunError, match='another process is running'):
      with runs.lock(tmp_path):
        pass
  with runs.lock(tmp_path):
    pass


def test_environment_says_versions_device_and_commit():
  got = runs.environment()
  assert got['versions']['jax'] == jax.__version__
  assert {'python', 'device', 'processor', 'cores', 'commit'} <= set(got)


# The binary.

_BINARY = 'experiments.one_shot'


def _wait_for_line(workdir, count, process):
  """Until metrics.jsonl has so many lines."""
  path = workdir / 'metrics.jsonl'
  until = time.monotonic() + 120
  while time.monotonic() < until and process.poll() is None:
    if path.exists() and path.read_bytes().count(b'\n') >= count:
      return
    time.sleep(0.02)


_LONG = {'steps': 4_000, 'chunk_steps': 20}  # some seconds in 200 chunks


def test_a_signal_to_the_binary(tmp_path):
  """Ctrl-C; SIGTERM comes to that of `experiments.continual`."""
  process = forks.start(_BINARY, tiny.flags(tmp_path, **_LONG))
  _wait_for_line(tmp_path, 12, process)
  process.send_signal(signal.SIGINT)
  done = process.wait()
  assert done.status == 130, done.err
  assert 'Stopped by SIGINT' in done.err
  assert 'start the same command again' in done.err
  assert 'Traceback' not in done.err
  assert _steps(tmp_path)[-1] >= 20


def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path):
  """Most of the time goes to saving, so that the kill lands there."""
  fields = {'steps': 160}
  whole = tiny.run(tmp_path / 'whole', **fields)
  workdir = tmp_path / 'killed'
  process = forks.start(_BINARY, tiny.flags(workdir, **fields))
  _wait_for_line(workdir, 4, process)
  time.sleep(random.Random(0).uniform(0, 0.2))
  process.send_signal(signal.SIGKILL)
  assert (done := process.wait()).status == -signal.SIGKILL, done
  results = tiny.run(workdir, **fields)
  _assert_same_run(workdir, results, (tmp_path / 'whole', whole))


def test_a_finished_run_draws_again_and_does_not_train(finished, tmp_path):
  folder, _ = finished
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  kept = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*') if p.is_file()}
  done = forks.run(_BINARY, tiny.flags(tmp_path))
  assert done.status == 0, done.err
  assert 'is finished' in done.out and '|' in done.out
  assert (tmp_path / 'figures' / 'figure1.png').stat().st_size > 1_000
  assert kept == {p: p.stat().st_mtime_ns for p in kept}


@pytest.mark.parametrize('name', ['results.json', 'records.npz'])
@pytest.mark.parametrize('damage', [None, b'', b'{"rows": ['])
def test_damaged_results_are_made_again(finished, tmp_path, name, damage):
  folder, wanted = finished
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  if damage is None:
    (tmp_path / name).unlink()
  else:
    (tmp_path / name).write_bytes(damage)
  assert files.read_results(tmp_path) is None
  assert json.loads(files.to_json(wanted)) == files.read_results(folder)
  assert numbers(tiny.run(tmp_path)) == numbers(wanted)
  assert files.read_results(tmp_path) is not None


@pytest.mark.parametrize('how', ['next save', 'close'])
def test_a_full_disk_while_the_run_goes_on(tmp_path, monkeypatch, how):
  """What fails in the background is said, and the state before it is kept."""
  state = {'x': np.arange(3.0)}
  real = os.fsync
  checkpoints = runs.Checkpoints(tmp_path, background=True)
  checkpoints.save(1, state, {'seconds': 1.0})
  checkpoints._wait()

  def fsync(fd):
    if 'files.json' in os.readlink(f'/proc/self/fd/{fd}'):
      raise OSError(28, 'No space left on device')
    real(fd)

  with monkeypatch.context() as patch:
    patch.setattr(os, 'fsync', fsync)
    checkpoints.save(2, {'x': np.arange(3.0) + 1}, {'seconds': 2.0})
    with pytest.raises(runs.RunError, match='is full; free some space'):
      with runs.disk_errors(tmp_path), contextlib.closing(checkpoints):
        if how == 'next save':
          checkpoints.save(3, state, {'seconds': 3.0})
  with contextlib.closing(runs.Checkpoints(tmp_path, background=True)) as again:
    step, tree, extra = again.restore(state)
  assert (step, extra['seconds']) == (1, 1.0)
  np.testing.assert_array_equal(tree['x'], state['x'])
