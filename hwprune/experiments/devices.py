"""The way to registered devices, and registering new ones: asked what they are, and written down once all is known."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from device_agents.client import AgentClient
from device_agents.errors import BoardUnfit, DeviceChanged, HostKeyMismatch
from device_agents.reach import transport_to
from device_agents.registry import FINGERPRINT_FACTS, Device, SshWay, first_reason
from device_agents.replay import PREFIX, Recording
from hwprune.compilation.gpus import gpu_target_of
from hwprune.compilation.targets import host_target, target_of
from hwprune.errors import CompileError, ConfigError
from hwprune.experiments.home import Home
from hwprune.experiments.logins import turn
from hwprune.measurement.lease import lease

if TYPE_CHECKING:
    from device_agents.ssh import HostKey, SshConnections

#: This computer, registered when it is first named.
LOCAL = "local"

#: The oldest glibc that libraries are linked for; musl of any version does.
GLIBC_MIN = (2, 17)

#: Asks a user whether a host key is the right one.
Confirm = Callable[["HostKey"], bool]


class HostKeyUnconfirmed(HostKeyMismatch):
    """A host whose key nobody has confirmed."""


def find(home: Home, name: str) -> Device:
    """A registered device, or the one that ``replay:FILE`` is a recording of; this computer is registered on the spot.

    Raises:
        DeviceError: the device is unknown, its agent cannot be started, or the file is no recording.
    """
    if name.startswith(PREFIX):
        path = Path(name.removeprefix(PREFIX)).expanduser()
        return Recording.read(path).device(path)
    if name == LOCAL and name not in home.devices.names():
        return add_local(home, name)
    return home.devices.get(name)


def agent_of(home: Home, device: Device, connections: SshConnections | None = None) -> AgentClient:
    """A conversation with a device's agent.

    Args:
        home: this computer's agents have their folders there.
        device: the device.
        connections: what boards behind the same jump host share.

    Raises:
        DeviceError: it cannot be begun; the type says what stands against it.
    """
    transport = transport_to(device, home.folder("agents") / device.name, connections)
    with turn(home.path / "locks") if device.ssh else contextlib.nullcontext():
        return AgentClient(transport)


def same_agent_of(home: Home, device: Device) -> AgentClient:
    """A conversation with the agent of a device that is still what was registered.

    Raises:
        DeviceChanged: it is not.
        DeviceError: the conversation cannot be begun.
    """
    client = agent_of(home, device)
    try:
        changed = changed_facts(device, client.describe())
        if changed:
            raise DeviceChanged(
                f"device {device.name!r} is no longer what was registered ({', '.join(changed)}): "
                f"'hwprune device remove {device.name}', then add and profile it again"
            )
    except BaseException:
        client.close()
        raise
    return client


def changed_facts(device: Device, description: Mapping[str, Any]) -> list[str]:
    """Facts of a device's fingerprint that its agent tells otherwise than its entry."""
    return [fact for fact in FINGERPRINT_FACTS if description.get(fact) != device.description.get(fact)]


def add_local(home: Home, name: str, threads: int = 1) -> Device:
    """Register this computer.

    Args:
        home: where devices are kept.
        name: what it will be called.
        threads: of one inference, 1 or more.

    Raises:
        ConfigError: a device of this name exists, or there are fewer cores than threads.
        DeviceError: the agent cannot be started.
    """
    check_free(home, name)
    draft = _valid(name=name, transport="local", platform="cpu", target={})
    with agent_of(home, draft) as client:
        description = client.describe()
    target = {"kind": "llvm", "mcpu": host_target().mcpu}
    return _write(home, draft, description, target, threads)


def add_board(
    home: Home,
    name: str,
    way: SshWay,
    *,
    threads: int = 1,
    cores: Sequence[int] = (),
    target: Mapping[str, Any] | None = None,
    connections: SshConnections | None = None,
) -> Device:
    """Register a board: bring the agent there and ask it what the board is.

    Args:
        home: where devices are kept.
        name: what it will be called.
        way: to it, with its host keys.
        threads: of one inference, 1 or more.
        cores: where to pin what is measured; () for a choice by its clusters.
        target: TVM's target; None to fill it in.
        connections: what boards behind the same jump host share.

    Raises:
        ConfigError: a device of this name exists, or there are fewer cores than threads.
        BoardUnfit: it has no Python for the agent, or another C library or processor than libraries are made for.
        DeviceError: it cannot be reached, or does not let us in.
    """
    check_free(home, name)
    draft = _valid(name=name, transport="ssh", platform="cpu", target={}, ssh=way)
    with agent_of(home, draft, connections) as client:
        description = client.describe()
    check_libc(description)
    if target is None:
        try:
            target = target_of(description)
        except CompileError as error:
            raise BoardUnfit(str(error)) from error
    return _write(home, draft, description, dict(target), threads, cores)


def check_free(home: Home, name: str) -> None:
    """Make sure that a name is free.

    Raises:
        ConfigError: a device has it already.
    """
    if name in home.devices.names():
        raise ConfigError(
            f"device {name!r} exists already: 'hwprune device remove {name}' first, or choose another name"
        )


def way_to(address: str, identity: str | None = None, **fields: str) -> SshWay:
    """The way to a board whose host keys are not pinned yet.

    Args:
        address: ``[user@]host[:port]``; host may be an alias of the SSH configuration.
        identity: private key file to log in with; None for what the user's SSH configuration and agent offer.
        **fields: further fields of the way.

    Raises:
        ConfigError: one of them cannot be used.
    """
    file = None if identity is None else str(Path(identity).expanduser().absolute())
    try:
        return SshWay(address=address, host_keys={}, identity=file, **fields)
    except pydantic.ValidationError as error:
        raise ConfigError(first_reason(error)) from error


def pin(way: SshWay, *, given: Sequence[str] = (), confirm: Confirm | None = None) -> SshWay:
    """The way with the host keys that the board and its jump hosts must have from now on.

    A key counts as confirmed where it is given, stands in the user's known_hosts, or the user says so.

    Args:
        way: to a board.
        given: host keys that the user knows, lines as of ``ssh-keyscan`` or of a public key file.
        confirm: asks the user; None where there is nobody to be asked.

    Raises:
        ConfigError: a given key is none.
        DeviceError: a host cannot be reached, or its key is another one or not confirmed.
    """
    from device_agents.ssh import hosts_on_the_way, scan_host_keys

    lines = [host_key_line(text) for text in given]
    hosts = hosts_on_the_way(way.address)
    if len(hosts) == len(lines):
        keys = dict(zip(hosts, lines, strict=True))  # the login itself will check them
    else:
        scanned = scan_host_keys(way.address, way.identity)
        unknown = [key for key in scanned if not (key.is_known or key.line in lines)]
        rejected = [key for key in unknown if confirm is None or not confirm(key)]
        if rejected:
            raise HostKeyUnconfirmed(_how_to_confirm(rejected))
        keys = {key.host: key.line for key in scanned}
    return way.model_copy(update={"host_keys": keys})


def describe_key(key: HostKey) -> str:
    """What a host shows, for a user to compare."""
    because = f" (its certificate does not count: {key.complaint})" if key.complaint else ""
    return f"{key.host} shows the host key {key.line.split()[0]} {key.fingerprint}{because}"


def _how_to_confirm(keys: Sequence[HostKey]) -> str:
    told = ", ".join(map(describe_key, keys))
    options = " ".join(f'--host-key "{key.line}"' for key in keys)
    return f"host key not confirmed: {told}; if it is right (ssh-keygen -lf on the board tells), add {options}"


def host_key_line(text: str) -> str:
    """Type and base64 of a host key, from any of the lines that hold one.

    Raises:
        ConfigError: there is none in it.
    """
    match = re.search(r"(?:^|\s)((?:ssh|ecdsa|sk)-\S+\s+AAAA[A-Za-z0-9+/]+=*)", text)
    if not match:
        raise ConfigError(
            f"{text[:60]!r} is no host key: give type and base64, as 'ssh-keyscan HOST' prints them: "
            '"ssh-ed25519 AAAA..."'
        )
    return " ".join(match.group(1).split())


def check_libc(description: Mapping[str, Any]) -> None:
    """Make sure that our libraries can be loaded by the device's C library.

    Raises:
        BoardUnfit: it is another one than glibc and musl, or too old.
    """
    libc = str(description.get("libc") or "")
    name, _, version = libc.partition(" ")
    if name == "musl":
        return
    parts = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if name != "glibc" or parts < GLIBC_MIN:
        reason = (description.get("missing") or {}).get("libc", "")
        oldest = ".".join(map(str, GLIBC_MIN))
        raise BoardUnfit(
            f"its C library is {libc or f'unknown ({reason})'}: libraries need glibc {oldest} or newer, or musl; "
            "update the board's system"
        )


def _write(
    home: Home,
    draft: Device,
    description: dict[str, Any],
    target: dict[str, Any],
    threads: int,
    cores: Sequence[int] = (),
) -> Device:
    """Fill in what the agent said, and write the device into the inventory."""
    chosen = tuple(cores) or choose_cores(description, threads)
    fields = {"platform": description.get("platform") or "cpu", "target": target, "cores": chosen, "threads": threads}
    gpu_target = gpu_target_of(description)
    device = _valid(**{**dict(draft), **fields, "gpu_target": gpu_target, "description": description})
    home.devices.add(device)
    return device


def choose_cores(description: Mapping[str, Any], threads: int) -> tuple[int, ...]:
    """Where to pin a device's threads: the last of the strongest cores, since the system's own work prefers the first.

    A single thread gets the one before it as well, to go there while something slows it.

    Raises:
        ConfigError: there are fewer usable cores than threads.
    """
    usable = sorted(description.get("usable_cores") or ())
    if usable and threads > len(usable):
        raise ConfigError(f"{threads} threads on {len(usable)} usable cores: choose at most {len(usable)}")
    for cluster in description.get("clusters") or ():
        strong = [core for core in cluster["cores"] if core in usable]
        if len(strong) >= threads:
            break
    else:
        strong = usable
    return tuple(strong[-threads:]) if threads > 1 else tuple(strong[:-3:-1])


def _valid(**fields: Any) -> Device:
    """A device of these fields.

    Raises:
        ConfigError: one of them cannot be used.
    """
    try:
        return Device(**fields)
    except pydantic.ValidationError as error:
        raise ConfigError(first_reason(error)) from error


def summary(device: Device) -> str:
    """What a device is, in one line."""
    told = device.description
    cores = len(told.get("usable_cores") or ())
    model = told.get("cpu_model") or told.get("arch")
    gpu = f"; its GPU could be compiled for as {device.gpu_target['arch']}, not run here" if device.gpu_target else ""
    return f"{model}, {cores} cores, {told.get('libc')}, compiled for {device.target.get('mcpu')}{gpu}"


def clean(home: Home, name: str, *, say: Callable[[str], None]) -> int:
    """Empty the folder of a device's agent; the bytes that were freed.

    Raises:
        DeviceError: the device is unknown, in use, or cannot be reached.
    """
    device = home.devices.get(name)
    with home.open_store() as store, lease(store.leases, name, say=say), agent_of(home, device) as client:
        return client.clean()
