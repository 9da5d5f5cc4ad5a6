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
    """Seconds a call takes: the fastest of its rounds, each the mean of as many calls as fill ``ROUND_S``.

    Args:
        calls: what is timed, one round of each in turn.
        spend_s: rounds go on for so long, but there are at least ``ROUNDS``.
        rest_s: pause before each round, in which threads of the call before come to rest.
    """
    counts = [max(1, math.ceil(ROUND_S / _warm(call))) for call in calls]
    best = [math.inf] * len(calls)
    started, rounds = time.perf_counter(), 0
    while rounds < ROUNDS or time.perf_counter() - started < spend_s:
        for index, (call, count) in enumerate(zip(calls, counts, strict=True)):
            if rest_s:
                time.sleep(rest_s)
            if best[index] < LONG_S:
                call()
            best[index] = min(best[index], _mean(call, count))
        rounds += 1
    return best


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
