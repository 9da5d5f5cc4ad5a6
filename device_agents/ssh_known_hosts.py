"""The user's known_hosts: keys of hosts, authorities whose certificates count, and keys that are revoked."""

from __future__ import annotations

import base64
import hmac
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from device_agents.ssh_config import Hop

#: What may stand before an entry.
AUTHORITY, REVOKED = "@cert-authority", "@revoked"


@dataclass(frozen=True)
class Entry:
    """One line of a file.

    Attributes:
        marker: ``""`` for a host's key, :data:`AUTHORITY`, :data:`REVOKED`, or another one.
        patterns: whom it is about; ``*`` and ``?`` stand for others, ``!`` excludes, ``|1|`` begins a hashed name.
        key: the key.
    """

    marker: str
    patterns: tuple[str, ...]
    key: paramiko.PKey

    def is_about(self, *names: str) -> bool:
        """Whether a host that goes by these names is meant."""
        return matches(self.patterns, *names)


def entries(hop: Hop) -> Iterator[Entry]:
    """What the user's files say about a host, line by line; lines that cannot be read are left out.

    Authorities may be named for a host without its port.
    """
    for path in hop.known_hosts:
        for entry in _read(os.path.expanduser(path)):
            names = (hop.known_as,) if entry.marker != AUTHORITY else (hop.known_as, hop.bare_name)
            if entry.is_about(*names):
                yield entry


def matches(patterns: Sequence[str], *names: str) -> bool:
    """Whether one of the patterns stands for one of the names, and none excludes one."""
    meant = [pattern for pattern in patterns if any(_stands_for(pattern.removeprefix("!"), name) for name in names)]
    return bool(meant) and not any(pattern.startswith("!") for pattern in meant)


def _stands_for(pattern: str, name: str) -> bool:
    name = name.lower()
    if pattern.startswith("|1|"):
        try:
            salt, digest = map(base64.b64decode, pattern.split("|")[2:])
        except ValueError:
            return False
        return hmac.digest(salt, name.encode(), "sha1") == digest
    parts = (".*" if mark == "*" else "." if mark == "?" else re.escape(mark) for mark in pattern.lower())
    return re.fullmatch("".join(parts), name) is not None


def _read(path: str) -> Iterator[Entry]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return
    for line in lines:
        marker, _, rest = line.partition(" ") if line.startswith("@") else ("", "", line)
        try:
            entry = None if line.startswith("#") else HostKeyEntry.from_line(rest.strip())
        except (InvalidHostKey, paramiko.SSHException, ValueError):
            continue
        if entry is not None and entry.key is not None:
            yield Entry(marker, tuple(entry.hostnames or ()), entry.key)
