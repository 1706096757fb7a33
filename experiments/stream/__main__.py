"""Continual learning from a stream that does not say when the task changes.

  python -m experiments.stream --config=configs/stream_digits.py

Watches the loss for changes, opens tasks by itself, and learns the same streams
with known boundaries as the bound; writes config.json, metrics.jsonl, cells/,
results.json, records.npz, tables.md and figures/ to --workdir. Start the same
command again to resume a stopped run.

Reference: Adams and MacKay, Bayesian online changepoint detection, 2007. How it
opens tasks is ours.
"""

from experiments.engine import cli

if __name__ == '__main__':
  cli.main('stream', __doc__)
