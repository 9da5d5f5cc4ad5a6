"""From what a user types to the hosts on the way: aliases, ports, users, keys, jump hosts of ``~/.ssh/config``.

The file is read as OpenSSH reads it: what was typed comes first, then the first value found counts. ``Include`` is
followed; ``ProxyCommand`` is split into words and started without a shell.
"""

from __future__ import annotations

import getpass
import glob
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko

from device_agents.errors import Unreachable
from device_agents.registry import check_address

DEFAULT_PORT = 22

#: Keys that are offered where nobody names one, the strongest first.
DEFAULT_IDENTITIES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")

DEFAULT_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")

#: More hosts than this on one way are a circle.
HOPS_MAX = 8

#: Files that include files deeper than this are a circle.
INCLUDES_MAX = 16


@dataclass(frozen=True)
class Hop:
    """One host on the way: a jump host, or the board at its end.

    Attributes:
        name: its name or address in the network.
        port: of its SSH server.
        user: to log in as.
        known_as: how known_hosts names it: bare for port 22, ``[name]:port`` for others.
        identities: private keys that the user or the configuration names; none for the default ones.
        certificates: signed public keys for them.
        identity_agent: socket of the user's ssh-agent; "" for none, None for the one that the environment names.
        only_identities: whether keys of ssh-agent that nobody named are kept back.
        known_hosts: files of keys that the user trusts.
        proxy_command: what to start for a connection, in place of TCP.
    """

    name: str
    port: int
    user: str
    known_as: str
    identities: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    identity_agent: str | None = None
    only_identities: bool = False
    known_hosts: tuple[str, ...] = DEFAULT_KNOWN_HOSTS
    proxy_command: str | None = None

    @property
    def bare_name(self) -> str:
        """:attr:`known_as` without the port."""
        return self.known_as[1:].partition("]")[0] if self.known_as.startswith("[") else self.known_as

    @property
    def place(self) -> tuple[object, ...]:
        """What makes it another host or another login; with which key one logs in does not."""
        return self.user, self.name, self.port, self.known_as, self.proxy_command

    def __str__(self) -> str:
        return f"{self.user}@{self.known_as}"


def route(address: str, identity: str | None = None, config: Path | None = None) -> tuple[Hop, ...]:
    """The hosts on the way to ``address``, in order of travel; the last one is the board.

    Args:
        address: ``[user@]host[:port]``; host may be an alias.
        identity: private key file for the board, the only one offered there; jump hosts are offered it too.
        config: the user's SSH configuration; None for ``~/.ssh/config``.

    Raises:
        Unreachable: the address or the configuration cannot be used.
    """
    text = "\n".join(_lines(config or Path("~/.ssh/config").expanduser()))
    *jumps, board = _route(address, text, HOPS_MAX)
    if identity is not None:
        board = replace(board, identities=(identity,), only_identities=True)
        jumps = [replace(jump, identities=(*jump.identities, identity)) for jump in jumps]
    return (*jumps, board)


def split_address(address: str) -> tuple[str | None, str, int | None]:
    """User, host and port of ``[user@]host[:port]``.

    Raises:
        Unreachable: it has another form.
    """
    address = address.strip().removeprefix("ssh://").rstrip("/")
    try:
        check_address(address)
    except ValueError as error:
        raise Unreachable(f"{address!r} is no address: it {error}") from error
    user, _, place = address.rpartition("@")
    host, colon, port = place.rpartition(":") if place.rpartition(":")[2].isdigit() else (place, "", "")
    return user or None, host.strip("[]"), int(port) if colon else None


def _route(address: str, text: str, hops_max: int) -> list[Hop]:
    if not hops_max:
        raise Unreachable(f"{address}: ProxyJump of the SSH configuration leads in a circle: mend it there")
    user, host, port = split_address(address)
    options = _options(host, user, port, text)
    hop = _hop(host, options)
    order = list(options)
    jump = str(options.get("proxyjump", "none"))
    through_command = "proxycommand" in order and ("proxyjump" not in order or _precedes(order))
    if through_command or jump.lower() == "none":
        return [hop]
    first, *others = jump.split(",")
    # A jump host's own jumps count for the first only, as with OpenSSH: the others are reached through those before.
    way = _route(first, text, hops_max - 1)
    for other in others:
        way.append(_hop_of(other, text))
    return [*way, replace(hop, proxy_command=None)]


def _precedes(order: Sequence[str]) -> bool:
    return order.index("proxycommand") < order.index("proxyjump")


def _hop_of(address: str, text: str) -> Hop:
    user, host, port = split_address(address)
    return replace(_hop(host, _options(host, user, port, text)), proxy_command=None)


def _hop(alias: str, options: paramiko.SSHConfigDict) -> Hop:
    name = str(options.get("hostname", alias))
    try:
        port = int(options.get("port", DEFAULT_PORT))
    except ValueError as error:
        raise Unreachable(f"{alias}: the SSH configuration gives no number as its Port: mend it there") from error
    known_name = str(options.get("hostkeyalias", name))
    user = str(options.get("user") or getpass.getuser())
    command = options.get("proxycommand")
    tokens = {"n": alias, "h": name, "p": str(port), "r": user, "k": known_name}
    return Hop(
        name=name,
        port=port,
        user=user,
        known_as=known_name if port == DEFAULT_PORT else f"[{known_name}]:{port}",
        identities=tuple(options.get("identityfile", ())),
        certificates=(str(options["certificatefile"]),) if "certificatefile" in options else (),
        identity_agent=_identity_agent(str(options.get("identityagent", "SSH_AUTH_SOCK")), tokens),
        only_identities=str(options.get("identitiesonly", "no")).lower() == "yes",
        known_hosts=tuple(str(options.get("userknownhostsfile", " ".join(DEFAULT_KNOWN_HOSTS))).split()),
        proxy_command=str(command) if command else None,
    )


def _identity_agent(value: str, tokens: Mapping[str, str]) -> str | None:
    """Socket that an ``IdentityAgent`` of the configuration means; see :attr:`Hop.identity_agent`.

    Args:
        value: the keyword's.
        tokens: what letters behind ``%`` stand for, as far as they are about the host.
    """
    if value in ("SSH_AUTH_SOCK", "none"):
        return "" if value == "none" else None
    if value.startswith("$"):
        return os.environ.get(value.strip("${}"), "")
    home = os.path.expanduser("~")
    everything = {"%": "%", "d": home, "u": getpass.getuser(), "i": str(os.getuid()), **tokens}
    text = re.sub("%(.)", lambda token: everything.get(token[1], token[0]), os.path.expanduser(value))
    return re.sub(r"\$\{(\w+)\}", lambda name: os.environ.get(name[1], ""), text)


def _options(host: str, user: str | None, port: int | None, text: str) -> paramiko.SSHConfigDict:
    """What the configuration says of ``host``; what was typed stands before all of it, as in OpenSSH."""
    typed = (f"User {user}\n" if user else "") + (f"Port {port}\n" if port else "")
    try:
        return paramiko.SSHConfig.from_text(typed + text).lookup(host)
    except (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize, ImportError, ValueError) as error:
        raise Unreachable(f"{host}: the SSH configuration cannot be used: {error}; mend it there") from error


def _lines(path: Path, depth: int = INCLUDES_MAX) -> Iterator[str]:
    """Lines of a configuration with those of the files that it includes; none if it is not there."""
    if not depth:
        raise Unreachable(f"{path}: Include of the SSH configuration leads in a circle: mend it there")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise Unreachable(f"the SSH configuration {path} cannot be read: {error}; mend it") from error
    block = "Host *"
    for line in io.StringIO(text):
        keyword, _, value = line.strip().replace("=", " ", 1).partition(" ")
        if keyword.lower() in ("host", "match"):
            block = line.strip()
        if keyword.lower() != "include":
            yield line.rstrip("\n")
            continue
        for pattern in value.split():
            place = os.path.join(path.parent, os.path.expanduser(pattern.strip('"')))
            for included in sorted(glob.glob(place)):
                yield from _lines(Path(included), depth - 1)
        yield block  # an included file ends in a block of its own; here the surrounding one goes on
