"""The command that makes figures and tables of finished runs again."""

import io
import pathlib
import subprocess
import sys

import pytest

from experiments.continual import tables as continual_tables
from experiments.one_shot import tables
from experiments.report import __main__ as redraw
from experiments.report import files
from experiments.sparse_training import tables as sparse_tables
from tests import continual_tiny


def _row(**fields):
  where = {'transform': 'powerprop', 'alpha': 1.0, 'learning_rate': 0.1}
  return where | {'seed': 0, 'test_accuracy': 0.5, 'test_nll': 1.0} | fields


def _sparse():
  """A run of experiments.sparse_training: it has plans."""
  row = _row(
    method='rigl',
    distribution='erk',
    sparsity=0.9,
    density=0.1,
    validation_accuracy=0.5,
    training_flops_ratio=0.5,
    inference_flops_ratio=0.1,
  )
  run = {'dataset': 'digits', 'network': 'mlp', 'steps': 1}
  return {'rows': [row], 'plans': [], **run}


def _one_shot():
  """A run of experiments.one_shot."""
  return {'rows': [_row(density=density) for density in (1.0, 0.5)]}


@pytest.mark.usefixtures('sketched')
def test_runs_of_any_experiment_are_drawn_again(tmp_path, capsys):
  names = {
    'average_accuracy': continual_tiny.run(
      [continual_tiny.member('naive', 1.0, tasks=1)]
    )[0],
    'accuracy_vs_sparsity': _sparse(),
    'accuracy_vs_density': _one_shot(),
  }
  for name, results in names.items():
    continual_tiny.write(tmp_path / name, results, {})
  folders = [str(tmp_path / name) for name in names]
  assert redraw.main(folders) == 0
  expected = [
    str(tmp_path / name / file)
    for name in names
    for file in (f'figures/{name}.png', f'figures/{name}.pdf', 'tables.md')
  ]
  assert capsys.readouterr().out.splitlines() == expected
  rooms = (continual_tables, sparse_tables, tables)
  for (name, results), room in zip(names.items(), rooms, strict=True):
    text = (tmp_path / name / 'tables.md').read_text(encoding='utf-8')
    assert text == room.markdown(results)


@pytest.mark.parametrize(
  ('name', 'content', 'says'),
  [
    ('results.json', '{', 'results.json cannot be read'),
    ('results.json', '{"plans": []}', 'has no results to draw'),
    ('results.json', '{"experiment": "continual"}', 'no results to draw'),
    ('records.npz', 'PK', 'records.npz cannot be read'),
  ],
)
def test_the_command_says_what_is_wrong_in_one_sentence(
  tmp_path, capsys, name, content, says
):
  (tmp_path / 'results.json').write_bytes(files.to_json(_sparse()))
  (tmp_path / name).write_text(content, encoding='utf-8')
  assert redraw.main([str(tmp_path)]) == 1
  error = capsys.readouterr().err
  assert says in error and str(tmp_path) in error and error.count('\n') == 1
  assert not (tmp_path / 'figures').exists()


def test_module_runs_as_a_command(tmp_path):
  missing = str(tmp_path / 'none')
  command = [sys.executable, '-m', 'experiments.report', missing]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 1
  assert done.stderr.startswith('There is no folder')


@pytest.mark.parametrize('content', [None, '', '{', '{}', '[]'])
def test_the_command_says_what_is_missing_in_one_sentence(
  tmp_path, capsys, content
):
  folder = tmp_path / 'run'
  if content is not None:
    folder.mkdir()
  if content:
    (folder / 'results.json').write_text(content)
  assert redraw.main([str(folder)]) == 1
  error = capsys.readouterr().err
  assert str(folder) in error
  assert error.count('\n') == 1


def test_it_prints_to_any_terminal(monkeypatch):
  stream = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  with monkeypatch.context() as patch:
    patch.setattr(files, 'redraw', lambda _: ([pathlib.Path('α.png')], ''))
    patch.setattr(sys, 'stdout', stream)
    redraw.main(['run'])
  assert stream.detach().getvalue() == b'?.png\nrun/tables.md\n'
