"""ResNet-20 candidates a minute, from plan to trusted number: cut, compiled, sent, loaded, measured whole.

    python benchmarks/candidates.py [--quick]

What ``hwprune search --set latency_source=device`` does for every candidate; at least 60 a minute are asked for.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from conditions import print_conditions, print_result
from measuring.dense import open_local, random_plans

CANDIDATES, CANDIDATES_QUICK = 120, 30


def main() -> None:
    """Measure random candidates, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{CANDIDATES_QUICK} candidates, not {CANDIDATES}")
    count = CANDIDATES_QUICK if parser.parse_args().quick else CANDIDATES
    print_conditions()
    with open_local() as (session, bench):
        seconds, trust = [], []
        for plan in random_plans(bench, count):
            started = time.perf_counter()
            measurement = session.measure_candidate(bench, plan)
            seconds.append(time.perf_counter() - started)
            trust.append("failed" if measurement.error else measurement.trust)
    trusted = sum(grade in ("A", "B") for grade in trust)
    a_minute = 60 * trusted / sum(seconds)
    for grade in sorted(set(trust)):
        print(f"trust {grade:<8}{trust.count(grade):>5} of {count}")
    print(f"first candidate {seconds[0]:.2f} s (kernels are compiled), median {np.median(seconds):.2f} s")
    print(f"{a_minute:.0f} trusted candidates a minute, all {count} in {sum(seconds):.0f} s (60 are asked for)")
    print_result(
        {
            "benchmark": "candidates",
            "candidates": count,
            "trusted": trusted,
            "trusted_a_minute": a_minute,
            "first_s": seconds[0],
            "median_s": float(np.median(seconds)),
        }
    )


if __name__ == "__main__":
    main()
