"""Logging in with keys: files, certificates and ssh-agent; never with a password."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence

import paramiko
from paramiko.agent import AgentSSH
from paramiko.pkey import PublicBlob, UnknownKeyType

from device_agents.errors import LoginRefused, Unreachable
from device_agents.ssh_config import DEFAULT_IDENTITIES, Hop

#: Longest wait for the answer to one key.
LOGIN_S = 15.0

#: Longest wait for an ssh-agent, which may have to ask its user whether a key may be used.
AGENT_S = 60.0


def log_in(transport: paramiko.Transport, hop: Hop) -> None:
    """Offer one key after another until one is taken.

    Raises:
        LoginRefused: none is taken, or a key is not enough.
        Unreachable: the host does not answer, or hangs up.
    """
    with contextlib.closing(UserAgent(hop.identity_agent)) as agent:
        _offer(transport, hop, Offers(hop, agent.get_keys(), agent.complaints))


def _offer(transport: paramiko.Transport, hop: Hop, offers: Offers) -> None:
    tried: list[str] = []
    for label, key in offers:
        tried.append(label)
        began = time.monotonic()
        try:
            further = transport.auth_publickey(hop.user, key)
        except paramiko.BadAuthenticationType as error:
            raise LoginRefused(
                f"{hop} takes no keys, only {', '.join(error.allowed_types)}: allow keys there"
            ) from error
        except paramiko.AuthenticationException as error:
            if time.monotonic() - began >= LOGIN_S:
                raise Unreachable(f"{hop} does not answer a login within {LOGIN_S:g} s: is it frozen?") from error
            if not transport.is_active():
                raise LoginRefused(_too_many(hop, tried)) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if transport.is_active():
                offers.complaints.append(f"{label} cannot be used ({error})")
                continue
            raise LoginRefused(_too_many(hop, tried)) from error
        else:
            if not further:
                return
            raise LoginRefused(f"{hop} wants {' and '.join(further)} beside a key: allow keys alone there")
    complaints = "".join(f"; {complaint}" for complaint in offers.complaints)
    if not tried:
        raise LoginRefused(f"there is no key to log in to {hop} with{complaints}; make one (ssh-keygen), or name one")
    raise LoginRefused(
        f"{hop} takes none of the keys {', '.join(tried)}{complaints}; bring one there (ssh-copy-id), or name another"
    )


def _too_many(hop: Hop, tried: Sequence[str]) -> str:
    return f"{hop} hangs up after the keys {', '.join(tried)}: name the one to log in with, or set IdentitiesOnly"


class UserAgent(AgentSSH):
    """The user's ssh-agent, without a key where there is none that can be spoken to.

    paramiko's own :class:`paramiko.Agent` knows the environment's alone.

    Args:
        path: its socket; "" for none, None for the one that the environment names.

    Attributes:
        complaints: why one that the user named cannot be used.
    """

    def __init__(self, path: str | None) -> None:
        super().__init__()
        self.complaints: list[str] = []
        place = os.environ.get("SSH_AUTH_SOCK", "") if path is None else path
        if not place:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(AGENT_S)
        try:
            connection.connect(place)
            self._connect(connection)  # type: ignore[attr-defined]  # the stubs have public names alone
        except (paramiko.SSHException, OSError) as error:
            connection.close()
            if path is not None:
                self.complaints.append(f"the ssh-agent at {path} does not answer ({error})")

    def close(self) -> None:
        """Hang up."""
        self._close()  # type: ignore[attr-defined]


class Offers:
    """The keys for one host, in the order in which they are offered, each with what to call it.

    A key file that is encrypted is offered through ssh-agent, where that holds it.

    Args:
        hop: the host.
        held: keys of ssh-agent.
        complaints: what is known to be amiss before.

    Attributes:
        complaints: what could not be offered and why, once they have been gone through.
    """

    def __init__(self, hop: Hop, held: Sequence[paramiko.AgentKey], complaints: Sequence[str] = ()) -> None:
        self._hop = hop
        self._held = {bytes(key.asbytes()): key for key in held}
        self.complaints = list(complaints)

    def __iter__(self) -> Iterator[tuple[str, paramiko.PKey]]:
        for path in self._hop.identities or DEFAULT_IDENTITIES:
            key = self._from_file(os.path.expanduser(path))
            if key is not None:
                yield path, key
        if not self._hop.only_identities:
            for key in self._held.values():
                yield f"{key.comment or key.get_name()} (ssh-agent)", key

    def _from_file(self, path: str) -> paramiko.PKey | None:
        try:
            key = paramiko.PKey.from_path(path)
        except FileNotFoundError:
            if self._hop.identities:
                self.complaints.append(f"{path} is not there")
            return None
        except (TypeError, paramiko.PasswordRequiredException):
            held = self._from_agent(path)
            if held is None:
                self.complaints.append(f"{path} is encrypted: 'ssh-add {path}' first")
            return held
        except (OSError, ValueError, paramiko.SSHException, UnknownKeyType) as error:
            self.complaints.append(f"{path} cannot be read ({error})")
            return None
        self._held.pop(bytes(key.asbytes()), None)
        self._certify(key)
        return key

    def _from_agent(self, path: str) -> paramiko.PKey | None:
        """The key of ssh-agent whose public half lies beside ``path``."""
        try:
            public = PublicBlob.from_file(f"{path}.pub")
        except (OSError, ValueError):
            return None
        return self._held.pop(bytes(public.key_blob), None)

    def _certify(self, key: paramiko.PKey) -> None:
        """Take the first certificate of the configuration that was made for this key; one beside its file is there."""
        for path in self._hop.certificates:
            try:
                blob = PublicBlob.from_file(os.path.expanduser(path))
            except (OSError, ValueError) as error:
                self.complaints.append(f"certificate {path} cannot be read ({error})")
                continue
            if blob.key_type.startswith(key.get_name()):
                key.public_blob = blob
                return
