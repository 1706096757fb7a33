"""Which task a test picture is of, where nobody says it; of a finished run.

  python -m experiments.continual.inference DIR [--ways=moments,energy]
    [--batches=1,10,100] [--tasks=10,20,300] [--examples=2000]

Asks every net of DIR that has to be told the task, in several ways (see
`powerprop.inference`), and writes inference.json, inference.md and
figures/task_inference.png and .pdf into DIR. Start the same command again to
resume. Nothing is trained, and nothing is chosen by what comes out. These ways
are ours.
"""

import argparse
from collections.abc import Mapping, Sequence
import pathlib
import sys
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

from experiments.continual import asking
from experiments.continual.asking import Asked
from experiments.continual.asking import WAYS
from experiments.engine import runs
from experiments.report import files
from experiments.report import markup
from experiments.report import style


def settings(results: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
  """The rows of each setting, all seeds together, by its name."""
  out: dict[str, list[dict[str, Any]]] = {}
  for row in results['rows']:
    out.setdefault(row['net'].rpartition('/seed_')[0], []).append(row)
  return out


def courses(
  rows: Sequence[Mapping[str, Any]], batch: int, field: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """By way: numbers of tasks, and the mean over seeds of a field."""
  out = {}
  for way in WAYS:
    of: dict[int, list[float]] = {}
    for row in rows:
      if (row['way'], row['batch']) == (way, batch):
        of.setdefault(row['tasks'], []).append(row[field])
    if of:
      x = sorted(of)
      out[way] = np.array(x), np.array([np.mean(of[n]) for n in x])
  return out


def markdown(results: Mapping[str, Any]) -> str:
  """Tables: a line for each number of tasks, size of batch and way."""
  parts = []
  for name, rows in settings(results).items():
    seeds = len({row['net'] for row in rows})
    lines: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
      lines.setdefault((row['tasks'], row['batch'], row['way']), []).append(row)

    def cell(some, field):
      values = [100 * row[field] for row in some]
      text = f'{np.mean(values):.1f}'
      return text + (f' ± {np.std(values, ddof=1):.1f}' if values[1:] else '')

    body = [
      [
        str(number) + (f' (n = {len(some)})' if len(some) < seeds else ''),
        str(batch),
        way,
        *(cell(some, f) for f in ('identified', 'accuracy')),
        cell(some, 'true_task_accuracy'),
        f'{some[0]["passes"]:.3g}',
        f'{1000 * np.mean([row["seconds"] for row in some]):.3g}',
      ]
      for (number, batch, way), some in lines.items()
    ]
    headers = ['tasks', 'batch', 'way', 'task found', 'accuracy']
    headers += ['of true task', 'passes', 'ms']
    parts.append(
      f'{name}: percent of batches whose task is found, and of pictures whose'
      ' class is, with that task and with the true one; forward passes and'
      f' milliseconds a picture. Mean{" ± std" * (seeds > 1)} over {seeds}'
      f' seed{"s" * (seeds > 1)}; `gradient` and `binary` of at most'
      f' {asking.MOST} pictures or batches each.\n\n'
      + markup.grid(body, headers, keys=3)
    )
  return '\n\n'.join(parts) + '\n'


@style.paper()
def figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
  """What one setting's ways find and take, over the number of tasks.

  Args:
    rows: of `settings`.

  Returns:
    A figure: a column for each size of batch; tasks found, classes found with
    the true task's beside them, and what a picture costs.
  """
  batches = sorted({row['batch'] for row in rows})
  fig = Figure(figsize=(3.1 * len(batches) + 0.4, 7.6), layout='constrained')
  axes = fig.subplots(3, len(batches), sharex=True, squeeze=False)
  colours = dict(zip(WAYS, style.COLOURS, strict=True))
  for column, batch in zip(axes.T, batches, strict=True):
    for panel, field in zip(
      column, ('identified', 'accuracy', 'passes'), strict=True
    ):
      for way, (x, y) in courses(rows, batch, field).items():
        factor = 1 if field == 'passes' else 100
        panel.plot(x, factor * y, color=colours[way], marker='o', markersize=3)
      panel.set_xscale('log')
    x, y = next(iter(courses(rows, batch, 'true_task_accuracy').values()))
    column[1].plot(x, 100 * y, color=style.BASELINE, ls='--')
    column[0].plot(x, 100 / x, color=style.GREY, ls=':')
    _name(column, batch)
  for panel, label in zip(
    axes[:, 0],
    ('task found (%)', 'test accuracy (%)', 'forward passes a picture'),
    strict=True,
  ):
    panel.set_ylabel(label)
  there = {row['way'] for row in rows}
  looks = {WAYS[w]: (c, '-') for w, c in colours.items() if w in there}
  looks |= {'true task': (style.BASELINE, '--'), 'chance': (style.GREY, ':')}
  style.legend_above(
    fig,
    [Line2D([], [], color=c, ls=ls, label=n) for n, (c, ls) in looks.items()],
  )
  return fig


def _name(column: Sequence[Axes], batch: int) -> None:
  """Titles and limits of a column of panels."""
  found, right, cost = column
  found.set_title(
    'one picture' if batch == 1 else f'{batch} pictures of a task'
  )
  for panel in (found, right):
    panel.set_ylim(-2, 102)
  cost.set_yscale('log')
  cost.set_xlabel('tasks to choose from')


def write(workdir: pathlib.Path, results: Mapping[str, Any]) -> str:
  """Writes inference.md and the figures; returns the tables."""
  text = markdown(results)
  files.write_atomically(workdir / 'inference.md', text.encode())
  found = settings(results)
  names = ['task_inference']
  if len(found) > 1:
    names = [f'task_inference_{name.replace("/", "_")}' for name in found]
  style.save_all(
    ((n, figure(rows)) for n, rows in zip(names, found.values(), strict=True)),
    workdir,
  )
  return text


def _numbers(text: str) -> tuple[int, ...]:
  try:
    return tuple(map(int, text.split(',')))
  except ValueError:
    raise argparse.ArgumentTypeError(
      f'{text!r} is not whole numbers with commas between, such as 1,10,100'
    ) from None


def main(arguments: Sequence[str] | None = None) -> int:
  """Measures the run that the command line names.

  Args:
    arguments: of the command line; None for those of the process.

  Returns:
    The exit status.
  """
  files.print_anywhere()
  parser = argparse.ArgumentParser(
    prog='python -m experiments.continual.inference',
    description='Measures in how many cases the task of a test picture is found'
    ' by the nets of a finished run, and what that takes.',
  )
  default = Asked()
  parser.add_argument('workdir', type=pathlib.Path, help="a run's folder")
  parser.add_argument(
    '--ways',
    type=lambda text: tuple(text.split(',')),
    default=default.ways,
    help=f'some of {",".join(WAYS)}; default: all',
  )
  parser.add_argument(
    '--batches',
    type=_numbers,
    default=default.batches,
    help='numbers of pictures that are of one task; default: 1,10,100',
  )
  parser.add_argument(
    '--tasks',
    type=_numbers,
    default=default.tasks,
    help='numbers of tasks to choose from; default: 2,5,10,20,… and all',
  )
  parser.add_argument(
    '--examples',
    type=int,
    default=default.examples,
    help='test pictures for each number of tasks; default: %(default)s',
  )
  parser.add_argument('--data_dir', help='where prepared data lie')
  given = vars(parser.parse_args(arguments))
  workdir, data_dir = given.pop('workdir'), given.pop('data_dir')
  try:
    results = asking.measure(workdir, Asked(**given), data_dir)
    with runs.disk_errors(workdir):
      print(write(workdir, results))
  except (OSError, RuntimeError, ValueError) as error:
    print(error, file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
