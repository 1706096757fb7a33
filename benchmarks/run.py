"""Measures what is fast, as ratios.

  python -m benchmarks.run
  python -m benchmarks.run --only=step
  python -m benchmarks.run --only=continual_step --full

Prints a Markdown table per benchmark and writes results.json to --out.
"""

import argparse
from collections.abc import Callable
import functools
import json
import pathlib
import shlex
import sys
import time
from typing import Any

import tabulate

from benchmarks import continual
from benchmarks import generative
from benchmarks import narrow
from benchmarks import pipeline
from benchmarks import selection
from benchmarks import sparse
from benchmarks import sparse_kernels
from benchmarks import timing
from benchmarks import training
from experiments.engine import cli
from experiments.engine import runs
from experiments.report import files

_RECORD = pathlib.Path('docs/results/fig1_mnist/results.json')
_LINE_SECONDS = 15.0  # between lines of progress where there is no terminal


def end_to_end(say: timing.Say, record: pathlib.Path = _RECORD) -> timing.Table:
  """What the committed run of Figure 1 took; runs nothing.

  Args:
    say: told what is going on.
    record: that run's results.json.

  Returns:
    One row, or none where there is no such file.
  """
  say(f'reading {record}')
  rows = []
  if record.exists():
    e = json.loads(record.read_text())['environment']
    minutes = e['wall_seconds'] / 60
    rows.append(
      {
        'run': record.parent.name,
        'device': f'{e["device"]}, {e["cores"]} cores',
        'minutes': minutes,
        'of them training': e['train_seconds'] / 60,
        'model-steps/s': e['steps_per_second'],
        'target': '≤ 30',
        'met': 'yes' if minutes <= 30 else 'no',
      }
    )
  note = f'As recorded in {record}; not run again.'
  if not rows:
    note = f'There is no {record}: run the experiment to have one.'
  return timing.Table('End to end: Figure 1 on MNIST', (note,), rows)


# Those that --full runs in the protocol's size.
SIZED: dict[str, Callable[..., timing.Table]] = {
  'continual_step': continual.method_step,
  'continual_seeds': continual.seeds,
  'continual_growth': continual.growth,
  'continual_search': continual.search,
  'continual_parts': continual.parts,
}
BENCHMARKS: dict[str, Callable[..., timing.Table]] = {
  'step': training.step,
  'resnet50': training.resnet50,
  'population': training.population,
  'top_k': selection.top_k,
  'method_step': sparse.method_step,
  'method_step_conv': functools.partial(
    sparse.method_step, rounds=5, net=sparse.CONV
  ),
  'method_step_resnet50': sparse.resnet50,
  'mask_update': sparse.mask_update,
  'memory': sparse.memory,
  'generative_step': generative.method_step,
  'generative_torch': generative.beside_torch,
  'narrow': narrow.latency,
  'pipeline': pipeline.pipeline,
  'sparse_kernels': sparse_kernels.latency,
  **SIZED,
  'end_to_end': end_to_end,
}


def markdown(table: timing.Table) -> str:
  """The table with its title and notes.

  Args:
    table: of a benchmark.

  Returns:
    Markdown.
  """

  def cell(value: Any) -> str:
    if not isinstance(value, float):
      return str(value)
    return f'{value:.0f}' if abs(value) >= 100 else f'{value:.3g}'

  ratios = ('ratio', 'low', 'high')
  rows = [
    {k: f'{v:.2f}' if k in ratios else cell(v) for k, v in row.items()}
    for row in table.rows
  ]
  body = tabulate.tabulate(
    rows, headers='keys', tablefmt='github', disable_numparse=True
  )
  return '\n\n'.join(
    x for x in (f'## {table.title}', body, '\n'.join(table.notes)) if x
  )


def _progress(name: str) -> timing.Say:
  """One line that changes, or a line now and then where it cannot."""
  since = last = time.monotonic()

  def say(what: str) -> None:
    nonlocal last
    now = time.monotonic()
    text = f'{name}, {now - since:.0f} s: {what}'
    if sys.stderr.isatty():
      print(f'\r\033[K{text[:79]}', end='', file=sys.stderr, flush=True)
    elif now - last > _LINE_SECONDS:
      print(text, file=sys.stderr, flush=True)
      last = now

  return say


def main() -> None:
  """Runs the chosen benchmarks."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--only',
    metavar='NAME',
    action='append',
    choices=tuple(BENCHMARKS),
    help=f'one of {", ".join(BENCHMARKS)}; may be given several times',
  )
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    default=pathlib.Path('runs/bench'),
    help='folder of results.json (default: %(default)s)',
  )
  parser.add_argument(
    '--full',
    action='store_true',
    help=f"the protocol's size in {', '.join(SIZED)}: for a GPU",
  )
  parser.add_argument(
    '--images_per_second',
    type=float,
    metavar='R',
    default=1000.0,
    help='that a device learns: pipeline says how many cores read as many'
    ' (default: %(default)s)',
  )
  cli.write_to_any_terminal()
  args = parser.parse_args()
  results: dict[str, Any] = {
    'environment': runs.environment(),
    'command': shlex.join(['python', '-m', 'benchmarks.run', *sys.argv[1:]]),
    'benchmarks': {},
  }
  for name, benchmark in BENCHMARKS.items():
    if args.only and name not in args.only:
      continue
    since = time.monotonic()
    more: dict[str, Any] = {}
    if args.full and name in SIZED:
      more['size'] = continual.PROTOCOL
    if name == 'pipeline':
      more['rate'] = args.images_per_second
    table = benchmark(_progress(name), **more)
    if sys.stderr.isatty():
      print('\r\033[K', end='', file=sys.stderr, flush=True)
    print(markdown(table), end='\n\n', flush=True)
    results['benchmarks'][name] = {
      **table._asdict(),
      'seconds': time.monotonic() - since,
    }
    # After each, so that what was measured is kept.
    path = args.out / 'results.json'
    files.write_atomically(path, files.to_json(results))
  print(f'Written to {path}.')


if __name__ == '__main__':
  main()
