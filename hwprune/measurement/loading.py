"""Brings a library to the device and into fresh processes there."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from device_agents.client import AgentClient, Loaded, SelfTest
from device_agents.errors import LoadFailed
from hwprune.records import Artifact


@dataclass
class LoadedLibrary:
    """A library's processes, or why it has none.

    Attributes:
        processes: what the agent said of each.
        error: why the library cannot be run.
    """

    processes: list[Loaded] = field(default_factory=list)
    error: str | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """Fields of a measurement that loading tells: the usual time, and the most memory of any process."""
        if not self.processes:
            return {}
        return {
            "load_ms": statistics.median(process.load_ms for process in self.processes),
            "process_peak_bytes": _most([process.process_peak_bytes for process in self.processes]),
            "process_delta_bytes": _most([process.process_delta_bytes for process in self.processes]),
        }


@contextlib.contextmanager
def loaded(
    client: AgentClient,
    artifact: Artifact,
    *,
    processes: int,
    cores: Sequence[int],
    self_test: SelfTest | None,
    timeout_s: float,
) -> Iterator[LoadedLibrary]:
    """A library in fresh processes, which end with the context; one that fails in any of them has failed.

    Raises:
        AgentError: the device does not answer, or the library cannot be written there.
    """
    client.put(artifact.path, artifact.sha256)
    library = LoadedLibrary()
    handles: list[int] = []
    try:
        for _ in range(processes):
            process = client.load(artifact.sha256, cores=cores, self_test=self_test, timeout_s=timeout_s)
            handles.append(process.handle)
            library.processes.append(process)
    except LoadFailed as error:
        library = LoadedLibrary(error=str(error))
    try:
        yield library
    except KeyboardInterrupt:
        handles.clear()  # closing the client ends all processes at once, and does not wait for what they do
        raise
    finally:
        for handle in handles:
            client.unload(handle)


def _most(values: Sequence[int | None]) -> int | None:
    """The largest; None if any is unknown."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None
