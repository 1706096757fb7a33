"""What a run has recorded, and the command that draws it again."""

import argparse
from collections.abc import Callable, Mapping, Sequence
import io
import json
import os
import pathlib
import sys
from typing import Any
import zipfile

import numpy as np


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
  path = workdir / 'config.json'
  config = json.loads(path.read_text('utf-8')) if path.is_file() else {}
  labels = config.get('labels') if isinstance(config, dict) else None
  return {**results, 'labels': labels or {}}


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


def command(
  module: str,
  draw_fn: Callable[[str], list[pathlib.Path]],
  arguments: Sequence[str] | None,
) -> int:
  """The command of a module that draws finished runs again.

  Args:
    module: its name, for the usage message.
    draw_fn: from a run's folder to the files written.
    arguments: of the command line; None for those of the process.

  Returns:
    The exit status: 0, or 1 at the first folder that could not be drawn.
  """
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='replace')  # a terminal may be ASCII
  parser = argparse.ArgumentParser(
    prog=f'python -m {module}',
    description='Makes the figures and tables of finished runs again from their'
    ' records.',
  )
  parser.add_argument('workdir', nargs='+', help="a run's folder")
  for workdir in parser.parse_args(arguments).workdir:
    try:
      paths = draw_fn(workdir)
    except (OSError, ValueError) as error:
      print(error, file=sys.stderr)
      return 1
    if not paths:
      print(f'{workdir} has no results to draw.', file=sys.stderr)
      return 1
    for path in paths:
      print(path)
  return 0
