"""Errors a user can meet, in one tree; every leaf says what went wrong and what to do.

    HwpruneError                    exit code 1
    ├── ConfigError                 2   a config, option or name that cannot be used
    │   ├── UnknownNameError        2   an unknown key or plug-in, with the nearest known one
    │   ├── DataError               2   a data set that is missing or of the wrong shape
    │   ├── WeightsError            2   weights that do not fit the network
    │   └── TraceError              2   a network that cannot be traced
    ├── CompileError                1   a network or kernel that TVM or the C compiler refuses
    ├── StoreError                  1   a store that cannot be opened, read or written
    ├── RunError                    1   a run folder that cannot be used
    ├── UntrustedError              4   a measurement too unsteady to be believed
    └── InfeasibleError             5   a constraint that no candidate can meet

What fails on a device raises from ``device_agents.errors`` (exit code 3). What fails for a single candidate is data
(``Measurement.error``), not an exception.
"""

import difflib
from collections.abc import Iterable


class HwpruneError(Exception):
    """Base of all errors of hwprune that a user can act on."""

    exit_code = 1


class ConfigError(HwpruneError):
    """A config, an option or a name that cannot be used."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """An unknown name; the message offers the nearest known one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
        super().__init__(f"unknown {kind} {name!r}: {hint}")


class DataError(ConfigError):
    """A data set that is missing, empty or of the wrong shape."""


class WeightsError(ConfigError):
    """Weights that are missing or do not fit the network."""


class TraceError(ConfigError):
    """A network whose graph cannot be read."""


class CompileError(HwpruneError):
    """A network or kernel that cannot be compiled or linked."""


class StoreError(HwpruneError):
    """A store that cannot be opened, read or written."""


class RunError(HwpruneError):
    """A run folder that cannot be used as asked."""


class UntrustedError(HwpruneError):
    """A measurement that stayed too unsteady to be believed."""

    exit_code = 4


class InfeasibleError(HwpruneError):
    """A constraint that no candidate can meet."""

    exit_code = 5
