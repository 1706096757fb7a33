"""Ways to make a net sparse, one a file."""
