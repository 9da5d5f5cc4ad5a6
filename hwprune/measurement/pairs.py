"""Which of two libraries is faster: timed block by block in turns, judged by the ratios of neighbouring blocks.

What disturbs a device lasts longer than two short blocks, so it meets both of a pair and leaves their ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from device_agents.client import AgentClient, Block, TimingRequest
from hwprune.errors import UntrustedError

Verdict = Literal["same", "slower", "faster"]

#: Two loads of one library differ by this share: their pages fall on other cache lines.
MARGIN = 0.01
#: Probability that the interval holds the ratio.
LEVEL = 0.999
#: Blocks of each, and their least length.
PAIRS, BLOCK_MS = 60, 2.0
#: Value of a block that stands for it, as a share of its values from the fastest: what is undisturbed.
_QUANTILE = 0.1
_PAIRS_MIN = 12


@dataclass(frozen=True)
class Comparison:
    """What the second of two takes, as a multiple of the first.

    Attributes:
        ratio: median over the pairs of blocks.
        low: lower end of its interval.
        high: upper end.
        verdict: of the second: ``same`` where the interval comes nearer to 1 than the margin.
        pairs: blocks of each.
    """

    ratio: float
    low: float
    high: float
    verdict: Verdict
    pairs: int


def compare(client: AgentClient, first: TimingRequest, second: TimingRequest, *, pairs: int = PAIRS) -> Comparison:
    """Time both in turns.

    Raises:
        UntrustedError: one of them failed, or too few blocks came back.
        AgentError: the device does not answer.
    """
    results = client.measure([first, second], blocks=pairs, calls_min=3, block_ms_min=BLOCK_MS)
    for result in results:
        if result.error is not None:
            raise UntrustedError(f"two libraries cannot be compared: {result.error}")
    return judge(results[0].blocks, results[1].blocks)


def judge(first: Sequence[Block], second: Sequence[Block]) -> Comparison:
    """Decide by blocks that were timed in turns.

    Raises:
        UntrustedError: they are too few.
    """
    count = min(len(first), len(second))
    if count < _PAIRS_MIN:
        raise UntrustedError(f"only {count} pairs of blocks came back, {_PAIRS_MIN} are needed: compare again")
    ratios = np.sort([_typical(b) / _typical(a) for a, b in zip(first[:count], second[:count], strict=True)])
    # Order statistics hold the median whatever the distribution is, and disturbed pairs are far from normal.
    rank = int(stats.binom.ppf((1 - LEVEL) / 2, count, 0.5))
    low, high = float(ratios[max(0, rank - 1)]), float(ratios[min(count - 1, count - rank)])
    verdict: Verdict = "slower" if low > 1 + MARGIN else "faster" if high < 1 / (1 + MARGIN) else "same"
    return Comparison(float(np.median(ratios)), low, high, verdict, count)


def _typical(block: Block) -> float:
    return float(np.quantile(block.values_ms, _QUANTILE))
