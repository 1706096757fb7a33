"""A run of seconds, shared by the tests of runs, experiments and bad input."""

import atexit
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import jax
from jax.experimental.compilation_cache import compilation_cache
import ml_collections

from configs import digits
from powerprop import folder
from powerprop import one_shot
from powerprop import settings

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Programs are compiled once for all tests and processes of this worker.
CACHE = pathlib.Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)


@contextlib.contextmanager
def compiled_once(optimised: bool = False):
  """JAX's persistent compilation cache, for the tests of one module.

  Args:
    optimised: whether by all of XLA's optimisations. Programs here run for
      milliseconds; without most of them they compile for half as long.
  """
  names = (
    'jax_compilation_cache_dir',
    'jax_persistent_cache_min_compile_time_secs',
  )
  before = [getattr(jax.config, name) for name in names]
  quickly = 'jax_disable_most_optimizations'
  unoptimised = jax.config.read(quickly)
  jax.config.update(quickly, not optimised)
  for name, value in zip(names, (str(CACHE / 'jax'), 0.0), strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  jax.config.update(quickly, unoptimised)
  for name, value in zip(names, before, strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()


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
  return [*program, f'--workdir={workdir}', *flags]


def environment(**variables) -> dict[str, str]:
  """For a process that shares this one's compiled programs."""
  return {
    **os.environ,
    'XDG_CACHE_HOME': str(CACHE),
    'JAX_DISABLE_MOST_OPTIMIZATIONS': 'true',
    **variables,
  }


def start(*args, **kwargs) -> subprocess.Popen:
  """The binary in the background; its output is text, in pipes."""
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
  kwargs = {'env': environment(), **pipes, **kwargs}
  return subprocess.Popen(args, cwd=ROOT, text=True, **kwargs)
