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
      figures, _ = files.redraw(workdir)
    except (OSError, ValueError) as error:
      print(error, file=sys.stderr)
      return 1
    if not figures:
      print(f'{workdir} has no results to draw.', file=sys.stderr)
      return 1
    for path in (*figures, pathlib.Path(workdir, 'tables.md')):
      print(path)
  return 0


if __name__ == '__main__':
  sys.exit(main())
