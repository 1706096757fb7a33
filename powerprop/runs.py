"""A run's folder: config, metrics, checkpoints, resume, results.

config.json     the config that the run was started with
metrics.jsonl   one line per member and chunk; TensorBoard's files beside it
checkpoints/    the last two, by Orbax, each with a checksum
results.json    rows, summary, analysis, environment
records.npz     what the figures need beside that
figures/        PNG and PDF
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import platform
import signal
import subprocess
from typing import Any

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorboardX

_KEEP = 2


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


@contextlib.contextmanager
def disk_errors(workdir: pathlib.Path) -> Iterator[None]:
  """Turns a full disk, however a library words it, into one sentence."""
  try:
    yield
  except Exception as e:
    full = isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or 'No space left' in str(e) or 'Disk quota' in str(e):
      raise RunError(
        f'the disk of {workdir} is full; free some space and start the same'
        ' command again: it goes on from the last checkpoint.'
      ) from e
    raise


def write_atomically(path: pathlib.Path, content: bytes) -> None:
  """Writes a file so that it is either the old one or the new one."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(path.name + '.part')
  try:
    with open(part, 'wb') as f:
      f.write(content)
      f.flush()
      os.fsync(f.fileno())
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


def to_json(value: Any) -> bytes:
  """JSON with NaN and infinities as null, so that any reader reads it."""

  def clean(x):
    if isinstance(x, Mapping):
      return {str(k): clean(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
      return [clean(v) for v in x]
    if isinstance(x, np.ndarray | np.generic):
      return clean(x.tolist())
    if isinstance(x, float) and not np.isfinite(x):
      return None
    return x

  return json.dumps(clean(value), allow_nan=False).encode() + b'\n'


def open_folder(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Makes the folder, or checks that it belongs to the same config.

  Args:
    workdir: the run's folder.
    config: nested dict of the config.

  Raises:
    RunError: if the folder holds a run with another config, or cannot be made.
  """
  path = workdir / 'config.json'
  text = to_json(config)
  if not path.exists():
    try:
      write_atomically(path, text)
    except OSError as e:
      if e.errno in (errno.ENOSPC, errno.EDQUOT):
        raise
      raise RunError(
        f'cannot write to the workdir {workdir} ({e.strerror}); choose another'
        ' --workdir.'
      ) from None
    return
  try:
    saved = json.loads(path.read_text())
  except ValueError:
    raise RunError(
      f'{path} is damaged; delete the folder {workdir}, or choose another'
      ' --workdir.'
    ) from None
  now = json.loads(text)
  if saved != now:
    names = [k for k in {**saved, **now} if saved.get(k) != now.get(k)]
    raise RunError(
      f'{workdir} holds a run with another config: '
      + '; '.join(
        f'{k} was {saved.get(k)!r} and is now {now.get(k)!r}' for k in names
      )
      + '; choose another --workdir, or delete that folder.'
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
    """
    self._file = open(workdir / 'metrics.jsonl', 'ab')  # noqa: SIM115
    self._file.truncate(offset)
    self._board = tensorboardX.SummaryWriter(
      str(workdir), purge_step=step or None
    )

  @property
  def offset(self) -> int:
    """Bytes written so far."""
    return self._file.seek(0, os.SEEK_END)

  def write(self, rows: Iterable[dict[str, Any]]) -> None:
    """Appends rows, each with `step`, who it is about, and numbers."""
    for row in rows:
      self._file.write(to_json(row))
      who = (
        f'{row["transform"]}/alpha_{row["alpha"]:g}'
        f'/lr_{row["learning_rate"]:g}/seed_{row["seed"]}'
      )
      for name in ('loss', 'validation_accuracy', 'current_alpha', 'near_zero'):
        self._board.add_scalar(f'{name}/{who}', row[name], row['step'])
    self._file.flush()

  def close(self) -> None:
    """Flushes and closes both."""
    self._file.close()
    self._board.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """All rows of metrics.jsonl."""
  with open(workdir / 'metrics.jsonl', encoding='utf-8') as f:
    return [json.loads(line) for line in f]


def _digest(leaves: list[np.ndarray]) -> str:
  h = hashlib.sha256()
  for x in leaves:
    h.update(f'{x.shape}{x.dtype}'.encode())
    h.update(np.ascontiguousarray(x).tobytes())
  return h.hexdigest()


class Checkpoints:
  """The last two states of a run, each with a checksum; by Orbax."""

  def __init__(self, workdir: pathlib.Path):
    """Opens WORKDIR/checkpoints; what a killed run left half-written goes."""
    self._folder = workdir.absolute() / 'checkpoints'
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=_KEEP,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
      ),
    )

  def save(self, step: int, tree: Any, extra: Mapping[str, Any]) -> None:
    """Saves any pytree of arrays, and what else is to be known at `step`."""
    leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
    names = [f'{i:04d}' for i in range(len(leaves))]
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(dict(zip(names, leaves, strict=True))),
        extra=ocp.args.JsonSave({**extra, 'sha256': _digest(leaves)}),
      ),
      force=True,
    )

  def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
    """The newest state that is whole.

    Args:
      like: a tree of the same structure, shapes and dtypes.

    Returns:
      (step, tree of NumPy arrays, extra), or None where there is none to
      restore. A damaged checkpoint is reported, deleted, and the one before it
      is taken.
    """
    leaves, treedef = jax.tree.flatten(like)
    wanted = {
      f'{i:04d}': np.empty(x.shape, x.dtype) for i, x in enumerate(leaves)
    }
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        got = self._manager.restore(
          step,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(wanted),
            extra=ocp.args.JsonRestore(),
          ),
        )
        values = [np.asarray(got.state[name]) for name in wanted]
        extra = dict(got.extra)
        if extra.pop('sha256') != _digest(values):
          raise ValueError('its checksum does not match')
      except Exception as e:  # pylint: disable=broad-exception-caught
        why = (str(e).splitlines() or [type(e).__name__])[0][:120]
        logging.warning(
          'The checkpoint at step %d in %s is damaged (%s): going back to the'
          ' one before it.',
          step,
          self._folder,
          why,
        )
        self._manager.delete(step)
        continue
      return step, jax.tree.unflatten(treedef, values), extra
    return None

  def close(self) -> None:
    """Closes Orbax's manager."""
    self._manager.close()


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


def environment() -> dict[str, Any]:
  """Versions, device and commit: what a number needs beside it."""
  from importlib import metadata  # pylint: disable=g-import-not-at-top

  def commit():
    here = pathlib.Path(__file__).resolve().parent
    run = lambda *a: subprocess.run(
      ['git', '-C', str(here), *a], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
      changed = run('status', '--porcelain', '--untracked-files=no', '.')
      return run('rev-parse', 'HEAD') + ('+changes' if changed else '')
    except (OSError, subprocess.CalledProcessError):
      return 'unknown'

  devices = jax.devices()
  return {
    'versions': {
      name: metadata.version(name)
      for name in ('jax', 'jaxlib', 'dm-haiku', 'optax', 'numpy')
    },
    'python': platform.python_version(),
    'device': f'{len(devices)} x {devices[0].device_kind}',
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
