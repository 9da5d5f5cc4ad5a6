"""A new device from ten measured networks and the devices that are known: leave one kind out.

    python benchmarks/transfer.py [--quick]

The devices are this computer under other targets: x86-64 levels 2, 3 and 4, each with one and with two threads; they
share one processor and its caches, but differ in their vectors, their kernels and their layouts. Each is profiled for
ResNet-20 (32x32x3), and random networks are measured on it (widths log-uniform from 10 to 100 %). Then each level is
left out, with all its thread counts: its devices get a model from 10 of their networks and the devices of the other
levels, judged on their remaining networks. Beside it: the same 10 networks and nothing else (a line in multiply-adds
and in parameters), and multiply-adds alone.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from conditions import print_conditions, print_result
from predictor import Layers, Linear, parameters, work

from hwprune.cli.console import Console
from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem
from hwprune.experiments.devices import LOCAL, find
from hwprune.experiments.home import Home
from hwprune.experiments.profile import example_widths, full_space
from hwprune.experiments.profiler import Effort, Profiler, is_trusted
from hwprune.experiments.session import open_session
from hwprune.experiments.workbench import Workbench
from latency_models.evaluation import MeasuredNetwork, scores, spearman
from latency_models.network_model import LatencyModel
from latency_models.transfer import transfer

LEVELS, LEVELS_QUICK = (2, 3, 4), (3, 4)
NETWORKS, NETWORKS_QUICK = 110, 40
#: Networks measured on the new device.
FEW = 10
NARROWEST = 0.1

PROBLEM = {
    "network": {"name": "resnet_cifar", "depth": 20},
    "data": {"name": "digits", "size": 32, "channels": 3},
    "evaluation": {"threads": 1},
}


def main() -> None:
    """Measure, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="levels 3 and 4, one thread, fewer networks")
    quick = parser.parse_args().quick
    print_conditions()
    cores = len(os.sched_getaffinity(0))
    threads = (1,) if quick or cores < 2 else (1, 2)
    devices = [(level, count) for level in (LEVELS_QUICK if quick else LEVELS) for count in threads]
    models: dict[tuple[int, int], LatencyModel] = {}
    measured: dict[tuple[int, int], list[MeasuredNetwork]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for level, count in devices:
            home = Home(Path(folder) / f"{level}-{count}")
            models[level, count], measured[level, count] = observe(
                home, level, count, NETWORKS_QUICK if quick else NETWORKS
            )
    print(f"{'device':<14}{'Spearman':>10}{'in 10 %':>9}{'MAPE %':>8}{'scratch':>9}{'flops':>8}  from")
    figures = {}
    for level, count in devices:
        known = {name(*device): model for device, model in models.items() if device[0] != level}
        figures[name(level, count)] = row = judge(known, measured[level, count])
        print(
            f"{name(level, count):<14}{row['spearman']:>10.4f}{row['within_10']:>9.1f}{row['mape']:>8.2f}"
            f"{row['scratch_spearman']:>9.4f}{row['flops_spearman']:>8.4f}  {row['source']}",
            flush=True,
        )
    print_result({"benchmark": "transfer", "measurements": FEW, "devices": figures})


def name(level: int, threads: int) -> str:
    """What a device is called."""
    return f"x86-64-v{level}-{threads}t"


def observe(home: Home, level: int, threads: int, count: int) -> tuple[LatencyModel, list[MeasuredNetwork]]:
    """A device's model, and networks measured on it."""
    local = find(home, LOCAL)
    usable = tuple(sorted(os.sched_getaffinity(0)))[-threads:]
    device = local.model_copy(
        update={"target": {"kind": "llvm", "mcpu": f"x86-64-v{level}"}, "threads": threads, "cores": usable}
    )
    home.devices.add(device)
    bench = Workbench.open(
        Problem.model_validate(PROBLEM), CpuTarget.from_dict(device.target, threads), with_weights=False
    )
    sizes = np.array(bench.groups.sizes)
    widths = np.maximum(1, np.rint(sizes * NARROWEST ** np.random.default_rng(3).random((count, len(sizes)))))
    widths = widths.astype(np.int64)
    with open_session(home, device, Console()) as session:
        model = Profiler(session, bench, example_widths(full_space(bench)), Effort(error=0.0)).run(Console())
        found = session.measure_candidates(bench, [bench.plan(row) for row in widths])
    shapes = bench.arithmetic(widths)
    return model, [(shapes.row(index), each.latency_ms) for index, each in enumerate(found) if is_trusted(each)]


def judge(known: dict[str, LatencyModel], networks: Sequence[MeasuredNetwork]) -> dict[str, Any]:
    """Scores of one device that is left out."""
    seen, held_out = networks[:FEW], networks[FEW:]
    rows: list[Layers] = [layers for layers, _ in held_out]
    actual_ms = np.array([latency_ms for _, latency_ms in held_out])
    moved = transfer(known, seen)
    mean_ms, std_ms = moved.predict_networks(rows)
    figures = scores(actual_ms, mean_ms, moved.interval_factor(0.9) * std_ms)
    few: list[Layers] = [layers for layers, _ in seen]
    X, y = np.hstack([work(few), parameters(few)]), np.array([latency_ms for _, latency_ms in seen])
    scratch_ms = Linear().fit(X, y).predict(np.hstack([work(rows), parameters(rows)]))
    return {
        **{key: figures[key] for key in ("spearman", "within_10", "mape", "coverage_90")},
        "scratch_spearman": spearman(actual_ms, scratch_ms),
        "scratch_within_10": scores(actual_ms, scratch_ms)["within_10"],
        "flops_spearman": spearman(actual_ms, work(rows).ravel()),
        "source": moved.source,
        "held_out": len(held_out),
    }


if __name__ == "__main__":
    main()
