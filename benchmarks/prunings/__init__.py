"""What ``pruning.py`` runs: a table of methods, one run of each at a time, and what its results say."""
