"""Sparse training: Tables 1 and 2 and Figures 2 and 3 of the paper.

  python -m experiments.sparse_training --config=configs/digits_sparse.py

Prints the plan (layers, densities, FLOPs), trains every method at every α, and
writes config.json, metrics.jsonl, checkpoints/, results.json, records.npz,
tables.md and figures/ to --workdir. Start the same command again to resume a
stopped run; a run with other settings needs another --workdir.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 4.
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
  from experiments.sparse_training import run
  from experiments.sparse_training import settings

  cli.run_or_show(settings, run, config, workdir, data_dir)


if __name__ == '__main__':
  cli.main('sparse_training', experiment)
