"""Ways to make a net sparse, one per file."""
