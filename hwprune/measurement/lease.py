"""Whose turn it is on a device: one job at a time, held by a lock that the system frees when its holder dies."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from device_agents.errors import DeviceBusy

_log = logging.getLogger(__name__)
_POLL_S = 0.2


@contextlib.contextmanager
def lease(
    folder: Path, device: str, *, wait_s: float = 0.0, say: Callable[[str], None] = _log.warning
) -> Iterator[None]:
    """Keep ``device`` to this process while the context lasts.

    The lock is the system's own (``flock``): it needs no heartbeat, and nothing that dies can leave it behind.

    Args:
        folder: where the locks lie, one file a device.
        device: the device's name.
        wait_s: how long to wait for another holder to end.
        say: told once who holds the device when there is something to wait for.

    Raises:
        DeviceBusy: another job held it all the time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, note = FileLock(folder / f"{device}.lock"), folder / f"{device}.holder.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if wait_s > 0:
            say(f"device {device!r} is used by {_holder(note)}: waiting for up to {wait_s:.0f} s")
        try:
            lock.acquire(timeout=wait_s, poll_interval=_POLL_S)
        except Timeout as timeout:
            raise DeviceBusy(
                f"device {device!r} is used by {_holder(note)}: wait until that job has ended, or end it"
            ) from timeout
    try:
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        note.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _holder(note: Path) -> str:
    """Who wrote the note; it may be in the middle of being written or removed."""
    try:
        holder = json.loads(note.read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
