"""Turns at logging in: an SSH server, and above all a jump host, drops some where many begin at once.

The turns are locks on files of the home folder, so that they hold between the processes of a fleet, and between
commands; the system frees those of a process that dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

#: Logins that are under way at the same time; sshd drops some from the tenth on, as it is shipped.
AT_ONCE = 6

_POLL_S = 0.05


@contextlib.contextmanager
def turn(folder: Path, at_once: int = AT_ONCE) -> Iterator[None]:
    """Wait until fewer than ``at_once`` logins are under way, and count as one while the context lasts.

    Args:
        folder: where the locks lie; made if absent.
        at_once: how many there may be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = None
    while lock is None:
        lock = next(filter(None, (_taken(folder / f"login-{number}.lock") for number in range(at_once))), None)
        if lock is None:
            time.sleep(_POLL_S)
    try:
        yield
    finally:
        os.close(lock)


def _taken(path: Path) -> int | None:
    """Descriptor that holds the lock on a file until it is closed; None where somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
