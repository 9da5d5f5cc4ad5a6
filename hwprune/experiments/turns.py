"""Devices that are one computer take turns: a container and its host, or several of them, would disturb each other."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator

from hwprune.experiments.home import Home


@contextlib.contextmanager
def turn_on(home: Home, machine: str) -> Iterator[None]:
    """Keep every other thread and process of this home off a computer while the context lasts.

    Args:
        home: where the computer's lock is.
        machine: what names the computer; nothing is waited for where it is "".
    """
    if not machine:
        yield
        return
    name = hashlib.sha256(machine.encode()).hexdigest()[:16]
    with (home.folder("turns") / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed by closing, and by the end of the process
        yield
