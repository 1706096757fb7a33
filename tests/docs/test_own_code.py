"""docs/own_code.md: the folder that it has you write runs as it says."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from experiments import data
from tests import forks
from tests import tiny

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'own_code.md'
TEXT = PAGE.read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The page's files in a folder of their own, after both trainings."""
  path = tmp_path_factory.mktemp('users')
  files = re.findall(r'^```python\n# (\S+)\n(.*?)^```$', TEXT, re.M | re.S)
  assert len(files) == len(re.findall(r'^```python$', TEXT, re.M)) == 7
  for name, code in files:
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text(code)
  here = (
    f'import os, sys; os.chdir({str(path)!r}); sys.path[:1] = [os.getcwd()]'
  )
  for command in _commands()[1].splitlines()[1:]:
    _, _, binary, *flags = shlex.split(command)
    done = forks.run(
      binary,
      flags,
      before=f'{here}; sys.path.append({str(tiny.ROOT)!r})',
    )
    assert not done.status, done.err
  return path


def _commands():
  """The page's shell scripts, with a command a line."""
  scripts = re.findall(r'^```bash\n(.*?)^```$', TEXT, re.M | re.S)
  return [script.replace('\\\n', ' ') for script in scripts]


def test_an_npz_file_is_a_data_set_and_configs_are_found_by_name(folder):
  """The commands as they stand, from a folder that is not the clone's."""
  first, second = _commands()
  export = second.splitlines()[0]
  assert export == 'export PYTHONPATH=~/powerprop'
  script = export.replace('~/powerprop', shlex.quote(str(tiny.ROOT)))
  python = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}'
  done = subprocess.run(
    ['bash', '-ec', f'{script}\n{python}\n{first}'],
    cwd=folder,
    env=tiny.environment(),
    capture_output=True,
    text=True,
  )
  assert not done.returncode, done.stderr
  assert 'Nothing was trained' in done.stdout
  found = data.load(str(folder / 'stripes.npz'))
  assert (found.num_classes, len(found.test.label)) == (5, 80)


def test_all_that_may_be_ones_own_is():
  configs = re.findall(r"^  config\.(\w+) = .*'own\.", TEXT, re.M)
  fields = re.findall(r'^\| `(\w+)` \|', TEXT, re.M)
  assert sorted(set(configs)) == sorted(fields)


def _results(folder, name):
  return json.loads((folder / 'runs' / name / 'results.json').read_bytes())


def test_the_sparse_training_has_the_users_functions(folder):
  rows = _results(folder, 'mine_sparse')['rows']
  assert {r['method'] for r in rows} == {'dense', 'prune_at'}
  assert {r['transform'] for r in rows} == {'powerprop', 'clipped_powerprop'}
  for row in rows:
    expected = 1.0 if row['method'] == 'dense' else 0.2
    assert row['density'] == pytest.approx(expected, abs=0.01)
  # Dense until the step, 61 of 100 with it; then a fifth.
  costs = {r['training_flops_ratio'] for r in rows if r['method'] == 'prune_at'}
  assert all(0.61 < x < 0.75 for x in costs)
  dense = [r['test_accuracy'] for r in rows if r['method'] == 'dense']
  assert min(dense) > 0.9
  tables = (folder / 'runs' / 'mine_sparse' / 'tables.md').read_text()
  assert 'Prune at 60' in tables and 'clipped' in tables
  config = json.loads(
    (folder / 'runs' / 'mine_sparse' / 'config.json').read_bytes()
  )
  assert config['method_kwargs']['prune_at'] == {
    'at': 60,
    'method': 'own.methods:prune_at',
  }
  assert (folder / 'runs' / 'mine_sparse' / 'figures').is_dir()


def test_the_continual_run_has_the_users_functions(folder):
  results = _results(folder, 'mine_continual')
  assert {r['method'] for r in results['rows']} == {'naive', 'slower'}
  assert results['num_tasks'] == 2
  config = json.loads(
    (folder / 'runs' / 'mine_continual' / 'config.json').read_bytes()
  )
  assert config['method_kwargs']['slower']['factor'] == 0.1
  learned = {
    (r['method'], r['task']): r['accuracy_when_learned']
    for r in results['rows']
  }
  # Of 2 classes and then of 3: by chance a half and a third.
  assert learned['naive', 0] > 0.8 and learned['naive', 1] > 0.6
  assert learned['slower', 0] == learned['naive', 0]
  with np.load(folder / 'runs' / 'mine_continual' / 'records.npz') as records:
    names = {n.split('/')[0] for n in records.files}
  assert names == {'naive', 'slower'}
  assert (folder / 'runs' / 'mine_continual' / 'cells' / 'slower').is_dir()
