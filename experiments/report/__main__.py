"""Makes the figures and tables of finished runs again from their records.

  python -m experiments.report DIR [DIR ...]

draws DIR/figures/*.png and *.pdf and writes DIR/tables.md from DIR/results.json
and DIR/records.npz, whichever experiment the run is of; nothing is trained.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

from experiments.report import files


def redraw(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Draws a run of any experiment, and writes its tables.

  Args:
    workdir: a run's folder.

  Returns:
    The files written; none where there is nothing to draw.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: a file of the run cannot be read.
  """
  results, _ = files.load(workdir)
  figures = files.part_of(results, 'plots').draw(workdir)
  if not figures:
    return []
  text = files.part_of(results, 'tables').markdown(results)
  files.write_atomically(workdir / 'tables.md', text.encode())
  return [*figures, workdir / 'tables.md']


def main(arguments: Sequence[str] | None = None) -> int:
  """Redraws the runs named on the command line.

  Args:
    arguments: of the command line; None for those of the process.

  Returns:
    The exit status: 0, or 1 at the first folder that could not be drawn.
  """
  files.print_anywhere()
  parser = argparse.ArgumentParser(
    prog='python -m experiments.report',
    description='Makes the figures and tables of finished runs again from their'
    ' records.',
  )
  parser.add_argument('workdir', nargs='+', help="a run's folder")
  for workdir in parser.parse_args(arguments).workdir:
    try:
      paths = redraw(pathlib.Path(workdir))
    except (OSError, ValueError) as error:
      print(error, file=sys.stderr)
      return 1
    if not paths:
      print(f'{workdir} has no results to draw.', file=sys.stderr)
      return 1
    for path in paths:
      print(path)
  return 0


if __name__ == '__main__':
  sys.exit(main())
