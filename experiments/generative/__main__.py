"""Continual generative modelling: Table 3 of the paper.

  python -m experiments.generative --config=configs/digits_generative.py

Learns to draw one character after the other with one variational autoencoder,
with every method at every α, and writes config.json, metrics.jsonl, cells/,
results.json, records.npz, tables.md and figures/ to --workdir. Start the same
command again to resume a stopped run; a run with other settings needs another
--workdir.

Reference: Schwarz et al., Powerpropagation, NeurIPS 2021, section 6.3.2.
"""

from experiments.engine import cli

if __name__ == '__main__':
  cli.main('generative', __doc__)
