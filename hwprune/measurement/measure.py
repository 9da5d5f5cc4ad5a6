"""Asks for the latency and memory of networks and kernels: the store first, then the device."""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from device_agents.client import NO_LOAD, AgentClient, SelfTest, TimingRequest
from device_agents.registry import Device
from hwprune.errors import ConfigError
from hwprune.measurement import session
from hwprune.measurement.clock import Clock
from hwprune.measurement.contention import SharedMemory
from hwprune.measurement.jobs import KernelCompiler, KernelPack, NetworkJob
from hwprune.measurement.link import Link, LostByWork
from hwprune.measurement.loading import LoadedLibrary, load, unload, unloading
from hwprune.measurement.readiness import Readiness
from hwprune.measurement.scenarios import measure_steadily, settings_of
from hwprune.measurement.session import Progress, Settings, Subject
from hwprune.measurement.trust import LIMITS, fallback_complaint
from hwprune.records import Artifact, Conditions, Measurement
from hwprune.scenario import BURST, Scenario
from hwprune.store import Store, shape_key
from latency_models.shapes import LayerShape

_log = logging.getLogger(__name__)

#: Processes of a network whose number is shown to the user, and of one that a search looks at in passing.
FINAL_PROCESSES = 3
SEARCH_PROCESSES = 1

#: Networks and kernels that are timed in turns; more would keep the user without a sign of progress for too long.
NETWORKS_A_SITTING = 8
KERNELS_A_SITTING = 32

#: Many short blocks: a core that others share is undisturbed for some milliseconds at a time.
NETWORK_SETTINGS = Settings(blocks=24, steady_blocks=12, calls_min=3, block_ms_min=3.0)

#: Candidates of a search on their resident network: more and shorter blocks, of which more are undisturbed, but no more
#: than needed.
RESIDENT_SETTINGS = Settings(blocks=16, steady_blocks=7, calls_min=3, block_ms_min=1.5)

#: Kernels run for microseconds, so shorter blocks hold calls enough; fewer are timed where the reference is slow.
KERNEL_SETTINGS = Settings(blocks=10, steady_blocks=10, calls_min=10, block_ms_min=3.0)

#: Goes at networks that are shown to the user: all of them at one clock.
FINAL_PASSES = 3

#: What is measured: a network's job, or a kernel's layer shape; and what work on the device comes to.
Wanted = TypeVar("Wanted")
Result = TypeVar("Result")


@dataclass
class Measurer:
    """Measures on one device, and keeps what it measured.

    Attributes:
        link: the way to the device; what is measured while it breaks is measured again.
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

    link: Link
    compiler: KernelCompiler | None
    store: Store
    device: Device
    settings: Settings = NETWORK_SETTINGS
    resident_settings: Settings = RESIDENT_SETTINGS
    kernel_settings: Settings = KERNEL_SETTINGS
    wait_s: float = 60.0
    say: Callable[[str], None] = _log.warning
    recalibrate: bool = False
    _residents: dict[str, LoadedLibrary] = field(init=False, default_factory=dict)
    _readiness: Readiness = field(init=False)
    _clock: Clock = field(init=False)
    _memory: SharedMemory = field(init=False)

    def __post_init__(self) -> None:
        self._memory = SharedMemory(self.device, self.compiler, self.store)
        self._clock = Clock(self.device, self.store, self.say, self.recalibrate)
        self._readiness = Readiness(self.link.client(), self.say)

    @property
    def client(self) -> AgentClient:
        """The conversation with the device's agent, as far as anything was measured over it."""
        return self._readiness.client

    def wait_until_ready(self) -> None:
        """Wait until the device is cool and idle, but not for ever."""
        self._readiness.wait(self.wait_s)

    def reference_ms(self, schedule_version: str) -> float | None:
        """Level of the reference kernel that this device's numbers are given at; None before the first ones."""
        return self._clock.level_ms(schedule_version)

    def facts(self) -> dict[str, Any]:
        """What the device tells of itself at this moment.

        Raises:
            AgentError: the device is lost and stays away.
        """
        return self.link.do(lambda client: client.describe())

    def do(self, work: Callable[[AgentClient], Result]) -> Result:
        """Result of ``work`` on the device, which is begun anew with another agent when the device is lost.

        Raises:
            LostByWork: the device comes back each time, and is lost again by this work.
            AgentError: the device stays away.
        """

        def over(client: AgentClient) -> Result:
            if client is not self.client:  # what was loaded over a former connection ended with that
                self._readiness.client = client
                self._residents.clear()
            return work(client)

        return self.link.do(over)

    def end_residents(self) -> None:
        """End the processes of resident networks: what is measured next runs in new ones, whose memory lies elsewhere.

        Raises:
            AgentError: the device is lost and stays away.
        """

        def end(client: AgentClient) -> None:
            while self._residents:
                unload(client, self._residents.popitem()[1])

        self.do(end)

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
        scenario: Scenario = BURST,
        progress: Progress | None = None,
    ) -> list[Measurement]:
        """Measurements of networks, in the order of the jobs; timed in turns where they are not in the store.

        Args:
            jobs: what to measure.
            final: the numbers are for the user: always made afresh, in three processes or more.
            processes: processes of each network; a resident network stays in the one process that runs all its widths.
            remeasure: make them afresh, too.
            max_age_s: older ones are made afresh.
            scenario: what the device is put through; a load that lasts has one network and one process at a time.
            progress: told the networks that are done and their total.

        Raises:
            AgentError: the device is lost and stays away; what was measured before is in the store.
            StoreError: the store cannot be read or written.
        """
        count = max(processes or 0, FINAL_PROCESSES) if final else processes or SEARCH_PROCESSES
        together = NETWORKS_A_SITTING
        if scenario.seconds is not None:
            count = together = 1
        found: dict[str, Measurement] = {}
        if not (final or remeasure):
            for job in jobs:
                stored = self.stored(job, scenario, processes=count, max_age_s=max_age_s)
                if stored is not None:
                    found[job.key] = stored
        missing = list({job.key: job for job in jobs if job.key not in found}.values())
        for number in range(FINAL_PASSES if final else 1):
            if number:
                missing = [job for job in missing if self._clock.is_off(found[job.key])]
                if missing:
                    self.say(f"{len(missing)} networks were measured at another clock than the others: once more")
            for start in range(0, len(missing), together):
                sitting = missing[start : start + together]
                report = _part(progress, len(jobs) - len(missing) + start, len(sitting), len(jobs))
                measure = functools.partial(self._measure_networks, processes=count, scenario=scenario, progress=report)
                lost = functools.partial(self._lost_network, scenario=scenario)
                for _, measurement in self._measured(sitting, measure, lost):
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
            AgentError: the device is lost and stays away; what was measured before is in the store.
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
                self.device.fingerprint,
                version,
                device=self.device.name,
                threads=self.device.threads,
                max_age_s=max_age_s,
            )
        )
        found = {shape: row for shape, row in stored if shape in wanted and self._clock.is_current(row)}
        missing = [shape for shape in dict.fromkeys(shapes) if shape not in found]
        if missing:
            pack = self.compiler.kernels(missing)
            for start in range(0, len(missing), KERNELS_A_SITTING):
                sitting = missing[start : start + KERNELS_A_SITTING]
                report = _part(progress, len(found), len(sitting), len(found) + len(missing) - start)
                measure = functools.partial(self._measure_kernels, pack=pack, progress=report)
                lost = functools.partial(self._lost_kernel, pack=pack)
                measured = dict(self._measured(sitting, measure, lost))
                self.store.add_kernel_measurements(measured.items())
                found |= measured
        return {shape: found[shape] for shape in dict.fromkeys(shapes)}

    def _measured(
        self,
        wanted: Sequence[Wanted],
        measure: Callable[[Sequence[Wanted]], Sequence[Measurement]],
        lost: Callable[[Wanted, str], Measurement],
    ) -> Iterator[tuple[Wanted, Measurement]]:
        """One sitting; where the device is lost by it again and again, each by itself, to find out which one it is.

        Args:
            wanted: what to measure.
            measure: measures some of it.
            lost: what is kept of the one that the device is lost by, and why.
        """
        try:
            found = self.do(lambda _: measure(wanted))
        except LostByWork as error:
            if len(wanted) > 1:
                for each in wanted:
                    yield from self._measured([each], measure, lost)
                return
            found = [lost(wanted[0], f"the device was {error}")]
        yield from zip(wanted, found, strict=True)

    def _lost_network(self, job: NetworkJob, error: str, *, scenario: Scenario) -> Measurement:
        return self._measurement(job.key, self._conditions_of(job, scenario), Subject([], error=error), {}, {})

    def _lost_kernel(self, shape: LayerShape, error: str, *, pack: KernelPack) -> Measurement:
        conditions = replace(self._conditions(pack.artifact), input_shape=_input_of(shape))
        return self._measurement(shape_key(shape), conditions, Subject([], error=error), {}, {})

    def _measure_networks(
        self, jobs: Sequence[NetworkJob], *, processes: int, scenario: Scenario, progress: Progress | None
    ) -> list[Measurement]:
        if scenario.seconds is None:
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
            burst = self.resident_settings if all(job.numbers for job in jobs) else self.settings
            version = jobs[0].artifact.schedule_version
            is_for_users = scenario.is_burst and processes >= FINAL_PROCESSES
            witness = stack.enter_context(self._memory.witness(self.client, jobs, self._load)) if is_for_users else []
            self._sit([*subjects, *witness], settings_of(scenario, burst), version, progress)
        after = self.client.state()
        memory = self._memory.reading(witness[0], version) if witness else None
        for job, subject in zip(jobs, subjects, strict=True):
            if subject.error is not None and job.artifact.sha256 in self._residents:
                unload(self.client, self._residents.pop(job.artifact.sha256))  # the next candidate gets a new process
        return [
            _capped(
                replace(
                    self._measurement(job.key, self._conditions_of(job, scenario), subject, before, after),
                    planned_memory_bytes=job.planned_memory_bytes,
                    shapes_key=job.shapes_key,
                    memory=memory,
                    cold_share=self._memory.cold_share(job) if memory else 0.0,
                    # What loading tells of a resident library is none of this network's.
                    **({} if job.numbers else library.facts),
                ),
                job,
            )
            for job, library, subject in zip(jobs, libraries, subjects, strict=True)
        ]

    def _measure_kernels(
        self, shapes: Sequence[LayerShape], *, pack: KernelPack, progress: Progress | None
    ) -> list[Measurement]:
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
        return [
            _without_call(
                self._measurement(
                    shape_key(shape), replace(conditions, input_shape=_input_of(shape)), subject, before, after
                ),
                subject.overhead_ms,
            )
            for shape, subject in zip(shapes, subjects, strict=True)
        ]

    def _sit(
        self, subjects: Sequence[Subject], settings: Settings, schedule_version: str, progress: Progress | None
    ) -> None:
        """Time the subjects, and learn how fast the device runs the reference kernel unless a load slows it."""
        timed = [subject for subject in subjects if subject.error is None]
        if settings.load.busy_ms:
            for subject in timed:
                measure_steadily(self.client, subject, settings, threads=self.device.threads, progress=progress)
            return
        is_burst = settings.load == NO_LOAD
        was_quiet = session.measure(
            self.client,
            timed,
            settings,
            threads=self.device.threads,
            spare_cores=self.device.spare_cores,
            device_reference_ms=self._clock.expected_ms(schedule_version) if is_burst else None,
            before_repeat=lambda: self._readiness.wait(self.wait_s, doubtful=True),
            progress=progress,
        )
        if is_burst:
            self._clock.learn(subjects, schedule_version, was_quiet)

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
            cores=self.device.pinned_cores,
            self_test=self_test,
            timeout_s=self.settings.timeout_s,
        )

    def stored(
        self,
        job: NetworkJob,
        scenario: Scenario = BURST,
        *,
        processes: int = FINAL_PROCESSES,
        max_age_s: float | None = None,
    ) -> Measurement | None:
        """What the store has of a network under the present conditions, measured in so many processes or more."""
        stored = self.store.find_measurement(job.key, self._conditions_of(job, scenario), max_age_s)
        if stored is None or not self._clock.is_current(stored):
            return None
        return stored if job.numbers or len(stored.values_ms) >= processes else None

    def _conditions_of(self, job: NetworkJob, scenario: Scenario) -> Conditions:
        return self._conditions(job.artifact, scenario, job.engine)

    def _conditions(self, artifact: Artifact, scenario: Scenario = BURST, engine: str = "") -> Conditions:
        inputs = artifact.description.get("inputs") or [[]]
        return Conditions(
            device=self.device.name,
            fingerprint=self.device.fingerprint,
            engine=engine or ("tvm-resident" if artifact.kind == "resident" else "tvm"),
            dtype="float32",
            input_shape=tuple(inputs[0]),
            threads=self.device.threads,
            schedule_version=artifact.schedule_version,
            scenario=str(scenario),
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
            device_reference_ms=self._clock.level_ms(conditions.schedule_version),
            energy_mj=subject.energy_mj,
            trust=subject.grade.trust,
            trust_reason=subject.grade.reason,
            repeats=subject.repeats,
            timeline=subject.timeline,
        )


def _without_call(measurement: Measurement, overhead_ms: float) -> Measurement:
    """A kernel's measurement less what calling it cost: a network calls its kernels from C, for almost nothing."""
    values_ms = tuple(
        tuple(tuple(max(0.0, value - overhead_ms) for value in block) for block in process)
        for process in measurement.values_ms
    )
    return replace(measurement, values_ms=values_ms)


def _capped(measurement: Measurement, job: NetworkJob) -> Measurement:
    """The measurement with its grade capped by what the blocks alone do not tell."""
    measurement = _with_fallback(measurement, job)
    if measurement.trust == "A" and measurement.memory_doubt > LIMITS["A"]:
        reason = f"others use the memory: undisturbed it may take {measurement.memory_doubt:.1%} less"
        return replace(measurement, trust="B", trust_reason=reason)
    return measurement


def _with_fallback(measurement: Measurement, job: NetworkJob) -> Measurement:
    """The measurement with the share of kernels that have no schedule of ours, and its grade capped by that."""
    if measurement.error is not None or job.artifact.kind == "onnx":
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
