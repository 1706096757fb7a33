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
  from experiments.continual import run as continual_training
  from experiments.continual import settings as continual_settings
  from experiments.engine import folder
  from experiments.engine import runs
  from experiments.report import files

  checked = continual_settings.check(config)
  if workdir is None:
    print(continual_training.dry_run(checked, data_dir))
    return
  with runs.disk_errors(workdir):
    folder.open_folder(
      workdir, config.to_dict(), continual_settings.rules(checked)
    )
  if (results := files.read_results(workdir)) is not None:
    print(f'{workdir} is finished: its tables and figures, drawn again.')
  else:
    results = continual_training.run(checked, workdir, data_dir)
  continual_training.report(results, workdir)


if __name__ == '__main__':
  cli.main('continual', experiment)
