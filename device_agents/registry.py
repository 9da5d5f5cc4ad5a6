"""The inventory: which devices there are, one YAML file each.

    transport: local
    platform: cpu
    target: {kind: llvm, mtriple: x86_64-linux-gnu, mcpu: skylake-avx512}
    cores: [1]

A board has ``transport: ssh``, and under ``ssh`` the way to it. The file's name is the device's. What the agent said of
it at registration stands there too, as ``description``.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import pkgutil
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml

from device_agents.agent import platforms
from device_agents.errors import DeviceError, DeviceFileError, UnknownDeviceError

SUFFIX = ".yaml"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
ADDRESS = re.compile(
    r"([A-Za-z0-9_][A-Za-z0-9_.+-]*@)?([A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(%\w+)?\])(:\d{1,5})?"
)
HOST_KEY = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+=*")

#: Facts that change what a latency means, when one of them changes.
FINGERPRINT_FACTS = ("cpu_model", "cpu_features", "cores", "kernel", "governor", "clock_limits_mhz", "gpus")


def check_name(name: str) -> str:
    """``name`` if it can be a file's name everywhere."""
    if not NAME.fullmatch(name):
        raise ValueError("must begin with a letter or digit and hold only letters, digits, '_', '.' and '-'")
    return name


def check_platform(name: str) -> str:
    """``name`` if there is a module for it."""
    known = platform_names()
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}")
    return name


def platform_names() -> list[str]:
    """Device types, by the files of ``agent/platforms``."""
    return sorted(module.name for module in pkgutil.iter_modules(platforms.__path__))


def check_address(address: str) -> str:
    """``address`` if it is ``[user@]host[:port]`` of harmless characters: it is put into commands of the user's own."""
    if not ADDRESS.fullmatch(address):
        raise ValueError("must be [user@]host[:port], with an IPv6 address in brackets")
    return address


def check_host_keys(keys: dict[str, str]) -> dict[str, str]:
    """``keys`` if each is a type and its base64."""
    for host, key in keys.items():
        if not HOST_KEY.fullmatch(key):
            raise ValueError(f"{host}: a host key is its type and its base64, such as 'ssh-ed25519 AAAA...'")
    return keys


def check_folder(folder: str) -> str:
    """``folder`` if it is a path of its own, not the login folder or one above it."""
    if not folder.strip("./") or ".." in folder.split("/") or "\0" in folder or "\n" in folder:
        raise ValueError("must name a folder of the agent's own, without '..'")
    return folder


class SshWay(pydantic.BaseModel):
    """The way to a board over SSH.

    Attributes:
        address: what the user typed: ``[user@]host[:port]``, where host may be an alias of ``~/.ssh/config``.
        host_keys: the pinned key of the board and of every jump host: ``"ssh-ed25519 AAAA..."`` by the host's name as
            in known_hosts, bare for port 22 and ``[host]:port`` for others.
        identity: private key file to log in with; None for what the user's SSH configuration and agent offer.
        folder: the agent's folder on the board, relative to the login folder.
        python: the board's interpreter.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    address: Annotated[str, pydantic.AfterValidator(check_address)]
    host_keys: Annotated[dict[str, str], pydantic.AfterValidator(check_host_keys)]
    identity: str | None = None
    folder: Annotated[str, pydantic.AfterValidator(check_folder)] = ".cache/hwprune"
    python: Annotated[str, pydantic.Field(min_length=1)] = "python3"


class Device(pydantic.BaseModel):
    """One entry of the inventory; it says, and does nothing.

    Attributes:
        name: what users call it.
        transport: the way to its agent; ``replay`` where a recording answers in its place.
        platform: its type, a module of ``agent/platforms``.
        target: TVM's target: ``{"kind": "llvm", "mtriple": ..., "mcpu": ..., "mattr": [...]}``.
        gpu_target: that of its NVIDIA GPU, ``{"kind": "cuda", "arch": "sm_87"}``; None without one. Nothing has run on
            one yet: what is measured runs on the processor.
        cores: where to pin what is measured, the first ``threads`` of them; one thread that is slowed there goes to the
            others. Anywhere if empty.
        threads: threads of one inference.
        channel_step: multiples that widths are rounded to; None for what suits the target.
        channel_steps: the same of kinds of layers where it is another (``conv2d 3x3 at 32x32``).
        ssh: the way to a board; None for this computer.
        recording: file that answers for it; None for a device that is there.
        description: what the agent said of the device at registration.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, pydantic.AfterValidator(check_name)]
    transport: Literal["local", "ssh", "replay"]
    platform: Annotated[str, pydantic.AfterValidator(check_platform)]
    target: dict[str, Any]
    gpu_target: dict[str, str] | None = None
    cores: tuple[Annotated[pydantic.StrictInt, pydantic.Field(ge=0)], ...] = ()
    threads: Annotated[pydantic.StrictInt, pydantic.Field(ge=1)] = 1
    channel_step: Annotated[pydantic.StrictInt, pydantic.Field(ge=1)] | None = None
    channel_steps: dict[str, Annotated[pydantic.StrictInt, pydantic.Field(ge=1)]] = {}
    ssh: SshWay | None = None
    recording: str | None = None
    description: dict[str, Any] = {}

    @pydantic.model_validator(mode="after")
    def check_way(self) -> Self:
        """The way belongs to the transport that goes it."""
        if (self.transport == "ssh") != (self.ssh is not None):
            raise ValueError("transport 'ssh' and the key 'ssh' belong together: give both or neither")
        if (self.transport == "replay") != (self.recording is not None):
            raise ValueError("transport 'replay' and the key 'recording' belong together: give both or neither")
        return self

    @pydantic.model_validator(mode="after")
    def check_threads(self) -> Self:
        """Threads that share a core would wait for each other at every layer."""
        if self.cores and self.threads > len(set(self.cores)):
            raise ValueError(f"{self.threads} threads need as many cores: add to cores {self.cores}, or lower threads")
        return self

    @property
    def address(self) -> str:
        """What names it on the command line: its name, or the file that answers for it."""
        return self.name if self.recording is None else f"replay:{self.recording}"

    @property
    def pinned_cores(self) -> tuple[int, ...]:
        """Cores that a process is pinned to when it begins; () for all."""
        return self.cores[: self.threads]

    @property
    def spare_cores(self) -> tuple[int, ...]:
        """Cores that a process may change between; () where it stays."""
        return self.cores if self.threads == 1 and len(self.cores) > 1 else ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the device is; measurements with another fingerprint are not comparable.

        Raises:
            DeviceError: the device has not been described yet.
        """
        if not self.description:
            raise DeviceError(f"device {self.name!r} is not described yet: run `hwprune device check {self.name}`")
        facts = {fact: self.description.get(fact) for fact in FINGERPRINT_FACTS}
        text = json.dumps({**facts, "pinned": self.cores, "platform": self.platform}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Registry:
    """The devices of one folder.

    Args:
        folder: where the YAML files lie; made by the first :meth:`add`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Names of all devices, sorted."""
        return sorted(path.name.removesuffix(SUFFIX) for path in self._folder.glob(f"*{SUFFIX}"))

    def get(self, name: str) -> Device:
        """The device called ``name``.

        Raises:
            UnknownDeviceError: there is none.
            DeviceFileError: its file cannot be used.
        """
        if name not in self.names():
            raise UnknownDeviceError(name, self.names())
        path = self._path(name)
        try:
            fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DeviceFileError(f"{path} cannot be read as YAML: {one_line(error)}") from error
        if not isinstance(fields, dict):
            raise DeviceFileError(f"{path} must hold a mapping with the keys {', '.join(known_keys())}")
        try:
            return Device(**{"name": name, **{str(key): value for key, value in fields.items()}})
        except pydantic.ValidationError as error:
            raise DeviceFileError(f"{path}: {first_reason(error)}") from error

    def add(self, device: Device) -> None:
        """Write a device, in place of the one of the same name.

        Raises:
            DeviceFileError: the file cannot be written.
        """
        path = self._path(device.name)
        fields = device.model_dump(mode="json", exclude={"name"})
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            part.write_text(yaml.safe_dump(fields, sort_keys=False, width=120), encoding="utf-8")
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise DeviceFileError(f"{path} cannot be written: {error.strerror or error}") from error

    def remove(self, name: str) -> None:
        """Forget the device called ``name``.

        Raises:
            UnknownDeviceError: there is none.
            DeviceFileError: its file cannot be removed.
        """
        if name not in self.names():
            raise UnknownDeviceError(name, self.names())
        try:
            self._path(name).unlink()
        except OSError as error:
            raise DeviceFileError(f"{self._path(name)} cannot be removed: {error.strerror or error}") from error

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{SUFFIX}"


def known_keys() -> list[str]:
    """Keys of a device's file."""
    return [key for key in Device.model_fields if key != "name"]


def one_line(error: Exception) -> str:
    """An error's text without its line breaks."""
    return " ".join(str(error).split())


def first_reason(error: pydantic.ValidationError) -> str:
    """The first complaint, with the nearest known key where the key is unknown."""
    complaint = error.errors()[0]
    where = ".".join(str(part) for part in complaint["loc"])
    if complaint["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, known_keys(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known_keys())}"
        return f"unknown key {where!r}: {hint}"
    return f"{where}: {complaint['msg'].removeprefix('Value error, ')}, found {complaint['input']!r}"
