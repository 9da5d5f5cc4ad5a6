"""Asks for the latency and memory of networks and kernels: the store first, then the device."""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from device_agents.client import AgentClient, SelfTest, TimingRequest
from device_agents.registry import Device
from hwprune.errors import ConfigError
from hwprune.measurement import session
from hwprune.measurement.loading import LoadedLibrary, load, unload, unloading
from hwprune.measurement.readiness import Readiness
from hwprune.measurement.session import Progress, Settings, Subject
from hwprune.measurement.trust import LIMITS, fallback_complaint
from hwprune.records import CLOCK_DOUBT, Artifact, Conditions, Measurement, digest
from hwprune.store import Store, shape_key
from latency_models.shapes import LayerShape

_log = logging.getLogger(__name__)

#: Processes of a network whose number is shown to the user, and of one that a search looks at in passing.
FINAL_PROCESSES = 3
SEARCH_PROCESSES = 1

#: Networks and kernels that are timed in turns; more would keep the user without a sign of progress for too long.
NETWORKS_A_SITTING = 8
KERNELS_A_SITTING = 32

NETWORK_SETTINGS = Settings()

#: Candidates of a search on their resident network: more and shorter blocks, of which more are undisturbed.
RESIDENT_SETTINGS = Settings(blocks=16, calls_min=3, block_ms_min=1.5)

#: Kernels run for microseconds, so shorter blocks hold calls enough.
KERNEL_SETTINGS = Settings(blocks=10, calls_min=10, block_ms_min=3.0)

#: The device is this much faster than its own reference level: that was taken under load, and is taken anew.
_FASTER_RATIO = 0.8

#: A clock that has stood elsewhere for so long is the device's own from now on.
_SETTLED_S = 30.0

#: Stored numbers whose clock differs by more are of such a superseded level.
_SAME_LEVEL = 0.05


_NEVER_QUIET = "other programs have been busy ever since the device was measured first"


class KernelPack(Protocol):
    """One library of many kernels."""

    @property
    def artifact(self) -> Artifact:
        """The library."""
        ...

    @property
    def index(self) -> Mapping[LayerShape, tuple[int, tuple[int, ...]]]:
        """Layer -> number of its kernel and the integers to call it with."""
        ...


class KernelCompiler(Protocol):
    """What :class:`Measurer` needs of ``compilation.compiler.Compiler``."""

    schedule_version: str

    def kernels(self, shapes: Sequence[LayerShape]) -> KernelPack:
        """One library with the kernels of these layers."""
        ...


@dataclass(frozen=True)
class NetworkJob:
    """A compiled network to measure.

    Attributes:
        artifact: its library, or a resident one that runs it.
        self_test: what the library must compute before any number of it is believed.
        own_kernels_ms: what its kernels with a schedule of ours take together, as far as that is known; the rest of its
            latency is then the share of the others. Needed only where it makes calls to others.
        numbers: what stands for its widths in a resident library; () in a library of its own.
        memory_bytes: packed weights plus arena of the network itself; None for the library's.
    """

    artifact: Artifact
    self_test: SelfTest | None = None
    own_kernels_ms: float | None = None
    numbers: tuple[int, ...] = ()
    memory_bytes: int | None = None

    @functools.cached_property
    def key(self) -> str:
        """What its measurement is kept under."""
        if not self.numbers:
            return self.artifact.sha256
        return digest({"library": self.artifact.sha256, "numbers": list(self.numbers)})

    @property
    def planned_memory_bytes(self) -> int:
        """Packed weights plus arena."""
        return self.artifact.planned_memory_bytes if self.memory_bytes is None else self.memory_bytes


@dataclass
class Measurer:
    """Measures on one device, and keeps what it measured.

    Attributes:
        client: the conversation with the device's agent.
        compiler: makes packs of kernels; None where only networks are measured.
        store: keeps every measurement.
        device: the device's entry in the inventory.
        settings: how networks are timed.
        resident_settings: how they are timed on a resident network.
        kernel_settings: how kernels are timed.
        wait_s: how long to wait at a time until the device is cool and idle.
        say: told what is waited for.
        recalibrate: take the device's reference level anew instead of from the store.
    """

    client: AgentClient
    compiler: KernelCompiler | None
    store: Store
    device: Device
    settings: Settings = NETWORK_SETTINGS
    resident_settings: Settings = RESIDENT_SETTINGS
    kernel_settings: Settings = KERNEL_SETTINGS
    wait_s: float = 60.0
    say: Callable[[str], None] = _log.warning
    recalibrate: bool = False
    _references_ms: dict[str, float | None] = field(init=False, default_factory=dict)
    _provisional_ms: dict[str, float] = field(init=False, default_factory=dict)
    _elsewhere: tuple[float, float] | None = field(init=False, default=None)  # level and since when
    _residents: dict[str, LoadedLibrary] = field(init=False, default_factory=dict)
    _readiness: Readiness = field(init=False)

    def __post_init__(self) -> None:
        self._readiness = Readiness(self.client, self.say)

    def wait_until_ready(self) -> None:
        """Wait until the device is cool and idle, but not for ever."""
        self._readiness.wait(self.wait_s)

    def network(self, job: NetworkJob, **options: Any) -> Measurement:
        """One network; the options are those of :meth:`networks`."""
        return self.networks([job], **options)[0]

    def networks(
        self,
        jobs: Sequence[NetworkJob],
        *,
        final: bool = False,
        processes: int | None = None,
        remeasure: bool = False,
        max_age_s: float | None = None,
        progress: Progress | None = None,
    ) -> list[Measurement]:
        """Measurements of networks, in the order of the jobs; timed in turns where they are not in the store.

        Args:
            jobs: what to measure.
            final: the numbers are for the user: always made afresh, in three processes or more.
            processes: processes of each network; a resident network stays in the one process that runs all its widths.
            remeasure: make them afresh, too.
            max_age_s: older ones are made afresh.
            progress: told the networks that are done and their total.

        Raises:
            AgentError: the device does not answer; what was measured before is in the store.
            StoreError: the store cannot be read or written.
        """
        count = max(processes or 0, FINAL_PROCESSES) if final else processes or SEARCH_PROCESSES
        found: dict[str, Measurement] = {}
        if not (final or remeasure):
            for job in jobs:
                stored = self._stored(job, max_age_s)
                if stored is not None:
                    found[job.key] = stored
        missing = list({job.key: job for job in jobs if job.key not in found}.values())
        for start in range(0, len(missing), NETWORKS_A_SITTING):
            sitting = missing[start : start + NETWORKS_A_SITTING]
            report = _part(progress, len(found), len(sitting), len(found) + len(missing) - start)
            for measurement in self._measure_networks(sitting, count, report):
                self.store.add_measurement(measurement)
                found[measurement.key] = measurement
        return [found[job.key] for job in jobs]

    def kernels(
        self,
        shapes: Sequence[LayerShape],
        *,
        remeasure: bool = False,
        max_age_s: float | None = None,
        progress: Progress | None = None,
    ) -> dict[LayerShape, Measurement]:
        """Measurements of kernels, timed in turns where they are not in the store; one library, one upload.

        Args:
            shapes: the kernels' layers.
            remeasure: make them afresh although they are in the store.
            max_age_s: older ones are made afresh.
            progress: told the kernels that are done and their total.

        Raises:
            ConfigError: the measurer was made without a compiler.
            CompileError: a kernel cannot be compiled.
            AgentError: the device does not answer; what was measured before is in the store.
            StoreError: the store cannot be read or written.
        """
        if self.compiler is None:
            raise ConfigError("kernels are measured by a Measurer with a compiler: give it one")
        wanted = set(shapes)
        version = self.compiler.schedule_version
        stored = (
            []
            if remeasure
            else self.store.kernel_measurements(
                self.device.fingerprint, version, threads=self.device.threads, max_age_s=max_age_s
            )
        )
        found = {shape: row for shape, row in stored if shape in wanted and self._is_current(row, version)}
        missing = [shape for shape in dict.fromkeys(shapes) if shape not in found]
        if missing:
            pack = self.compiler.kernels(missing)
            for start in range(0, len(missing), KERNELS_A_SITTING):
                sitting = missing[start : start + KERNELS_A_SITTING]
                report = _part(progress, len(found), len(sitting), len(found) + len(missing) - start)
                measured = self._measure_kernels(pack, sitting, report)
                self.store.add_kernel_measurements(measured.items())
                found |= measured
        return {shape: found[shape] for shape in dict.fromkeys(shapes)}

    def _measure_networks(
        self, jobs: Sequence[NetworkJob], processes: int, progress: Progress | None
    ) -> list[Measurement]:
        self._readiness.wait(self.wait_s)
        before = self.client.state()
        with contextlib.ExitStack() as stack:
            libraries = [stack.enter_context(self._opened(job, processes)) for job in jobs]
            subjects = [
                Subject(
                    [TimingRequest(process.handle, numbers=job.numbers) for process in library.processes],
                    error=library.error,
                )
                for job, library in zip(jobs, libraries, strict=True)
            ]
            settings = self.resident_settings if all(job.numbers for job in jobs) else self.settings
            self._sit(subjects, settings, jobs[0].artifact.schedule_version, progress)
        after = self.client.state()
        for job, subject in zip(jobs, subjects, strict=True):
            if subject.error is not None and job.artifact.sha256 in self._residents:
                unload(self.client, self._residents.pop(job.artifact.sha256))  # the next candidate gets a new process
        return [
            _with_fallback(
                replace(
                    self._measurement(job.key, self._conditions(job.artifact), subject, before, after),
                    planned_memory_bytes=job.planned_memory_bytes,
                    # What loading tells of a resident library is none of this network's.
                    **({} if job.numbers else library.facts),
                ),
                job,
            )
            for job, library, subject in zip(jobs, libraries, subjects, strict=True)
        ]

    def _measure_kernels(
        self, pack: KernelPack, shapes: Sequence[LayerShape], progress: Progress | None
    ) -> dict[LayerShape, Measurement]:
        self._readiness.wait(self.wait_s)
        before = self.client.state()
        with unloading(self.client, self._load(pack.artifact, 1)) as library:
            subjects = [
                Subject(
                    [TimingRequest(process.handle, *pack.index[shape]) for process in library.processes],
                    error=library.error,
                )
                for shape in shapes
            ]
            self._sit(subjects, self.kernel_settings, pack.artifact.schedule_version, progress)
        after = self.client.state()
        conditions = self._conditions(pack.artifact)
        return {
            shape: _without_call(
                self._measurement(
                    shape_key(shape), replace(conditions, input_shape=_input_of(shape)), subject, before, after
                ),
                subject.overhead_ms,
            )
            for shape, subject in zip(shapes, subjects, strict=True)
        }

    def _sit(
        self, subjects: Sequence[Subject], settings: Settings, schedule_version: str, progress: Progress | None
    ) -> None:
        """Time the subjects, and learn how fast the device runs the reference kernel."""
        known = self._reference_ms(schedule_version)
        was_quiet = session.measure(
            self.client,
            [subject for subject in subjects if subject.error is None],
            settings,
            threads=self.device.threads,
            device_reference_ms=known or self._provisional_ms.get(schedule_version),
            before_repeat=lambda: self._readiness.wait(self.wait_s, doubtful=True),
            progress=progress,
        )
        levels = [subject.level_ms for subject in subjects if subject.grade is not None and subject.grade.is_steady]
        if not levels:
            return
        level_ms = min(levels)
        if known is None and was_quiet:
            self._references_ms[schedule_version] = level_ms
        elif known is not None and was_quiet and self._has_moved(level_ms, known):
            self.say(
                f"device {self.device.name!r} now runs at {known / level_ms:.2f} times the clock that it was measured "
                "at first; what was measured then will be measured again when it is needed"
            )
            self._references_ms[schedule_version] = level_ms
            for subject in subjects:
                subject.regrade(subject.level_ms, level_ms)
        elif known is None:
            # Never seen at rest: good enough to tell slower moments by; numbers given at it were seen 30 % off.
            self._provisional_ms[schedule_version] = min(level_ms, self._provisional_ms.get(schedule_version, level_ms))
            for subject in subjects:
                if subject.grade is not None and subject.grade.trust != "C":
                    subject.grade = replace(subject.grade, trust="C", reason=_NEVER_QUIET)

    def _has_moved(self, level_ms: float, known_ms: float) -> bool:
        """Whether the device has a clock other than the known one, to stay."""
        if abs(level_ms / known_ms - 1) <= LIMITS["B"] / CLOCK_DOUBT:
            self._elsewhere = None
            return False
        now = time.monotonic()
        if self._elsewhere is None or abs(level_ms / self._elsewhere[0] - 1) > LIMITS["B"]:
            self._elsewhere = level_ms, now
        return level_ms < _FASTER_RATIO * known_ms or now - self._elsewhere[1] > _SETTLED_S

    def _opened(self, job: NetworkJob, processes: int) -> contextlib.AbstractContextManager[LoadedLibrary]:
        """A network's processes; the one of a resident network stays for those that come."""
        if not job.numbers:
            return unloading(self.client, self._load(job.artifact, processes, job.self_test))
        if job.artifact.sha256 not in self._residents:
            self._residents[job.artifact.sha256] = self._load(job.artifact, SEARCH_PROCESSES, job.self_test)
        return contextlib.nullcontext(self._residents[job.artifact.sha256])

    def _load(self, artifact: Artifact, processes: int, self_test: SelfTest | None = None) -> LoadedLibrary:
        self.store.artifacts.find(artifact.sha256)  # a library that is used is not collected
        return load(
            self.client,
            artifact,
            processes=processes,
            cores=self.device.cores,
            self_test=self_test,
            timeout_s=self.settings.timeout_s,
        )

    def _stored(self, job: NetworkJob, max_age_s: float | None) -> Measurement | None:
        stored = self.store.find_measurement(job.key, self._conditions(job.artifact), max_age_s)
        return stored if stored is not None and self._is_current(stored, job.artifact.schedule_version) else None

    def _is_current(self, measurement: Measurement, schedule_version: str) -> bool:
        """Whether its numbers are given at the clock that the device's numbers are given at now."""
        known, then = self._reference_ms(schedule_version), measurement.device_reference_ms
        return known is None or (then is not None and abs(then / known - 1) <= _SAME_LEVEL)

    def _reference_ms(self, schedule_version: str) -> float | None:
        """Level of the reference kernel that this device's numbers are given at; None before the first ones."""
        if schedule_version not in self._references_ms:
            known = None if self.recalibrate else self.store.reference_ms(self.device.fingerprint, schedule_version)
            self._references_ms[schedule_version] = known
        return self._references_ms[schedule_version]

    def _conditions(self, artifact: Artifact) -> Conditions:
        inputs = artifact.description.get("inputs") or [[]]
        return Conditions(
            device=self.device.name,
            fingerprint=self.device.fingerprint,
            engine="tvm-resident" if artifact.kind == "resident" else "tvm",
            dtype="float32",
            input_shape=tuple(inputs[0]),
            threads=self.device.threads,
            schedule_version=artifact.schedule_version,
        )

    def _measurement(
        self, key: str, conditions: Conditions, subject: Subject, before: dict[str, Any], after: dict[str, Any]
    ) -> Measurement:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        plain = Measurement(key, conditions, state_before=before, state_after=after, measured_at=now)
        if subject.error is not None or subject.grade is None:
            error = subject.error or "it was not timed"
            return replace(plain, error=error, trust_reason="it failed", repeats=subject.repeats)
        return replace(
            plain,
            values_ms=subject.grade.values_ms,
            drift=subject.grade.drift,
            reference_ms=subject.level_ms if math.isfinite(subject.level_ms) else None,
            device_reference_ms=self._reference_ms(conditions.schedule_version),
            trust=subject.grade.trust,
            trust_reason=subject.grade.reason,
            repeats=subject.repeats,
        )


def _without_call(measurement: Measurement, overhead_ms: float) -> Measurement:
    """A kernel's measurement less what calling it cost: a network calls its kernels from C, for almost nothing."""
    values_ms = tuple(
        tuple(tuple(max(0.0, value - overhead_ms) for value in block) for block in process)
        for process in measurement.values_ms
    )
    return replace(measurement, values_ms=values_ms)


def _with_fallback(measurement: Measurement, job: NetworkJob) -> Measurement:
    """The measurement with the share of kernels that have no schedule of ours, and its grade capped by that."""
    if measurement.error is not None:
        return measurement
    description = job.artifact.description
    calls, ops = int(description.get("fallback_calls", 0)), tuple(description.get("fallback_ops", ()))
    share: float | None = None if calls else 0.0
    # A sum of our own kernels that exceeds the whole network tells nothing of the others.
    if calls and job.own_kernels_ms is not None and job.own_kernels_ms < measurement.latency_ms:
        share = 1.0 - job.own_kernels_ms / measurement.latency_ms
    complaint = fallback_complaint(ops, share)
    if measurement.trust == "A" and complaint:
        measurement = replace(measurement, trust="B", trust_reason=complaint)
    return replace(measurement, fallback_share=share)


def _input_of(shape: LayerShape) -> tuple[int, ...]:
    return (shape.batch, shape.in_channels, shape.height, shape.width)


def _part(progress: Progress | None, done: int, part: int, total: int) -> Progress | None:
    """Progress of one part as progress of the whole: ``done`` before it, ``part`` of it, ``total`` in all."""
    if progress is None:
        return None
    return lambda blocks, of: progress(done + part * blocks // max(1, of), total)
