"""A run of seconds, shared by the tests of runs, experiments and bad input."""

import os
import pathlib
import subprocess
import sys

import ml_collections

from configs import digits
from powerprop import folder
from powerprop import one_shot
from powerprop import settings

ROOT = pathlib.Path(__file__).resolve().parent.parent


def config(**fields) -> ml_collections.ConfigDict:
  """configs/digits.py, made tiny; four chunks, each with a checkpoint."""
  out = digits.get_config()
  out.network_kwargs.hidden = (8,)
  out.alphas = (1.0, 2.0)
  out.seeds = 2
  out.steps = 40
  out.chunk_steps = 10
  out.densities = (1.0, 0.3, 0.1)
  out.executor = 'map'
  out.checkpoint_seconds = 0.0
  with out.ignore_type():
    for name, value in fields.items():
      out[name] = value
  return out


def run(workdir: pathlib.Path, **fields):
  """A run in this process, without its figures."""
  c = config(**fields)
  checked = settings.check(c)
  folder.open_folder(workdir, c.to_dict(), settings.rules(checked))
  return one_shot.run(checked, workdir)


def command(workdir: pathlib.Path, **fields) -> list[str]:
  """The same run by the binary."""
  flags = []
  for name, value in config(**fields).to_dict().items():
    if isinstance(value, dict):
      flags += [f'--config.{name}.{k}={v}' for k, v in value.items()]
    else:
      flags.append(f'--config.{name}={value}')
  program = [sys.executable, '-m', 'experiments.one_shot']
  program += ['--nocompilation_cache']  # the environment has that of the tests
  return [*program, f'--workdir={workdir}', *flags]


def environment(**variables: str) -> dict[str, str]:
  """For a process that shares the programs of these tests."""
  return os.environ | variables


def as_users(**variables: str) -> dict[str, str]:
  """For a process whose programs are compiled as they are outside of tests."""
  return environment(
    XLA_FLAGS=os.environ['USERS_XLA_FLAGS'],
    JAX_DISABLE_MOST_OPTIMIZATIONS='false',
    **variables,
  )


def start(*args, **kwargs) -> subprocess.Popen:
  """The binary in the background; its output is text, in pipes."""
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
  return subprocess.Popen(args, cwd=ROOT, text=True, **(pipes | kwargs))
