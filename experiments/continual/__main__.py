"""Continual learning: Figure 4 of the paper, and its rivals.

  python -m experiments.continual --config=configs/digits_continual.py

Learns a sequence of tasks with every method at every α, and writes
config.json, metrics.jsonl, cells/ (checkpoints and masks of each sequence),
results.json, records.npz, tables.md and figures/ to --workdir. Start the same
command again to resume a stopped run; a run with other settings needs another
--workdir.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, sections 4 and 6.3.1.
"""

import pathlib

import ml_collections

from experiments.engine import cli


def experiment(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path | None,
  data_dir: str | None,
) -> None:
  """Runs what `config` says, or shows it where it is already finished.

  Args:
    config: as the command line has it.
    workdir: the run's folder; None only says what the run will take.
    data_dir: where prepared data lie.
  """
  # Not above: the command line is checked before JAX is loaded.
  from experiments.continual import run
  from experiments.continual import settings

  cli.run_or_show(settings, run, config, workdir, data_dir)


if __name__ == '__main__':
  cli.main('continual', experiment)
