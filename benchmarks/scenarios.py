"""Load scenarios: what hwprune tells of a network, and what a plain loop gives by doing the same by hand.

    python benchmarks/scenarios.py [--quick | --resume]

Both run on the same core, in turns, by hand before and after; judged is the median ratio over all rounds (at most 3 %
from 1). Calls with pauses between them differ by several percent from one process to the next, by either way, so there
are many rounds at a pace. A burst of the same network stands above, to show what the load does to it.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from conditions import print_conditions
from measuring.dense import open_local, told_console
from measuring.kept import Kept

from hwprune.experiments.candidates import linked_job
from hwprune.experiments.session import DeviceSession
from hwprune.measurement.jobs import NetworkJob
from hwprune.scenario import Scenario

BY_HAND = Path(__file__).parent / "comparison/by_hand.py"
#: Scenario -> rounds, and what a loop by hand is told to do.
FULL = {"paced:30Hz": (14, ("paced", "30", "9")), "sustained:2m": (1, ("sustained", "120"))}
QUICK = {"paced:30Hz": (3, ("paced", "30", "5")), "sustained:10s": (1, ("sustained", "10"))}


def main() -> None:
    """Measure, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and a steady load of 10 s instead of 2 min")
    parser.add_argument("--resume", action="store_true", help="go on with benchmarks/results/scenarios.json")
    options = parser.parse_args()
    print_conditions()
    kept = Kept("scenarios", is_resumed=options.resume, is_quick=options.quick)
    rows = []
    with open_local() as (session, bench):
        job = linked_job(session.compiler, bench, bench.dense)
        burst_ms = session.measurer.network(job, remeasure=True).latency_ms
        print(f"burst {burst_ms:.4f} ms")
        print(f"{'scenario':<16}{'hwprune ms':>12}{'by hand ms':>12}{'ratio':>8}{'to burst':>10}  trust", flush=True)
        for name, (rounds, words) in (QUICK if options.quick else FULL).items():
            row = kept.part(name, functools.partial(compare, session, job, name, rounds, words))
            print(
                f"{name:<16}{row['hwprune_ms']:>12.4f}{row['by_hand_ms']:>12.4f}{row['ratio']:>8.3f}"
                f"{row['hwprune_ms'] / burst_ms:>10.3f}  {row['trust']}",
                flush=True,
            )
            rows.append(row)
    worst = max(abs(row["ratio"] - 1) for row in rows)
    print(f"largest difference {worst:.1%} (at most 3 % is asked for)")
    kept.finish({"worst_difference": worst, "burst_ms": burst_ms, "scenarios": rows})


def compare(session: DeviceSession, job: NetworkJob, name: str, rounds: int, words: tuple[str, ...]) -> dict[str, Any]:
    """One scenario by both, in turns."""
    with told_console().progress(2 * rounds + 1, name) as steps:

        def by_loop() -> float:
            found_ms = by_hand(session, job, words)
            steps.advance()
            return found_ms

        told, by_hand_ms, ratios = [], [by_loop()], []
        for _ in range(rounds):
            told.append(session.measurer.network(job, remeasure=True, scenario=Scenario.parse(name)))
            steps.advance()
            by_hand_ms.append(by_loop())
            ratios.append(told[-1].latency_ms / statistics.mean(by_hand_ms[-2:]))
    return {
        "scenario": name,
        "hwprune_ms": statistics.median(row.latency_ms for row in told),
        "by_hand_ms": statistics.median(by_hand_ms),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "trust": "".join(row.trust for row in told),
    }


def by_hand(session: DeviceSession, job: NetworkJob, words: tuple[str, ...]) -> float:
    """10th percentile in ms, by a loop in a process of its own."""
    described = job.artifact.description
    core = session.device.cores[0]
    sizes = (described["input_bytes"], described["output_bytes"])
    command = [sys.executable, BY_HAND, job.artifact.path, *sizes, core, *words]
    ended = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    return float(ended.stdout)


if __name__ == "__main__":
    main()
