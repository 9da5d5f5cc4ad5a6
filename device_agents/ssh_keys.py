"""Host keys: their text, their fingerprint, and what the user's known_hosts say of them."""

from __future__ import annotations

from dataclasses import dataclass

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from device_agents.errors import HostKeyMismatch
from device_agents.ssh_certificates import complaint
from device_agents.ssh_config import Hop
from device_agents.ssh_known_hosts import AUTHORITY, REVOKED, entries


@dataclass(frozen=True)
class HostKey:
    """What a host on the way shows as its key.

    Attributes:
        host: its name as in known_hosts: bare for port 22, ``[name]:port`` for others.
        line: type and base64, as it is pinned: ``"ssh-ed25519 AAAA..."``.
        fingerprint: as ``ssh-keygen -l`` prints it: ``"SHA256:..."``.
        is_known: whether it stands in the user's known_hosts, or an authority that stands there has certified it.
        complaint: why its certificate does not count; "" if it does, or where it has none.
    """

    host: str
    line: str
    fingerprint: str
    is_known: bool
    complaint: str = ""


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
    """Keys that the user's known_hosts have for a host, by type."""
    found: dict[str, str] = {}
    for entry in entries(hop):
        if not entry.marker:
            found.setdefault(entry.key.get_name(), key_line(entry.key))
    return found


def authorities(hop: Hop) -> set[str]:
    """Keys whose certificates the user's known_hosts take for a host, less those that they have revoked."""
    found: dict[str, set[str]] = {AUTHORITY: set(), REVOKED: set()}
    for entry in entries(hop):
        found.setdefault(entry.marker, set()).add(key_line(entry.key))
    return found[AUTHORITY] - found[REVOKED]


def seen(hop: Hop, key: paramiko.PKey) -> HostKey:
    """A host's key as it was shown.

    Raises:
        HostKeyMismatch: known_hosts have another one of this type that no certificate outdates.
        HostKeyMismatch: known_hosts have revoked it.
    """
    line, known, trusted = key_line(key), known_keys(hop), authorities(hop)
    if any(entry.marker == REVOKED and key_line(entry.key) == line for entry in entries(hop)):
        raise HostKeyMismatch(
            f"the host key of {hop.known_as} is revoked in known_hosts ({key.fingerprint}): it was lost, and somebody "
            f"may stand in between; make a new one there (ssh-keygen), and add it again"
        )
    shown = key.public_blob if trusted else None
    why = complaint(shown, trusted, hop.bare_name) if shown else ""
    is_certified = shown is not None and not why
    if not is_certified and known.get(key.get_name(), line) != line:
        raise HostKeyMismatch(
            f"the host key of {hop.known_as} is not the one in known_hosts: expected "
            f"{fingerprint(known[key.get_name()])}, found {key.fingerprint}; if it was installed anew, "
            f"'ssh-keygen -R {hop.known_as}' and add it again, else somebody stands in between"
        )
    return HostKey(hop.known_as, line, key.fingerprint, is_certified or key.get_name() in known, why)
