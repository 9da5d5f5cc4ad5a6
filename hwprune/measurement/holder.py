"""Names this process, so that another one on the same system can tell whether it still runs."""

from __future__ import annotations

import os
import socket
from pathlib import Path

#: States of a process that has ended but whose number is not free yet.
_ENDED = ("Z", "X")


def described() -> str:
    """This process, for people."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def identity(root: Path = Path("/proc")) -> str:
    """This process, for programs: system, number and start; "" where the system does not tell."""
    try:
        return " ".join([*_system(root), str(os.getpid()), _state_and_start(root, os.getpid())[1]])
    except OSError:
        return ""


def is_gone(process: str, root: Path = Path("/proc")) -> bool:
    """Whether the process of that identity ran on this system and has ended; False where nobody can tell."""
    try:
        *system, number, start = process.split(" ")
        if system != _system(root):
            return False
    except (OSError, ValueError):
        return False
    try:
        state, found = _state_and_start(root, int(number))
    except OSError:
        return True
    return state in _ENDED or found != start


def _system(root: Path) -> list[str]:
    """What process numbers are unique in: this start of the kernel, and this container on it."""
    return [(root / "sys/kernel/random/boot_id").read_text().strip(), os.readlink(root / "self/ns/pid")]


def _state_and_start(root: Path, number: int) -> tuple[str, str]:
    """State of a process, and the time of its start in ticks since that of the system."""
    fields = (root / str(number) / "stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]
