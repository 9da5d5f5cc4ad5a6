"""A new device from ten measured networks and the devices that are known: leave one kind out.

    python benchmarks/transfer.py [--quick | --resume]

The devices are this computer under other targets: x86-64 levels 2, 3 and 4, each with one and with two threads; they
share one processor and its caches, but differ in their vectors, their kernels and their layouts. Each is profiled for
ResNet-20 (32x32x3), and random networks are measured on it (widths log-uniform from 10 to 100 %). Then each level is
left out, with all its thread counts: its devices get a model from 10 of their networks and the devices of the other
levels, judged on their remaining networks. Beside it: the same 10 networks and nothing else (a line in multiply-adds
and in parameters), and multiply-adds alone.

Where emulated boards can be started (``make test-devices`` builds them, as root), an arm64 system whose time is counted
in instructions is the new device, too: for a tiny network, for which the three levels are profiled as well. What was
measured is kept in ``benchmarks/results/transfer.json``, from which ``--resume`` goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from conditions import print_conditions
from measuring.dense import planned, random_widths, told_console
from measuring.kept import Kept
from predictor import Layers, Linear, measure, parameters, work

from device_agents.registry import Device
from hwprune.compilation.targets import CpuTarget
from hwprune.experiments.devices import LOCAL, add_board, find
from hwprune.experiments.home import Home
from hwprune.experiments.profile import example_widths, full_space
from hwprune.experiments.profiler import Effort, Profiler
from hwprune.experiments.progress import Console
from hwprune.experiments.session import open_session
from hwprune.experiments.workbench import Workbench
from latency_models.evaluation import MeasuredNetwork, scores, spearman
from latency_models.network_model import LatencyModel
from latency_models.transfer import transfer

BOARDS = Path(__file__).parents[1] / "tests/integration/devices"

LEVELS, LEVELS_QUICK = (2, 3, 4), (3, 4)
#: Networks measured on the new device.
FEW = 10
#: Networks measured between two lines of progress.
CHUNK = 10


@dataclass(frozen=True)
class Study:
    """What devices are compared by.

    Attributes:
        depth: of the ResNet.
        pixels: of its square input.
        count: networks measured on each device.
        effort: of a profile.
        options: further ones of the network.
    """

    depth: int
    pixels: int
    count: int
    effort: Effort
    options: Mapping[str, Any] = field(default_factory=dict)

    def bench(self, device: Device) -> Workbench:
        """The dense network, planned for a device."""
        return planned(device, {"name": "resnet_cifar", "depth": self.depth, **self.options}, self.pixels)


USUAL, USUAL_QUICK = Study(20, 32, 110, Effort(error=0.0)), Study(20, 32, 40, Effort(error=0.0, minutes=0.25))
#: An emulated processor needs a second for what a real one does in milliseconds.
TINY = Study(8, 16, 50, Effort(error=0.0, minutes=1.0), {"widths": [8, 12, 20]})


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


@dataclass(frozen=True)
class Bench:
    """What is measured for one study.

    Attributes:
        study: what devices are compared by.
        kept: holds and takes what was measured.
        console: who is told how it goes.
    """

    study: Study
    kept: Kept
    console: Console

    def profiled(self, place: Place) -> LatencyModel:
        """A device's model."""
        bench = self.study.bench(place.device)

        def profile() -> str:
            self.console.info(f"{place.device.name}: profiling ResNet-{self.study.depth}")
            with open_session(place.home, place.device, self.console) as session:
                profiler = Profiler(session, bench, example_widths(full_space(bench)), self.study.effort)
                return profiler.run(self.console).to_json()

        return LatencyModel.from_json(self.kept.part(f"{self._name(place)}, model", profile))

    def measured(self, place: Place) -> list[MeasuredNetwork]:
        """Random networks on a device, those that could be measured with trust."""
        bench = self.study.bench(place.device)
        widths = random_widths(bench, self.study.count, seed=3)

        def latencies_ms() -> list[float | None]:
            found: list[float | None] = []
            with (
                open_session(place.home, place.device, self.console) as session,
                self.console.progress(len(widths), f"{place.device.name}, random networks") as steps,
            ):
                for start in range(0, len(widths), CHUNK):
                    found += measure(session, bench, widths[start : start + CHUNK].tolist())
                    steps.advance(len(found) - start)
            return found

        shapes, known = bench.arithmetic(widths), self.kept.part(f"{self._name(place)}, networks", latencies_ms)
        return [(shapes.row(index), latency_ms) for index, latency_ms in enumerate(known) if latency_ms is not None]

    def _name(self, place: Place) -> str:
        return f"{place.device.name}, ResNet-{self.study.depth}"


def main() -> None:
    """Measure, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="levels 3 and 4, one thread, fewer networks, no board")
    parser.add_argument("--resume", action="store_true", help="go on with benchmarks/results/transfer.json")
    options = parser.parse_args()
    print_conditions()
    console = told_console()
    kept = Kept("transfer", is_resumed=options.resume, is_quick=options.quick)
    levels, study = (LEVELS_QUICK, USUAL_QUICK) if options.quick else (LEVELS, USUAL)
    threads = (1,) if options.quick or len(os.sched_getaffinity(0)) < 2 else (1, 2)
    figures: dict[str, dict[str, Any]] = {}
    print(
        f"{'device':<14}{'Spearman':>10}{'in 10 %':>9}{'MAPE %':>8}{'scratch':>9}{'flops':>8}  kernels of", flush=True
    )
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        places = [level_of(folder, level, count) for level in levels for count in threads]
        usual = Bench(study, kept, console)
        models = {place.device.name: usual.profiled(place) for place in places}
        for place in places:
            known = {name: models[name] for name in (each.device.name for each in places if each.kind != place.kind)}
            figures[place.device.name] = judge(place, usual.measured(place), known)
        if not options.quick:
            with counted_board(folder) as board:
                if board is not None:
                    tiny = Bench(TINY, kept, console)
                    single = [place for place in places if place.device.threads == 1]
                    known = {place.device.name: tiny.profiled(place) for place in single}
                    figures[board.device.name] = judge(board, tiny.measured(board), known)
    kept.finish({"measurements": FEW, "devices": figures})


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


def judge(place: Place, networks: Sequence[MeasuredNetwork], known: Mapping[str, LatencyModel]) -> dict[str, Any]:
    """Print and return the scores of a device that is left out."""
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


if __name__ == "__main__":
    main()
