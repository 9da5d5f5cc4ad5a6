"""ResNet-20 candidates a minute, from plan to trusted number: cut, compiled, sent, loaded, measured whole.

    python benchmarks/candidates.py [--quick]

What ``hwprune search --set latency_source=device`` does for every candidate; at least 60 a minute are asked for.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from conditions import print_conditions, print_result

from hwprune.cli.console import Console
from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem
from hwprune.experiments.devices import LOCAL, find
from hwprune.experiments.home import Home
from hwprune.experiments.session import open_session
from hwprune.experiments.workbench import Workbench
from hwprune.search.space import SearchSpace

CANDIDATES, CANDIDATES_QUICK = 120, 30

PROBLEM = {
    "network": {"name": "resnet_cifar", "depth": 20},
    "data": {"name": "digits", "size": 32, "channels": 3},
    "evaluation": {"threads": 1},
}


def main() -> None:
    """Measure random candidates, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{CANDIDATES_QUICK} candidates, not {CANDIDATES}")
    count = CANDIDATES_QUICK if parser.parse_args().quick else CANDIDATES
    print_conditions()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        device = find(home, LOCAL)
        bench = Workbench.open(Problem.model_validate(PROBLEM), CpuTarget.from_dict(device.target), with_weights=False)
        space = SearchSpace.of(bench.groups.sizes.tolist(), round_to=1, pruning_ratio_max=0.9)
        genomes = np.random.default_rng(0).random((count, space.n_var)) * space.upper
        plans = [bench.plan(widths) for widths in space.decode(genomes)]
        with open_session(home, device, Console()) as session:
            seconds, trust = [], []
            for plan in plans:
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
