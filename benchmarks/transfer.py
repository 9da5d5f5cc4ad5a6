"""A new device from ten measured networks and the devices that are known: leave one kind out.

    python benchmarks/transfer.py [--quick]

The devices are this computer under other targets: x86-64 levels 2, 3 and 4, each with one and with two threads; they
share one processor and its caches, but differ in their vectors, their kernels and their layouts. Each is profiled for
ResNet-20 (32x32x3), and random networks are measured on it (widths log-uniform from 10 to 100 %). Then each level is
left out, with all its thread counts: its devices get a model from 10 of their networks and the devices of the other
levels, judged on their remaining networks. Beside it: the same 10 networks and nothing else (a line in multiply-adds
and in parameters), and multiply-adds alone.

Where emulated boards can be started (``make test-devices`` builds them, as root), an arm64 system whose time is counted
in instructions is the new device, too: for a tiny network, for which the three levels are profiled as well.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from conditions import print_conditions, print_result
from predictor import Layers, Linear, parameters, work

from device_agents.registry import Device
from hwprune.cli.console import Console
from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem
from hwprune.experiments.devices import LOCAL, add_board, find
from hwprune.experiments.home import Home
from hwprune.experiments.profile import example_widths, full_space
from hwprune.experiments.profiler import Effort, Profiler, is_trusted
from hwprune.experiments.session import open_session
from hwprune.experiments.workbench import Workbench
from latency_models.evaluation import MeasuredNetwork, scores, spearman
from latency_models.network_model import LatencyModel
from latency_models.transfer import transfer

BOARDS = Path(__file__).parents[1] / "tests/integration/devices"

LEVELS, LEVELS_QUICK = (2, 3, 4), (3, 4)
EFFORT, EFFORT_QUICK = Effort(error=0.0), Effort(error=0.0, minutes=0.25)
#: Networks measured on the new device.
FEW = 10
NARROWEST = 0.1


@dataclass(frozen=True)
class Study:
    """What devices are compared by.

    Attributes:
        depth: of the ResNet.
        pixels: of its square input.
        count: networks measured on each device.
        options: further ones of the network.
    """

    depth: int
    pixels: int
    count: int
    options: Mapping[str, Any]

    def bench(self, device: Device) -> Workbench:
        """The dense network, planned for a device."""
        problem = {
            "network": {"name": "resnet_cifar", "depth": self.depth, **self.options},
            "data": {"name": "digits", "size": self.pixels, "channels": 3},
            "evaluation": {"threads": 1},
        }
        target = CpuTarget.from_dict(device.target, device.threads)
        return Workbench.open(Problem.model_validate(problem), target, with_weights=False)


USUAL, USUAL_QUICK = Study(20, 32, 110, {}), Study(20, 32, 40, {})
#: An emulated processor needs a second for what a real one does in milliseconds.
TINY = Study(8, 16, 50, {"widths": [8, 12, 20]})


@dataclass(frozen=True)
class Place:
    """A device in a home of its own: one processor under several targets has several clocks.

    Attributes:
        home: where its measurements are.
        device: its entry.
    """

    home: Home
    device: Device

    @property
    def kind(self) -> str:
        """Its level, whatever its threads."""
        return self.device.name.rpartition("-")[0]


def main() -> None:
    """Measure, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="levels 3 and 4, one thread, fewer networks, no board")
    quick = parser.parse_args().quick
    print_conditions()
    levels, study, effort = (LEVELS_QUICK, USUAL_QUICK, EFFORT_QUICK) if quick else (LEVELS, USUAL, EFFORT)
    threads = (1,) if quick or len(os.sched_getaffinity(0)) < 2 else (1, 2)
    figures: dict[str, dict[str, Any]] = {}
    print(
        f"{'device':<14}{'Spearman':>10}{'in 10 %':>9}{'MAPE %':>8}{'scratch':>9}{'flops':>8}  kernels of", flush=True
    )
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        places = [level_of(folder, level, count) for level in levels for count in threads]
        models = {place.device.name: profiled(place, study, effort) for place in places}
        for place in places:
            known = {name: models[name] for name in (each.device.name for each in places if each.kind != place.kind)}
            figures[place.device.name] = judge(place, study, known)
        if not quick:
            with counted_board(folder) as board:
                if board is not None:
                    single = [place for place in places if place.device.threads == 1]
                    known = {place.device.name: profiled(place, TINY, effort) for place in single}
                    figures[board.device.name] = judge(board, TINY, known)
    print_result({"benchmark": "transfer", "measurements": FEW, "devices": figures})


def level_of(folder: Path, level: int, threads: int) -> Place:
    """This computer as a device of an x86-64 level."""
    name = f"x86-64-v{level}-{threads}t"
    home = Home(folder / name)
    changes = {
        "name": name,
        "target": {"kind": "llvm", "mcpu": f"x86-64-v{level}"},
        "threads": threads,
        "cores": tuple(sorted(os.sched_getaffinity(0)))[-threads:],
    }
    device = find(home, LOCAL).model_copy(update=changes)
    home.devices.add(device)
    return Place(home, device)


@contextlib.contextmanager
def counted_board(folder: Path) -> Iterator[Place | None]:
    """An emulated arm64 system whose time is counted in instructions; None, and why, where there can be none."""
    sys.path.insert(0, str(BOARDS))
    import board_base
    import boards

    if reason := boards.missing():
        print(f"no arm64 system: {reason}")
        yield None
        return
    board = boards.MachineBoard(board_base.base(), folder / "machine", shift=1)
    try:
        board.power_on()
        home = Home(folder / "arm64")
        yield Place(home, add_board(home, "arm64-counted", board.way))
    finally:
        board.cut_power()


def profiled(place: Place, study: Study, effort: Effort) -> LatencyModel:
    """A device's model."""
    bench = study.bench(place.device)
    with open_session(place.home, place.device, Console()) as session:
        return Profiler(session, bench, example_widths(full_space(bench)), effort).run(Console())


def judge(place: Place, study: Study, known: Mapping[str, LatencyModel]) -> dict[str, Any]:
    """Print and return the scores of a device that is left out."""
    networks = measured(place, study)
    seen, held_out = networks[:FEW], networks[FEW:]
    rows: list[Layers] = [layers for layers, _ in held_out]
    actual_ms = np.array([latency_ms for _, latency_ms in held_out])
    lanes = CpuTarget.from_dict(place.device.target).lanes
    moved = transfer(known, seen, lanes)
    mean_ms, std_ms = moved.predict_networks(rows)
    figures = scores(actual_ms, mean_ms, moved.interval_factor(0.9) * std_ms)
    few: list[Layers] = [layers for layers, _ in seen]
    X, y = np.hstack([work(few), parameters(few)]), np.array([latency_ms for _, latency_ms in seen])
    scratch_ms = Linear().fit(X, y).predict(np.hstack([work(rows), parameters(rows)]))
    row = {
        **{key: figures[key] for key in ("spearman", "within_10", "mape", "coverage_90")},
        "scratch_spearman": spearman(actual_ms, scratch_ms),
        "scratch_within_10": scores(actual_ms, scratch_ms)["within_10"],
        "flops_spearman": spearman(actual_ms, work(rows).ravel()),
        "source": moved.recipe.source,
        "held_out": len(held_out),
    }
    print(
        f"{place.device.name:<14}{row['spearman']:>10.4f}{row['within_10']:>9.1f}{row['mape']:>8.2f}"
        f"{row['scratch_spearman']:>9.4f}{row['flops_spearman']:>8.4f}  {row['source']}",
        flush=True,
    )
    return row


def measured(place: Place, study: Study) -> list[MeasuredNetwork]:
    """Random networks on a device, those that could be measured with trust."""
    bench = study.bench(place.device)
    sizes = np.array(bench.groups.sizes)
    drawn = np.rint(sizes * NARROWEST ** np.random.default_rng(3).random((study.count, len(sizes))))
    widths = np.maximum(1, drawn).astype(np.int64)
    with open_session(place.home, place.device, Console()) as session:
        found = session.measure_candidates(bench, [bench.plan(row) for row in widths])
    shapes = bench.arithmetic(widths)
    return [(shapes.row(index), each.latency_ms) for index, each in enumerate(found) if is_trusted(each)]


if __name__ == "__main__":
    main()
