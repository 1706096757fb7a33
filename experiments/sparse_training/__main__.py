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
  from experiments.engine import folder
  from experiments.engine import runs
  from experiments.report import files
  from experiments.sparse_training import run as sparse_training
  from experiments.sparse_training import settings as sparse_settings

  checked = sparse_settings.check(config)
  if workdir is None:
    print(sparse_training.dry_run(checked, data_dir))
    return
  with runs.disk_errors(workdir):
    folder.open_folder(
      workdir, config.to_dict(), sparse_settings.rules(checked)
    )
  if (results := files.read_results(workdir)) is not None:
    print(f'{workdir} is finished: its tables and figures, drawn again.')
  else:
    results = sparse_training.run(checked, workdir, data_dir)
  sparse_training.report(results, workdir)


if __name__ == '__main__':
  cli.main('sparse_training', experiment)
