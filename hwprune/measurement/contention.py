"""How much others use the memory that a device's cores share while its networks are measured for the user.

The reference kernel fits the first cache and tells the clock. A network whose weights do not fit the core's own caches
is also slowed by what other cores, or other tenants of a virtual machine's host, read meanwhile: by 5 to 20 %, for
seconds or minutes, while the reference stands at its level. So a library that reads memory alone is timed in turns with
such networks. Where it takes longer than it is known to take on the device, the interval reaches down to what the
network may take when the others rest.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from device_agents.client import AgentClient, TimingRequest
from device_agents.registry import Device
from hwprune.errors import CompileError
from hwprune.measurement.jobs import KernelCompiler, NetworkJob
from hwprune.measurement.loading import LoadedLibrary, unloading
from hwprune.measurement.session import Subject
from hwprune.records import Artifact, MemoryReading
from hwprune.store import Store

_log = logging.getLogger(__name__)

#: Taken for a core's own cache where the device does not tell.
PRIVATE_CACHE_BYTES = 1 << 20


@dataclass
class SharedMemory:
    """One device's memory as networks find it.

    Attributes:
        device: the device's entry in the inventory.
        compiler: makes the library that reads memory; None where nothing is known of the memory.
        store: tells the fastest reading of earlier measurements.
    """

    device: Device
    compiler: KernelCompiler | None
    store: Store
    _probe: Artifact | None = field(init=False, default=None)
    _fastest_ms: dict[str, float] = field(init=False, default_factory=dict)

    def cold_share(self, job: NetworkJob) -> float:
        """Share of a network's weights and activations that a core's own cache cannot keep, in [0, 1]."""
        own = self.device.description.get("private_cache_bytes") or PRIVATE_CACHE_BYTES
        size = job.planned_memory_bytes or int(job.artifact.description.get("model_bytes", 0))
        return 1 - min(1.0, own / size) if size else 0.0

    @contextlib.contextmanager
    def witness(
        self, client: AgentClient, jobs: Sequence[NetworkJob], load: Callable[[Artifact, int], LoadedLibrary]
    ) -> Iterator[list[Subject]]:
        """What tells of the memory, loaded for as long as the context lasts.

        Args:
            client: the device.
            jobs: the networks that it takes turns with.
            load: loads a library in so many processes.

        Returns:
            One subject; [] where no network depends on the memory, or no such library can be had.
        """
        probe = self._library() if any(self.cold_share(job) for job in jobs) else None
        if probe is None:
            yield []
            return
        with unloading(client, load(probe, 1)) as library:
            requests = [TimingRequest(process.handle) for process in library.processes]
            yield [Subject(requests, is_witness=True)] if library.error is None else []

    def _library(self) -> Artifact | None:
        """The library that reads memory, linked once; None where it cannot be."""
        if self._probe is None and self.compiler is not None:
            try:
                self._probe = self.compiler.memory_probe()
            except CompileError as error:
                _log.info("nothing is known of the memory that cores share: %s", error)
                self.compiler = None
        return self._probe

    def reading(self, probe: Subject, schedule_version: str) -> MemoryReading | None:
        """What a sitting tells of the memory; None where the probe could not be timed.

        Args:
            probe: the library that reads memory, timed in turns with the networks.
            schedule_version: of the reference kernel in it.
        """
        if probe.error is not None or probe.grade is None:
            return None
        calls = [call for process in probe.grade.values_ms for block in process for call in block]
        if not calls:
            return None
        fastest_ms = min([*calls, *self._known_ms(schedule_version)])
        self._fastest_ms[schedule_version] = fastest_ms
        return MemoryReading(float(np.percentile(calls, 10)), fastest_ms)

    def _known_ms(self, schedule_version: str) -> list[float]:
        if schedule_version in self._fastest_ms:
            return [self._fastest_ms[schedule_version]]
        known = self.store.memory_ms(self.device.name, self.device.fingerprint, schedule_version)
        return [] if known is None else [known]
