"""One training on one device, on eight, and on two hosts; killed and resumed.

  TFDS_DATA_DIR=DIR python -m benchmarks.devices --kill

The net of configs/imagenet_sample.py is trained with Top-KAST on one device, on
eight simulated ones and by two processes, and each is also killed in the midst
of an epoch and resumed on another number of devices. The losses of all stand in
one table. Simulated devices share the cores: nothing here is about speed.

  python -m benchmarks.devices --weak

times steps with 1, 2, 4 and 8 simulated devices, each with as many pictures
(weak scaling), beside what docs/scaling.md predicts. Both print Markdown and
write results.json to --out.
"""

import argparse
import math
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import tabulate

from benchmarks import timing
from experiments.engine import runs
from experiments.report import files

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FLAGS = (
  '--config=configs/imagenet_sample.py',
  "--config.methods=('top_kast',)",
  '--config.alphas=1.375',
  '--config.checkpoint_seconds=0',
)
_KILL_AT = 50  # of 120 steps; an epoch is 25.3
_TIMEOUT = 1_800.0
_DEVICES = '--xla_force_host_platform_device_count={}'


class Way(NamedTuple):
  """Where a training runs.

  Attributes:
    processes: how many.
    devices: of each of them.
  """

  processes: int
  devices: int

  def __str__(self) -> str:
    hosts = f'{self.processes} processes' if self.processes > 1 else '1 process'
    return f'{hosts}, {self.devices * self.processes} devices'


_COUNTS = 1, 2, 4, 8
_ONE, _EIGHT, _TWO = Way(1, 1), Way(1, 8), Way(2, 1)
# Where it begins, and where it goes on once it has been killed.
_RUNS = (
  (_ONE, None),
  (_ONE, _ONE),
  (_EIGHT, None),
  (_EIGHT, Way(1, 2)),
  (_TWO, None),
  (_TWO, _ONE),
  (_TWO, Way(2, 2)),
)


def _start(way: Way, workdir: pathlib.Path) -> list[subprocess.Popen[bytes]]:
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  together = [f'--coordinator_address={address}']
  together += [f'--num_processes={way.processes}']
  flags = [os.environ.get('XLA_FLAGS', ''), _DEVICES.format(way.devices)]
  return [
    subprocess.Popen(
      [
        *(sys.executable, '-m', 'experiments.sparse_training', *_FLAGS),
        f'--workdir={workdir}',
        *([*together, f'--process_id={i}'] if way.processes > 1 else []),
      ],
      cwd=_ROOT,
      env={**os.environ, 'XLA_FLAGS': ' '.join(flags).strip()},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
    )
    for i in range(way.processes)
  ]


def _end(processes: list[subprocess.Popen[bytes]], killed: bool) -> None:
  for process in processes:
    _, said = process.communicate(timeout=_TIMEOUT)
    if process.returncode and not killed:
      raise RuntimeError(f'a run ended badly: {said.decode()[-2000:]}')


def _saved(workdir: pathlib.Path) -> int:
  found = (workdir / 'checkpoints').glob('*/files.json')
  return max((int(p.parent.name) for p in found), default=0)


def _losses(workdir: pathlib.Path) -> list[float]:
  return [row['loss'] for row in files.read_metrics(workdir)]


def kills(out: pathlib.Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
  """The table of losses; see above."""
  rows: list[dict[str, Any]] = []
  wanted: list[float] = []
  for i, (way, after) in enumerate(_RUNS):
    workdir = out / f'{i}'
    killed = 0
    processes = _start(way, workdir)
    if after is not None:
      until = time.monotonic() + _TIMEOUT
      while _saved(workdir) < _KILL_AT and time.monotonic() < until:
        time.sleep(0.01)
      os.kill(processes[-1].pid, signal.SIGKILL)
      _end(processes, True)  # the other ends by itself
      killed = _saved(workdir)
      processes = _start(after, workdir)
    _end(processes, False)
    loss = _losses(workdir)
    wanted = wanted or loss
    apart = np.abs(np.array(loss) / np.array(wanted) - 1)
    rows.append(
      {
        'run': str(way),
        'killed at step': killed or '',
        'resumed on': str(after or ''),
        'first loss': loss[0],
        'last loss': loss[-1],
        'largest difference': f'{apart.max():.1e}' if apart.any() else 'none',
      }
    )
    print(rows[-1], file=sys.stderr, flush=True)
  note = (
    'Of two processes, the second is killed, and the first ends by itself. Loss'
    ' is the mean of 10 steps, in nats; the difference is relative to the first'
    ' run, the largest of 12 such means.'
  )
  return rows, (note,)


def _all_reduced(program: str) -> int:
  """Bytes of what a compiled step adds up over devices, all float32."""
  other = 'all-gather|all-to-all|collective-permute|reduce-scatter'
  if found := re.findall(rf' ({other})(?:-start)?\(', program):
    raise RuntimeError(f'the program also has {found}')
  shapes = re.findall(r'= (.*?) all-reduce(?:-start)?\(', program)
  numbers = re.findall(r'f32\[([\d,]*)\]', ' '.join(shapes))
  sizes = [[int(n) for n in shape.split(',') if n] for shape in numbers]
  return 4 * sum(map(math.prod, sizes))


def weak(
  pictures: int = 16, steps: int = 4, rounds: int = 5
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
  """Steps with a batch for each of n devices; see above."""
  flags = [os.environ.get('XLA_FLAGS', ''), _DEVICES.format(8)]
  os.environ['XLA_FLAGS'] = ' '.join(flags).strip()
  # Not above: JAX counts its devices once.
  import jax

  from configs import imagenet_sample
  from experiments.engine import feed
  from experiments.engine import trainings
  from experiments.sparse_training import run
  from experiments.sparse_training import settings

  programs = {}
  for n in _COUNTS:
    config = imagenet_sample.get_config()
    with config.ignore_type(), config.unlocked():
      config.dataset, config.methods = 'synthetic', ('top_kast',)
      config.dataset_kwargs = {'size': 64, 'sizes': (1_000, 100, 100)}
      config.alphas, config.batch_size = 1.375, pictures * n
      config.data_devices, config.chunk_steps = n, steps
    s = settings.check(config)
    made = run._prepare(s, None)
    (cell,) = made.cells
    source = feed.make(s.training, made.dataset, cell.mesh).some(
      steps * s.training.batch_size
    )
    (state,) = trainings.initial_states(made.recipe, [cell], source)

    if n == _COUNTS[-1]:
      chunk = cell.programs.chunk.lower(state, cell.hyper, source, 0, 1)
      sent = _all_reduced(chunk.compile().as_text())
      parameters = 4 * sum(x.size for x in jax.tree.leaves(state.phi))

    def learn(cell=cell, state=state, source=source):
      chunk = cell.programs.chunk
      return chunk(state, cell.hyper, source, 0, steps)[1]

    programs[f'devices: {n}'] = learn
  say = lambda what: print(what, file=sys.stderr, flush=True)
  timings = timing.compare(programs, 'devices: 1', rounds, say)
  rows = [
    {
      'program': name,
      'pictures a step': pictures * n,
      'seconds a step': timings[name].seconds / steps,
      **timing.ratio_cells(timings[name]),
      'the model, on shared cores': n,
      'the model, on devices of their own': 1,
    }
    for n, name in zip(_COUNTS, programs, strict=True)
  ]
  note = (
    f'Top-KAST, the net of configs/imagenet_sample.py, {pictures} pictures a'
    f' device; median of {rounds} times {steps} steps, in turn. Simulated: all'
    f' devices share {os.cpu_count()} cores, which one alone already fills, so'
    ' that n devices have n times the work of one. What the program for'
    f' {_COUNTS[-1]} devices adds up over them in a step is {sent:,} bytes; the'
    f' parameters are {parameters:,}.'
  )
  return rows, (note,)


def main() -> None:
  """Runs one of the two."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument('--kill', action='store_true', help='the first')
  which.add_argument('--weak', action='store_true', help='the second')
  parser.add_argument(
    '--out', type=pathlib.Path, default=pathlib.Path('runs/devices')
  )
  args = parser.parse_args()
  if args.kill and any(args.out.glob('*/metrics.jsonl')):
    parser.error(f'{args.out} holds runs already: choose another --out')
  args.out.mkdir(parents=True, exist_ok=True)
  rows, notes = kills(args.out.absolute()) if args.kill else weak()
  table = tabulate.tabulate(rows, headers='keys', tablefmt='github')
  print('\n\n'.join((table, *notes)))
  results = {
    'environment': runs.environment(),
    'command': shlex.join(
      ['python', '-m', 'benchmarks.devices', *sys.argv[1:]]
    ),
    'rows': rows,
    'notes': notes,
  }
  path = args.out / ('results.json' if args.kill else 'weak.json')
  files.write_atomically(path, files.to_json(results))


if __name__ == '__main__':
  main()
