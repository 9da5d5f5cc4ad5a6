"""How far a measured number can be believed: which blocks are kept, and the grade that they earn.

Every block stands between two readings of the reference kernel, a small convolution that is part of every library. The
readings show what the device did meanwhile: its clock, throttling, another program on the same core.

1. *Level*: readings gather at one value, or at a few where the clock has steps. The lowest value at which many of a
   session's blocks stand is the session's level; it is common to everything that was measured in turns.
2. *Kept* are the blocks whose two readings are within 1 % of the level; where these are too few, within 3 %.
3. *Doubtful* are blocks that were timed while other programs were busy, unless the reference ran as fast as this device
   is known to run it: a core that two programs share slows a network by another factor than the reference. They are
   evidence, and count for nothing.
4. *Grade*: A and B ask for a narrow interval and a reference that stood still, by the table :data:`LIMITS`, at a clock
   not too far from the device's own (:data:`DOUBT_LIMITS`). Anything else is C, with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agents.client import Block
from hwprune.records import Trust, bootstrap_interval_ms, clock_doubt

#: Grade -> largest half-width of the 95 % interval, as a share of the estimate, and largest drift of the reference.
LIMITS: dict[Trust, float] = {"A": 0.01, "B": 0.03}

#: Grade -> most that a clock other than the device's own may leave in doubt, as a share of the estimate; the interval
#: says how much it is. B: a clock up to 1.2 times off, as virtual machines have it.
DOUBT_LIMITS: dict[Trust, float] = {"A": 0.01, "B": 0.06}

#: Fewest kept blocks of a measurement, and of each of its processes.
KEPT_BLOCKS_MIN = 5
KEPT_BLOCKS_OF_PROCESS_MIN = 2

#: More time than this in kernels without a schedule of ours caps the grade at B.
FALLBACK_SHARE_MAX = 0.05


@dataclass(frozen=True)
class Grade:
    """What blocks are worth.

    Attributes:
        values_ms: kept calls, by process, block and call; all of them where too few blocks could be kept.
        drift: largest distance of these blocks' readings of the reference from its level, as a share of it.
        trust: the grade.
        reason: why it is not better, "" for A.
        is_steady: nothing but the device's clock speaks against B.
    """

    values_ms: tuple[tuple[tuple[float, ...], ...], ...]
    drift: float
    trust: Trust
    reason: str
    is_steady: bool = False


def reference_level_ms(blocks: Sequence[Block], known_ms: float | None = None, support: float = 0.5) -> float:
    """Lowest reading of the reference kernel that many blocks share; NaN without blocks.

    A few fast blocks (a moment of a higher clock) do not make a level, and neither do the many scattered slow ones of
    a core that is shared. Where the device is known, blocks at its own level go before slower ones, however many.

    Args:
        blocks: blocks of all that was timed in turns.
        known_ms: the level that the device is known for, or None.
        support: how many blocks must share it, as a share of those that share the most frequent one; at least
            :data:`KEPT_BLOCKS_MIN`.
    """
    readings = _readings_ms(blocks)
    if not len(readings):
        return float("nan")
    level_ms = _shared_level_ms(readings, support)
    if known_ms is not None and level_ms > known_ms:
        own = readings[np.abs(readings / known_ms - 1).max(axis=1) <= LIMITS["B"]]
        if len(own) >= KEPT_BLOCKS_MIN:
            return _shared_level_ms(own, support)
    return level_ms


def _shared_level_ms(readings: npt.NDArray[np.float64], support: float) -> float:
    centres = np.sort(readings.mean(axis=1))
    low, high = readings.min(axis=1), readings.max(axis=1)
    for limit in LIMITS.values():
        near = (low >= centres[:, None] * (1 - limit)) & (high <= centres[:, None] * (1 + limit))
        counts = near.sum(axis=1)
        if counts.max() >= KEPT_BLOCKS_MIN:
            members = near[np.argmax(counts >= max(KEPT_BLOCKS_MIN, counts.max() * support))]
            return float(np.median(readings[members]))
    return float(np.percentile(readings, 10))


def is_doubtful(block: Block, is_quiet: bool, device_reference_ms: float | None) -> bool:
    """Whether a block may have been slowed by other programs.

    Args:
        block: the block.
        is_quiet: whether other programs rested while it was timed.
        device_reference_ms: the level that the device is known for; None if this is the first time.
    """
    if is_quiet or device_reference_ms is None:
        return False
    slowest_ms = max(block.reference_before_ms, block.reference_after_ms)
    return slowest_ms > device_reference_ms * (1 + LIMITS["B"])


def grade(
    processes: Sequence[Sequence[Block]],
    level_ms: float,
    *,
    device_reference_ms: float | None = None,
    doubtful: Sequence[Sequence[Block]] = (),
) -> Grade:
    """Keep the blocks that the reference vouches for, and grade what they say.

    Args:
        processes: blocks of each process.
        level_ms: the session's :func:`reference_level_ms`.
        device_reference_ms: the level that the device is known for; None if this is the first time.
        doubtful: blocks of each process that :func:`is_doubtful`.
    """
    for limit in LIMITS.values():
        kept = [[block for block in blocks if movement(block, level_ms) <= limit] for blocks in processes]
        if sum(map(len, kept)) >= KEPT_BLOCKS_MIN and min(map(len, kept)) >= KEPT_BLOCKS_OF_PROCESS_MIN:
            return _grade_of(kept, level_ms, device_reference_ms)
    evidence = [[*blocks, *more] for blocks, more in itertools.zip_longest(processes, doubtful, fillvalue=())]
    found, total, shared = sum(map(len, kept)), sum(map(len, evidence)), sum(map(len, doubtful))
    reason = f"the reference kernel held still in {found} of {total} blocks only"
    if shared:
        reason += f", and other programs were busy during {shared}"
    return Grade(_values(evidence), _drift(evidence, level_ms), "C", reason)


def fallback_complaint(ops: Sequence[str], share: float | None) -> str:
    """Why the grade is capped at B: much of the time is in kernels without a schedule of ours; "" if it is not.

    Args:
        ops: operators of these kernels.
        share: share of the time that they take, in [0, 1]; None if it is not known.
    """
    if share is not None and share <= FALLBACK_SHARE_MAX:
        return ""
    part = "an unknown share" if share is None else f"{share:.0%}"
    return f"{part} of the time is in kernels without a schedule of ours ({', '.join(ops)})"


def _grade_of(kept: Sequence[Sequence[Block]], level_ms: float, device_reference_ms: float | None) -> Grade:
    values_ms, drift = _values(kept), _drift(kept, level_ms)
    doubt = clock_doubt(device_reference_ms / level_ms) if device_reference_ms else 0.0
    low_ms, high_ms = bootstrap_interval_ms(values_ms)
    estimate_ms = np.percentile([call for process in values_ms for block in process for call in block], 10)
    half_width = float((high_ms - low_ms) / 2 / estimate_ms)
    is_steady = max(half_width, drift) <= LIMITS["B"]
    reason = ""
    for trust, limit in LIMITS.items():
        if max(half_width, drift) <= limit and doubt <= DOUBT_LIMITS[trust]:
            return Grade(values_ms, drift, trust, reason, is_steady)
        what, found = ("interval of +-", half_width) if half_width > limit else ("reference moved by ", drift)
        reason = f"{what}{found:.1%}, {trust} allows {limit:.0%}"
        if max(half_width, drift) <= limit:
            longer = level_ms / (device_reference_ms or level_ms)
            reason = (
                f"the reference kernel runs {longer:.2f} times as long as usual: other work, heat or another clock?"
            )
    return Grade(values_ms, drift, "C", reason, is_steady)


def _readings_ms(blocks: Sequence[Block]) -> npt.NDArray[np.float64]:
    """``(blocks, 2)`` array of the reference before and after each block."""
    return np.array([(block.reference_before_ms, block.reference_after_ms) for block in blocks]).reshape(-1, 2)


def movement(block: Block, level_ms: float) -> float:
    """Largest distance of a block's readings of the reference kernel from its level, as a share of it."""
    return max(abs(block.reference_before_ms - level_ms), abs(block.reference_after_ms - level_ms)) / level_ms


def _drift(processes: Sequence[Sequence[Block]], level_ms: float) -> float:
    return max((movement(block, level_ms) for blocks in processes for block in blocks), default=0.0)


def _values(processes: Sequence[Sequence[Block]]) -> tuple[tuple[tuple[float, ...], ...], ...]:
    return tuple(tuple(block.values_ms for block in blocks) for blocks in processes)
