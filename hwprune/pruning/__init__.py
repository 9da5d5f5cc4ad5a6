"""Pruning: coupled channels, plans of what stays, importance, and networks cut by slicing."""
