"""Whole networks, dense and pruned at random: our libraries and ONNX Runtime; compile seconds and planned memory.

    python benchmarks/networks.py [--quick] [--network NAME]... [--resume]

Both sides compute the same torch module (checked), batch 1, float32, and are timed in turns at 1 thread and at 2; what
counts is the fastest round of each. ``vs_ort`` is ONNX Runtime's time over ours, the geometric mean over the dense
network and the pruned ones; ONNX Runtime gets torch's own export, BatchNorm folded, its input and output bound.
ResNet-56 is there twice: ONNX Runtime fuses few of the sums where shortcuts are padded with zeros, as they are unless
told otherwise, but all of them where shortcuts are projections.

Compile seconds are from a plan (kept channels) to a library, cutting the network included, with the dense graph traced
and TVM imported: cold with an empty folder of kernels, warm with the same plan again; medians over the pruned networks.

The fallback share is, as in the measurement protocol, the part of a library's time beyond what its kernels with a
schedule of ours take one by one; they are called through a pack of kernels, in turns with the whole.

Each network's figures stand in ``benchmarks/results/networks.json`` at once, and ``--resume`` goes on with them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison.planned import tvm_planned_bytes
from comparison.sides import OnnxRuntimeSide, OurSide, difference
from comparison.toys import DeepLabLike, FPNLike
from comparison.turns import geometric_mean, in_turns
from conditions import print_conditions
from measuring.kept import Kept
from torch import Tensor, nn

from device_agents.agent.engine_library import Library
from hwprune import networks
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.graph import Graph, trace
from hwprune.compilation.targets import CpuTarget
from hwprune.errors import CompileError
from hwprune.executors import open_team
from hwprune.pruning.groups import Groups, build_groups
from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.structured import Slicer

#: Largest difference from torch, relative to the largest output.
TOLERANCE = 1e-4

#: Pruned networks of each kind; the share of a group's channels that they keep is anything between these.
CANDIDATES, CANDIDATES_QUICK = 3, 1
KEPT = (0.25, 1.0)

#: Seconds of rounds for a network, and the rest before each round where the side before leaves threads spinning: ONNX
#: Runtime's go on for some 60 ms after their last run, and whoever comes next would share a core with them.
SPEND_S, SPEND_QUICK_S = 3.0, 0.8
REST_S = 0.1


@dataclass(frozen=True)
class Subject:
    """A network that is measured.

    Attributes:
        name: as the result has it.
        build: makes it, dense and untrained.
        pixels: rows and columns of its input.
        vs_ort_min: ONNX Runtime's time over ours that is asked for; None where nothing is.
        compile_max_s: seconds that are asked for with an empty cache of kernels and with a full one.
        is_quick: whether ``--quick`` measures it.
    """

    name: str
    build: Callable[[], nn.Module]
    pixels: int
    vs_ort_min: float | None = None
    compile_max_s: tuple[float, float] | None = None
    is_quick: bool = False


def _named(classes: int, **spec: Any) -> Callable[[], nn.Module]:
    return lambda: networks.build(spec, classes, 3)


SUBJECTS = (
    Subject("ResNet-56", _named(10, name="resnet_cifar", depth=56), 32, 1.15, (1.5, 0.1), is_quick=True),
    Subject(
        "ResNet-56-projection", _named(10, name="resnet_cifar", depth=56, shortcut="projection"), 32, 1.15, (1.5, 0.1)
    ),
    Subject("VGG-14", _named(10, name="vgg_cifar", depth=14), 32, 1.15, is_quick=True),
    Subject("ResNet-18", _named(1000, name="torchvision_zoo", arch="resnet18"), 224, 1.0),
    Subject("MobileNetV2", _named(1000, name="torchvision_zoo", arch="mobilenet_v2"), 224, 1.0, (5.0, 0.3)),
    Subject("EfficientNet-B0", _named(1000, name="torchvision_zoo", arch="efficientnet_b0"), 224, 1.0),
    Subject("DeepLab-like", DeepLabLike, 320),
    Subject("FPN-like", FPNLike, 320),
)


class Trial:
    """A dense network with everything that is known before a plan: groups and graph.

    Args:
        subject: the network.
        processes: compile kernels.
    """

    def __init__(self, subject: Subject, processes: Executor) -> None:
        self.processes = processes
        torch.manual_seed(0)
        self.dense = subject.build().eval()
        self.x = torch.rand(1, 3, subject.pixels, subject.pixels)
        _settle(self.dense, self.x)
        self.groups: Groups = build_groups(self.dense, self.x, prune_residual=True)
        self.slicer = Slicer(self.dense, self.groups)
        self.graph: Graph = trace(self.dense, self.x, CpuTarget.from_dict({}))

    def random_plans(self, count: int) -> list[PruningPlan]:
        """Plans that keep a random number of random channels of every group."""
        generator = np.random.default_rng(0)
        plans = []
        for _ in range(count):
            shares = generator.uniform(*KEPT, len(self.groups))
            widths = np.maximum(1, np.round(shares * self.groups.sizes)).astype(int)
            sizes = zip(self.groups.sizes, widths, strict=True)
            chosen = [np.sort(generator.choice(size, width, replace=False)) for size, width in sizes]
            plans.append(PruningPlan(tuple(tuple(map(int, units)) for units in chosen)))
        return plans


def _settle(module: nn.Module, x: Tensor) -> None:
    """Give BatchNorm the statistics of a few images: by those of an untrained network values fade layer by layer."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.rand(4, *x.shape[1:]))
    module.eval()


@dataclass
class Speeds:
    """Dense network and pruned ones at one number of threads.

    Attributes:
        ours_ms: fastest inference of each, ms.
        ort_ms: ONNX Runtime's.
        reason: why there are none; "" if there are.
    """

    ours_ms: list[float]
    ort_ms: list[float]
    reason: str = ""

    def figures(self, threads: int) -> dict[str, Any]:
        """ONNX Runtime's time over ours (geometric mean, dense network, smallest), and the dense network's times."""
        ratios = [theirs / ours for ours, theirs in zip(self.ours_ms, self.ort_ms, strict=True)]
        values = (
            (geometric_mean(ratios), ratios[0], min(ratios), self.ours_ms[0], self.ort_ms[0]) if ratios else (None,) * 5
        )
        names = ("vs_ort", "dense_vs_ort", "worst_vs_ort", "dense_ours_ms", "dense_ort_ms")
        return {f"{name}_{threads}t": value for name, value in zip(names, values, strict=True)}


def export_onnx(module: nn.Module, x: Tensor, path: Path) -> None:
    """Write torch's own export."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # about torch's own internals
        torch.onnx.export(module, (x,), path, dynamo=True, external_data=False, verbose=False)


def compare(trial: Trial, modules: Sequence[nn.Module], threads: int, folder: Path, spend_s: float) -> Speeds:
    """Time every module on both sides, in turns.

    Raises:
        SystemExit: one side differs from torch.
    """
    try:
        target = CpuTarget.from_dict({}, threads)
    except CompileError as error:
        return Speeds([], [], str(error))
    compiler = Compiler(target, folder, trial.processes)
    speeds = Speeds([], [])
    for number, module in enumerate(modules):
        path = folder / f"{number}.onnx"
        if not path.exists():
            export_onnx(module, trial.x, path)
        with torch.inference_mode():
            wanted = module(trial.x).numpy()
        ours = OurSide(compiler.network(trial.graph.for_target(target), module), trial.x.numpy())
        theirs = OnnxRuntimeSide(path, trial.x.numpy(), wanted.shape, threads)
        for name, side in (("our", ours), ("ONNX Runtime's", theirs)):
            found = difference(side.output(), wanted)
            if not found <= TOLERANCE:
                raise SystemExit(f"{name} output differs from torch's by {found:.1e}")
        ours_s, ort_s = in_turns([ours.call, theirs.call], spend_s, rest_s=REST_S if threads > 1 else 0.0)
        speeds.ours_ms.append(1e3 * ours_s)
        speeds.ort_ms.append(1e3 * ort_s)
    return speeds


def compile_seconds(trial: Trial, plans: Sequence[PruningPlan]) -> tuple[float, float]:
    """Median seconds from a plan to a library, with an empty folder and with the kernels in it."""
    cold: list[float] = []
    warm: list[float] = []
    for plan in plans:
        with tempfile.TemporaryDirectory() as folder:
            compiler = Compiler(trial.graph.target, Path(folder), trial.processes)
            for seconds in (cold, warm):
                started = time.perf_counter()
                compiler.network(trial.graph, trial.slicer.cut(plan))
                seconds.append(time.perf_counter() - started)
    return statistics.median(cold), statistics.median(warm)


def fallbacks(trial: Trial, folder: Path, spend_s: float) -> dict[str, Any]:
    """Operators of the dense network without a kernel of ours, and the share of the time that they take."""
    compiler = Compiler(trial.graph.target, folder, trial.processes)
    whole = OurSide(artifact := compiler.network(trial.graph, trial.dense), trial.x.numpy())
    found = {name: artifact.description[name] for name in ("fallback_calls", "fallback_ops")}
    if not found["fallback_calls"]:
        return {**found, "fallback_share": 0.0}
    own = Counter(shape for shape in trial.graph.shapes(trial.dense) if not shape.op.startswith("fallback:"))
    pack = compiler.kernels(list(own))
    library = Library(str(pack.artifact.path))
    kernels = [library.kernel(*pack.index[shape]) for shape in own]
    whole_s, calling_s, *kernels_s = in_turns([whole.call, library.nothing(), *kernels], spend_s)
    own_s = sum(count * (seconds - calling_s) for count, seconds in zip(own.values(), kernels_s, strict=True))
    return {**found, "fallback_share": max(0.0, 1.0 - own_s / whole_s)}


def cores() -> int:
    """Cores of this process."""
    return len(os.sched_getaffinity(0))


def import_tvm(_: int) -> None:
    """What a process does before its first kernel; no part of the time of compiling."""
    importlib.import_module("hwprune.compilation.objects")


def measure(subject: Subject, processes: Executor, quick: bool) -> dict[str, Any]:
    """All figures of one network."""
    trial = Trial(subject, processes)
    plans = trial.random_plans(CANDIDATES_QUICK if quick else CANDIDATES)
    cold_s, warm_s = compile_seconds(trial, plans)
    modules = [trial.dense, *map(trial.slicer.cut, plans)]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, spend_s = Path(name), SPEND_QUICK_S if quick else SPEND_S
        for threads in (1, 2):
            speeds = compare(trial, modules, threads, folder, spend_s)
            if speeds.reason:
                print(f"{subject.name} at {threads} threads: {speeds.reason}")
            figures |= speeds.figures(threads)
        figures |= {"cold_compile_s": cold_s, "warm_compile_s": warm_s}
        figures |= fallbacks(trial, folder, spend_s)
    figures["arena_bytes"] = trial.graph.memory(trial.dense).arena_bytes
    figures["tvm_planned_bytes"] = None if quick else tvm_planned_bytes(trial.dense, trial.x, trial.graph.target)
    return figures


def report(subject: Subject, figures: dict[str, Any]) -> None:
    """Print one network's figures."""
    print(f"\n{subject.name} at {subject.pixels}x{subject.pixels}")
    for threads in (1, 2):
        if figures[f"vs_ort_{threads}t"] is None:
            continue
        geomean, dense, worst, ours_ms, ort_ms = (
            figures[f"{name}_{threads}t"]
            for name in ("vs_ort", "dense_vs_ort", "worst_vs_ort", "dense_ours_ms", "dense_ort_ms")
        )
        verdict = (
            ""
            if subject.vs_ort_min is None
            else f" ({_verdict(geomean >= subject.vs_ort_min, f'>= {subject.vs_ort_min}')})"
        )
        print(
            f"  {threads} thread{'s' * (threads > 1)}: vs ort {geomean:.2f}{verdict}, worst {worst:.2f}, "
            f"dense {dense:.2f}: ours {ours_ms:.3f} ms, ort {ort_ms:.3f} ms"
        )
    for index, kind in enumerate(("cold", "warm")):
        seconds, limits = figures[f"{kind}_compile_s"], subject.compile_max_s
        verdict = f" ({_verdict(seconds <= limits[index], f'<= {limits[index]}')})" if limits else ""
        print(f"  {kind} compile {seconds:.2f} s{verdict}")
    planned = figures["tvm_planned_bytes"]
    print(
        f"  arena {figures['arena_bytes']:,} bytes, TVM's planner {'not asked' if planned is None else f'{planned:,}'}"
    )
    names = f" ({', '.join(figures['fallback_ops'])})" if figures["fallback_ops"] else ""
    print(
        f"  fallback calls {figures['fallback_calls']}{names}, {figures['fallback_share']:.1%} of the time", flush=True
    )


def _verdict(is_met: bool, asked: str) -> str:
    return f"{asked} asked{'' if is_met else ', MISSED'}"


def main() -> None:
    """Measure, print and give the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--quick", action="store_true", help="two small networks, one pruned network of each")
    parser.add_argument("--network", action="append", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--resume", action="store_true", help="go on with benchmarks/results/networks.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print_conditions()
    default = [subject.name for subject in SUBJECTS if subject.is_quick or not options.quick]
    kept, results = Kept("networks", is_resumed=options.resume, is_quick=options.quick), {}
    with open_team(cores()) as processes:
        list(processes.map(import_tvm, range(cores())))
        for subject in SUBJECTS:
            if subject.name not in (options.network or default):
                continue
            results[subject.name] = kept.part(
                subject.name, functools.partial(measure, subject, processes, options.quick)
            )
            report(subject, results[subject.name])
    kept.finish({"quick": options.quick, "networks": results})


if __name__ == "__main__":
    main()
