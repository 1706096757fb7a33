"""docs/quickstart.ipynb: it runs, and shows what it says and what it holds.

`make notebook` runs it in Jupyter and keeps what it shows.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import io
import json
import pathlib
import re
from typing import Any

import jax
import matplotlib
from matplotlib import pyplot as plt
import numpy as np
import pytest

from benchmarks.nudged import nudged
from powerprop.methods import magnitude  # noqa: F401

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / 'docs' / 'quickstart.ipynb'
# Not a URL, nor a path in a tree of parameters, as mlp/~/linear_0/w.
_ABSOLUTE = re.compile(r'(?<![\w/.<~])/\w[\w.-]*/')


@contextlib.contextmanager
def _what_is_printed() -> Iterator[Callable[[], str]]:
  """Gives a function that returns what was printed since it was last called."""
  out = io.StringIO()

  def read() -> str:
    text = out.getvalue()
    out.seek(0)
    out.truncate()
    return text

  with contextlib.redirect_stdout(out):
    yield read


def _code() -> list[dict[str, Any]]:
  cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
  return [cell for cell in cells if cell['cell_type'] == 'code']


def _printed(cell: dict[str, Any]) -> str:
  return ''.join(
    ''.join(out['text']) for out in cell['outputs'] if 'text' in out
  )


def _strings(tree: Any) -> Iterator[str]:
  """All that a notebook says, line by line, but for its pictures."""
  if isinstance(tree, str):
    yield tree
  elif isinstance(tree, list):
    for item in tree:
      yield from _strings(item)
  elif isinstance(tree, dict):
    for name, item in tree.items():
      if name != 'image/png':
        yield from _strings(item)


def _jit_as_users():
  """`jax.jit` with the optimisations that users have.

  Here most of the time goes into training: half as long, compiling included.
  """
  options = {
    'xla_backend_optimization_level': 3,
    'xla_llvm_disable_expensive_passes': False,
    'xla_cpu_use_fusion_emitters': True,
  }
  return functools.partial(jax.jit, compiler_options=options)


@pytest.fixture(scope='module')
def run():
  """The names that its cells define, and what each of them prints."""
  names: dict[str, Any] = {}
  printed = []
  backend = matplotlib.get_backend()
  with pytest.MonkeyPatch.context() as patch, _what_is_printed() as read:
    matplotlib.use('agg')
    patch.setattr(plt, 'show', lambda: None)
    # The library's own functions are jitted by now, and may be called in those
    # of the notebook.
    patch.setattr(jax, 'jit', _jit_as_users())
    for i, cell in enumerate(_code()):
      source = ''.join(cell['source']).replace('%matplotlib inline', '')
      exec(compile(source, f'{NOTEBOOK}, code cell {i}', 'exec'), names)
      printed.append(read())
    yield names, printed
    plt.close('all')
    matplotlib.use(backend)


def test_it_shows_what_it_says(run):
  names, _ = run
  # Pruning: about equally good when dense, far apart when sparse.
  mean = dict(zip(names['alphas'], names['accuracy'].mean(1), strict=True))
  assert min(curve[-1] for curve in mean.values()) > 0.94
  few = np.abs(names['densities'] - 0.05).argmin()
  assert mean[3.0][few] > mean[1.0][few] + 0.2
  assert mean[2.0][few] > mean[1.0][few] + 0.1

  # The same function at the start, by every way in, and training works.
  assert names['start_gap'] < 1e-5 and names['moved_gap'] < 1e-4
  assert names['module_losses'][-1] < 0.6 * names['module_losses'][0]
  assert names['kept'] == round(names['size'] / 10)
  for module, leaves in names['tuned'].items():
    mask = np.asarray(names['masks'][f'{module}/w'])
    assert not (np.asarray(leaves['w']) * ~mask).any()
  assert names['after'] > names['before'] + 0.05
  assert len(plt.get_fignums()) == 1


def test_rounding_decides_nothing(run):
  """All losses of the largest α, from weights that differ in the sixth digit.

  With a step of 0.05 instead of 0.02 they differ by 0.4, or are NaN.
  """
  names, _ = run
  seeds = names['seeds']
  losses = np.asarray(names['losses'])[-len(seeds) :]
  alphas = np.full(len(seeds), names['alphas'][-1])
  with nudged():
    _, again = _jit_as_users()(jax.vmap(names['train']))(alphas, seeds)
  assert np.abs(np.asarray(again) - losses).max() < 0.03


def test_it_is_committed_with_its_outputs(run):
  """They are of these cells: the same text but for numbers, a picture."""
  nbformat = pytest.importorskip('nbformat')
  nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
  _, printed = run
  cells = _code()
  ids = [cell['id'] for cell in cells]
  assert len(set(ids)) == len(ids)
  counts = [cell['execution_count'] for cell in cells]
  assert counts == [*range(1, len(cells) + 1)]
  words = lambda text: re.sub(r'\d[\d.,]*(e-\d+)?', '#', text)
  for cell, text in zip(cells, printed, strict=True):
    assert words(_printed(cell)) == words(text), cell['id']
  outputs = [out for cell in cells for out in cell['outputs']]
  assert {out['output_type'] for out in outputs} == {'stream', 'display_data'}
  pictures = [out['data']['image/png'] for out in outputs if 'data' in out]
  assert len(pictures) == 1 and len(pictures[0]) < 80_000
  text = NOTEBOOK.read_text(encoding='utf-8')
  assert not re.search(r'\bnan\b|Warning', text)
  found = [s for s in _strings(json.loads(text)) if _ABSOLUTE.search(s)]
  assert not found, 'a path of the machine that ran it'


def _keep_outputs() -> None:
  """Runs the notebook in a kernel and writes it with its outputs."""
  import nbclient
  import nbformat

  book = nbformat.read(NOTEBOOK, as_version=4)
  where = {'metadata': {'path': str(NOTEBOOK.parent)}}
  nbclient.NotebookClient(
    book, timeout=600, resources=where, record_timing=False
  ).execute()
  book.metadata.language_info = {'name': 'python'}
  nbformat.write(book, NOTEBOOK)


if __name__ == '__main__':
  _keep_outputs()
