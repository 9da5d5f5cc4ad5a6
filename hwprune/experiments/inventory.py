"""Many boards registered at once from one YAML file, in parallel and without questions.

    pi4: {ssh: pi@pi4.local}
    pi5: {ssh: pi5, identity: ~/.ssh/lab, threads: 4}
    jetson: {ssh: "nvidia@10.0.0.7:2222", host_key: ssh-ed25519 AAAA...}

Host keys are given, or stand in the user's known_hosts. What is registered already with the same address is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from device_agents.errors import DeviceError
from hwprune.errors import HwpruneError
from hwprune.experiments.devices import add_board, pin, summary, way_to
from hwprune.experiments.home import Home
from hwprune.strict_yaml import Document

if TYPE_CHECKING:
    from device_agents.ssh import SshConnections

#: Boards that are spoken with at the same time.
AT_ONCE = 8


class Entry(pydantic.BaseModel):
    """One board of an inventory file.

    Attributes:
        ssh: ``[user@]host[:port]``; host may be an alias of the SSH configuration.
        host_key: its host key, or those of the jump hosts and its own; none if they stand in known_hosts.
        identity: private key file to log in with.
        threads: threads of one inference.
        cores: where to pin them; a choice by the board's clusters if empty.
        target: TVM's target; filled in if absent.
        folder: the agent's folder on the board.
        python: the board's interpreter.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    ssh: str
    host_key: str | tuple[str, ...] = ()
    identity: str | None = None
    threads: int = pydantic.Field(1, ge=1)
    cores: tuple[int, ...] = ()
    target: dict[str, Any] | None = None
    folder: str | None = None
    python: str | None = None

    @property
    def host_keys(self) -> tuple[str, ...]:
        """The given host keys."""
        return (self.host_key,) if isinstance(self.host_key, str) else self.host_key


@dataclass(frozen=True)
class Outcome:
    """What became of one board.

    Attributes:
        name: the device's.
        address: of the board.
        status: ``added``, ``present`` where it was registered before, or ``failed``.
        kind: of the error, by its class; "" if it did not fail.
        message: what the board is, or why it failed and what to do.
    """

    name: str
    address: str
    status: Literal["added", "present", "failed"]
    kind: str = ""
    message: str = ""


def read_inventory(path: Path) -> dict[str, Entry]:
    """Boards of a file, by name.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    document = Document.read(path)
    return {name: document.section(name).validate(Entry) for name in document.data}


def add_all(home: Home, entries: Mapping[str, Entry], *, tell: Callable[[Outcome], None]) -> list[Outcome]:
    """Register boards, several at a time; the failure of one is data and stops no other.

    Args:
        home: where devices are kept.
        entries: the boards, by name.
        tell: told each outcome as it comes.

    Returns:
        Outcomes in the order of the entries.
    """
    from device_agents.ssh import SshConnections

    with SshConnections() as connections, ThreadPoolExecutor(AT_ONCE) as pool:

        def add(name: str) -> Outcome:
            outcome = _add(home, name, entries[name], connections)
            tell(outcome)
            return outcome

        return list(pool.map(add, entries))


def _add(home: Home, name: str, entry: Entry, connections: SshConnections) -> Outcome:
    address = entry.ssh
    try:
        if name in home.devices.names():
            known = home.devices.get(name).ssh
            if known is not None and known.address == address:
                return Outcome(name, address, "present", message="registered before")
        optional = {"folder": entry.folder, "python": entry.python}
        chosen = {field: value for field, value in optional.items() if value is not None}
        way = pin(way_to(address, entry.identity, **chosen), given=entry.host_keys)
        device = add_board(
            home,
            name,
            way,
            threads=entry.threads,
            cores=entry.cores,
            target=entry.target,
            connections=connections,
        )
    except (DeviceError, HwpruneError) as error:
        return Outcome(name, address, "failed", type(error).__name__, " ".join(str(error).split()))
    return Outcome(name, address, "added", message=summary(device))
