"""Several calls timed in turns, so that a disturbance or a change of the clock meets all of them alike."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

Call = Callable[[], Any]

#: Shortest round of one call: a thousand times what reading the clock takes.
ROUND_S = 0.002

#: Fewest rounds of each call.
ROUNDS = 7

#: A call that takes longer brings its own data into the caches; shorter ones are called once before each round.
LONG_S = 0.01


def in_turns(calls: Sequence[Call], spend_s: float, rest_s: float = 0.0) -> list[float]:
    """Seconds a call takes: the fastest of its :func:`rounds`."""
    return [min(seconds) for seconds in zip(*rounds(calls, spend_s, rest_s), strict=True)]


def rounds(calls: Sequence[Call], spend_s: float, rest_s: float = 0.0) -> list[list[float]]:
    """Seconds that each call takes in each round, the mean of as many calls as fill ``ROUND_S``.

    Args:
        calls: what is timed, one after the other in every round.
        spend_s: rounds go on for so long, but there are at least ``ROUNDS``.
        rest_s: pause before each call's part, in which threads of the call before come to rest.
    """
    counts = [max(1, math.ceil(ROUND_S / _warm(call))) for call in calls]
    found: list[list[float]] = []
    started = time.perf_counter()
    while len(found) < ROUNDS or time.perf_counter() - started < spend_s:
        found.append([])
        for index, (call, count) in enumerate(zip(calls, counts, strict=True)):
            if rest_s:
                time.sleep(rest_s)
            if len(found) == 1 or found[-2][index] < LONG_S:
                call()
            found[-1].append(_mean(call, count))
    return found


def _warm(call: Call) -> float:
    """Seconds of the second call."""
    call()
    return _mean(call, 1)


def _mean(call: Call, count: int) -> float:
    """Seconds of one of ``count`` calls."""
    start = time.perf_counter()
    for _ in itertools.repeat(None, count):
        call()
    return (time.perf_counter() - start) / count


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive values."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))
