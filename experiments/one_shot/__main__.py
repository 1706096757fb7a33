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
  from experiments.engine import settings
  from experiments.one_shot import run

  cli.run_or_show(settings, run, config, workdir, data_dir)


if __name__ == '__main__':
  cli.main('one_shot', experiment)
