"""Continual learning: Figure 4 of the paper, and its rivals.

  python -m experiments.continual --config=configs/digits_continual.py

Learns a sequence of tasks with every method at every α, and writes
config.json, metrics.jsonl, cells/ (checkpoints and masks of each sequence),
results.json, records.npz, tables.md and figures/ to --workdir. Start the same
command again to resume a stopped run; a run with other settings needs another
--workdir.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, sections 4 and 6.3.1.
"""

from experiments.engine import cli

if __name__ == '__main__':
  cli.main('continual', __doc__)
