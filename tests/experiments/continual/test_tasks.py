"""How well each task is answered, of one run and of several."""

import numpy as np
import pytest

from experiments.continual import analysis as continual_analysis
from experiments.continual import tasks
from tests import continual_tiny


def _run(*methods, lengths=(4,)):
  return continual_tiny.run(
    continual_tiny.member(method, seed=seed, tasks=length, validation=0.6)
    for method in methods
    for seed, length in enumerate(lengths)
  )


def test_validation_and_test_accuracy_have_a_panel_each():
  results, _ = _run('naive', 'packnet', 'clnp', lengths=(5, 3))
  groups = continual_analysis.shown(results['rows'])
  figure = tasks.figure(groups)
  validation, test = figure.axes
  assert test.get_xlabel() == 'task'
  # Their records are the same; validation accuracies are so for all.
  texts = [text.get_text() for text in validation.get_legend().get_texts()]
  assert texts == ['fine-tuning', 'CLNP\n= PackNet']
  for axes, field in (
    (validation, 'final_validation_accuracy'),
    (test, 'final_accuracy'),
  ):
    for line, members in zip(
      axes.lines, list(groups.values())[:2], strict=True
    ):
      assert line.get_xdata().tolist() == [1, 2, 3]  # as far as all go
      found = [[row[field] for row in m[:3]] for m in members]
      mean = 100 * np.mean(found, axis=0)
      np.testing.assert_allclose(line.get_ydata(), mean)


@pytest.mark.usefixtures('sketched')
def test_runs_on_the_same_tasks_are_laid_side_by_side(tmp_path, capsys):
  for name, methods in (('a', ('clnp', 'single')), ('b', ('joint',))):
    continual_tiny.write(tmp_path / name, *_run(*methods, lengths=(3, 3)))
  assert tasks.main([str(tmp_path / 'a'), str(tmp_path / 'b')]) == 0
  out = capsys.readouterr().out
  lines = [x for x in out.splitlines() if x.startswith('| ')][1:]
  for line, name in zip(
    lines, ('one net per task', 'CLNP', 'joint training'), strict=True
  ):
    assert line.startswith(f'| {name} ') and line.count(' ± ') == 3
  assert (tmp_path / 'a' / 'figures' / 'tasks_of_all.png').exists()


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    (
      {'experiment': 'stream'},
      'b is a run of experiments.stream: name runs of',
    ),
    (
      {'dataset': 'digits'},
      'b is of permuted digits and .*a of permuted mnist',
    ),
    ({}, 'b has naive with the settings of an earlier run'),
  ],
)
def test_runs_that_cannot_be_laid_side_by_side(tmp_path, capsys, change, says):
  results, records = _run('naive')
  for name, more in (('a', {}), ('b', change)):
    continual_tiny.write(tmp_path / name, results | more, records)
  assert tasks.main([str(tmp_path / 'a'), str(tmp_path / 'b')]) == 1
  error = capsys.readouterr().err
  assert error.count('\n') == 1 and not (tmp_path / 'a' / 'figures').exists()
  with pytest.raises(ValueError, match=says):
    tasks.of_runs([tmp_path / 'a', tmp_path / 'b'])
