"""Figures of characters drawn in turn: Table 3, and what is left of each.

`draw` makes DIR/figures/*.png and *.pdf from DIR/results.json and
DIR/records.npz, without training anything. Of every method and α the setting
that is the best on validation data is shown.
"""

from collections.abc import Iterator, Mapping
import os
import pathlib
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np

from experiments.continual import analysis as continual_analysis
from experiments.continual import panels as continual_panels
from experiments.continual.panels import Group
from experiments.continual.panels import Key
from experiments.generative import analysis as generative_analysis
from experiments.generative import tables as generative_tables
from experiments.report import files
from experiments.report import published
from experiments.report import statistics
from experiments.report import style
from experiments.report.curves import Records
from experiments.report.naming import net_name

# Whose characters are drawn: a method, and whether with α > 1.
_DRAWN = (
  ('naive', False),
  ('ewc', False),
  ('efficient_packnet', False),
  ('efficient_packnet', True),
)


@style.paper()
def table3(results: Mapping[str, Any]) -> Figure:
  """The log-likelihoods of all settings as bars (Table 3).

  Args:
    results: a run's record; what the paper has is a diamond beside the bar.

  Returns:
    A figure: the further right a bar ends the better. What is far to the left
    of the others has its number instead; so has what the paper has there.
  """
  groups = generative_analysis.shown(results['rows'])
  labels = results.get('labels', {})
  lines = []
  for key, group in groups.items():
    found = [
      generative_analysis.measures(m, {})['log_likelihood'] for m in group
    ]
    found = [x for x in found if np.isfinite(x)]
    if found:
      names = dict(zip(continual_analysis.SETTING, key, strict=True))
      paper = generative_tables.published_of(names, results)
      name = continual_panels.label_of(key, groups, labels)
      if len(found) < len(group):
        name += f' ({len(found)} of {len(group)})'
      lines.append((name, key[2] > 1, *statistics.mean_and_std(found), paper))
  figure = Figure(figsize=(7.4, 1.4 + 0.34 * len(lines)), layout='constrained')
  axes = figure.add_subplot()
  numbers = [x for *_, mean, _, paper in lines for x in (mean, paper) if x]
  # Fine-tuning is so far off that the others could not be told apart.
  best = max(numbers, default=-1.0)
  far = min((x for x in numbers if x > 2.5 * best), default=best)
  least = far - 0.25 * (best - far + 1)
  for i, (_, power, mean, std, paper) in enumerate(lines):
    cut = max(mean, least)
    axes.barh(
      -i,
      cut - least,
      left=least,
      color=style.COLOURS[0] if power else style.GREY,
      height=0.7,
      xerr=std if cut == mean and std else None,
    )
    told = [(f'{mean:.0f}', 'black')] if cut > mean else []
    if paper is not None:
      shown = max(paper, least)
      mark = '<' if shown > paper else 'D'
      axes.plot(shown, -i, mark, color=style.COLOURS[1], ms=6, clip_on=False)
      told += [(f'{paper:.0f}', style.COLOURS[1])] if shown > paper else []
    for place, (text, colour) in enumerate(told):
      axes.annotate(
        text,
        (least, -i),
        (8 + 34 * place, 0),
        textcoords='offset points',
        va='center',
        fontsize=8,
        color=colour,
      )
  axes.set_yticks([-i for i in range(len(lines))], [x[0] for x in lines])
  axes.set_xlabel('test log-likelihood (nats a picture; right is better)')
  axes.grid(visible=False, axis='y')
  handles: list[Any] = [
    Patch(color=style.GREY, label='α = 1'),
    Patch(color=style.COLOURS[0], label='α > 1'),
  ]
  if any(line[-1] is not None for line in lines):
    sizes = published.TABLE3_SIZES[results['dataset']]
    marks = axes.plot([], [], 'D', color=style.COLOURS[1], ms=6)
    marks[0].set_label(f'{published.TABLE3}: {sizes}')
    handles += marks
  style.legend_above(figure, handles, continual_panels.runs_label(groups))
  return figure


@style.paper()
def characters(
  groups: Mapping[Key, Group], records: Records, labels: Mapping[str, str]
) -> Figure:
  """Characters drawn after each task from the same codes, of the first seed.

  Args:
    groups: by setting, the members.
    records: arrays 'drawn' of their first, uint8 [T, T, n, H, W].
    labels: what the config calls methods and transforms.

  Returns:
    A figure with a panel for each: a row is what was drawn after that task, a
    column one character.
  """
  across = min(2, len(groups))
  down = -(-len(groups) // across)
  of = lambda group: records[f'{net_name(group[0][0])}/drawn']
  *_, number, height, width = of(next(iter(groups.values()))).shape
  panel = 0.8 + 3.8 * (height + 1) / (number * width + 1)
  figure = Figure(
    figsize=(0.6 + 4.2 * across, panel * down), layout='constrained'
  )
  places = figure.subplots(down, across, squeeze=False).ravel()
  for axes, (key, group) in zip(places, groups.items(), strict=False):
    drawn = of(group)
    axes.imshow(1 - sheet(drawn), cmap='gray', vmin=0, vmax=1)
    axes.set_title(continual_panels.label_of(key, groups, labels))
    tasks, _, number, height, width = drawn.shape
    axes.grid(visible=False)
    where = np.arange(tasks)
    wide, high = number * width + 1, height + 1
    axes.set_xticks(wide * where + wide / 2, [str(t + 1) for t in where])
    axes.set_yticks(high * where + high / 2, [str(t + 1) for t in where])
    axes.set(xlabel='character', ylabel='after task')
  for axes in places[len(groups) :]:
    axes.set_axis_off()
  return figure


def sheet(drawn: np.ndarray) -> np.ndarray:
  """All pictures of `characters` on one, with a thin line between tasks.

  Args:
    drawn: uint8 [T, T, n, H, W]; of task j after task i, n pictures.

  Returns:
    float [T·(H + 1), T·(n·W + 1)] in [0, 1]; what is yet to be learned is 0.
  """
  tasks, _, number, height, width = drawn.shape
  rows = np.moveaxis(drawn, 2, 3).reshape(tasks, tasks, height, number * width)
  rows = np.pad(rows, [(0, 0), (0, 0), (0, 1), (0, 1)], constant_values=64)
  there = np.tri(tasks, dtype=bool)[:, :, None, None]
  rows = np.where(there, rows, 0) / 255
  return np.moveaxis(rows, 1, 2).reshape(tasks * (height + 1), -1)


@style.paper()
def course(
  results: Mapping[str, Any], records: Records, masked: Mapping[Key, Group]
) -> Figure:
  """Log-likelihood of all tasks so far, and used weights, over the tasks.

  Args:
    results: a run's record.
    records: of the run.
    masked: the members of settings that have used weights.

  Returns:
    A figure of two panels, or of the first where nothing has masks.
  """
  groups = generative_analysis.shown(results['rows'])
  looks = continual_panels.looks_of(list(groups))
  figure = Figure(figsize=(9.6, 4), layout='constrained')
  panels = figure.subplots(1, 2 if masked else 1, squeeze=False)[0]
  for key, group in groups.items():
    found = continual_panels.course(
      generative_analysis.averages(generative_analysis.matrix_of(m, records))
      for m in group
    )
    if found.size:
      continual_panels.draw_course(panels[0], found, looks[key])
  for key, group in masked.items():
    found = continual_panels.used_courses(group)
    continual_panels.draw_course(panels[1], found, looks[key])
  last = continual_analysis.longest(groups)
  for axes in panels:
    continual_panels.task_axis(axes, last)
    axes.set_xlabel('number of tasks')
  panels[0].set_ylabel('log-likelihood of tasks so far (nats)')
  if masked:
    panels[1].set_ylabel('shared weights in use (%)')
    panels[1].set_ylim(bottom=0)
  labels = results.get('labels', {})
  handles = continual_panels.handles_of(groups, looks, labels)
  runs = continual_panels.runs_label(groups)
  style.legend_beside(panels[-1], handles, runs)
  return figure


@style.paper()
def importance(
  groups: Mapping[Key, Group], records: Records, labels: Mapping[str, str]
) -> Figure:
  """What weights of which size have of the penalty's strength, at the end.

  The paper: under Powerprop the Fisher information of small weights is
  "vanishingly small", so that they are not held.

  Args:
    groups: by setting, the members.
    records: their arrays 'importance', [T, tenths].
    labels: what the config calls methods and transforms.

  Returns:
    A figure: from the tenth of the weights with the smallest |θ| to that with
    the largest, means over seeds and bands of ± one std.
  """
  looks = continual_panels.looks_of(list(groups))
  figure = Figure(figsize=(6.4, 4), layout='constrained')
  axes = figure.subplots()
  for key, group in groups.items():
    last = [records[f'{net_name(m[0])}/importance'][-1] for m in group]
    continual_panels.draw_course(axes, 100 * np.array(last), looks[key])
  if axes.get_ylim()[0] > 0:  # some of synaptic intelligence's are below
    axes.set_ylim(bottom=0)
  axes.set_xlabel('tenth of the shared weights, by |θ|, the smallest first')
  axes.set_ylabel("share of the penalty's strength (%)")
  axes.set_xticks(1 + np.arange(len(last[0])))
  handles = continual_panels.handles_of(groups, looks, labels)
  runs = continual_panels.runs_label(groups)
  style.legend_beside(axes, handles, runs)
  return figure


def draw(workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Draws every figure that a run's records support.

  Args:
    workdir: a run's folder, with results.json and records.npz.

  Returns:
    The files written, under workdir/figures.

  Raises:
    FileNotFoundError: the folder or its results.json is missing.
    ValueError: a file cannot be read.
  """
  workdir = pathlib.Path(workdir)
  results, records = files.load(workdir)
  return style.save_all(_figures(results, records), workdir)


def _figures(
  results: Mapping[str, Any], records: Records
) -> Iterator[tuple[str, Figure]]:
  groups = generative_analysis.shown(results.get('rows', []))
  if not groups:
    return
  yield 'table3', table3(results)
  labels, stands = results.get('labels', {}), results.get('stands_for', {})
  of = lambda key: (stands.get(key[0], key[0]), key[2] > 1)
  wanted = {
    key: group
    for key, group in groups.items()
    if of(key) in _DRAWN and f'{net_name(group[0][0])}/drawn' in records
  }
  if wanted:
    yield 'characters', characters(wanted, records, labels)
  held = {
    key: group
    for key, group in groups.items()
    if all(f'{net_name(m[0])}/importance' in records for m in group)
  }
  if held:
    yield 'importance', importance(held, records, labels)
  finite = continual_analysis.finite
  masked = {
    key: group
    for key, group in groups.items()
    if all(finite(row['used_weights']) for m in group for row in m)
  }
  yield 'course', course(results, records, masked)
