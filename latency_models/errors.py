"""Errors of the latency models, in one tree; every leaf says what went wrong and what to do.

    LatencyModelError
    ├── KernelTableError        measured rows that are missing or cannot be true
    ├── UnknownRegressorError   a regressor that no file is named after
    └── ModelFileError          a saved model that cannot be read

A kernel that could not be measured is no row of a table; it is not an error here.
"""

import difflib
from collections.abc import Iterable


class LatencyModelError(Exception):
    """Base of all errors of this package that a user can act on."""

    exit_code = 1


class KernelTableError(LatencyModelError):
    """Measured rows that are missing or cannot be true."""


class UnknownRegressorError(LatencyModelError):
    """A regressor that no file is named after; the message offers the nearest known one."""

    exit_code = 2

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        super().__init__(f"unknown regressor {name!r}: {hint}")


class ModelFileError(LatencyModelError):
    """A saved model that cannot be read."""
