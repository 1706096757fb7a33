"""One file per figure or table; a config file is an experiment."""
