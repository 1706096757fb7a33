"""Sparse training: Tables 1 and 2 and Figures 2 and 3 of the paper.

  python -m experiments.sparse_training --config=configs/digits_sparse.py

Prints the plan (layers, densities, FLOPs), trains every method at every α, and
writes config.json, metrics.jsonl, checkpoints/, results.json, records.npz,
tables.md and figures/ to --workdir. Start the same command again to resume a
stopped run; a run with other settings needs another --workdir.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 4.
"""

from experiments.engine import cli

if __name__ == '__main__':
  cli.main('sparse_training', __doc__)
