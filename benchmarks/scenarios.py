"""Load scenarios: what hwprune tells of a network, and what a plain loop gives by doing the same by hand.

    python benchmarks/scenarios.py [--quick]

Both run on the same core, in turns, by hand before and after; judged is the median ratio over all rounds (at most 3 %
from 1). A burst of the same network stands above, to show what the load does to it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from conditions import print_conditions, print_result

from hwprune.cli.console import Console
from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem
from hwprune.experiments.candidates import linked_job
from hwprune.experiments.devices import LOCAL, find
from hwprune.experiments.home import Home
from hwprune.experiments.session import DeviceSession, open_session
from hwprune.experiments.workbench import Workbench
from hwprune.measurement.jobs import NetworkJob
from hwprune.scenario import Scenario

BY_HAND = Path(__file__).parent / "comparison/by_hand.py"
PROBLEM = {
    "network": {"name": "resnet_cifar", "depth": 20},
    "data": {"name": "digits", "size": 32, "channels": 3},
    "evaluation": {"threads": 1},
}
#: Scenario -> rounds, and what a loop by hand is told to do.
FULL = {"paced:30Hz": (5, ("paced", "30", "11")), "sustained:2m": (2, ("sustained", "120"))}
QUICK = {"paced:30Hz": (2, ("paced", "30", "5")), "sustained:10s": (1, ("sustained", "10"))}


def main() -> None:
    """Measure, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and a steady load of 10 s instead of 2 min")
    scenarios = QUICK if parser.parse_args().quick else FULL
    print_conditions()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        with open_session(home, find(home, LOCAL), Console(quiet=True)) as session:
            target = CpuTarget.from_dict(session.device.target)
            bench = Workbench.open(Problem.model_validate(PROBLEM), target, with_weights=False)
            job = linked_job(session.compiler, bench, bench.dense)
            burst_ms = session.measurer.network(job, remeasure=True).latency_ms
            print(f"burst {burst_ms:.4f} ms")
            print(f"{'scenario':<16}{'hwprune ms':>12}{'by hand ms':>12}{'ratio':>8}{'to burst':>10}  trust")
            rows = [compare(session, job, name, *how, burst_ms) for name, how in scenarios.items()]
    worst = max(abs(row["ratio"] - 1) for row in rows)
    print(f"largest difference {worst:.1%} (at most 3 % is asked for)")
    print_result({"benchmark": "scenarios", "worst_difference": worst, "burst_ms": burst_ms, "scenarios": rows})


def compare(
    session: DeviceSession, job: NetworkJob, name: str, rounds: int, words: tuple[str, ...], burst_ms: float
) -> dict[str, object]:
    """One scenario by both, in turns."""
    told, by_hand_ms = [], [by_hand(session, job, words)]
    ratios = []
    for _ in range(rounds):
        told.append(session.measurer.networks([job], remeasure=True, scenario=Scenario.parse(name))[0])
        by_hand_ms.append(by_hand(session, job, words))
        ratios.append(told[-1].latency_ms / statistics.mean(by_hand_ms[-2:]))
    row = {
        "scenario": name,
        "hwprune_ms": statistics.median(row.latency_ms for row in told),
        "by_hand_ms": statistics.median(by_hand_ms),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "trust": "".join(row.trust for row in told),
    }
    print(
        f"{name:<16}{row['hwprune_ms']:>12.4f}{row['by_hand_ms']:>12.4f}{row['ratio']:>8.3f}"
        f"{row['hwprune_ms'] / burst_ms:>10.3f}  {row['trust']}",
        flush=True,
    )
    return row


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
