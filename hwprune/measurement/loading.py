"""Brings a library to the device and into fresh processes there."""

from __future__ import annotations

import contextlib
import functools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from device_agents.client import AgentClient, Loaded, SelfTest
from device_agents.errors import LibraryMissing, LoadFailed
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


def load(
    client: AgentClient,
    artifact: Artifact,
    *,
    processes: int,
    cores: Sequence[int],
    self_test: SelfTest | None,
    timeout_s: float,
) -> LoadedLibrary:
    """A library in fresh processes, until they are unloaded; one that fails in any of them has failed.

    Raises:
        AgentError: the device does not answer, or the library cannot be written there.
    """
    client.put(artifact.path, artifact.sha256)
    start = functools.partial(client.load, artifact.sha256, cores=cores, self_test=self_test, timeout_s=timeout_s)
    library = LoadedLibrary()
    try:
        for _ in range(processes):
            try:
                process = start()
            except LibraryMissing:  # a board that lost its power keeps names of files whose bytes it never wrote
                client.put(artifact.path, artifact.sha256)
                process = start()
            library.processes.append(process)
    except LoadFailed as error:
        unload(client, library)
        return LoadedLibrary(error=str(error))
    return library


def unload(client: AgentClient, library: LoadedLibrary) -> None:
    """End the processes of a library."""
    for process in library.processes:
        client.unload(process.handle)


@contextlib.contextmanager
def unloading(client: AgentClient, library: LoadedLibrary) -> Iterator[LoadedLibrary]:
    """A library whose processes end with the context."""
    try:
        yield library
    except KeyboardInterrupt:
        library.processes.clear()  # closing the client ends all at once, and does not wait for what they do
        raise
    finally:
        unload(client, library)


def _most(values: Sequence[int | None]) -> int | None:
    """The largest; None if any is unknown."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None
