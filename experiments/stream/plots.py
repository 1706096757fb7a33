"""Figures of a stream: the loss, the changes in it, and what was thought."""

from collections.abc import Iterator, Mapping
import os
import pathlib
from typing import Any

from matplotlib.figure import Figure
import numpy as np

from experiments.report import files
from experiments.report import naming
from experiments.report import style
from experiments.report.statistics import Row
from experiments.stream import tables as stream_tables

Records = Mapping[str, np.ndarray]


@style.paper()
def course(results: Mapping[str, Any], records: Records, row: Row) -> Figure:
  """A learner's loss over its stream, and the posterior of the run length.

  Args:
    results: a run's record.
    records: of the run.
    row: of the learner, whose boundaries were detected.

  Returns:
    A figure of two panels over the same steps.
  """
  name = naming.net_name(row)
  losses = records[f'{name}/losses']
  losses = np.where(np.isfinite(losses), losses, np.nan)
  posterior = records[f'{name}/posterior'] / 255
  window = results['window']
  steps = np.minimum(window * np.arange(1, len(losses) + 1), row['steps'])
  figure = Figure(figsize=(9, 5.2), layout='constrained')
  above, below = figure.subplots(2, sharex=True)
  above.plot(steps, losses, color=style.BASELINE, lw=0.9, label='loss')
  for places, colour, line, label in (
    (row['changes'], style.COLOURS[0], '-', 'true change'),
    ([a['step'] for a in row['alarms']], style.COLOURS[3], ':', 'alarm'),
  ):
    for i, place in enumerate(places):
      above.axvline(
        place, color=colour, ls=line, lw=1.2, label='_' if i else label
      )
  style.decade_axis(above)
  title = stream_tables.name_of(row, results['rows'], results.get('labels', {}))
  above.set(
    title=f'{title}, seed {row["seed"]}', ylabel='loss, mean of a window'
  )
  style.legend_beside(above, above.get_legend_handles_labels()[0])
  # A posterior that is spread out is seen as well.
  below.pcolormesh(
    np.concatenate([[0], steps]),
    window * np.arange(posterior.shape[1] + 1),
    np.sqrt(posterior).T,
    cmap='Greys',
    vmin=0,
    vmax=1,
    rasterized=True,
  )
  shown = int(np.flatnonzero(posterior.max(0) > 0.02).max()) + 2
  below.set(
    xlabel='step',
    ylim=(0, window * min(shown, posterior.shape[1])),
    ylabel='steps since the last change',
    title='posterior probability, its root',
  )
  return figure


def draw(workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Draws the first seed of every setting whose boundaries were detected.

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
  for row in results.get('rows', []):
    if row['seed'] == 0 and f'{naming.net_name(row)}/losses' in records:
      short = f'{row["method"]}_alpha_{row["alpha"]:g}'
      if row['transform'] != 'powerprop':
        short += f'_{row["transform"]}'
      rates = {r['learning_rate'] for r in results['rows']}
      if len(rates) > 1:
        short += f'_lr_{row["learning_rate"]:g}'
      yield f'stream_{short}', course(results, records, row)
