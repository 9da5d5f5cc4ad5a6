"""Dense networks: their latency through the agent, and by TVM's own ``time_evaluator`` on the same library.

    python benchmarks/agreement.py [--quick]

Both run on the same core, in turns; judged is the median ratio of a network over all rounds (at most 5 % from 1).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import tvm
from conditions import print_conditions, print_result
from measuring.dense import planned, told_console

from hwprune.experiments.candidates import self_test
from hwprune.experiments.devices import LOCAL, find
from hwprune.experiments.home import Home
from hwprune.experiments.session import DeviceSession, open_session
from hwprune.measurement.jobs import NetworkJob

#: Depth of a ResNet for CIFAR and pixels of its square input.
NETWORKS = ((20, 16), (20, 32), (56, 32))
ROUNDS, ROUNDS_QUICK = 7, 3
#: Calls of one round of TVM's evaluator; it gives each one's time.
CALLS = 200


def main() -> None:
    """Measure, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{ROUNDS_QUICK} rounds instead of {ROUNDS}")
    rounds = ROUNDS_QUICK if parser.parse_args().quick else ROUNDS
    print_conditions()
    print(f"{'network':<16}{'agent ms':>10}{'tvm ms':>10}{'ratio':>8}{'as timed':>10}  trust")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        device = find(home, LOCAL)
        with open_session(home, device, told_console()) as session:
            for depth, pixels in NETWORKS:
                row = compare(session, depth, pixels, rounds)
                print(
                    f"{row['network']:<16}{row['agent_ms']:>10.4f}{row['tvm_ms']:>10.4f}{row['ratio']:>8.3f}"
                    f"{row['ratio_as_timed']:>10.3f}  {row['trust']}",
                    flush=True,
                )
                rows.append(row)
    worst = max(abs(row["ratio"] - 1) for row in rows)
    print(f"largest difference {worst:.1%} (at most 5 % is asked for)")
    print_result({"benchmark": "agreement", "rounds": rounds, "worst_difference": worst, "networks": rows})


def compare(session: DeviceSession, depth: int, pixels: int, rounds: int) -> dict[str, object]:
    """One network by both, in turns.

    ``ratio`` is of the latency that hwprune tells, which is given at the clock of the device's first measurement;
    ``ratio_as_timed`` takes the agent's calls as they were timed.
    """
    bench = planned(session.device, {"name": "resnet_cifar", "depth": depth}, pixels)
    library = session.compiler.network(bench.graph, bench.dense)
    job = NetworkJob(library, self_test(bench.dense, bench.example_input))
    agent_ms, timed_ms, tvm_ms, trust = [], [], [], []
    for _ in range(rounds):
        measurement = session.measurer.network(job, remeasure=True)
        trust.append(measurement.trust)
        agent_ms.append(measurement.latency_ms)
        timed_ms.append(measurement.latency_ms / measurement.clock_ratio)
        with on_cores(session.device.cores):
            tvm_ms.append(evaluator_minimum_ms(library.path, bench.example_input.numpy(), bench.data.num_classes))

    def ratio(values_ms: list[float]) -> float:
        return statistics.median(ours / theirs for ours, theirs in zip(values_ms, tvm_ms, strict=True))

    return {
        "network": f"ResNet-{depth} {pixels}x{pixels}",
        "agent_ms": statistics.median(agent_ms),
        "tvm_ms": statistics.median(tvm_ms),
        "ratio": ratio(agent_ms),
        "ratio_as_timed": ratio(timed_ms),
        "trust": "".join(trust),
    }


def evaluator_minimum_ms(path: Path, x: np.ndarray, classes: int) -> float:
    """Fastest of many calls of a library, timed by TVM."""
    device = tvm.cpu()
    arguments = tvm.runtime.tensor(x, device), tvm.runtime.tensor(np.zeros((len(x), classes), np.float32), device)
    evaluate = tvm.runtime.load_module(str(path)).time_evaluator("main", device, number=1, repeat=CALLS)
    evaluate(*arguments)  # warms up
    return 1e3 * min(evaluate(*arguments).results)


@contextlib.contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """This thread on the cores that the agent measures on."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    main()
