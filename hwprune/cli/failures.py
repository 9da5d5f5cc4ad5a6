"""Any exception becomes one line and an exit code, in this one place.

0 ok, 1 failure, 2 usage or config, 3 device, 4 untrusted measurement, 5 infeasible constraint, 130 interrupted.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

import click

INTERRUPTED = 130

#: What ends a search that has begun, and leaves it to be gone on with: an interruption, or a lost device.
RESUMABLE = (INTERRUPTED, 3)

#: Each has an error tree of its own, and all of them give their errors an ``exit_code``.
_PACKAGES = ("hwprune", "device_agents", "latency_models")


@dataclass(frozen=True)
class Failure:
    """How a command failed.

    Attributes:
        kind: the error's name for programs, ``unknown_name``.
        message: cause and remedy in one line.
        exit_code: of the process.
    """

    kind: str
    message: str
    exit_code: int

    def as_dict(self) -> dict[str, dict[str, object]]:
        """What ``--json`` prints."""
        return {"error": {"kind": self.kind, "message": self.message, "exit_code": self.exit_code}}


def explain(error: BaseException) -> Failure:
    """What to tell the user of ``error``."""
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return Failure("interrupted", "interrupted", INTERRUPTED)
    if isinstance(error, click.ClickException):
        return Failure("usage", _usage(error), error.exit_code)
    if type(error).__module__.split(".")[0] in _PACKAGES and hasattr(error, "exit_code"):
        return Failure(_kind(error), _line(str(error)), error.exit_code)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {error.filename}" if error.filename else ""
        return Failure("disk_full", f"no space left on the disk{where}: free some, or move --home and --runs", 1)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure("file", f"{error.filename}: {error.strerror}: check the path and its permissions", 1)
    if isinstance(error, MemoryError):
        return Failure("memory", "out of memory: lower batch_size in 'evaluation', or close other programs", 1)
    text = _line(f"{type(error).__name__}: {error}")
    return Failure("internal", f"unexpected error ({text}): run it again as 'hwprune --debug ...' and report it", 1)


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f": see '{context.command_path} --help'" if context is not None else ""
    return _line(error.format_message()).rstrip(".") + hint


def _kind(error: BaseException) -> str:
    """``UnknownNameError`` -> ``unknown_name``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).lower()


def _line(text: str) -> str:
    return " ".join(text.split())
