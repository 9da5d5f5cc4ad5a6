"""The way to any device of the inventory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from device_agents.errors import RecordingError
from device_agents.registry import Device
from device_agents.transport import LoopbackTransport, Transport

if TYPE_CHECKING:
    from device_agents.ssh import SshConnections


def transport_to(device: Device, folder: Path, connections: SshConnections | None = None) -> Transport:
    """The way to the agent of ``device``, not yet gone.

    Args:
        device: the inventory's entry.
        folder: the agent's folder, if the device is this computer.
        connections: what boards behind the same jump host share; None for connections of its own.

    Raises:
        RecordingError: the device is a recording.
    """
    if device.recording is not None:
        raise RecordingError(f"{device.name} is a recording: it has no agent that could be asked")
    if device.ssh is None:
        return LoopbackTransport(folder)
    from device_agents.ssh import SshTransport  # its library takes a while to import, and this computer needs none

    return SshTransport(device.ssh, connections=connections)
