"""How far a measured number can be relied on: its spread from run to run, and whether differences are real.

    python benchmarks/fidelity.py [--quick | --resume]

Dense ResNet-20 (32x32x3), one thread. *Spread*: the estimate that measurements are given as and TVM's
``time_evaluator`` (mean and minimum) on the same library, in turns and at equal time, first as the computer is, then
with a busy loop on every core; the level of the reference kernel is known from before, as it is of any device.
*Differences*: the library against itself, and against one with some narrower layers of which it takes 5 % more, by
pairs of blocks, each library in several processes (``hwprune.measurement.pairs``). All figures in percent. Both parts
are kept in ``benchmarks/results/fidelity.json``, from which ``--resume`` goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import tvm
from agreement import on_cores
from conditions import print_conditions
from measuring.dense import open_local, told_console
from measuring.kept import Kept

from device_agents.client import TimingRequest
from hwprune.errors import UntrustedError
from hwprune.experiments.progress import Steps
from hwprune.experiments.session import DeviceSession
from hwprune.experiments.workbench import Workbench
from hwprune.measurement.measure import NETWORK_SETTINGS
from hwprune.measurement.pairs import PROCESSES, Comparison, compare
from hwprune.measurement.session import Subject, measure
from hwprune.records import Artifact

REPEATS, REPEATS_QUICK = 30, 12
COMPARISONS, COMPARISONS_QUICK = 200, 100
#: Libraries loaded anew after so many comparisons: where pages fall is part of the question.
COMPARISONS_A_LOAD = 10
SLOWER, NEAR_ENOUGH = 1.05, 0.005


def main() -> None:
    """Measure, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{COMPARISONS_QUICK} comparisons, not {COMPARISONS}")
    parser.add_argument("--resume", action="store_true", help="go on with benchmarks/results/fidelity.json")
    options = parser.parse_args()
    repeats, count = (REPEATS_QUICK, COMPARISONS_QUICK) if options.quick else (REPEATS, COMPARISONS)
    print_conditions()
    kept, console = Kept("fidelity", is_resumed=options.resume, is_quick=options.quick), told_console()
    with open_local() as (session, bench):
        dense = session.compiler.network(bench.graph, bench.dense)
        reference_ms = kept.part("reference_ms", lambda: level_ms(session, dense))

        def quiet() -> dict[str, float]:
            with console.progress(repeats, "repeating, the computer as it is") as steps:
                return spreads(session, bench, dense, reference_ms, repeats, steps)

        def loaded() -> dict[str, float]:
            with busy_cores(), console.progress(repeats, "repeating, every core busy") as steps:
                return spreads(session, bench, dense, reference_ms, repeats, steps)

        def differences() -> dict[str, float]:
            narrower, ratio = slower_by(session, bench, dense, reference_ms)
            with console.progress(2 * count, "comparing") as steps:
                alarms = share_found(session, (dense, dense), count, reference_ms, steps)
                return {
                    "false_alarms": alarms,
                    "recall": share_found(session, (narrower, dense), count, reference_ms, steps),
                    "slower_ratio": ratio,
                }

        spread = {"quiet": kept.part("quiet", quiet), "loaded": kept.part("loaded", loaded)}
        found = kept.part("differences", differences)
    for conditions, values in spread.items():
        print(f"{conditions:<8}" + ", ".join(f"{name} {value:.2f} %" for name, value in values.items()))
    print(
        f"the same against itself: {found['false_alarms']:.1f} % false alarms; one that takes "
        f"{found['slower_ratio']:.3f} times as long: {found['recall']:.1f} % found"
    )
    kept.finish(
        {
            "cv_quiet": spread["quiet"]["agent"],
            "cv_loaded": spread["loaded"]["agent"],
            "time_evaluator_cv_loaded": spread["loaded"]["time_evaluator mean"],
            "time_evaluator_min_cv_loaded": spread["loaded"]["time_evaluator minimum"],
            "time_evaluator_cv_quiet": spread["quiet"]["time_evaluator mean"],
            **found,
            "repeats": repeats,
            "comparisons": count,
        }
    )


def spreads(
    session: DeviceSession, bench: Workbench, library: Artifact, reference_ms: float, repeats: int, steps: Steps
) -> dict[str, float]:
    """Coefficient of variation of each estimate over the repeats, in percent."""
    estimates: dict[str, list[float]] = {"agent": [], "time_evaluator mean": [], "time_evaluator minimum": []}
    handle = load(session, library)
    device = tvm.cpu()
    x = bench.example_input.numpy()
    arguments = tvm.runtime.tensor(x, device), tvm.runtime.tensor(np.zeros((1, 10), np.float32), device)
    module = tvm.runtime.load_module(str(library.path))
    for _ in range(repeats):
        started = time.perf_counter()
        timed = measured(session, handle, reference_ms)
        latency_ms = estimate_ms(timed) * reference_ms / timed.level_ms
        spent_s = time.perf_counter() - started
        estimates["agent"].append(latency_ms)
        calls = max(10, round(spent_s / (latency_ms / 1e3)))
        with on_cores(session.device.cores):
            found = module.time_evaluator("main", device, number=max(1, calls // 10), repeat=10)(*arguments)
        estimates["time_evaluator mean"].append(found.mean)
        estimates["time_evaluator minimum"].append(min(found.results))
        steps.advance()
    session.measurer.client.unload(handle)
    return {name: 100 * float(np.std(values) / np.mean(values)) for name, values in estimates.items()}


def level_ms(session: DeviceSession, library: Artifact) -> float:
    """What the reference kernel takes while nothing slows the device, as far as there are such moments now."""
    handle = load(session, library)
    found = min(measured(session, handle, None).level_ms for _ in range(3))
    session.measurer.client.unload(handle)
    return found


def measured(session: DeviceSession, handle: int, reference_ms: float | None) -> Subject:
    """A loaded network, timed as every network is but without a pause until the computer is idle.

    Raises:
        UntrustedError: it could not be timed.
    """
    device, subject = session.device, Subject([TimingRequest(handle)])
    measure(
        session.measurer.client,
        [subject],
        NETWORK_SETTINGS,
        threads=1,
        spare_cores=device.spare_cores,
        device_reference_ms=reference_ms,
        before_repeat=lambda: None,
    )
    if subject.grade is None or subject.error is not None:
        raise UntrustedError(f"a network cannot be timed: {subject.error}")
    return subject


def estimate_ms(subject: Subject) -> float:
    """Latency as a measurement gives it: the 10th percentile of the kept calls."""
    assert subject.grade is not None
    calls = [call for process in subject.grade.values_ms for block in process for call in block]
    return float(np.percentile(calls, 10))


def slower_by(session: DeviceSession, bench: Workbench, dense: Artifact, reference_ms: float) -> tuple[Artifact, float]:
    """A library of which the dense network takes 5 % more, and how much it is."""
    sizes = np.array(bench.groups.sizes)
    widest = np.flatnonzero(sizes == sizes.max())
    best: tuple[float, Artifact, float] | None = None
    with contextlib.closing(Loads(session, dense)) as whole:
        for groups, less in itertools.product(range(1, len(widest) + 1), (4, 8, 12, 16)):
            widths = sizes.copy()
            widths[widest[:groups]] -= less
            library = session.compiler.network(bench.graph, bench.candidate(widths))
            with contextlib.closing(Loads(session, library)) as other:
                ratio = whole.compared_with(other, reference_ms).ratio
            if best is None or abs(ratio - SLOWER) < best[0]:
                best = abs(ratio - SLOWER), library, ratio
            if best[0] < NEAR_ENOUGH:
                break
    assert best is not None
    return best[1], best[2]


def share_found(
    session: DeviceSession, pair: tuple[Artifact, Artifact], count: int, reference_ms: float, steps: Steps
) -> float:
    """Share of comparisons that find the second slower (or any difference, where both are one), in percent."""
    found, (first, second) = 0, pair
    for start in range(0, count, COMPARISONS_A_LOAD):
        with contextlib.closing(Loads(session, first)) as one, contextlib.closing(Loads(session, second)) as other:
            for _ in range(min(COMPARISONS_A_LOAD, count - start)):
                try:
                    verdict = other.compared_with(one, reference_ms).verdict
                except UntrustedError:
                    verdict = "same"  # too disturbed to be told apart
                found += verdict != "same" if first is second else verdict == "slower"
                steps.advance()
    return 100 * found / count


class Loads:
    """A library in as many processes as are compared, until it is closed."""

    def __init__(self, session: DeviceSession, library: Artifact) -> None:
        self._client = session.measurer.client
        self.requests = [TimingRequest(load(session, library)) for _ in range(PROCESSES)]

    def compared_with(self, first: Loads, reference_ms: float) -> Comparison:
        """What it takes, as a multiple of another one."""
        return compare(self._client, first.requests, self.requests, reference_ms=reference_ms)

    def close(self) -> None:
        """End the processes."""
        for request in self.requests:
            self._client.unload(request.handle)


def load(session: DeviceSession, library: Artifact) -> int:
    """Handle of a library in a fresh process on the device's cores."""
    client = session.measurer.client
    client.put(library.path, library.sha256)
    return client.load(library.sha256, cores=session.device.cores).handle


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """A loop without end on every core."""
    loops = [
        subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}])\nwhile 1: pass"])
        for core in os.sched_getaffinity(0)
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    main()
