"""One-shot pruning: trains nets at several α, prunes them, draws Figure 1.

  python -m experiments.one_shot --config=configs/digits.py

Writes config.json, metrics.jsonl, checkpoints/, results.json, records.npz and
figures/ to --workdir. Start the same command again to resume a stopped run; a
run with other settings needs another --workdir.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 3, Figure 1.
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
  from experiments.engine import settings
  from experiments.one_shot import run as one_shot
  from experiments.report import files

  checked = settings.check(config)
  if workdir is None:
    print(one_shot.dry_run(checked, data_dir))
    return
  with runs.disk_errors(workdir):
    folder.open_folder(workdir, config.to_dict(), settings.rules(checked))
  if (results := files.read_results(workdir)) is not None:
    print(f'{workdir} is finished: its tables and figures, drawn again.')
  else:
    results = one_shot.run(checked, workdir, data_dir)
  one_shot.report(results, workdir)


if __name__ == '__main__':
  cli.main('one_shot', experiment)
