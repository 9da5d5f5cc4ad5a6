"""How a network is timed in each scenario, and what a steady load's blocks are worth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from device_agents.client import AgentClient, Block, Load
from hwprune.measurement.readiness import busy_cores, quiet_cores
from hwprune.measurement.session import Progress, Settings, Subject
from hwprune.measurement.trust import KEPT_BLOCKS_MIN, LIMITS, Grade
from hwprune.records import bootstrap_interval_ms
from hwprune.scenario import Scenario

#: Values of a block where calls do not follow each other at once: the gaps would make a block of 10 ms very long.
SPACED_CALLS = 12

#: A process at a pace is granted so much beyond the gaps.
SPACED_REQUEST_S = 10.0

#: Untimed calls before each block of a steady load: at most so many blocks, at most one a second.
STEADY_BLOCKS, STEADY_BUSY_MS_MIN = 600, 1000.0

#: From this share of a steady load on, the device is as warm as it gets: earlier blocks are told in the timeline only.
WARM_FROM = 0.5


def settings_of(scenario: Scenario, burst: Settings) -> Settings:
    """How to time networks under a scenario.

    Args:
        scenario: the load.
        burst: how they are timed without one.
    """
    if scenario.is_burst:
        return burst
    load = Load(scenario.rate_hz, 0.0, scenario.cold)
    if scenario.seconds is not None:
        busy_ms = max(STEADY_BUSY_MS_MIN, 1e3 * scenario.seconds / STEADY_BLOCKS)
        blocks = math.ceil(1e3 * scenario.seconds / busy_ms)
        timeout_s = max(burst.timeout_s, 3e-3 * busy_ms)
        load = replace(load, busy_ms=busy_ms)
        return replace(burst, blocks=blocks, request_s=scenario.seconds, timeout_s=timeout_s, load=load)
    spaced = replace(burst, calls_min=SPACED_CALLS, block_ms_min=0.0, load=load)
    if scenario.rate_hz is None:
        return spaced
    block_s = (SPACED_CALLS + 1) / scenario.rate_hz
    request_s = SPACED_REQUEST_S + spaced.blocks * block_s
    return replace(spaced, request_s=request_s, timeout_s=max(burst.timeout_s, 2 * block_s))


def measure_steadily(
    client: AgentClient, subject: Subject, settings: Settings, *, threads: int, progress: Progress | None = None
) -> None:
    """Time one network under a load that lasts, as it comes: nothing is waited for and nothing repeated.

    Args:
        client: the device.
        subject: what to time; its attributes are filled in.
        settings: of :func:`settings_of`.
        threads: cores that it keeps busy itself.
        progress: told the blocks as they are done.
    """
    (result,) = client.measure(
        subject.requests,
        blocks=settings.blocks,
        calls_min=settings.calls_min,
        block_ms_min=settings.block_ms_min,
        max_s=settings.request_s,
        timeout_s=settings.timeout_s,
        load=settings.load,
        on_progress=progress,
    )
    subject.error = result.error
    subject.overhead_ms = result.overhead_ms
    subject.blocks = [list(result.blocks)]
    if result.error is None:
        kept, subject.quiet = kept_blocks(result.blocks, settings.request_s, threads)
        subject.timeline = tuple(_moment(block, block in kept) for block in result.blocks)
        subject.grade = grade_steady(kept, len(subject.quiet))
        subject.level_ms = float(np.median([moment["reference_ms"] for moment in subject.timeline]))


def kept_blocks(blocks: Sequence[Block], seconds: float, threads: int) -> tuple[list[Block], list[Block]]:
    """Which blocks count: those of the warm device, before which other programs rested.

    Args:
        blocks: in the order of their time, each with the device's state before it.
        seconds: length of the load.
        threads: cores that it keeps busy itself.

    Returns:
        Those that count, all of the warm device where too few were undisturbed; and the undisturbed ones alone.
    """
    states = [block.state or {} for block in blocks]
    rested = [True, *(_was_quiet(one, other, threads) for one, other in itertools.pairwise(states))]
    warm = [
        (block, is_quiet)
        for block, state, is_quiet in zip(blocks, states, rested, strict=True)
        if state.get("elapsed_s", 0.0) >= WARM_FROM * seconds
    ]
    quiet = [block for block, is_quiet in warm if is_quiet]
    return quiet if len(quiet) >= KEPT_BLOCKS_MIN else [block for block, _ in warm], quiet


def grade_steady(blocks: Sequence[Block], quiet: int) -> Grade:
    """Grade of a steady load by its interval alone: that the clock moves is what it is to show.

    Args:
        blocks: those that count.
        quiet: how many of them other programs left undisturbed.
    """
    values_ms = (tuple(block.values_ms for block in blocks),)
    readings = np.array([[block.reference_before_ms, block.reference_after_ms] for block in blocks]).reshape(-1, 2)
    if quiet < KEPT_BLOCKS_MIN:
        reason = f"other programs rested during {quiet} of the {len(blocks)} blocks of the warm device"
        return Grade(values_ms, 0.0, "C", reason)
    drift = float(np.max(np.abs(readings / np.median(readings) - 1)))
    low_ms, high_ms = bootstrap_interval_ms(values_ms)
    estimate_ms = np.percentile([value for block in blocks for value in block.values_ms], 10)
    half_width, reason = float((high_ms - low_ms) / 2 / estimate_ms), ""
    for trust, limit in LIMITS.items():
        if half_width <= limit:
            return Grade(values_ms, drift, trust, reason)
        reason = f"interval of +-{half_width:.1%}, {trust} allows {limit:.0%}"
    return Grade(values_ms, drift, "C", reason)


def _was_quiet(before: dict[str, Any], after: dict[str, Any], threads: int) -> bool:
    elapsed_s = after.get("elapsed_s", 0.0) - before.get("elapsed_s", 0.0)
    if elapsed_s <= 0:
        return True
    return busy_cores(before, after, elapsed_s) - threads <= quiet_cores(before, after, elapsed_s)


def _moment(block: Block, is_kept: bool) -> dict[str, Any]:
    """A block as a point of the timeline: latencies, the reference kernel, and the device's state before it."""
    low_ms, middle_ms = np.percentile(block.values_ms, [10, 50])
    state = {name: value for name, value in (block.state or {}).items() if name != "cpu_times_s"}
    return {
        **state,
        "latency_ms": float(low_ms),
        "latency_ms_p50": float(middle_ms),
        "reference_ms": (block.reference_before_ms + block.reference_after_ms) / 2,
        "counts": is_kept,
    }
