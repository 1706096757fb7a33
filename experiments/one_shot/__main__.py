"""One-shot pruning: trains nets at several α, prunes them, draws Figure 1.

  python -m experiments.one_shot --config=configs/digits.py

Writes config.json, metrics.jsonl, checkpoints/, results.json, records.npz and
figures/ to --workdir. Start the same command again to resume a stopped run; a
run with other settings needs another --workdir.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 3, Figure 1.
"""

from experiments.engine import cli

if __name__ == '__main__':
  cli.main('one_shot', __doc__)
