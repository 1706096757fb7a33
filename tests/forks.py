"""Our binaries as processes that import nothing: forks of one that has.

JAX and what else a binary loads take three seconds. One process does that for
all tests of a worker, and computes nothing: a fork does not get the threads
that JAX starts with the first array. A fork is a `python -m`, from its command
line to the end of the interpreter.
"""

import atexit
from collections.abc import Sequence
import functools
import gc
import importlib
import json
import os
import pathlib
import runpy
import select
import signal
import struct
import subprocess
import sys
import tempfile
from typing import NamedTuple

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_NUMBER = struct.Struct('i')
_LOADED = (
  'experiments.one_shot.run',
  'experiments.sparse_training.run',
  'experiments.continual.run',
)
# For `before`: as the fixture `sketched`.
SKETCHED = """
from matplotlib.figure import Figure

def savefig(figure, path, format, metadata):
  if format == 'png':
    figure.draw_without_rendering()
  path.write_bytes(b'a stub')

Figure.savefig = savefig
"""


class Done(NamedTuple):
  """How a process ended: its status as `subprocess` has it, what it said."""

  status: int
  out: str
  err: str


class Fork:
  """A binary at work. One at a time: the next one starts when this has ended.

  Attributes:
    pid: the number of the process.
  """

  def __init__(self, answers: int, folder: pathlib.Path):
    self._answers, self._folder = answers, folder
    self._status: int | None = None
    self.pid = self._number()

  def _number(self) -> int:
    content = os.read(self._answers, _NUMBER.size)
    assert content, 'the process that has imported is gone'
    return _NUMBER.unpack(content)[0]

  def poll(self, seconds: float = 0) -> int | None:
    """Its status, or None where it is at work for so long."""
    if self._status is None:
      if select.select([self._answers], [], [], seconds)[0]:
        self._status = self._number()
    return self._status

  def send_signal(self, signum: int) -> None:
    """Sends it a signal."""
    os.kill(self.pid, signum)

  def wait(self, seconds: float = 300) -> Done:
    """Waits for its end, which has to come within so many seconds."""
    late = self.poll(seconds) is None
    if late:
      self.send_signal(signal.SIGKILL)
      self.poll(seconds)
    read = lambda name: (self._folder / name).read_text()
    done = Done(self._status or 0, read('out'), read('err'))
    assert not late, f'still at work after {seconds} s: {done}'
    return done


@functools.cache
def _server() -> tuple[subprocess.Popen, pathlib.Path]:
  """The process that has imported, and a folder for what forks say."""
  server = subprocess.Popen(
    [sys.executable, '-m', 'tests.forks'],
    cwd=_ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    bufsize=0,
  )
  folder = tempfile.TemporaryDirectory()

  @atexit.register
  def end() -> None:
    with server, folder:
      server.stdin.close()

  return server, pathlib.Path(folder.name)


def start(
  binary: str, flags: Sequence[str], *, before: str = '', **variables: str
) -> Fork:
  """Starts a binary in the background.

  Args:
    binary: a module, as in `python -m`.
    flags: of its command line.
    before: a program that the process does first.
    **variables: of its environment, of those that nothing has read so far.

  Returns:
    The process.
  """
  server, said = _server()
  folder = pathlib.Path(tempfile.mkdtemp(dir=said))
  request = [str(folder), binary, [*map(str, flags)], before, variables]
  server.stdin.write(json.dumps(request).encode() + b'\n')
  return Fork(server.stdout.fileno(), folder)


def run(binary: str, flags: Sequence[str], **kwargs: str) -> Done:
  """Runs a binary: `start`, to its end."""
  return start(binary, flags, **kwargs).wait()


def _serve() -> None:
  """Forks for each line of the input; a fork comes back, as the binary."""
  for name in _LOADED:
    importlib.import_module(name)
  from experiments.report import style

  style._STYLE['savefig.dpi'] = 40  # pixels, which no test counts
  gc.freeze()
  answer = lambda number: os.write(1, _NUMBER.pack(number))
  for line in sys.stdin:
    folder, binary, flags, before, variables = json.loads(line)
    write = os.O_WRONLY | os.O_CREAT
    streams = [os.open(os.devnull, os.O_RDONLY)]
    streams += [os.open(f'{folder}/{name}', write) for name in ('out', 'err')]
    pid = os.fork()
    for number, stream in enumerate(streams):
      if not pid:
        os.dup2(stream, number)
      os.close(stream)
    if pid:
      answer(pid)
      answer(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
      continue
    os.environ.update(variables)
    sys.argv = [binary, *flags]
    exec(before, {})
    runpy.run_module(binary, run_name='__main__', alter_sys=True)
    return


if __name__ == '__main__':
  _serve()
