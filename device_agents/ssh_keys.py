"""Host keys: their text, their fingerprint, and what the user's known_hosts say of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from device_agents.errors import HostKeyMismatch
from device_agents.ssh_config import Hop


@dataclass(frozen=True)
class HostKey:
    """What a host on the way shows as its key.

    Attributes:
        host: its name as in known_hosts: bare for port 22, ``[name]:port`` for others.
        line: type and base64, as it is pinned: ``"ssh-ed25519 AAAA..."``.
        fingerprint: as ``ssh-keygen -l`` prints it: ``"SHA256:..."``.
        is_known: whether it stands in the user's known_hosts.
    """

    host: str
    line: str
    fingerprint: str
    is_known: bool


def key_line(key: paramiko.PKey) -> str:
    """A key as it is pinned: type and base64."""
    return f"{key.get_name()} {key.get_base64()}"


def fingerprint(line: str) -> str:
    """Fingerprint of a pinned key, ``"SHA256:..."``; the line itself where it cannot be read as a key."""
    try:
        entry = HostKeyEntry.from_line(f"host {line}")
    except (InvalidHostKey, paramiko.SSHException, ValueError):
        return line
    return str(entry.key.fingerprint) if entry is not None and entry.key is not None else line


def key_type(line: str) -> str:
    """Type of a pinned key."""
    return line.split()[0]


def check_pinned(hop: Hop, pinned: str | None, key: paramiko.PKey) -> None:
    """Check the key that a host shows; there is no way round it.

    Raises:
        HostKeyMismatch: none is pinned for this host, or another one.
    """
    if pinned is None:
        raise HostKeyMismatch(
            f"no host key is pinned for {hop.known_as}: the SSH configuration leads elsewhere than when the device "
            f"was added; remove the device and add it again"
        )
    if pinned.split()[:2] != key_line(key).split():
        raise HostKeyMismatch(
            f"the host key of {hop.known_as} is not the pinned one: expected {key_type(pinned)} {fingerprint(pinned)}, "
            f"found {key.get_name()} {key.fingerprint}; if it was installed anew, remove the device and add it again, "
            f"else somebody stands in between"
        )


def known_keys(hop: Hop) -> dict[str, str]:
    """Keys that the user's known_hosts have for a host, by type; entries that cannot be read are left out."""
    known = paramiko.HostKeys()
    for path in hop.known_hosts:
        for entry in _entries(os.path.expanduser(path)):
            for name in entry.hostnames or ():
                known.add(name, entry.key.get_name(), entry.key)
    found = known.lookup(hop.known_as)
    return {name: key_line(key) for name, key in found.items()} if found else {}


def seen(hop: Hop, key: paramiko.PKey) -> HostKey:
    """A host's key as it was shown.

    Raises:
        HostKeyMismatch: known_hosts have another one of this type.
    """
    line, known = key_line(key), known_keys(hop)
    if known.get(key.get_name(), line) != line:
        raise HostKeyMismatch(
            f"the host key of {hop.known_as} is not the one in known_hosts: expected "
            f"{fingerprint(known[key.get_name()])}, found {key.fingerprint}; if it was installed anew, "
            f"'ssh-keygen -R {hop.known_as}' and add it again, else somebody stands in between"
        )
    return HostKey(hop.known_as, line, key.fingerprint, key.get_name() in known)


def _entries(path: str) -> Iterator[HostKeyEntry]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return
    for line in lines:
        try:
            entry = None if line.startswith(("#", "@")) else HostKeyEntry.from_line(line)
        except (InvalidHostKey, paramiko.SSHException, ValueError):
            continue
        if entry is not None and entry.key is not None:
            yield entry
