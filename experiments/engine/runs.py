"""A run's folder: config, metrics, checkpoints, resume, results.

config.json     the config of the run, with all defaults
changes.jsonl   which of its fields were changed on resuming, if any
metrics.jsonl   one line per member and chunk; TensorBoard's files beside it
checkpoints/    the last two, by Orbax, each with a checksum
results.json    rows, summary, analysis, environment
records.npz     what the figures need beside that
figures/        PNG and PDF
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import platform
import signal
import subprocess
import time
from typing import Any

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from tensorboardX import record_writer
from tensorboardX import summary
from tensorboardX.proto import event_pb2

from experiments.report import files
from experiments.report import naming

_KEEP = 2
# Of checkpoints: another one when their arrays change, or what is beside them.
_FORMAT = 3
_CODE = ('powerprop', 'experiments', 'configs')
_MANIFEST = 'files.json'  # a checkpoint without it was not saved to its end
_STOPPING = b'\nStopping: what is done is being saved. Once more ends it now.\n'
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class RunError(RuntimeError):
  """A run cannot go on; the message says why and what to do."""


class Interrupted(Exception):
  """A signal asked the run to stop; all is saved.

  Attributes:
    signum: which.
  """

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


def cannot_write(workdir: pathlib.Path, e: OSError) -> RunError:
  """The error that a folder is not for writing."""
  return RunError(
    f'cannot write to the workdir {workdir} ({e.strerror}); choose another'
    ' --workdir.'
  )


@contextlib.contextmanager
def disk_errors(workdir: pathlib.Path) -> Iterator[None]:
  """Turns a full or read-only disk, however worded, into one sentence."""
  try:
    yield
  except Exception as e:
    if isinstance(e, OSError) and e.errno in _DENIED:
      raise cannot_write(workdir, e) from e
    full = isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or 'No space left' in str(e) or 'Disk quota' in str(e):
      raise RunError(
        f'the disk of {workdir} is full; free some space and start the same'
        ' command again: it goes on from the last checkpoint.'
      ) from e
    raise


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
  """Holds the folder, so that no second process writes to it; dies with us.

  Raises:
    RunError: if another process holds it.
  """
  folder = os.open(workdir, os.O_RDONLY)
  try:
    try:
      fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise RunError(
        f'another process is running in {workdir}; wait for its end, or choose'
        ' another --workdir.'
      ) from None
    except OSError:  # a file system without locks
      pass
    yield
  finally:
    os.close(folder)


_CURVES = (
  'loss',
  'validation_accuracy',
  'current_alpha',
  'near_zero',
  'density',
  'inference_flops_ratio',
  'training_flops_ratio',
  'accuracy_when_learned',
  'used_weights',
)


class Metrics:
  """metrics.jsonl and TensorBoard, cut back to the checkpoint on resuming."""

  def __init__(self, workdir: pathlib.Path, offset: int, step: int):
    """Opens the log.

    Args:
      workdir: the run's folder.
      offset: bytes of metrics.jsonl that belong to the checkpoint; the rest is
        cut off, as it will be written again.
      step: the checkpoint's step.

    Raises:
      RunError: if the log is shorter than it was at the checkpoint.
    """
    path = workdir / 'metrics.jsonl'
    self._file = open(path, 'ab')  # noqa: SIM115
    if (size := self.offset) < offset:
      self._file.close()
      raise RunError(
        f'{path} has {size} bytes but had {offset} at the checkpoint of step'
        f' {step}; put it back, or delete the folder {workdir} to start again.'
      )
    self._file.truncate(offset)
    # Not SummaryWriter: where the disk is full, its thread dies, and the next
    # call waits for it for ever.
    name = f'events.out.tfevents.{time.time():.0f}.{platform.node()}'
    self._board = record_writer.RecordWriter(
      str(workdir / f'{name}.{os.getpid()}.{step}')
    )
    self._event(file_version='brain.Event:2')
    if offset:  # TensorBoard drops what an earlier process wrote after `step`
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._event(step=step + 1, session_log=start)

  @property
  def offset(self) -> int:
    """Bytes written so far."""
    self._file.flush()
    os.fsync(self._file.fileno())
    return self._file.seek(0, os.SEEK_END)

  def write(self, rows: Iterable[dict[str, Any]]) -> None:
    """Appends rows, each with `step`, who it is about, and numbers."""
    for row in rows:
      self._file.write(files.to_json(row))
      who = naming.net_name(row)
      for name in _CURVES:
        if np.isfinite(row.get(name) or 0.0) and row.get(name) is not None:
          self._event(
            step=row['step'],
            summary=summary.scalar(f'{name}/{who}', row[name]),
          )
    self._file.flush()
    self._board.flush()

  def _event(self, **fields: Any) -> None:
    event = event_pb2.Event(wall_time=time.time(), **fields)
    self._board.write(event.SerializeToString())

  def close(self) -> None:
    """Flushes and closes both, even where one has no space left."""
    with contextlib.closing(self._file), contextlib.closing(self._board):
      pass


def _layout(leaves: list[Any]) -> list[str]:
  """Shapes and dtypes: they tell programs apart."""
  return [f'{np.dtype(x.dtype).name}{list(x.shape)}' for x in leaves]


def _files(folder: pathlib.Path) -> dict[str, str]:
  """SHA-256 of every file of a folder but its manifest, by path."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path.name != _MANIFEST
  }


def _digest(leaves: list[np.ndarray]) -> str:
  h = hashlib.sha256()
  for x in leaves:
    h.update(f'{x.shape}{x.dtype}'.encode())
    h.update(np.ascontiguousarray(x).tobytes())
  return h.hexdigest()


def require_checkpoint(folder: pathlib.Path) -> None:
  """Looks for the states of a finished life, and writes nothing.

  Args:
    folder: of the life, with its checkpoints.

  Raises:
    RunError: if they were not kept.
  """
  checkpoints = folder / 'checkpoints'
  if not (checkpoints.is_dir() and any(checkpoints.iterdir())):
    raise RunError(
      f'The checkpoints of {folder} were not kept, and its nets are in them:'
      ' put them back from a copy, or run it again in another folder.'
    )


def _shared(leaves: list[np.ndarray]) -> list[Any]:
  """Arrays that every host has, of which each is to write a part."""
  if jax.process_count() == 1:
    return list(leaves)
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('all',))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return [
    jax.make_array_from_callback(x.shape, everywhere, x.__getitem__)
    for x in leaves
  ]


class Checkpoints:
  """The last two states of a run, each with a checksum; by Orbax.

  Of several hosts, each writes its part.
  """

  def __init__(self, workdir: pathlib.Path, background: bool = False):
    """Opens WORKDIR/checkpoints; what a killed run left half-written goes.

    Args:
      workdir: the run's folder.
      background: whether they are written while the run goes on; where that
        fails, the next call says so.
    """
    self._folder = workdir.absolute() / 'checkpoints'
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=_KEEP,
        enable_async_checkpointing=background,
        cleanup_tmp_directories=True,
      ),
    )
    self._background = background
    self._thread = futures.ThreadPoolExecutor(1)
    self._writing: futures.Future[None] | None = None

  def save(self, step: int, tree: Any, extra: Mapping[str, Any]) -> None:
    """Saves any pytree of arrays, and what else is to be known at `step`."""
    self._wait()
    leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
    names = [f'{i:04d}' for i in range(len(leaves))]
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(
          dict(zip(names, _shared(leaves), strict=True))
        ),
        extra=ocp.args.JsonSave(
          {
            **extra,
            'format': _FORMAT,
            'layout': _layout(leaves),
            'sha256': _digest(leaves),
          }
        ),
      ),
      force=True,
    )
    self._writing = self._thread.submit(self._finish, step)
    if not self._background:
      self._wait()

  def _finish(self, step: int) -> None:
    """Writes what says that a checkpoint is whole."""
    self._manager.wait_until_finished()
    if jax.process_index() == 0:
      folder = self._folder / str(step)
      files.write_atomically(folder / _MANIFEST, files.to_json(_files(folder)))

  def _wait(self) -> None:
    """Until nothing is being written; raises what went wrong in it."""
    writing, self._writing = self._writing, None
    if writing is not None:
      writing.result()

  def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
    """The newest state that is whole.

    Args:
      like: a tree of the same structure, shapes and dtypes.

    Returns:
      (step, tree of NumPy arrays, extra), or None where there is none to
      restore. A damaged checkpoint is reported, deleted, and the one before it
      is taken.

    Raises:
      RunError: if the states are whole but those of another program: one for
        another executor or number of devices, or of another version.
    """
    leaves, treedef = jax.tree.flatten(like)
    wanted = {
      f'{i:04d}': np.empty(x.shape, x.dtype) for i, x in enumerate(leaves)
    }
    steps = sorted(self._manager.all_steps(), reverse=True)
    for step in steps:
      folder = self._folder / str(step)
      try:
        if not (folder / _MANIFEST).exists():
          raise ValueError('saving it broke off')
        # Before Orbax sees them: it reads damaged files with much noise.
        if json.loads((folder / _MANIFEST).read_bytes()) != _files(folder):
          raise ValueError('its files are not those that were saved')
        got = self._manager.restore(
          step, args=ocp.args.Composite(extra=ocp.args.JsonRestore())
        )
        extra = dict(got.extra)
        if extra.pop('format', 1) != _FORMAT:
          raise RunError(
            f'the run in {self._folder.parent} was begun with another version'
            ' of this code, from whose checkpoints this one cannot go on:'
            ' finish it with that version, or start again in another --workdir.'
          )
        if extra.pop('layout', None) != _layout(leaves):
          raise RunError(
            f'the checkpoint at step {step} in {self._folder} was made with'
            ' another executor or number of devices; go on with those (config'
            ' field executor), or choose another --workdir.'
          )
        got = self._manager.restore(
          step,
          args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted)),
        )
        values = [np.asarray(got.state[name]) for name in wanted]
        if extra.pop('sha256') != _digest(values):
          raise ValueError('its checksum does not match')
      except (RunError, MemoryError):
        raise
      except Exception as e:  # pylint: disable=broad-exception-caught
        why = (str(e).splitlines() or [type(e).__name__])[0][:120]
        logging.warning(
          'The checkpoint at step %d in %s is damaged (%s): %s.',
          step,
          self._folder,
          why,
          'starting again from step 0'
          if step == steps[-1]
          else 'going back to the one before it',
        )
        self._manager.delete(step)
        continue
      return step, jax.tree.unflatten(treedef, values), extra
    return None

  def clear(self) -> None:
    """Deletes all states."""
    self._wait()
    for step in self._manager.all_steps():
      self._manager.delete(step)

  def close(self) -> None:
    """Waits for what is being written, and closes Orbax's manager."""
    with contextlib.closing(self._manager), self._thread:
      self._wait()


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
  """SIGTERM and Ctrl-C fill the list that is yielded; a second one kills.

  Yields:
    A list, empty until a signal has come.
  """
  got: list[int] = []
  previous = {}

  def handler(signum, unused_frame):
    got.append(signum)
    signal.signal(signum, signal.SIG_DFL)
    # Not print(): the signal may have come in the midst of one.
    with contextlib.suppress(OSError):
      os.write(2, _STOPPING)

  try:
    for s in (signal.SIGTERM, signal.SIGINT):
      previous[s] = signal.signal(s, handler)
  except ValueError:  # not in the main thread: leave signals alone
    pass
  try:
    yield got
  finally:
    for s, old in previous.items():
      signal.signal(s, old)


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[list[int]]:
  """A run's folder is ours, for as long as its lives take.

  Yields:
    As `stop_signals`.

  Raises:
    RunError: if another process holds the folder, or the disk is full.
    Interrupted: at the end, if a signal came that nothing heeded.
  """
  with disk_errors(workdir), lock(workdir), stop_signals() as signals:
    # From here on the folder belongs to its config: see `folder.open_folder`.
    (workdir / 'metrics.jsonl').touch()
    yield signals
    if signals:
      raise Interrupted(signals[0])


def code() -> dict[str, Any]:
  """What must be the same where the same is to be computed."""
  root = pathlib.Path(__file__).resolve().parents[2]
  h = hashlib.sha256()
  for folder in ('powerprop', 'experiments'):
    for path in sorted((root / folder).rglob('*.py')):
      h.update(f'{path.relative_to(root)}'.encode())
      h.update(path.read_bytes())
  return {'sources': h.hexdigest(), 'versions': _versions()}


def _versions() -> dict[str, str]:
  from importlib import metadata  # pylint: disable=g-import-not-at-top

  names = ('jax', 'jaxlib', 'dm-haiku', 'optax', 'numpy')
  return {name: metadata.version(name) for name in names}


@functools.cache
def commit() -> str:
  """The commit of this code when first asked for, or 'unknown'.

  It ends in '+changes' where the code has some that are not committed.
  """
  here = pathlib.Path(__file__).resolve().parents[2]
  run = lambda *a: subprocess.run(
    ['git', '-C', str(here), *a], capture_output=True, text=True, check=True
  ).stdout.strip()
  try:
    changed = run('status', '--porcelain', '--untracked-files=no', *_CODE)
    return run('rev-parse', 'HEAD') + ('+changes' if changed else '')
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'


def environment() -> dict[str, Any]:
  """Versions, device and commit: what a number needs beside it."""
  devices = jax.devices()
  return {
    'versions': _versions(),
    'python': platform.python_version(),
    'device': f'{len(devices)} x {devices[0].device_kind}',
    'hosts': jax.process_count(),
    'processor': _processor(),
    'cores': os.cpu_count(),
    'commit': commit(),
  }


def _processor() -> str:
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    return next(x for x in lines if x.startswith('model name')).split(': ')[1]
  except (OSError, StopIteration, IndexError):
    return platform.processor() or platform.machine()
