"""One sitting at a device: subjects are timed in turns, and again until their numbers can be believed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from device_agents.client import AgentClient, Block, TimingRequest
from hwprune.measurement.trust import Grade, grade, reference_level_ms

#: Called with what is done and the total.
Progress = Callable[[int, int], None]

#: A request is granted so much time for each of its processes or kernels; blocks that do not fit in are left out.
_REQUEST_S = 10.0


@dataclass(frozen=True)
class Settings:
    """How long to measure, and how often to try again.

    Attributes:
        blocks: blocks of each process in one go.
        calls_min: least number of values in a block.
        block_ms_min: least length of a block.
        repeats_max: how often blocks are added to earn the grade B.
        repeat_s: measuring time after which no more are added.
        timeout_s: a process that is silent for longer is ended.
    """

    blocks: int = 10
    calls_min: int = 5
    block_ms_min: float = 10.0
    repeats_max: int = 5
    repeat_s: float = 30.0
    timeout_s: float = 30.0


@dataclass
class Subject:
    """Something to time, and what has been found so far.

    Attributes:
        requests: what to ask of the agent, one for each process.
        without_call: whether to subtract what calling a function costs by itself, as for kernels, which a network
            calls from C.
        blocks: of each process, over all repeats.
        repeats: how often blocks were added.
        level_ms: level of the reference kernel when the grade was given.
        grade: what the blocks are worth; None before the first ones.
        error: why it cannot be timed.
    """

    requests: Sequence[TimingRequest]
    without_call: bool = False
    blocks: list[list[Block]] = field(default_factory=list)
    repeats: int = 0
    level_ms: float = float("nan")
    grade: Grade | None = None
    error: str | None = None

    @property
    def is_pending(self) -> bool:
        """Whether more blocks could earn it a better grade than C."""
        return self.error is None and (self.grade is None or self.grade.trust == "C")


def measure(
    client: AgentClient,
    subjects: Sequence[Subject],
    settings: Settings,
    *,
    device_reference_ms: float | None,
    before_repeat: Callable[[], None],
    progress: Progress | None = None,
) -> None:
    """Time all subjects in turns; repeat those without the grade B, within the settings' limits.

    Args:
        client: the device.
        subjects: what to time; their attributes are filled in.
        settings: how.
        device_reference_ms: the reference level that the device is known for, or None.
        before_repeat: called before blocks are added; a good moment to wait for the device.
        progress: told the blocks of the first go as they are done.
    """
    spent_s = 0.0
    for repeat in range(1 + settings.repeats_max):
        pending = [subject for subject in subjects if subject.is_pending]
        if not pending or (repeat and spent_s >= settings.repeat_s):
            return
        if repeat:
            before_repeat()
        start = time.monotonic()
        _add_blocks(client, pending, settings, progress if not repeat else None)
        spent_s += time.monotonic() - start
        # Common to all that were timed in the same turns; those that have their grade keep the level it was given at.
        level_ms = reference_level_ms([block for subject in pending for blocks in subject.blocks for block in blocks])
        for subject in pending:
            subject.repeats = repeat
            if subject.error is None:
                subject.level_ms = level_ms
                subject.grade = grade(subject.blocks, level_ms, device_reference_ms=device_reference_ms)


def _add_blocks(
    client: AgentClient, subjects: Sequence[Subject], settings: Settings, progress: Progress | None
) -> None:
    requests = [request for subject in subjects for request in subject.requests]
    results = iter(
        client.measure(
            requests,
            blocks=settings.blocks,
            calls_min=settings.calls_min,
            block_ms_min=settings.block_ms_min,
            max_s=max(settings.repeat_s, _REQUEST_S * len(requests)),
            timeout_s=settings.timeout_s,
            on_progress=progress,
        )
    )
    for subject in subjects:
        subject.blocks = subject.blocks or [[] for _ in subject.requests]
        for blocks in subject.blocks:
            result = next(results)
            subject.error = subject.error or result.error
            overhead_ms = result.overhead_ms if subject.without_call else 0.0
            blocks += [_less(block, overhead_ms) for block in result.blocks]


def _less(block: Block, overhead_ms: float) -> Block:
    return replace(block, values_ms=tuple(max(0.0, value - overhead_ms) for value in block.values_ms))
