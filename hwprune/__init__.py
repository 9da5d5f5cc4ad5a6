"""Pareto-optimal pruned networks from latencies and memory measured on your own devices."""

__version__ = "0.1.0"
