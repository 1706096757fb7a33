"""Nets that are sparse while they train: the paper's Tables 1 and 2."""
