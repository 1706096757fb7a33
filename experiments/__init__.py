"""Binaries: one per experiment, each run with a config file."""
