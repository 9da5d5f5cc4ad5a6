"""Which of two libraries is faster: timed block by block in turns, judged by the ratios of neighbouring blocks.

What disturbs a device lasts longer than two short blocks, so it meets both of a pair and leaves their ratio. What does
not pass is where a process finds its memory: two loads of one library have been seen 2 % apart for as long as they ran.
So each library runs in several processes, and these are what the interval counts. Pairs during which the reference
kernel left its level are left out where there are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from device_agents.client import AgentClient, Block, TimingRequest
from hwprune.errors import UntrustedError
from hwprune.measurement.trust import LIMITS, movement, reference_level_ms

_Pairs = list[tuple[Block, Block]]
Verdict = Literal["same", "slower", "faster"]

#: A difference below this share is none.
MARGIN = 0.01
#: Probability that the interval holds the ratio.
LEVEL = 0.99
#: Processes of each library, and fewest.
PROCESSES, PROCESSES_MIN = 5, 3
#: Blocks of each library, and their least length.
PAIRS, BLOCK_MS = 60, 2.0
#: Blocks are added until the interval's half-width is at most this share, and how often there are some.
NARROW, GOES = 0.03, 4
#: How long blocks are held back until the device is at its level, as a multiple of the time that they take.
PATIENCE = 1.0
#: Belief about how far two processes of one library are apart, and the pairs of processes that it counts for.
_PROCESS_STD, _PRIOR_PAIRS = 0.005, 2.0
#: Value of a block that stands for it, as a share of its values from the fastest: what is undisturbed.
_QUANTILE = 0.1
_PAIRS_MIN = 12
#: Fewest pairs of blocks that two processes are compared by.
_PAIRS_OF_PROCESSES_MIN = 2


@dataclass(frozen=True)
class Comparison:
    """What the second of two takes, as a multiple of the first.

    Attributes:
        ratio: geometric mean over the pairs of processes, of each the median over its pairs of blocks.
        low: lower end of its interval.
        high: upper end.
        verdict: of the second: ``same`` where the interval comes nearer to 1 than the margin.
        pairs: blocks of each that were compared.
    """

    ratio: float
    low: float
    high: float
    verdict: Verdict
    pairs: int


def compare(
    client: AgentClient,
    first: Sequence[TimingRequest],
    second: Sequence[TimingRequest],
    *,
    pairs: int = PAIRS,
    reference_ms: float | None = None,
) -> Comparison:
    """Time both in turns.

    Args:
        client: the device.
        first: one request a process of the first library, :data:`PROCESSES_MIN` or more.
        second: as many of the second one.
        pairs: blocks of each library in one go, over all its processes.
        reference_ms: what the reference kernel takes on the device: blocks wait for moments in which it does. None to
            time them as it comes.

    Raises:
        UntrustedError: one of them failed, there are too few processes, or too few blocks came back.
        AgentError: the device does not answer.
    """
    requests = [request for both in zip(first, second, strict=True) for request in both]
    found: list[list[Block]] = [[] for _ in requests]
    for _ in range(GOES):
        results = client.measure(
            requests,
            blocks=-(-pairs // max(1, len(first))),
            level_ms=reference_ms,
            patience=0.0 if reference_ms is None else PATIENCE,
            calls_min=3,
            block_ms_min=BLOCK_MS,
        )
        for blocks, result in zip(found, results, strict=True):
            if result.error is not None:
                raise UntrustedError(f"two libraries cannot be compared: {result.error}")
            blocks += result.blocks
        comparison = judge(found[::2], found[1::2])
        if comparison.high - comparison.low <= 2 * NARROW:
            break
    return comparison


def judge(first: Sequence[Sequence[Block]], second: Sequence[Sequence[Block]]) -> Comparison:
    """Decide by the blocks of processes that were timed in turns.

    Args:
        first: blocks of each process of the first library.
        second: of as many processes of the second one.

    Raises:
        UntrustedError: there are too few processes or blocks.
    """
    if min(len(first), len(second)) < PROCESSES_MIN:
        raise UntrustedError(f"libraries are compared in {PROCESSES_MIN} processes each or more: load them more often")
    pairs = [list(zip(ours, theirs, strict=False)) for ours, theirs in zip(first, second, strict=True)]
    level_ms = reference_level_ms([block for blocks in (*first, *second) for block in blocks])
    undisturbed = [[pair for pair in each if all(_is_at(block, level_ms) for block in pair)] for each in pairs]
    # Where the reference never stands still, all of them: how far they scatter is in the interval.
    compared, count = next(filter(_suffice, map(_countable, (undisturbed, pairs))), ([], 0))
    if not compared:
        total = sum(map(len, pairs))
        raise UntrustedError(f"only {total} pairs of blocks came back, {_PAIRS_MIN} are needed: compare again")
    logs = np.log([np.median([_typical(theirs) / _typical(ours) for ours, theirs in each]) for each in compared])
    freedom = _PRIOR_PAIRS + len(logs) - 1
    variance = (_PRIOR_PAIRS * 2 * _PROCESS_STD**2 + np.sum((logs - logs.mean()) ** 2)) / freedom
    half_width = stats.t.ppf(0.5 + LEVEL / 2, freedom) * np.sqrt(variance / len(logs))
    low, high = float(np.exp(logs.mean() - half_width)), float(np.exp(logs.mean() + half_width))
    verdict: Verdict = "slower" if low > 1 + MARGIN else "faster" if high < 1 / (1 + MARGIN) else "same"
    return Comparison(float(np.exp(logs.mean())), low, high, verdict, count)


def _countable(pairs: Sequence[_Pairs]) -> tuple[list[_Pairs], int]:
    """Those of processes that have enough of them, and how many these are."""
    found = [each for each in pairs if len(each) >= _PAIRS_OF_PROCESSES_MIN]
    return found, sum(map(len, found))


def _suffice(found: tuple[list[_Pairs], int]) -> bool:
    return len(found[0]) >= PROCESSES_MIN and found[1] >= _PAIRS_MIN


def _is_at(block: Block, level_ms: float) -> bool:
    return movement(block, level_ms) <= LIMITS["B"]


def _typical(block: Block) -> float:
    return float(np.quantile(block.values_ms, _QUANTILE))
