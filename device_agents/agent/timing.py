"""Measuring loops: warm-up until stable, then blocks of timed calls, each framed by the reference kernel.

A *call* is one inference or one kernel. A *value* is one timed batch of calls divided by their count; a batch is one
call except for kernels too short for the clock. A *block* is the values taken in one go, without a pause unless the
load asks for gaps. A *round* is one block of every job, in turn, so that drift meets all jobs alike.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, Callable, Iterator, List, Sequence

from device_agents.agent.energy import Meter
from device_agents.agent.load import Gap, Load

Call = Callable[[], Any]

#: Times so many values of so many calls each, in ns.
Timer = Callable[[Call, int, int], List[int]]

#: Shortest timed value: a thousand times the clock's resolution, and long against the two clock calls.
VALUE_NS_MIN = 20_000

#: Length of the batches that the warm-up compares.
WARMUP_NS = 2_000_000

#: Successive warm-up batches that differ by no more are stable.
STABLE_WITHIN = 0.02

#: So long a paced job goes at its pace before its first block: clocks and caches get used to the gaps.
PACED_WARMUP_S = 1.0

#: Untimed work before a block is done in pieces of so many calls' time, and looked at between them.
BUSY_PIECE_NS = 10_000_000

#: Calls of the reference kernel on each side of a block, the fastest of which counts: as many as fit in so much time.
REFERENCE_CALLS, REFERENCE_CALLS_MIN, REFERENCE_NS = 12, 3, 5_000_000

#: The device runs at its own level where the reference kernel takes no longer than this share more.
NEAR_LEVEL = 0.03

#: Where the level is not known, it is what this share of the readings is faster than, of all that fit in so much time.
LEVEL_SHARE, LEVEL_NS = 0.05, 500_000_000

#: Where the reference kernel takes longer (an emulated processor), a reading is no moment: none can be chosen.
GATED_NS_MAX = 2_000_000

#: Waiting for that level: granted before anything was timed, and the longest that is waited at a time.
FIRST_PATIENCE_NS, WAIT_NS_MAX = 1_500_000_000, 2_000_000_000


class CallFailed(Exception):  # noqa: N818
    """A call that reported an error."""


def time_calls(call: Call, count: int, batch: int = 1) -> list[int]:
    """Time ``count`` values of ``batch`` calls each.

    Returns:
        (count,) elapsed times of whole batches in ns.

    Raises:
        CallFailed: a call returned another status than 0.
    """
    clock, repeat = time.perf_counter_ns, itertools.repeat
    elapsed = []
    for _ in range(count):
        start = clock()
        for _ in repeat(None, batch):
            status = call()
            if status:
                raise CallFailed(f"returned status {status}")
        elapsed.append(clock() - start)
    return elapsed


def warm_up(call: Call, limit_ns: float, time_calls: Timer = time_calls) -> tuple[int, float]:
    """Call until successive batches agree within 2 %, or for ``limit_ns``.

    Returns:
        Number of calls, and the lower quartile of the last batch in ns.
    """
    (typical,) = time_calls(call, 1, 1)
    calls, spent, previous = 1, typical, None
    while spent < limit_ns:
        values = time_calls(call, max(1, WARMUP_NS // max(1, typical)), 1)
        calls, spent = calls + len(values), spent + sum(values)
        typical = sorted(values)[len(values) // 4]
        if previous is not None and abs(typical - previous) <= STABLE_WITHIN * previous:
            break
        previous = typical
    return calls, max(1, typical)


class Job:
    """One thing to time, with its block size once it is warm.

    Args:
        call: does it once; 0 is success.
        timer: times it.
        load: how calls follow each other.

    Attributes:
        warmup_calls: calls before the first block.
        batch: calls of one value.
        count: values of one block.
    """

    def __init__(self, call: Call, timer: Timer = time_calls, load: Load | None = None) -> None:
        self._call = call
        self._time_calls = timer
        self._load = load or Load()
        self._gap = None if self._load.is_burst else Gap(self._load)
        self._piece = 1
        self.warmup_calls = 0
        self.batch = 1
        self.count = 1

    def warm_up(self, limit_ns: float, calls_min: int, block_ns_min: float) -> None:
        """Warm up, and size the blocks: at least ``calls_min`` values and ``block_ns_min``.

        Raises:
            CallFailed: a call failed, or takes too long for its pace.
        """
        self.warmup_calls, call_ns = warm_up(self._call, limit_ns, self._time_calls)
        self.batch = int(max(1, -(-VALUE_NS_MIN // call_ns))) if self._gap is None else 1
        self.count = int(max(calls_min, -(-block_ns_min // (call_ns * self.batch))))
        self._piece = int(max(1, BUSY_PIECE_NS // (call_ns * self.batch)))
        if self._load.rate_hz is not None:
            self._find_the_pace(self._load.rate_hz, call_ns)

    def _find_the_pace(self, rate_hz: float, call_ns: float) -> None:
        if call_ns * rate_hz > 1e9:
            text = "a call takes {:.3g} ms, longer than the {:.3g} ms from one to the next at {:g} Hz"
            raise CallFailed(text.format(call_ns / 1e6, 1e3 / rate_hz, rate_hz))
        calls = int(max(2, PACED_WARMUP_S * rate_hz))
        self._values(calls)
        self.warmup_calls += calls

    def keep_busy(self) -> bool:
        """Call without a pause for as long as the load asks before each block; whether it asks at all.

        Raises:
            CallFailed: a call failed.
        """
        end_ns = time.perf_counter_ns() + self._load.busy_ns
        while time.perf_counter_ns() < end_ns:
            self._values(self._piece)
        return self._load.busy_ns > 0

    def block(self) -> list[int]:
        """(count,) elapsed times of one block's batches, in ns.

        Raises:
            CallFailed: a call failed.
        """
        if self._gap is not None:
            return self._values(self.count + 1)[1:]
        self._call()  # brings code and data back into the caches after another job
        return self._values(self.count)

    def _values(self, count: int) -> list[int]:
        """(count,) elapsed times of batches that follow each other as the load has it, in ns."""
        if self._gap is None:
            return self._time_calls(self._call, count, self.batch)
        values = []
        for _ in range(count):
            self._gap()
            values += self._time_calls(self._call, 1, 1)
        return values


class Reference:
    """The reference kernel, which tells how fast the device is just now.

    Args:
        call: runs it once.
        timer: times it.
    """

    def __init__(self, call: Call, timer: Timer = time_calls) -> None:
        self._call = call
        self._time_calls = timer

    def ns(self) -> int:
        """Fastest of a few calls, in ns; of fewer where each takes long: readings are not to outlast the blocks."""
        self._call()
        (first_ns,) = self._time_calls(self._call, 1, 1)
        calls = min(REFERENCE_CALLS, max(REFERENCE_CALLS_MIN, REFERENCE_NS // max(1, first_ns)))
        return min(first_ns, *self._time_calls(self._call, calls - 1, 1))


class Gate:
    """Holds a block back while the device is slower than its own level, and may be only for a moment.

    A core that shares its units with another one's work changes its speed several times a second, and slows networks
    by another factor than the reference kernel: what is timed in a slow moment is lost. It waits by working, since
    clocks fall while a core rests.

    Other cores may be at their level meanwhile: it looks there by turns, and stays where it found it.

    Args:
        level_ns: what the reference kernel takes at the device's own level; 0 where it has to be looked for.
        patience: how long to wait altogether, as a multiple of the time that was spent on blocks; 0 for never.
        cores: where to look; () to stay.
        pin: keeps this process on some cores.
    """

    def __init__(
        self,
        level_ns: float,
        patience: float,
        cores: Sequence[int] = (),
        pin: Callable[[Sequence[int]], None] = lambda cores: None,
    ) -> None:
        self._slowest_ns = level_ns * (1 + NEAR_LEVEL) if patience else float("inf")
        self._patience = patience
        self._cores = itertools.cycle(cores)
        self._pin = pin
        self._left_ns = float(FIRST_PATIENCE_NS)

    def wait(self, reference: Reference, reading_ns: int) -> int:
        """The reference kernel's reading when the device is back at its level, or when it is no use to wait.

        Args:
            reference: the reference kernel.
            reading_ns: its last reading.
        """
        if reading_ns > GATED_NS_MAX:
            return reading_ns
        if not self._slowest_ns:
            self._slowest_ns = self._level_ns(reference) * (1 + NEAR_LEVEL)
        start_ns = time.perf_counter_ns()
        end_ns = start_ns + min(self._left_ns, WAIT_NS_MAX)
        while reading_ns > self._slowest_ns and time.perf_counter_ns() < end_ns:
            reading_ns = self._elsewhere_ns(reference)
        self._left_ns -= time.perf_counter_ns() - start_ns
        return reading_ns

    def _level_ns(self, reference: Reference) -> float:
        """What the reference kernel takes in undisturbed moments, as far as there are some now."""
        end_ns = time.perf_counter_ns() + LEVEL_NS
        readings = [self._elsewhere_ns(reference)]
        while time.perf_counter_ns() < end_ns:
            readings.append(self._elsewhere_ns(reference))
        return sorted(readings)[int(LEVEL_SHARE * len(readings))]

    def _elsewhere_ns(self, reference: Reference) -> int:
        """A reading on the next core."""
        for core in itertools.islice(self._cores, 1):
            self._pin([core])
        return reference.ns()

    def spent(self, block_ns: int) -> None:
        """A block has taken so long: patience grows with it."""
        self._left_ns += self._patience * block_ns


def run_round(
    jobs: dict[int, Job], order: list[int], reference: Reference, gate: Gate, meter: Meter, budget_s: float
) -> Iterator[dict[str, Any]]:
    """One block of every job, each between two readings of the reference that neighbours share.

    Args:
        jobs: what to time, by place.
        order: the places to time, first to last.
        reference: the reference kernel.
        gate: holds blocks back.
        meter: tells the energy.
        budget_s: no block starts later than this.

    Yields:
        For each block ``{"job", "ns", "batch", "before_ns", "after_ns", "energy_uj"}``, or ``{"job", "error"}``; the
        energy is of one call more than was timed, None without a meter.
    """
    deadline = time.monotonic() + budget_s
    before: int | None = None
    for place in order:
        if time.monotonic() > deadline:
            return
        try:
            if jobs[place].keep_busy():
                before = None  # what was read before that is too old
            before = gate.wait(reference, before or reference.ns())
            energy, start_ns = meter.read(), time.perf_counter_ns()
            values = jobs[place].block()
            gate.spent(time.perf_counter_ns() - start_ns)
        except CallFailed as error:
            yield {"job": place, "error": str(error)}
            continue
        spent_uj = meter.spent_uj(energy, meter.read())
        after = reference.ns()
        block = {"job": place, "ns": values, "batch": jobs[place].batch, "before_ns": before, "after_ns": after}
        yield dict(block, energy_uj=spent_uj)
        before = after
