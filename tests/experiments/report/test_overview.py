"""The table of all runs: what it chooses, compares and refuses."""

import itertools
import math

import pytest

from experiments.report import files
from experiments.report import overview
from tests import continual_tiny

_WHERE = {'transform': 'powerprop', 'learning_rate': 0.1, 'test_nll': 1.0}


def _one_shot():
  return {
    'rows': [
      _WHERE
      | {'alpha': alpha, 'seed': seed, 'density': density}
      | {'test_accuracy': 0.5 + 0.1 * seed + 0.05 * (alpha - 1) * (1 - density)}
      for alpha, seed, density in itertools.product(
        (1.0, 2.0, 3.0), range(3), (1.0, 0.5, 0.1)
      )
    ]
  }


def _sparse(diverged=0, rates=(0.1, 0.2)):
  """α = 2 is the best on test data, α = 3 on validation data."""
  out = {'plans': [], 'rows': [], 'summary': []}
  validation = {1.0: 0.5, 2.0: 0.6, 3.0: 0.7}
  test = {1.0: 0.5, 2.0: 0.9, 3.0: 0.4}
  for alpha, rate in itertools.product(validation, rates):
    where = {'method': 'set', 'distribution': 'erk', 'sparsity': 0.9}
    where |= {'transform': 'powerprop', 'alpha': alpha, 'learning_rate': rate}
    for seed in range(3):
      lost = alpha == 3 and seed < diverged
      out['rows'].append(
        where
        | {'seed': seed, 'test_nll': math.nan if lost else 1.0}
        | {'validation_accuracy': validation[alpha] + rate}
        | {'test_accuracy': test[alpha] - rate}
      )
    mean = {'validation_accuracy_mean': validation[alpha] + rate}
    out['summary'].append(where | mean)
  return out


def _root(tmp_path, results, row, page=f'Before\n{overview.MARK}\n'):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'results.json').write_bytes(files.to_json(results))
  text = f"[[run]]\nfolders = ['a']\nsetting = 'S'\n[[run.row]]\n{row}\n"
  (tmp_path / 'overview.toml').write_text(text, encoding='utf-8')
  text = f'{page}old\n{overview.MARK}\nAfter\n'
  (tmp_path / 'README.md').write_text(text, encoding='utf-8')
  return tmp_path


def _cells(root):
  *_, line = overview.table(root).splitlines()
  return [cell.strip() for cell in line.split('|')[1:-1]]


def test_without_validation_every_alpha_is_shown_at_the_nearest_density(
  tmp_path,
):
  row = "method = 'm, {density}'\nwhere = { density = 0.45 }\nsays = 'more'"
  assert _cells(_root(tmp_path, _one_shot(), row)) == [
    'S',
    'm, 50%',
    '60.0 ± 10.0',
    '62.5 ± 10.0 (α = 2)<br>65.0 ± 10.0 (α = 3)',
    '3',
    '+2.5 ± 0.0* 3/3<br>+5.0 ± 0.0* 3/3',
    'higher',
    'more',
    '[a](a/README.md)',
  ]


def test_validation_accuracy_chooses_and_the_test_accuracy_does_not(tmp_path):
  cells = _cells(_root(tmp_path, _sparse(), "method = 'm'\nnote = 'why'"))
  assert cells[2:7] == [
    '30.0 ± 0.0 (lr 0.2)',
    '20.0 ± 0.0 (α = 3, lr 0.2)',
    '3',
    '-10.0 ± 0.0* 0/3',
    'lower; why',
  ]


def test_a_setting_of_which_a_seed_diverged_is_not_chosen(tmp_path):
  cells = _cells(_root(tmp_path, _sparse(diverged=1), "method = 'm'"))
  assert cells[3] == '70.0 ± 0.0 (α = 2, lr 0.2)'


def _two_roots(tmp_path, more):
  root = _root(tmp_path, _sparse(), "method = 'm'")
  (root / 'b').mkdir()
  (root / 'b' / 'results.json').write_bytes(files.to_json(more))
  path = root / 'overview.toml'
  text = path.read_text('utf-8').replace("['a']", "['a', 'b']")
  path.write_text(text, encoding='utf-8')
  return root


def test_of_several_runs_the_best_on_validation_data_is_shown(tmp_path):
  more = _sparse(rates=(0.3,))
  more = {k: [e for e in v if e['alpha'] == 1] for k, v in more.items()}
  cells = _cells(_two_roots(tmp_path, more))
  assert cells[2] == '20.0 ± 0.0 (lr 0.3)'
  assert cells[3] == '20.0 ± 0.0 (α = 3, lr 0.2)'
  assert cells[5] == '+0.0 ± 0.0 0/3'
  assert cells[-1] == '[a](a/README.md), [b](b/README.md)'


def test_the_same_setting_in_two_runs_is_refused(tmp_path):
  with pytest.raises(ValueError, match='two of its runs have'):
    overview.table(_two_roots(tmp_path, _sparse()))


def test_seeds_are_counted_that_both_sides_have(tmp_path):
  rows = _one_shot()['rows']
  some = {'rows': [r for r in rows if r['alpha'] < 3 or r['seed'] < 2]}
  cells = _cells(_root(tmp_path, some, "method = 'm'\nwhere.density = 1"))
  assert cells[4] == '3<br>2'


def test_any_two_settings_may_be_compared_and_named(tmp_path):
  row = """method = 'm'
where = { learning_rate = 0.1 }
baseline = { alpha = 2.0 }
other = { alpha = 1.0 }
names = ['two', 'one']"""
  cells = _cells(_root(tmp_path, _sparse(), row))
  assert cells[2:6] == [
    '80.0 ± 0.0 (two)',
    '40.0 ± 0.0 (one)',
    '3',
    '-40.0 ± 0.0* 0/3',
  ]


def test_two_seeds_are_not_compared_and_neither_is_what_has_no_baseline(
  tmp_path,
):
  results = _one_shot()
  two = {'rows': [row for row in results['rows'] if row['seed'] < 2]}
  cells = _cells(_root(tmp_path, two, "method = 'm'\nwhere.density = 1"))
  assert cells[4] == '2' and cells[6] == 'not compared: too few seeds'
  one = {'rows': [row for row in results['rows'] if row['alpha'] > 1]}
  (tmp_path / 'a' / 'results.json').write_bytes(files.to_json(one))
  assert _cells(tmp_path)[2:7] == [
    '–',
    '60.0 ± 10.0 (α = 2)<br>60.0 ± 10.0 (α = 3)',
    '3',
    '–<br>–',
    'not compared',
  ]


def test_sequences_of_other_numbers_of_tasks_are_not_compared(tmp_path):
  results, _ = continual_tiny.run(
    continual_tiny.member('packnet', alpha, seed=seed, tasks=tasks)
    for alpha, tasks in ((1.0, 10), (2.0, 3))
    for seed in range(3)
  )
  cells = _cells(_root(tmp_path, results, "method = 'm'"))
  assert '–' not in cells[2:4] and cells[5:7] == ['–', 'not compared']


def test_the_command_writes_between_the_marks_alone(tmp_path, capsys):
  root = _root(tmp_path, _sparse(), "method = 'm'")
  assert overview.main([str(root)]) == 0
  text = (root / 'README.md').read_text(encoding='utf-8')
  mark = overview.MARK
  assert text == f'Before\n{mark}\n{overview.table(root)}\n{mark}\nAfter\n'
  assert capsys.readouterr().out.strip() == str(root / 'README.md')


@pytest.mark.parametrize(
  ('row', 'says'),
  [
    ("method = 'm'\nwhere = { method = 'rigl' }", 'no net fits'),
    ("method = 'm'\nwhere = { rate = 1 }", 'there is no rate'),
    ("method = 'm", 'cannot be read'),
  ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, capsys, row, says):
  root = _root(tmp_path, _sparse(), row)
  assert overview.main([str(root)]) == 1
  error = capsys.readouterr().err
  assert says in error and error.count('\n') == 1


def test_several_baselines_need_a_validation_accuracy(tmp_path):
  results = _sparse() | {'summary': []}
  with pytest.raises(ValueError, match='several baselines fit'):
    overview.table(_root(tmp_path, results, "method = 'm'"))


def test_a_page_without_its_two_marks_is_left_alone(tmp_path, capsys):
  root = _root(tmp_path, _sparse(), "method = 'm'", page='')
  before = (root / 'README.md').read_bytes()
  assert overview.main([str(root)]) == 1
  assert '1 times, not twice' in capsys.readouterr().err
  assert (root / 'README.md').read_bytes() == before
