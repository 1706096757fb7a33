"""Whose a run's folder is: its config, and what may change on resuming."""

from collections.abc import Callable, Mapping
import errno
import json
import os
import pathlib
from typing import Any

import ml_collections

from experiments.engine import runs
from experiments.engine.settings import Rules
from experiments.report import files


def open_folder(
  workdir: pathlib.Path, config: Mapping[str, Any], rules: Rules
) -> None:
  """Makes the folder, or checks that it belongs to the same config.

  What may change is written down: config.json has what the run goes on with,
  and changes.jsonl what it was before.

  Args:
    workdir: the run's folder.
    config: nested dict of the config.
    rules: what may differ.

  Raises:
    RunError: if the folder holds a run with another config, or cannot be made.
  """
  runs.commit()  # what trains is the code of now, whatever is committed later
  path = workdir / 'config.json'
  text = files.to_json(rules.resolve(config))
  try:
    if not path.exists():
      if begun := _begun(workdir):
        raise runs.RunError(
          f'{workdir} holds a run ({begun}) but no config.json, so nothing says'
          ' which: put that file back, or choose another --workdir.'
        )
      files.write_atomically(path, text)
      return
    saved = json.loads(path.read_bytes())
  except ValueError:
    raise runs.RunError(
      f'{path} is damaged; delete the folder {workdir}, or choose another'
      ' --workdir.'
    ) from None
  except OSError as e:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
      raise
    raise runs.cannot_write(workdir, e) from None
  now = json.loads(text)
  if isinstance(saved, dict) and saved.keys() <= now.keys():
    # One of before its defaults were kept may go on with them.
    saved = json.loads(files.to_json(rules.resolve(saved)))
  if not isinstance(saved, dict) or saved.keys() != now.keys():
    raise runs.RunError(
      f'{path} is not the config of a run of this program; choose another'
      ' --workdir.'
    )
  changed = {k: [saved[k], now[k]] for k in now if saved[k] != now[k]}
  if not changed:
    return
  if not _begun(workdir):
    files.write_atomically(path, text)  # that start failed before any training
    return
  grown = [
    k
    for k, (old, new) in changed.items()
    if k in rules.growing and isinstance(old, int) and old < new
  ]
  if wrong := [
    k
    for k, (old, new) in changed.items()
    if k not in (*rules.free, *grown)
    and _held(k, old, rules) != _held(k, new, rules)
  ]:
    raise runs.RunError(
      f'{workdir} holds a run with another config: '
      + '; '.join(
        f'{k} was {_short(saved[k])} and is now {_short(now[k])}' for k in wrong
      )
      + '; choose another --workdir, or delete that folder.'
    )
  with runs.lock(workdir):
    if grown:  # what is finished is kept; the training goes on
      before = '_'.join(f'{k}_{saved[k]}' for k in grown)
      for name in ('results.json', 'records.npz'):
        if (workdir / name).exists():
          stem, suffix = name.split('.')
          os.replace(workdir / name, workdir / f'{stem}_{before}.{suffix}')
    elif (workdir / 'results.json').exists():
      # They were made with what config.json has; what things are called is
      # read whenever tables and figures are made.
      if 'labels' not in changed:
        return
      changed = {'labels': changed['labels']}
      text = files.to_json(saved | {'labels': now['labels']})
    # Config last: until it is there, the next start does all of this again.
    log = workdir / 'changes.jsonl'
    lines = log.read_bytes().splitlines(True) if log.exists() else []
    if (line := files.to_json(changed)) not in lines[-1:]:
      files.write_atomically(log, b''.join([*lines, line]))
    files.write_atomically(path, text)


def _held(field: str, value: Any, rules: Rules) -> Any:
  """A field's value without what may change in it."""
  if not isinstance(value, dict):
    return value
  return {k: v for k, v in value.items() if f'{field}.{k}' not in rules.free}


def finished(
  workdir: pathlib.Path, resolve: Callable[..., Mapping[str, Any]]
) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
  """The config of a finished run, and its results.

  Args:
    workdir: its folder.
    resolve: config -> the same with all defaults, as in `Rules.resolve`.

  Returns:
    The config with the executor that the run had, and what results.json holds.

  Raises:
    RunError: if the run is not finished, or its config.json is damaged.
  """
  if (results := files.read_results(workdir)) is None:
    raise runs.RunError(f'{workdir} holds no finished run; finish it first.')
  path = workdir / 'config.json'
  try:
    saved = resolve(json.loads(path.read_bytes()))
    if 'executor' in saved:
      chosen = results['environment'].get('executor', saved['executor'])
      saved = {**saved, 'executor': chosen}
    return ml_collections.ConfigDict(saved), results
  except (OSError, ValueError, TypeError, KeyError) as e:
    raise runs.RunError(
      f'{path} cannot be read ({e}); put it back from a copy.'
    ) from None


def changes(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """By field, [before, after], for every start that changed some."""
  path = workdir / 'changes.jsonl'
  return files.json_lines(path)[0] if path.exists() else []


def _begun(workdir: pathlib.Path) -> str:
  """The first of a run's files that is there; '' before any training."""
  names = ('metrics.jsonl', 'results.json', 'records.npz', 'cells')
  found = [name for name in names if (workdir / name).exists()]
  checkpoints = workdir / 'checkpoints'
  if checkpoints.is_dir() and any(checkpoints.iterdir()):
    found.append('checkpoints')
  return found[0] if found else ''


def _short(x: Any) -> str:
  text = repr(x)
  return text if len(text) < 60 else text[:59] + '…'
