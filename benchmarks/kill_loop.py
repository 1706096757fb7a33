"""Kills a run again and again, resumes it, and compares the bits.

  python -m benchmarks.kill_loop --kills=24

A small run on digits is trained once without disturbance, and once with SIGKILL
at moments of four kinds: while the program starts (imports, compiles or
restores), anywhere in training, while a checkpoint is being saved, and after
training, while it prunes. Both must end with the same metrics.jsonl, the same
rows of results.json and the same bits in the last checkpoint: φ, optimiser and
step of every member. About 5 minutes on 2 CPU cores; prints a table and writes
results.json to --out. Exits with 1 where anything differs.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

import tabulate

from experiments.engine import runs
from experiments.report import files

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FLAGS = (
  '--config=configs/digits.py',
  '--config.network_kwargs.hidden=(64,)',
  '--config.optimizer=adam',
  '--config.learning_rate=0.003',
  '--config.alphas=(1,3)',
  '--config.seeds=2',
  '--config.steps=5000',
  '--config.chunk_steps=20',
  '--config.checkpoint_seconds=0',
)
_STEPS = 5_000
_TIMEOUT = 600.0


def _start(workdir: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen[str]:
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      'experiments.one_shot',
      f'--workdir={workdir}',
      *_FLAGS,
    ],
    cwd=_ROOT,
    env={**os.environ, 'XDG_CACHE_HOME': str(cache)},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def _lines(workdir: pathlib.Path) -> int:
  try:
    return (workdir / 'metrics.jsonl').read_bytes().count(b'\n')
  except FileNotFoundError:
    return 0


def _steps(workdir: pathlib.Path) -> list[int]:
  """Of the checkpoints that were saved to their end."""
  found = (workdir / 'checkpoints').glob('*/files.json')
  return sorted(int(p.parent.name) for p in found if p.parent.name.isdigit())


def _is_saving(workdir: pathlib.Path) -> bool:
  """Whether there is a checkpoint that is not whole."""
  folder = workdir / 'checkpoints'
  try:
    return any(
      not name.isdigit() or not (folder / name / 'files.json').exists()
      for name in os.listdir(folder)
    )
  except FileNotFoundError:
    return False


def _wait(kind: str, workdir, process, rng, startup: float) -> None:
  """Sleeps until the moment to kill, or until the process has ended."""
  before = _lines(workdir)
  if kind == 'starting' or _STEPS in _steps(workdir):
    time.sleep(rng.uniform(0, startup))
    return
  ready = {
    'training': lambda: _lines(workdir) > before,
    'saving': lambda: _lines(workdir) > before and _is_saving(workdir),
    'pruning': lambda: _STEPS in _steps(workdir),
  }[kind]
  until = time.monotonic() + _TIMEOUT
  while process.poll() is None and not ready():
    if time.monotonic() > until:
      raise TimeoutError(f'no moment of the kind {kind!r} came')
    time.sleep(0.0005)
  reach = {'training': 1.0, 'saving': 0.03, 'pruning': 0.5}[kind]
  time.sleep(rng.uniform(0, reach))


def _digest(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


def _outcome(workdir: pathlib.Path) -> dict[str, str]:
  """SHA-256 of all that must not depend on kills."""
  results = json.loads((workdir / 'results.json').read_bytes())
  del results['environment']
  last = workdir / 'checkpoints' / str(_STEPS) / 'extra' / 'metadata'
  return {
    'metrics.jsonl': _digest((workdir / 'metrics.jsonl').read_bytes()),
    'results.json without environment': _digest(files.to_json(results)),
    'states in the last checkpoint': json.loads(last.read_bytes())['sha256'],
  }


def _finish(workdir: pathlib.Path, cache: pathlib.Path) -> str:
  process = _start(workdir, cache)
  _, err = process.communicate(timeout=_TIMEOUT)
  if process.returncode:
    raise RuntimeError(f'the run failed:\n{err}')
  return err


def measure(kills: int, seed: int, folder: pathlib.Path) -> dict[str, Any]:
  """The whole experiment.

  Args:
    kills: how many times to kill, ≥ 4.
    seed: of the kinds' delays.
    folder: where the runs may write.

  Returns:
    What results.json holds.
  """
  rng = random.Random(seed)
  cache, whole, killed = folder / 'cache', folder / 'whole', folder / 'killed'
  print('The run that is never killed.', file=sys.stderr, flush=True)
  _finish(whole, cache)

  kinds = ['training', 'saving', 'starting']
  plan = [kinds[i % 3] for i in range(kills - 2)] + ['pruning'] * 2
  told: list[dict[str, Any]] = []
  startup = 8.0
  while len(told) < kills:
    kind = plan[len(told)]
    begun, before = time.monotonic(), _lines(killed)
    process = _start(killed, cache)
    _wait(kind, killed, process, rng, startup)
    ended = process.poll() is not None
    process.kill()
    _, err = process.communicate()
    if kind == 'training':
      startup = time.monotonic() - begun
    if ended:
      raise RuntimeError(f'the run ended before kill {len(told) + 1}:\n{err}')
    told.append(
      {
        'kill': len(told) + 1,
        'kind': kind,
        'seconds after start': round(time.monotonic() - begun, 2),
        'last whole step': max(_steps(killed), default=None),
        'log lines since start': _lines(killed) - before,
        'half a checkpoint left': _is_saving(killed),
        'fell back': err.count('is damaged'),
      }
    )
    print(told[-1], file=sys.stderr, flush=True)
  err = _finish(killed, cache)

  wanted, got = _outcome(whole), _outcome(killed)
  return {
    'kills': told,
    'killed_before_the_end': len(told),
    'half_checkpoints': sum(t['half a checkpoint left'] for t in told),
    'fell_back': sum(t['fell back'] for t in told) + err.count('is damaged'),
    'never_killed': wanted,
    'killed': got,
    'identical': wanted == got,
    'flags': list(_FLAGS),
    'environment': runs.environment(),
    'command': f'python -m benchmarks.kill_loop --kills={kills} --seed={seed}',
  }


def main() -> None:
  """Reads flags, measures, prints and writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--kills', type=int, default=24)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    default=pathlib.Path('docs/results/kill_loop/results.json'),
  )
  args = parser.parse_args()
  if args.kills < 4:
    parser.error(f'--kills is {args.kills} but must be at least 4.')
  with tempfile.TemporaryDirectory() as folder:
    results = measure(args.kills, args.seed, pathlib.Path(folder))
  files.write_atomically(args.out, files.to_json(results))
  print(tabulate.tabulate(results['kills'], headers='keys', tablefmt='github'))
  print()
  rows = [
    (name, digest[:16], results['killed'][name][:16])
    for name, digest in results['never_killed'].items()
  ]
  print(tabulate.tabulate(rows, ('SHA-256 of', 'never killed', 'killed')))
  print(
    f'\n{results["killed_before_the_end"]} kills before the end; after'
    f' {results["half_checkpoints"]} of them half a checkpoint lay there:'
    f' {"the same bits" if results["identical"] else "THE BITS DIFFER"}.'
  )
  sys.exit(not results['identical'])


if __name__ == '__main__':
  main()
