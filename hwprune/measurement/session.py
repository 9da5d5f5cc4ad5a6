"""One sitting at a device: subjects are timed in turns, and again until their numbers can be believed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from device_agents.agent.timing import GATED_NS_MAX
from device_agents.client import NO_LOAD, AgentClient, Block, Load, TimingRequest, TimingResult
from device_agents.results import energy_of_call_mj
from hwprune.measurement.readiness import busy_cores, quiet_cores
from hwprune.measurement.trust import Grade, grade, is_doubtful, reference_level_ms

#: Called with what is done and the total.
Progress = Callable[[int, int], None]

#: Share of the usual effort for a good grade that is made where the reference kernel is slow to read.
SLOW_EFFORT = 1 / 3


@dataclass(frozen=True)
class Settings:
    """How long to measure, and how often to try again.

    Attributes:
        blocks: most blocks of each process in one go.
        steady_blocks: a process has enough after so many while the device stood still; 0 for never.
        patience: how long blocks are held back while the device is slower than it is known for, as a multiple of the
            time that they take.
        calls_min: least number of values in a block.
        block_ms_min: least length of a block.
        repeats_max: how often blocks are added to earn the grade B.
        repeat_s: measuring time after which no more are added.
        timeout_s: a process that is silent for longer is ended.
        request_s: a process or kernel is granted so much time in one go; blocks that do not fit in are left out.
        load: what the device is put through meanwhile.
    """

    blocks: int = 10
    steady_blocks: int = 0
    patience: float = 4.0
    calls_min: int = 5
    block_ms_min: float = 10.0
    repeats_max: int = 5
    repeat_s: float = 30.0
    timeout_s: float = 30.0
    request_s: float = 10.0
    load: Load = NO_LOAD


@dataclass
class Subject:
    """Something to time, and what has been found so far.

    Attributes:
        requests: what to ask of the agent, one for each process.
        is_witness: it tells of the moment and is timed as long as others are: no grade of its own is sought.
        blocks: of each process, over all repeats.
        doubtful: blocks of each process that other programs may have slowed.
        overhead_ms: what calling any function costs by itself; part of every value.
        quiet: blocks of all processes during which other programs rested: their energy is the subject's own.
        repeats: how often blocks were added.
        level_ms: level of the reference kernel when the grade was given.
        grade: what the blocks are worth; None before the first ones.
        error: why it cannot be timed.
        timeline: moments of a steady load.
    """

    requests: Sequence[TimingRequest]
    is_witness: bool = field(default=False, kw_only=True)
    blocks: list[list[Block]] = field(init=False)
    doubtful: list[list[Block]] = field(init=False)
    overhead_ms: float = 0.0
    quiet: list[Block] = field(init=False, default_factory=list)
    repeats: int = 0
    level_ms: float = float("nan")
    grade: Grade | None = None
    error: str | None = None
    timeline: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        self.blocks = [[] for _ in self.requests]
        self.doubtful = [[] for _ in self.requests]

    def regrade(self, level_ms: float, device_reference_ms: float | None) -> None:
        """Grade its blocks by a level of the reference kernel; a failure stays one."""
        if self.error is None:
            self.level_ms = level_ms
            self.grade = grade(self.blocks, level_ms, device_reference_ms=device_reference_ms, doubtful=self.doubtful)

    @property
    def energy_mj(self) -> float | None:
        """Energy of one call; None where the device's meter told nothing, or others were busy all the time."""
        return energy_of_call_mj(self.quiet)

    @property
    def is_pending(self) -> bool:
        """Whether more blocks could earn it a better grade than C, and should."""
        return not self.is_witness and self.error is None and (self.grade is None or self.grade.trust == "C")


def measure(
    client: AgentClient,
    subjects: Sequence[Subject],
    settings: Settings,
    *,
    threads: int,
    spare_cores: Sequence[int] = (),
    device_reference_ms: float | None,
    before_repeat: Callable[[], None],
    progress: Progress | None = None,
) -> bool:
    """Time all subjects in turns; repeat those without the grade B, within the settings' limits.

    Args:
        client: the device.
        subjects: what to time; their attributes are filled in.
        settings: how.
        threads: cores that a subject keeps busy itself.
        spare_cores: cores to go on with where one is slower than the device is known for.
        device_reference_ms: the reference level that the device is known for, or None.
        before_repeat: called before blocks are added once more, or at once where other programs were busy; a good
            moment to wait for the device.
        progress: told the blocks of the first go as they are done.

    Returns:
        Whether other programs rested all the time.
    """
    spent_s, always_quiet, pending = 0.0, True, list[Subject]()
    for repeat in itertools.count():
        # While other programs are busy on a device that is not known yet, only many blocks hold an undisturbed moment.
        searching = device_reference_ms is None and not always_quiet and spent_s < settings.repeat_s / 3
        pending = [each for each in subjects if each.is_pending or (searching and each.error is None)]
        if pending and not searching:
            pending += [each for each in subjects if each.is_witness and each.error is None]
        is_late = repeat and spent_s >= limit_s(settings, _blocks(subjects))
        exhausted = (repeat > settings.repeats_max and not searching) or is_late
        if not pending or exhausted:
            break
        if repeat > 1 or (repeat and not always_quiet):  # the clock that moved for a moment has settled by now
            before_repeat()
        start = time.monotonic()
        before = client.state()
        # Under a load the clock is part of the answer.
        patience = settings.patience if settings.load == NO_LOAD else 0.0
        at_level = {"level_ms": device_reference_ms, "patience": patience, "spare_cores": spare_cores}
        results = _request(client, pending, settings, at_level, progress if not repeat else None)
        elapsed_s, after = time.monotonic() - start, client.state()
        is_quiet = busy_cores(before, after, elapsed_s) - threads <= quiet_cores(before, after, elapsed_s)
        always_quiet, spent_s = always_quiet and is_quiet, spent_s + elapsed_s
        for subject, found in zip(pending, results, strict=True):
            _add(subject, found, is_quiet, device_reference_ms)
        # Common to all that were timed in the same turns; those that have their grade keep the level it was given at.
        support = 0.0 if device_reference_ms is None and not always_quiet else 0.5
        level_ms = reference_level_ms(_blocks(pending), device_reference_ms, support)
        for subject in pending:
            subject.repeats = repeat
            subject.regrade(level_ms, device_reference_ms)
    left = [subject for subject in pending if subject.is_pending]
    level_ms = reference_level_ms(_blocks(left))  # the device does not come back to its own: theirs, with its doubt
    for subject in left:
        subject.regrade(level_ms, device_reference_ms)
    return always_quiet


def limit_s(settings: Settings, blocks: Sequence[Block]) -> float:
    """Measuring time after which no more blocks are added.

    A share of the usual one where the reference kernel is slow to read, as on emulated processors: moments in which the
    device is undisturbed cannot be told from others there, and waiting for them would be in vain.

    Args:
        settings: tell the usual one.
        blocks: what was timed so far.
    """
    fastest_ms = min((block.reference_before_ms for block in blocks), default=0.0)
    return settings.repeat_s * (SLOW_EFFORT if 1e6 * fastest_ms > GATED_NS_MAX else 1.0)


def _blocks(subjects: Sequence[Subject]) -> list[Block]:
    return [block for subject in subjects for blocks in subject.blocks for block in blocks]


def _request(
    client: AgentClient,
    subjects: Sequence[Subject],
    settings: Settings,
    at_level: dict[str, Any],
    progress: Progress | None,
) -> list[list[TimingResult]]:
    """Results of each subject's processes."""
    requests = [request for subject in subjects for request in subject.requests]
    results = iter(
        client.measure(
            requests,
            blocks=settings.blocks,
            steady_blocks=settings.steady_blocks,
            **at_level,
            calls_min=settings.calls_min,
            block_ms_min=settings.block_ms_min,
            max_s=max(settings.repeat_s, settings.request_s * len(requests)),
            timeout_s=settings.timeout_s,
            load=settings.load,
            on_progress=progress,
        )
    )
    return [[next(results) for _ in subject.requests] for subject in subjects]


def _add(subject: Subject, results: Sequence[TimingResult], is_quiet: bool, device_reference_ms: float | None) -> None:
    for number, result in enumerate(results):
        subject.error = subject.error or result.error
        subject.overhead_ms = max(subject.overhead_ms, result.overhead_ms)
        subject.quiet += result.blocks if is_quiet else ()
        for block in result.blocks:
            doubtful = is_doubtful(block, is_quiet, device_reference_ms)
            (subject.doubtful if doubtful else subject.blocks)[number].append(block)
