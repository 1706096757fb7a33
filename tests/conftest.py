"""What all tests share: programs are compiled once, in all processes together.

One folder of compiled programs serves the workers of pytest-xdist and whatever
they start, by JAX's own variables of the environment. It starts empty, unless
JAX_COMPILATION_CACHE_DIR names one to keep.
"""

from collections.abc import Callable, Generator
import functools
import gc
import os
import shutil
import tempfile
import threading

import pytest

_QUICK = (
  '--xla_cpu_use_fusion_emitters=false',
  '--xla_cpu_parallel_codegen_split_count=1',
)


def pytest_addoption(parser: pytest.Parser) -> None:
  """An option to test the very programs that users get."""
  parser.addoption(
    '--as-users',
    action='store_true',
    help='compile with all of XLA, as outside of tests: three times as long',
  )


def pytest_configure(config: pytest.Config) -> None:
  """Sets what JAX reads when it is imported, and processes inherit."""
  # Tracing makes many objects that live long: looking for garbage among them as
  # often as by default takes 6% of the time.
  gc.set_threshold(200_000, 20, 100)
  # By their number of tests, which is xdist's order, the files of a few long
  # tests would come last, when there is nothing left for the other processes.
  config.option.loadscopereorder = False
  if hasattr(config, 'workerinput'):
    return  # a worker, which has it from the process that started it
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    folder = tempfile.mkdtemp(prefix='powerprop-tests-')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = folder
    config.add_cleanup(functools.partial(shutil.rmtree, folder, True))
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  given = os.environ.get('XLA_FLAGS', '')
  os.environ['USERS_XLA_FLAGS'] = given
  if config.getoption('as_users'):
    return
  # Programs here run for milliseconds. Without most of XLA's optimisations and
  # without its MLIR emitters they compile in a quarter of the time. What hangs
  # on the bits that users get runs in a process `tiny.as_users`.
  os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = 'true'
  os.environ['XLA_FLAGS'] = ' '.join([given, *_QUICK]).strip()


@pytest.fixture(autouse=True, scope='session')
def _contexts(request: pytest.FixtureRequest) -> None:
  """A hundred programs in a row are lowered in one MLIR context of a thread.

  JAX makes one for each, which takes as long as all else of a small program's
  lowering. What a context has seen it keeps, so that it has to end some time.
  """
  from jax._src.interpreters import mlir

  make, mine = getattr(mlir, 'make_ir_context', None), threading.local()
  if make is None or request.config.getoption('as_users'):
    return  # in another JAX it may have another name

  def context():
    if not getattr(mine, 'left', 0):
      mine.context, mine.left = make(), 100
    mine.left -= 1
    return mine.context

  mlir.make_ir_context = context


@pytest.fixture(autouse=True, scope='session')
def _small_pictures() -> None:
  """Figures are drawn with fewer pixels, which no test counts."""
  from experiments.report import style

  style._STYLE['savefig.dpi'] = 40


def _sketch(*kinds: str) -> Callable[..., None]:
  """A `savefig` that writes files of these kinds alone; others are stubs."""
  from matplotlib.figure import Figure

  real = Figure.savefig

  def savefig(figure, path, *, format, **kwargs):
    if format in kinds:
      return real(figure, path, format=format, **kwargs)
    if format == 'png':
      figure.draw_without_rendering()
    path.write_bytes(b'a stub')

  return savefig


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
  """Figures are laid out and gone through; what is written shows nothing.

  For tests of which figures there are: most of the time goes into pixels and
  pages.
  """
  monkeypatch.setattr('matplotlib.figure.Figure.savefig', _sketch())


@pytest.fixture
def only_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
  """Figures are written as PNG, not as PDF."""
  monkeypatch.setattr('matplotlib.figure.Figure.savefig', _sketch('png'))


@functools.cache
def _has_float16() -> bool:
  """Whether XLA can compile float16 here: not for x86 without F16C."""
  import jax
  import numpy as np

  try:
    jax.jit(lambda x: x.astype(np.float32))(np.ones(1, np.float16))
  except jax.errors.JaxRuntimeError:
    return False
  return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
  """Skips what fails for the lack of float16, and only where it does lack."""
  try:
    return (yield)
  except Exception as e:
    if 'Failed to materialize symbols' not in str(e) or _has_float16():
      raise
    pytest.skip('XLA cannot compile float16 for this processor')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """A test's name is the same in every process, or workers cannot share."""
  for item in items:
    if ' at 0x' in item.nodeid:
      raise pytest.UsageError(f'{item.nodeid} has an address in its name')
