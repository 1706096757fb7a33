"""Measures of continual learning by hand, what is chosen, what is printed."""

import json
import math

import numpy as np
import pytest

from experiments.continual import analysis as continual_analysis
from experiments.continual import tables as continual_tables
from experiments.report import files
from experiments.report import published
from tests import continual_tiny

_NAN = math.nan
_MATRIX = np.array([[0.9, 0.3, 0.1], [0.6, 0.8, 0.2], [0.5, 0.7, 1.0]])


def test_measures_of_a_matrix_by_hand():
  np.testing.assert_allclose(
    continual_analysis.average_accuracy(_MATRIX), [0.9, 0.7, 2.2 / 3]
  )
  # Task 1 falls from 0.9 to 0.5, task 2 from 0.8 to 0.7.
  assert continual_analysis.forgetting(_MATRIX) == pytest.approx(0.25)
  assert continual_analysis.backward_transfer(_MATRIX) == pytest.approx(-0.25)
  # The best is not always when it was learned: 0.95 in between.
  matrix = _MATRIX.copy()
  matrix[1, 0] = 0.95
  assert continual_analysis.forgetting(matrix) == pytest.approx(0.275)
  assert continual_analysis.backward_transfer(matrix) == pytest.approx(-0.25)
  # Rows 2 and 3 saw 0.3 and 0.2 of the next task; untrained, 0.1 and 0.15.
  found = continual_analysis.forward_transfer([0.5, 0.3, 0.2], [0.5, 0.1, 0.15])
  assert found == pytest.approx(0.125)
  overlap = np.array([[1, 0.1, 0.2], [0.1, 1, 0.6], [0.2, 0.6, 1]])
  assert continual_analysis.mean_overlap(overlap) == pytest.approx(0.3)


def test_what_was_not_measured_is_nan():
  matrix = _MATRIX.copy()
  matrix[1, 0] = matrix[0, 1:] = _NAN
  average = continual_analysis.average_accuracy(matrix)
  np.testing.assert_allclose(average, [0.9, _NAN, 2.2 / 3])
  assert continual_analysis.forgetting(matrix) == pytest.approx(0.25)
  filled = continual_analysis.filled(matrix)
  np.testing.assert_allclose(
    filled, [[0.9, _NAN, _NAN], [0.9, 0.8, 0.2], [0.9, 0.8, 1.0]]
  )
  assert continual_analysis.forgetting(filled) == 0
  one = np.ones([1, 1])
  for value in (
    continual_analysis.forgetting(one),
    continual_analysis.backward_transfer(one),
    continual_analysis.forward_transfer([0.5], [0.1]),
    continual_analysis.forward_transfer([0.5, None], [0.1, 0.1]),
    continual_analysis.mean_overlap(one),
  ):
    assert math.isnan(value)


def _entry(results, **which):
  (entry,) = (e for e in results['summary'] if which.items() <= e.items())
  return entry


def test_summary_is_of_the_records_and_over_seeds():
  members = [
    continual_tiny.member(method, seed=seed)
    for method in ('packnet', 'naive')
    for seed in range(3)
  ]
  results, records = continual_tiny.run(members)
  names = [entry['method'] for entry in results['summary']]
  assert names == ['naive', 'packnet']
  entry = _entry(results, method='naive')
  assert (entry['n'], entry['tasks']) == (3, 4)
  matrices = [a for n, a in records.items() if n.startswith('naive')]
  last = [matrix[-1].mean(dtype=np.float64) for matrix in matrices]
  assert entry['average_accuracy_mean'] == pytest.approx(np.mean(last))
  assert entry['average_accuracy_std'] == pytest.approx(np.std(last, ddof=1))
  # Half of what an age of 1, 2 and 3 tasks is to 5 more.
  lost = np.mean([0.5 * 3 / 8, 0.5 * 2 / 7, 0.5 * 1 / 6])
  assert entry['forgetting_mean'] == pytest.approx(lost, abs=1e-6)
  assert entry['backward_transfer_mean'] == pytest.approx(-lost, abs=1e-6)
  assert entry['forward_transfer_mean'] == pytest.approx(0.02)
  assert 'used_weights_mean' not in entry and 'overlap_mean' not in entry
  entry = _entry(results, method='packnet')
  assert entry['forgetting_mean'] == 0 and entry['failed_tasks_mean'] == 1
  assert entry['used_weights_mean'] == pytest.approx(1 - math.exp(-4 / 20))
  gap = entry['accuracy_before_pruning_mean'] - entry['average_accuracy_mean']
  assert gap == pytest.approx(0.02)


def test_matrix_is_filled_only_if_all_outputs_stayed():
  rows, records = continual_tiny.member('packnet', tasks=6, every=5)
  (name,) = (name for name in records if name.endswith('/accuracy'))
  assert np.isnan(records[name][2, 0])
  matrix = continual_analysis.matrix_of(rows, records)
  assert matrix[2, 0] == matrix[0, 0] and np.isnan(matrix[0, 2])
  changed = [row | {'unchanged': row['task'] != 3} for row in rows]
  assert np.isnan(continual_analysis.matrix_of(changed, records)[2, 0])
  # Without records, the rows tell the diagonal and the end.
  matrix = continual_analysis.matrix_of(changed, {})
  assert np.isnan(matrix[2, 0])
  final = [row['final_accuracy'] for row in rows]
  np.testing.assert_allclose(matrix[-1], final)


def _chosen(members):
  rows = [row for some, _ in members for row in some]
  return [e['coefficient'] for e in continual_analysis.select(rows)]


def test_selection_is_by_validation_and_never_by_test():
  member = continual_tiny.member
  worse = member('ewc', coefficient=1.0, validation=0.7)
  better = member('ewc', coefficient=10.0, validation=0.8)
  for row in worse[0]:
    for name in row:
      if 'accuracy' in name and 'validation' not in name:
        row[name] = 1.0
  assert _chosen([worse, better]) == [10.0]
  # A search decides, where there was one; each α for itself.
  search = [
    member('ewc', coefficient=c, search=True, tasks=2, validation=v)
    for c, v in ((1.0, 0.6), (10.0, 0.5))
  ]
  other = member('ewc', 2.0, coefficient=5.0)
  assert _chosen([better, worse, other, *search]) == [1.0, 5.0]
  rows = [row for some, _ in (better, worse, *search) for row in some]
  ((key, group),) = continual_analysis.shown(rows).items()
  assert key[3] == 1.0 and group == [worse[0]]
  # What was searched but not trained cannot be shown: the next best is.
  rows = [row for some, _ in (better, *search) for row in some]
  assert [key[3] for key in continual_analysis.shown(rows)] == [10.0]


def test_selection_passes_over_what_diverged_or_broke_off():
  member = continual_tiny.member
  whole = member('ewc', coefficient=1.0, validation=0.5)
  short = member('ewc', coefficient=2.0, validation=0.9, tasks=3)
  lost = member('ewc', coefficient=3.0, validation=None)
  assert _chosen([short, lost, whole]) == [1.0]
  assert _chosen([short, lost]) == [2.0]
  assert _chosen([lost]) == []


def _cells(text, *begin):
  """The rest of the line that begins with these cells.

  A wide table goes on in others, which begin with the same cells.
  """
  lines = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in text.splitlines()
  ]
  found = [x[len(begin) :] for x in lines if x[: len(begin)] == [*begin]]
  assert found
  return [cell for cells in found for cell in cells]


def test_tables_have_the_numbers():
  member = continual_tiny.member
  members = [member('efficient_packnet', 2.0, seed=s, tasks=12) for s in (0, 1)]
  members += [
    member('ewc', coefficient=c, seed=s, tasks=12)
    for c in (150.0, 10.0)
    for s in (0, 1)
  ]
  members += [
    member('ewc', coefficient=c, tasks=2, search=True, validation=v)
    for c, v in ((150.0, 0.61), (10.0, 0.62), (1.0, None))
  ]
  results, records = continual_tiny.run(members)
  text = continual_tables.markdown(results)
  assert text.startswith('mnist, mlp, 12 tasks (permuted, domain).')
  assert 'Mean ± std of 2 runs.' in text
  entry = _entry(results, coefficient=10.0)
  main = text[: text.index('Mean ± std')]
  chosen, *cells = _cells(main, 'EWC', '1', '10')
  assert chosen == 'validation'
  mean, std = entry['average_accuracy_mean'], entry['average_accuracy_std']
  assert cells[0] == f'{100 * mean:.2f} ± {100 * std:.2f}'
  assert cells[2] == '–' and cells[3].startswith(
    f'{100 * entry["forgetting_mean"]:.2f}'
  )
  default = _cells(main, 'EWC', '1', '150')
  assert default[0] == 'default' and len(default) == 1 + len(cells)
  cells = _cells(main, 'EfficientPackNet', '2', '')[1:]
  assert cells[6] == f'{100 * (1 - math.exp(-12 / 40)):.2f} ± 0.00'
  # The course of the masks.
  course = text[text.index('EfficientPackNet, α = 2:') :]
  row = members[0][0][9]
  cells = _cells(course, '10')
  assert cells[4] == f'{100 * row["used_weights"]:.2f}'
  assert cells[5:7] == [f'{row["new_weights"]:,}', f'{row["reused_weights"]:,}']
  learned = [
    row['accuracy_when_learned'] for rows, _ in members[:2] for row in rows[:10]
  ]
  assert cells[0].startswith(f'{100 * np.mean(learned):.2f} ±')
  assert _cells(course, '12')[-1] == '1'
  # The search.
  search = text[text.index('The search') :]
  assert _cells(search, 'EWC', '1', '10') == ['2', '62.00', 'chosen']
  assert _cells(search, 'EWC', '1', '150') == ['2', '61.00', '']
  assert _cells(search, 'EWC', '1', '1') == ['2', 'failed', '']


def test_what_a_search_asked_for_and_found_is_in_the_tables():
  rows, records = continual_tiny.member('efficient_packnet', 2.0, tasks=3)
  plain, _ = continual_tiny.run([(rows, records)])
  assert 'missed' not in continual_tables.markdown(plain)
  for row, found in zip(rows, (0.91, 0.88, 0.87), strict=True):
    asked = {'target': 0.9, 'pruned_accuracy': found, 'reached': found >= 0.9}
    row |= asked
  results, _ = continual_tiny.run([(rows, records)])
  assert results['summary'][0]['missed_targets_mean'] == 2
  text = continual_tables.markdown(results)
  assert 'Missed targets: tasks whose mask' in text
  lines = text[text.index('EfficientPackNet, α = 2:') :].splitlines()
  for header, wanted in (
    ('asked for', ['90.0', '90.0', '90.0']),
    ('found', ['91.0', '88.0', '87.0']),
    ('missed so far', ['0', '1', '2']),
  ):
    top = next(i for i, line in enumerate(lines) if f' {header} ' in line)
    place = [c.strip() for c in lines[top].split('|')].index(header)
    below = lines[top + 2 : top + 5]
    assert [x.split('|')[place].strip() for x in below] == wanted
  # A record that was written and read prints the same.
  saved = json.loads(files.to_json(results))
  assert continual_tables.markdown(saved) == text


def test_rows_of_sequences_that_were_full_early_say_how_many_tasks_they_have():
  def text(*tasks):
    # As many runs of each, so that no column says how many there are.
    members = [
      continual_tiny.member(method, tasks=many, seed=seed)
      for method, numbers in (('packnet', tasks), ('naive', (3, 3)))
      for seed, many in enumerate(numbers)
    ]
    return continual_tables.markdown(continual_tiny.run(members)[0])

  assert 'Tasks: the fewest' not in text(3, 3)
  full = text(3, 2)
  assert 'Tasks: the fewest that a run learned.' in full
  assert '2' in _cells(full, 'PackNet')
  assert '2' not in _cells(text(3, 3), 'PackNet')


def test_published_numbers_stand_beside_the_runs():
  members = [
    continual_tiny.member(method, alpha, tasks=51)
    for method, alpha in (('online_ewc', 1.0), ('efficient_packnet', 2.0))
  ]
  results, _ = continual_tiny.run(members)
  table = continual_tables.published_table(results)
  final = np.mean([row['final_accuracy'] for row in members[0][0]])
  _, published_, here, note, _ = _cells(table, 'online EWC', '51')
  assert (published_, note) == ('85.61', 'called Laplace there')
  assert here == f'{100 * final:.2f} (α = 1)'
  cells = _cells(table, 'EfficientPackNet', '300')
  assert cells[:4] == ['α > 1', '86', '–', 'about']
  assert '| EWC ' not in table and '| SI ' not in table
  other = results | {'sequence': 'split'}
  assert not continual_tables.published_table(other)
  for line in published.PERMUTED_MNIST:
    assert line.method in {*continual_analysis.METHODS, 'superposition'}
    assert 50 < line.number.accuracy < 100


def test_with_clnp_stands_all_of_its_table():
  members = [
    continual_tiny.member(method, tasks=10) for method in ('clnp', 'single')
  ]
  results, _ = continual_tiny.run(members)
  table = continual_tables.published_table(results)
  for name, number in (
    ('one net per task', '98.48 ± 0.05'),
    ('EWC', '97.0'),
    ('SI', '97.2'),
    ('superposition', '97.6'),
    ('CLNP', '98.42 ± 0.04'),
  ):
    _, shown, here, *_, source = _cells(table, name, '10')
    assert (shown, source) == (number, 'CLNP, Table 1')
    ran = name in ('one net per task', 'CLNP')
    assert here.endswith('(α = 1)') if ran else here == '–'
  assert 'EfficientPackNet' not in table


def test_differences_are_to_the_same_setting_and_between_what_was_chosen():
  member = continual_tiny.member
  members = [
    member('ewc', alpha, coefficient=c, seed=s, validation=v)
    for alpha, c, v in (
      (1.0, 1, 0.6),
      (1.0, 9, 0.5),
      (2.0, 1, 0.5),
      (2.0, 9, 1),
    )
    for s in range(3)
  ]
  members += [member('packnet', alpha, seed=0) for alpha in (1.0, 2.0)]
  members += [member('naive', 2.0)]  # nothing to compare it with
  results, _ = continual_tiny.run(members)
  accuracy = lambda i: np.array(
    [np.mean([r['final_accuracy'] for r in m[0]]) for m in members[i : i + 3]]
  )
  pairs = {('1', 'α = 1'): (0, 6), ('9', 'α = 1'): (3, 9)}
  pairs['9', 'α = 1, coefficient = 1'] = (0, 9)  # both chosen on validation
  table = continual_tables.difference_table(results['rows'])
  assert 'fine-tuning' not in table
  for (coefficient, against), (first, second) in pairs.items():
    gains = 100 * (accuracy(second) - accuracy(first))
    mean, *_, ahead = _cells(table, 'EWC', '2', coefficient, against)[0].split()
    assert mean == f'{gains.mean():+.2f}'
    assert ahead == f'{(gains > 0).sum()}/3'
  first, second = (m[0][-1]['used_weights'] for m in members[12:14])
  used = _cells(table, 'PackNet', '2', '', 'α = 1')[1]
  assert used == f'{100 * (second - first):+.2f} 0/1'


def test_members_of_other_numbers_of_tasks_are_not_compared():
  member = continual_tiny.member
  members = [member('clnp', seed=s, tasks=10) for s in range(3)]
  members += [
    member('clnp', 1.5, seed=s, tasks=n) for s, n in enumerate((3, 4, 10))
  ]
  members += [member('packnet', a, tasks=n) for a, n in ((1.0, 10), (2.0, 3))]
  results, _ = continual_tiny.run(members)
  table = continual_tables.difference_table(results['rows'])
  for name, cell in (('final_accuracy', 0), ('used_weights', 1)):
    first, second = (
      np.mean([r[name] for r in m[0]]) if cell == 0 else m[0][-1][name]
      for m in (members[2], members[5])
    )
    gain = 100 * (second - first)
    assert _cells(table, 'CLNP', '1.5', 'α = 1')[cell] == (
      f'{gain:+.2f} {int(gain > 0)}/1'
    )
  assert _cells(table, 'PackNet', '2', 'α = 1') == ['', '']
  assert table.endswith(
    'CLNP, α = 1.5 has learned 3 to 4, and 10 at α = 1; PackNet, α = 2 has'
    ' learned 3, and 10 at α = 1.'
  )


def test_each_task_of_a_short_sequence_is_in_the_tables():
  members = [
    continual_tiny.member('ewc', seed=s, tasks=n) for s, n in ((0, 12), (1, 3))
  ]
  members.append(continual_tiny.member('packnet', tasks=2))
  results, _ = continual_tiny.run(members)
  text = continual_tables.markdown(results)
  table = text[text.index('Test accuracy of each task') :]
  cells = _cells(table, 'EWC', '1')
  for task in (0, 2, 11):
    found = [
      100 * m[0][task]['final_accuracy']
      for m in members[:2]
      if task < len(m[0])
    ]
    spread = f' ± {np.std(found, ddof=1):.1f}' if task < 3 else ''
    assert cells[task] == f'{np.mean(found):.1f}{spread}'
  first, second, *rest = _cells(table, 'PackNet', '1')
  assert '–' not in (first, second) and rest == ['–'] * 10
  results, _ = continual_tiny.run([continual_tiny.member(tasks=13)])
  assert 'of each task' not in continual_tables.markdown(results)


def test_tables_of_a_small_or_empty_run():
  results, _ = continual_tiny.run([continual_tiny.member(tasks=1)])
  text = continual_tables.markdown(results)
  assert 'One run each.' in text and 'forgetting' not in text.split('All in')[0]
  assert 'Published' not in text and 'search' not in text
  results, _ = continual_tiny.run([])
  assert continual_tables.markdown(results).startswith('mnist, mlp, 0 tasks')


def test_units_of_each_layer_are_in_the_tables():
  members = [continual_tiny.member('clnp', seed=s, tasks=11) for s in (0, 1)]
  members.append(continual_tiny.member('packnet', tasks=2))
  results, _ = continual_tiny.run(members)
  results |= {'masks': continual_tiny.MASKS}
  text = continual_tables.markdown(results)
  course = text[text.index('CLNP, α = 1, units of each layer: ') :]
  assert 'PackNet, α = 1, units' not in text
  assert '18% and 40% in use after 10 tasks' in course.splitlines()[0]
  units = members[0][0][9]['units_by_layer']  # the same for both seeds
  wanted = []
  for counts in units.values():
    wanted += [
      f'{100 * counts["used"] / 2000:.1f}',
      f'{counts["new"]:,}',
      f'{counts["reused"]:,}',
    ]
  assert _cells(course, '10') == wanted


@pytest.mark.parametrize(
  ('full', 'says'),
  [
    ((5, 10), 'is full after 7.5 ± 3.5 tasks.'),
    ((7, 99), 'is full after 7 tasks in 1 of 2 runs, in the others not after'),
    ((99, 99), 'is not full after 11 tasks.'),
  ],
)
def test_how_many_tasks_fill_the_last_layer_is_said(full, says):
  members = [continual_tiny.member('clnp', seed=s, tasks=11) for s in (0, 1)]
  for (rows, _), task in zip(members, full, strict=True):
    for row in rows[task - 1 :]:
      row['units_by_layer']['hidden_1']['used'] = 2000
  results, _ = continual_tiny.run(members)
  text = continual_tables.markdown(results | {'masks': continual_tiny.MASKS})
  assert f'\n\nhidden_1 {says}' in text
  assert 'CLNP, section 3.1: about 25.' in text
