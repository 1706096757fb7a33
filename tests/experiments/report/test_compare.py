"""Two settings of a finished run, seed by seed."""

import itertools

import pytest

from experiments.report import compare
from experiments.report import files
from tests import continual_tiny
from tests import tiny

_WHERE = {'transform': 'powerprop', 'learning_rate': 0.1, 'test_nll': 1.0}


def _entries(results):
  return files.part_of(results, 'analysis').entries(results)


def _one_shot():
  return {
    'rows': [
      _WHERE
      | {'alpha': alpha, 'seed': seed, 'density': density}
      | {'test_accuracy': 0.5 + 0.1 * seed + 0.05 * alpha * density}
      for alpha, seed, density in itertools.product(
        (1.0, 2.0), range(3), (1.0, 0.5)
      )
    ]
  }


def _sparse():
  return {
    'plans': [],
    'rows': [
      _WHERE
      | {'method': method, 'distribution': 'erk', 'sparsity': 0.9}
      | {'alpha': alpha, 'seed': seed, 'validation_accuracy': 0.5}
      | {'test_accuracy': 0.5 + gain + 0.01 * seed}
      for (method, gain), alpha, seed in itertools.product(
        {'set': 0.0, 'rigl': 0.25}.items(), (1.0, 2.0), range(2)
      )
    ],
  }


def _lines(text):
  return [
    [cell.strip() for cell in line.split('|')[1:-1]]
    for line in text.splitlines()
    if line.startswith('|')
  ]


def test_what_is_not_named_is_the_same_in_both():
  nets = _entries(_one_shot())
  lines = _lines(compare.table(nets, 'alpha=1', 'alpha=2.0'))
  assert lines[0] == ['density', 'test accuracy']
  assert lines[2:] == [['1', '+5.00 ± 0.00* 3/3'], ['0.5', '+2.50 ± 0.00* 3/3']]


def test_sparse_runs_have_methods_and_leave_out_what_diverged():
  results = _sparse()
  results['rows'][-1]['test_nll'] = None  # RigL, α = 2, seed 1
  nets = _entries(results)
  lines = _lines(compare.table(nets, 'method=set', 'method=rigl'))
  assert lines[0] == ['alpha', 'validation accuracy', 'test accuracy']
  assert lines[2] == ['1', '+0.00 0/2', '+25.00 2/2']
  assert lines[3] == ['2', '+0.00 0/1', '+25.00 1/1']


def test_continual_runs_have_a_net_for_each_member():
  results, _ = continual_tiny.run(
    [
      continual_tiny.member(method, seed=seed)
      for method in ('naive', 'packnet')
      for seed in range(3)
    ]
  )
  nets = _entries(results)
  assert len(nets) == 6
  same = {'learning_rate', 'alpha', 'transform', 'coefficient'}
  assert set(nets[0].setting) == same | {'method'}
  text = compare.table(nets, 'method=naive', 'method=packnet')
  assert text.startswith('method=packnet minus method=naive:')
  (_, _, line) = _lines(text)
  assert line[0].endswith('/3') and line[2] == '–'  # naive has no masks


def test_nets_of_other_numbers_of_tasks_are_not_compared():
  members = [
    continual_tiny.member('packnet', alpha, seed=seed, tasks=tasks)
    for alpha, *lengths in ((1.0, 10, 10), (2.0, 3, 10))
    for seed, tasks in enumerate(lengths)
  ]
  results, _ = continual_tiny.run(members)
  text = compare.table(_entries(results), 'alpha=1', 'alpha=2')
  (_, _, line) = _lines(text)
  assert line[0].endswith('/1')
  assert text.endswith('of other tasks: 3, and 10 of alpha=1.')
  members[3] = continual_tiny.member('packnet', 2.0, seed=1, tasks=4)
  results, _ = continual_tiny.run(members)
  text = compare.table(_entries(results), 'alpha=1', 'alpha=2')
  assert _lines(text)[2] == ['–'] * 3
  assert text.endswith('of other tasks: 3 to 4, and 10 of alpha=1.')


@pytest.mark.parametrize(
  ('baseline', 'other', 'says'),
  [
    ('alpha', 'alpha=2', "'alpha' is no field=value: the fields are transform"),
    ('seed=1', 'seed=2', "'seed=1' is no field=value"),
    ('alpha=1', 'alpha=7', 'No alpha is 7: there are 1, 2.'),
    ('alpha=1', 'density=1', 'name different fields'),
    ('alpha=1', 'alpha=2,density=1', 'name different fields'),
  ],
)
def test_what_is_wrong_is_said_in_a_sentence(
  tmp_path, capsys, baseline, other, says
):
  (tmp_path / 'results.json').write_bytes(files.to_json(_one_shot()))
  assert compare.main([str(tmp_path), baseline, other]) == 1
  error = capsys.readouterr().err
  assert says in error and error.count('\n') == 1


def test_nets_of_several_runs_have_their_run(tmp_path, capsys):
  folders = [tmp_path / 'a', tmp_path / 'b']
  for folder, steps in zip(folders, (100, 200), strict=True):
    results = _one_shot()
    for row in results['rows']:
      row['test_accuracy'] += steps / 1000
    folder.mkdir()
    (folder / 'results.json').write_bytes(files.to_json(results))
    text = f'{{"seeds": 3, "steps": {steps}, "{folder.name}": 0}}'
    (folder / 'config.json').write_text(text)
  names = list(map(str, folders))
  assert compare.main([*names, 'run=a', 'run=b,']) == 1
  assert "'' is no field=value" in capsys.readouterr().err
  assert compare.main([*names, 'run=a,alpha=1', 'run=b,alpha=2']) == 0
  out = capsys.readouterr().out
  assert _lines(out)[0] == ['density', 'test accuracy']
  assert _lines(out)[2] == ['1', '+15.00 ± 0.00* 3/3']
  says = 'Their configs differ in steps, and do not all have a, b.'
  assert out.endswith(f'\n\n{says}\n')
  # Without it, which of the two is meant is not known.
  assert compare.main([*names, 'alpha=1', 'alpha=2']) == 0
  assert _lines(capsys.readouterr().out)[0][0] == 'run'


def test_runs_that_cannot_be_compared(tmp_path, capsys):
  for name, results in {'a': _one_shot(), 'b': _sparse()}.items():
    (tmp_path / name).mkdir()
    (tmp_path / name / 'results.json').write_bytes(files.to_json(results))
  first, second = str(tmp_path / 'a'), str(tmp_path / 'b')
  assert compare.main([first, second, 'run=a', 'run=b']) == 1
  says = 'these are: a of one_shot, b of sparse_training.'
  assert says in capsys.readouterr().err
  assert compare.main([first, f'{first}/.', 'run=a', 'run=a']) == 1
  assert 'Two folders are named a' in capsys.readouterr().err


def test_a_run_without_nets_or_without_a_common_setting():
  with pytest.raises(ValueError, match='no nets to compare'):
    compare.table(_entries({'rows': []}), 'alpha=1', 'alpha=2')
  results = _sparse()
  for row in results['rows']:
    row['learning_rate'] = {'set': 0.1, 'rigl': 0.5}[row['method']]
  nets = _entries(results)
  with pytest.raises(ValueError, match='no setting of the other fields in'):
    compare.table(nets, 'method=set', 'method=rigl')
  named = 'method=set,learning_rate=0.1', 'method=rigl,learning_rate=0.5'
  assert '+25.00 2/2' in compare.table(nets, *named)


def test_the_command_prints_what_the_page_of_results_says(capsys):
  folder = tiny.ROOT / 'docs' / 'results' / 'epn_ablation'
  command = [str(folder), 'method=epn', 'method=retrain']
  assert compare.main(command) == 0
  out = capsys.readouterr().out
  assert '+6.94 ± 2.01* 3/3' in out and '+7.53 ± 0.54* 3/3' in out
  page = (folder / 'README.md').read_text(encoding='utf-8')
  assert 'gains 6.9 ± 2.0 and 7.5 ± 0.5' in ' '.join(page.split())
