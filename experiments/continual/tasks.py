"""How well each task is answered after the last (CLNP, figures 4a and 5a).

  python -m experiments.continual.tasks DIR [DIR ...]

lays finished runs on the same tasks side by side, as where joint training is a
run of its own: it draws DIR/figures/tasks_of_all.png and .pdf into the first of
them, and prints a table. Of every method and α there is the setting that is the
best on validation data.
"""

import argparse
from collections.abc import Mapping, Sequence
import pathlib
import sys

from matplotlib.figure import Figure
import numpy as np

from experiments.continual import analysis as continual_analysis
from experiments.continual import courses
from experiments.continual import panels
from experiments.continual.panels import Group
from experiments.continual.panels import Key
from experiments.report import files
from experiments.report import style
from experiments.report.naming import NO_LABELS
from experiments.report.statistics import Row

# Of a row, and what an axis calls it.
_FIELDS = {
  'final_validation_accuracy': 'validation accuracy (%)',
  'final_accuracy': 'test accuracy (%)',
}


@style.paper()
def figure(
  groups: Mapping[Key, Group], labels: Mapping[str, str] = NO_LABELS
) -> Figure:
  """Accuracy on every task after the last, on validation and on test data.

  Args:
    groups: by setting, the members.
    labels: what the config calls methods and transforms.

  Returns:
    A figure of two panels, with a line and a band of ± one std for every
    setting, as far as all of its seeds go. The paper prints no numbers of its
    own.
  """
  looks = panels.looks_of(list(groups))
  fig = Figure(figsize=(7.4, 6), layout='constrained')
  axes = fig.subplots(len(_FIELDS), 1, sharex=True)
  lines = {
    field: {
      key: 100 * panels.course([[row[field] for row in m] for m in group])
      for key, group in groups.items()
    }
    for field in _FIELDS
  }
  means = lambda key: [lines[field][key].mean(axis=0) for field in _FIELDS]
  there = [k for k in groups if all(lines[f][k].size for f in _FIELDS)]
  together = style.coinciding({k: np.concatenate(means(k)) for k in there})
  for panel, (field, label) in zip(axes, _FIELDS.items(), strict=True):
    for *_, key in together:
      panels.draw_course(panel, lines[field][key], looks[key])
    panel.set_ylabel(label)
    style.percent_limits(panel)
  panels.task_axis(axes[-1], continual_analysis.longest(groups))
  axes[-1].set_xlabel('task')
  handles = panels.handles_of(there, looks, labels, together)
  style.legend_beside(axes[0], handles, panels.runs_label(groups))
  return fig


def of_runs(
  workdirs: Sequence[pathlib.Path],
) -> tuple[dict[Key, Group], list[Row], dict[str, str]]:
  """What stands for the methods of several runs.

  Args:
    workdirs: folders of finished runs on the same tasks.

  Returns:
    Groups, all rows, and what the configs call methods and transforms.

  Raises:
    FileNotFoundError: a folder or its results.json is missing.
    ValueError: one cannot be read, is of other tasks, or has a setting that an
      earlier one has too.
  """
  groups: dict[Key, Group] = {}
  rows: list[Row] = []
  labels: dict[str, str] = {}
  first = ''
  for workdir in workdirs:
    results, _ = files.load(workdir)
    if (kind := files.experiment(results)) != 'continual':
      raise ValueError(
        f'{workdir} is a run of experiments.{kind}: name runs of'
        ' experiments.continual.'
      )
    tasks = f'{results["sequence"]} {results["dataset"]}'
    first = first or tasks
    if tasks != first:
      raise ValueError(
        f'{workdir} is of {tasks} and {workdirs[0]} of {first}: name runs on'
        ' the same tasks.'
      )
    margin = results.get('choose_margin', 0.0)
    mine = continual_analysis.shown(results['rows'], margin)
    if both := [key[0] for key in mine if key in groups]:
      raise ValueError(
        f'{workdir} has {both[0]} with the settings of an earlier run: name'
        ' runs of other methods.'
      )
    groups |= mine
    rows += results['rows']
    labels |= results['labels']
  return groups, rows, labels


def main(arguments: Sequence[str] | None = None) -> int:
  """Draws the runs that the command line names.

  Args:
    arguments: of the command line; None for those of the process.

  Returns:
    The exit status.
  """
  files.print_anywhere()
  parser = argparse.ArgumentParser(
    prog='python -m experiments.continual.tasks',
    description='Lays the accuracy of each task of finished runs side by side.',
  )
  parser.add_argument(
    'workdir', nargs='+', type=pathlib.Path, help="a run's folder"
  )
  workdirs = parser.parse_args(arguments).workdir
  try:
    groups, rows, labels = of_runs(workdirs)
    drawn = style.save_all(
      [('tasks_of_all', figure(groups, labels))], workdirs[0]
    )
  except (OSError, ValueError) as error:
    print(error, file=sys.stderr)
    return 1
  print(courses.each_task(groups, rows, labels))
  for path in drawn:
    print(path)
  return 0


if __name__ == '__main__':
  sys.exit(main())
