"""Accuracies of candidates, many and fast: one protocol, whatever it is computed with."""
