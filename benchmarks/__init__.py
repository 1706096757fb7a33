"""What is fast, as ratios within one process: python -m benchmarks.run."""
