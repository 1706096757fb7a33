"""What all experiments run on: settings, populations, run folders."""
