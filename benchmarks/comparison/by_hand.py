"""A network's library timed under a load by a plain loop, with nothing of hwprune: the other side of ``scenarios.py``.

    python benchmarks/comparison/by_hand.py LIBRARY.so INPUT_BYTES OUTPUT_BYTES CORE paced HZ SECONDS
    python benchmarks/comparison/by_hand.py LIBRARY.so INPUT_BYTES OUTPUT_BYTES CORE sustained SECONDS

Prints the 10th percentile of the calls in ms: of those after the first second at a pace, of the second half under a
steady load.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time


def main() -> None:
    """Load, pin, call, print."""
    path, input_bytes, output_bytes, core, kind, *numbers = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    run = ctypes.CDLL(path).network_run
    values = (ctypes.c_float * (int(input_bytes) // 4))(*([0.5, -0.25, 0.125] * (int(input_bytes) // 12)))
    x, y = ctypes.byref(values), ctypes.create_string_buffer(int(output_bytes))
    if kind == "paced":
        rate_hz, seconds = map(float, numbers)
        print(percentile(paced(lambda: run(x, y), rate_hz, seconds)))
    else:
        print(percentile(sustained(lambda: run(x, y), float(numbers[0]))))


def paced(call, rate_hz: float, seconds: float) -> list[float]:
    """Times of calls that begin at ticks of a clock, in ms; the first second is left out."""
    times_ms, start = [], time.perf_counter()
    for tick in range(int(seconds * rate_hz)):
        time.sleep(max(0.0, start + tick / rate_hz - time.perf_counter()))
        began = time.perf_counter_ns()
        call()
        ended = time.perf_counter_ns()
        if tick >= rate_hz:
            times_ms.append((ended - began) / 1e6)
    return times_ms


def sustained(call, seconds: float) -> list[float]:
    """Times of calls that follow each other at once, in ms; those of the second half."""
    times_ms, start = [], time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        began = time.perf_counter_ns()
        call()
        ended = time.perf_counter_ns()
        if now > start + seconds / 2:
            times_ms.append((ended - began) / 1e6)
    return times_ms


def percentile(times_ms: list[float]) -> float:
    """The 10th percentile."""
    return sorted(times_ms)[len(times_ms) // 10]


if __name__ == "__main__":
    main()
