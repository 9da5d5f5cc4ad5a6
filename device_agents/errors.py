"""Errors of devices and their agents, in one tree; the exit code of all of them is 3.

DeviceError
├── UnknownDeviceError      a device that is not in the inventory, with the nearest known name
├── DeviceFileError         an inventory file that cannot be used
├── RecordingError          a recording of a device that cannot be read or written
├── BoardUnfit              a board that cannot run the agent: no Python, no room to load libraries from
├── DeviceChanged           it is no longer what was registered: another kernel, processor or clock
└── AgentError              the agent cannot do what was asked of it
├── Unreachable         no way to the board: name, network, port, timeout
├── HostKeyMismatch     the board or a jump host is not the one that was pinned
├── LoginRefused        the board or a jump host takes none of the keys
├── AgentLost           it ended, or the way to it broke
├── AgentTimeout        it is silent, or late
├── DeviceBusy          another host's agent works in the same folder
├── ProtocolMismatch    it speaks another version of the protocol
├── RequestRefused      a request with arguments that it does not take
└── LibraryFailed       the world's failure for one library: data for a measurement
├── LoadFailed      it cannot be loaded, or fails its self-test
│   └── LibraryMissing  its file is not there, or was torn: it can be put again
└── RunFailed       it crashed, hung or reported an error in a run
"""
# ruff: noqa: N818  -- the leaves are named after what happened

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DeviceError(Exception):
    """Base of all errors of this package that a user can act on."""

    exit_code = 3


class UnknownDeviceError(DeviceError):
    """A device that is not in the inventory; the message offers the nearest known one."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none, add one first'}"
        super().__init__(f"unknown device {name!r}: {hint}")


class DeviceFileError(DeviceError):
    """An inventory file that cannot be read, written or understood."""


class RecordingError(DeviceError):
    """A recording of a device that cannot be read, understood or written."""


class BoardUnfit(DeviceError):
    """A board that can be logged in to and cannot run the agent."""


class DeviceChanged(DeviceError):
    """A device that is no longer what was registered; numbers of before and after would not compare."""


class AgentError(DeviceError):
    """The agent cannot do what was asked of it."""


class Unreachable(AgentError):
    """There is no way to the board: its name, the network, a port, or no answer in time."""


class HostKeyMismatch(AgentError):
    """The board or a jump host shows another host key than the pinned one; nothing was sent to it."""


class LoginRefused(AgentError):
    """The board or a jump host takes none of the keys that were offered."""


class AgentLost(AgentError):
    """The agent ended, or the way to it broke."""


class AgentTimeout(AgentError):
    """The agent is silent, or a reply is late; the connection is closed with it."""


class DeviceBusy(AgentError):
    """Another host's agent works in the same folder of the device."""


class ProtocolMismatch(AgentError):
    """The agent speaks another version of the protocol."""


class RequestRefused(AgentError):
    """A request with arguments that the agent does not take."""


class LibraryFailed(AgentError):
    """One library failed on the device; the agent lives on."""


class LoadFailed(LibraryFailed):
    """A library that cannot be loaded, or fails its self-test."""


class LibraryMissing(LoadFailed):
    """A library whose file is not on the device, or was torn by a loss of power: it can be put again."""


class RunFailed(LibraryFailed):
    """A library that crashed, hung or reported an error in a run."""
