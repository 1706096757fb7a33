"""A run's files: written whole or not at all, and read with care."""

from collections.abc import Collection, Mapping
import importlib
import io
import json
import os
import pathlib
import sys
import types
from typing import Any
import zipfile
import zlib

from absl import logging
import numpy as np

# What says whose a line of metrics.jsonl is.
_WHO = ('step', 'transform', 'alpha', 'learning_rate', 'seed')


def print_anywhere() -> None:
  """Printing never fails: what a terminal's encoding lacks becomes '?'."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='replace')


def config_of(workdir: str | os.PathLike[str]) -> dict[str, Any]:
  """What a run's config.json holds; {} where there is none.

  Args:
    workdir: a run's folder.

  Raises:
    ValueError: config.json is no JSON.
  """
  path = pathlib.Path(workdir, 'config.json')
  config = json.loads(path.read_text('utf-8')) if path.is_file() else {}
  return config if isinstance(config, dict) else {}


def labelled(
  results: Mapping[str, Any], workdir: pathlib.Path
) -> dict[str, Any]:
  """A run's results with the "labels" of its config; {} where it has none.

  Args:
    results: a run's record.
    workdir: its folder. What things are called is no result: it is read from
      config.json whenever tables and figures are made.

  Raises:
    ValueError: config.json is no JSON.
  """
  return {**results, 'labels': config_of(workdir).get('labels') or {}}


def part_of(results: Mapping[str, Any], name: str) -> types.ModuleType:
  """A module of the experiment that a run is of.

  Every experiment is a folder with `analysis`, `tables` and `plots`: what is
  done for all of them finds its part there, and imports none of them.

  Args:
    results: a run's record.
    name: of the module.
  """
  return importlib.import_module(f'experiments.{experiment(results)}.{name}')


def experiment(results: Mapping[str, Any]) -> str:
  """Which experiment a run is of, by the name of its folder."""
  # Older runs of these two do not say what they are.
  old = 'sparse_training' if 'plans' in results else 'one_shot'
  return str(results.get('experiment', old))


def load(
  workdir: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Reads what a run has recorded.

  Args:
    workdir: a run's folder.

  Returns:
    results.json, as `labelled` gives it, and the arrays of records.npz, {}
    where there is no such file.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: one of the two files cannot be read.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise FileNotFoundError(f'There is no folder {workdir}.')
  path = workdir / 'results.json'
  if not path.is_file():
    raise FileNotFoundError(f'There is no results.json in {workdir}.')
  try:
    results = json.loads(path.read_text(encoding='utf-8'))
    if not isinstance(results, dict):
      raise ValueError("it does not hold a run's results")
    path = workdir / 'config.json'
    results = labelled(results, workdir)
    path = workdir / 'records.npz'
    if not path.is_file():
      return results, {}
    with path.open('rb') as file, np.load(file) as archive:
      return results, dict(archive)
  except (ValueError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f'{path} cannot be read: {error}') from error


def redraw(workdir: str | os.PathLike[str]) -> tuple[list[pathlib.Path], str]:
  """Draws a run of any experiment, and writes its tables to tables.md.

  Args:
    workdir: a run's folder.

  Returns:
    The files of its figures, none where there is nothing to draw, and its
    tables, '' where there are no results.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: a file of the run cannot be read.
  """
  workdir = pathlib.Path(workdir)
  results, _ = load(workdir)
  figures = part_of(results, 'plots').draw(workdir)
  if not results.get('rows'):
    return figures, ''
  text = part_of(results, 'tables').markdown(results)
  write_atomically(workdir / 'tables.md', text.encode())
  return figures, text


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


def read_results(workdir: pathlib.Path) -> dict[str, Any] | None:
  """What results.json holds; None if it or records.npz is missing or damaged.

  Damage is reported: what is lost can be made again from the last checkpoint.
  """
  if not (workdir / 'results.json').exists():
    return None
  try:
    results = json.loads((workdir / 'results.json').read_bytes())
    if not _are_results(results):
      raise ValueError('rows, summary or environment are missing')
    with zipfile.ZipFile(workdir / 'records.npz') as records:
      if broken := records.testzip():
        raise ValueError(f'{broken} in records.npz')
  except (ValueError, OSError, zipfile.BadZipFile, zlib.error) as e:
    logging.warning(
      'results.json or records.npz in %s is damaged (%s): they are made again.',
      workdir,
      e,
    )
    return None
  return results


def _are_results(x: Any) -> bool:
  """Whether this is what any experiment writes."""

  def several(rows):
    return isinstance(rows, list) and all(isinstance(r, dict) for r in rows)

  return (
    isinstance(x, dict)
    and bool(x.get('rows'))
    and several(x.get('rows'))
    and several(x.get('summary'))
    and isinstance(x.get('environment'), dict)
    and {'train_seconds', 'device', 'processor'} <= x['environment'].keys()
  )


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """All rows of metrics.jsonl; damaged lines are reported and left out."""
  path = workdir / 'metrics.jsonl'
  rows, damaged = json_lines(path, _WHO)
  if damaged:
    logging.warning(
      '%s is damaged in %d of %d lines, the first being line %d: what they'
      ' said is missing in the figures; all else is as it was.',
      path,
      len(damaged),
      len(rows) + len(damaged),
      damaged[0],
    )
  return rows


def json_lines(
  path: pathlib.Path, fields: Collection[str] = ()
) -> tuple[list[dict[str, Any]], list[int]]:
  """Reads a file of JSON lines.

  Args:
    path: of the file.
    fields: that every line has.

  Returns:
    The dicts, and the numbers, from 1, of lines that are no such dict.
  """
  rows, damaged = [], []
  for number, line in enumerate(path.read_bytes().splitlines(), 1):
    try:
      row = json.loads(line)
    except ValueError:
      row = None
    if isinstance(row, dict) and row.keys() >= set(fields):
      rows.append(row)
    else:
      damaged.append(number)
  return rows, damaged
