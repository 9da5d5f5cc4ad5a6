"""`hwprune measure` of ONNX files: against ONNX Runtime's own performance tool, and against itself some time later.

    python benchmarks/measure.py [--quick] [--pause-minutes 30] [--resume]

1. *The repetition.* The whole matrix of models and devices is measured, and measured again after a pause. A cell agrees
   if both 95 % intervals overlap, and one without a number does not; at least 90 % of the cells shall. The devices are
   cores of this computer, and two of them together.
2. *The tool*, during the pause. Every model is measured with ``--engine onnxruntime`` and by the tool that comes with
   the package, ``onnxruntime.tools.onnxruntime_test`` (``onnxruntime_perf_test`` is not in it), on the same core in
   turns. The tool gives the mean of its iterations; what counts is the 10th percentile of many short runs of it, as
   hwprune's latency is that of single calls. The tool takes no number of threads, so its sessions are made with one.
   Judged is the median ratio of a model over all rounds, of latencies as they were timed (at most 5 % from 1).

Partial results lie in ``results/measure.json``, what is measured with in ``results/measure.partial``; ``--resume`` goes
on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from comparison.model_zoo import QUICK, ZOO, write_zoo
from conditions import print_conditions
from measuring.dense import told_console
from measuring.kept import RESULTS, Kept
from onnxruntime.tools import onnxruntime_test

from hwprune.experiments.devices import add_local
from hwprune.experiments.home import Home
from hwprune.experiments.matrix import Cell
from hwprune.experiments.measure import Request, measure
from hwprune.experiments.progress import Console, Silent

ROUNDS, ROUNDS_QUICK = 5, 1
PAUSE_MIN = 30.0
#: Runs of the tool in a round, and iterations that take at least so long together.
TOOL_RUNS, TOOL_S = 25, 0.02
DIFFERENCE_MAX, AGREEMENT_MIN = 0.05, 0.9


def main() -> None:
    """Measure, print tables and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} models, one round, no pause")
    parser.add_argument("--pause-minutes", type=float, default=PAUSE_MIN, metavar="M", help="before the repetition")
    parser.add_argument("--resume", action="store_true", help="go on with benchmarks/results/measure.json")
    options = parser.parse_args()
    print_conditions()
    console = told_console()
    kept = Kept("measure", is_resumed=options.resume, is_quick=options.quick)
    pause_min = 0.0 if options.quick else options.pause_minutes
    with open_folder(is_kept=not options.quick, is_resumed=options.resume) as folder:
        models = write_zoo(folder, list(ZOO)[:QUICK] if options.quick else list(ZOO))
        home = Home(folder / "home")
        devices = add_devices(home)
        first = kept.part("first", lambda: whole_matrix(home, devices, models, console))
        rounds = ROUNDS_QUICK if options.quick else ROUNDS
        tool = kept.part("tool", lambda: by_the_tool(home, devices[0], models, rounds, console))
        show_tool(tool)
        if "again" not in kept.parts:
            pause(first["ended_s"] + 60 * pause_min, console)
        again = kept.part("again", lambda: whole_matrix(home, devices, models, console))
    rows = [repeated(*pair) for pair in zip(first["cells"], again["cells"], strict=True)]
    show_repetition(rows)
    worst = max((abs(row["ratio"] - 1) for row in tool if row["ratio"] is not None), default=None)
    unknown = sum(row["ratio"] is None for row in tool)
    agreeing = sum(row["agrees"] for row in rows)
    print(f"\nlargest difference from the tool {text(worst, '.1%', 0)} (at most {DIFFERENCE_MAX:.0%} is asked for)")
    print(f"{agreeing} of {len(rows)} cells agree, {agreeing / len(rows):.0%} (at least {AGREEMENT_MIN:.0%})")
    kept.finish(
        {
            "quick": options.quick,
            "onnxruntime": onnxruntime.__version__,
            "worst_difference": worst,
            "without_ratio": unknown,
            "tool": tool,
            "pause_min": (again["began_s"] - first["ended_s"]) / 60,
            "agreeing_share": agreeing / len(rows),
            "repetition": rows,
        }
    )


@contextlib.contextmanager
def open_folder(*, is_kept: bool, is_resumed: bool) -> Iterator[Path]:
    """Where models, devices and measurements lie: until the benchmark is through, so that numbers are at one clock."""
    if not is_kept:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    folder = RESULTS / "measure.partial"
    if not is_resumed:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def add_devices(home: Home) -> list[str]:
    """Two cores of this computer as a device each, and both together as one of two threads."""
    cores = tuple(sorted(os.sched_getaffinity(0))[:2])
    wanted = {f"core{core}": (core,) for core in cores}
    if len(cores) > 1:
        wanted["both"] = cores
    for name, pinned in wanted.items():
        if name not in home.devices.names():
            device = add_local(home, name, len(pinned))
            home.devices.add(device.model_copy(update={"cores": pinned}))
    return list(wanted)


def pause(until_s: float, console: Console) -> None:
    """Wait until a moment, in seconds since 1970."""
    total_s = until_s - time.time()
    if total_s > 0:
        with console.progress(total_s, "pausing before the repetition, s") as steps:
            while (left_s := until_s - time.time()) > 0:
                step_s = min(10.0, left_s)
                time.sleep(step_s)
                steps.advance(step_s)


def by_the_tool(home: Home, device: str, models: list[Path], rounds: int, console: Console) -> list[dict[str, Any]]:
    """Every model by hwprune and by the tool, in turns."""
    (core,) = home.devices.get(device).cores
    rows = []
    with console.progress(len(models) * rounds, "comparing with the tool") as steps:
        for model in models:
            ours_ms, tool_ms, trust, ratios = [], [], "", []
            for _ in range(rounds):
                request = Request((model,), (device,), "onnxruntime", max_age_s=0.0)
                cell = measure(home, request, Silent()).cells[0]
                with on_core(core):
                    told_ms = tool_latency_ms(model)
                if cell.is_good:
                    ours_ms.append(_as_timed_ms(cell))
                    tool_ms.append(told_ms)
                    trust += cell.trust or "-"
                    ratios.append(cell.tvm_over_onnxruntime)
                steps.advance(1, model.stem)
            rows.append(
                {
                    "model": model.stem,
                    "hwprune_ms": _median(ours_ms),
                    "tool_ms": _median(tool_ms),
                    "ratio": _median([ours / theirs for ours, theirs in zip(ours_ms, tool_ms, strict=True)]),
                    "trust": trust,
                    "tvm_over_onnxruntime": _median([ratio for ratio in ratios if ratio is not None]),
                }
            )
    return rows


def show_tool(rows: list[dict[str, Any]]) -> None:
    """The table of the comparison."""
    print(f"\n{'model':<16}{'hwprune ms':>12}{'tool ms':>10}{'ratio':>8}  trust  tvm/onnxruntime")
    for row in rows:
        print(
            f"{row['model']:<16}{text(row['hwprune_ms'], '.4f', 12)}{text(row['tool_ms'])}"
            f"{text(row['ratio'], '.3f', 8)}  {row['trust']:<5}{text(row['tvm_over_onnxruntime'], '.2f', 17)}",
            flush=True,
        )


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _as_timed_ms(cell: Cell) -> float:
    """Latency as the agent timed it, not at the clock of the device's first measurement."""
    assert cell.latency_ms is not None
    return cell.latency_ms / (cell.clock_ratio or 1.0)


class OneThread:
    """ONNX Runtime's package as its tool sees it, with sessions of one thread."""

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def InferenceSession(self, path: str, **_: Any) -> onnxruntime.InferenceSession:  # noqa: N802
        """A session as hwprune makes it."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def tool_latency_ms(model: Path) -> float:
    """10th percentile of the mean latencies that runs of the tool print."""
    onnxruntime_test.onnxrt = OneThread()
    iterations = max(5, round(TOOL_S * 1e3 / _tool_run_ms(model, 20)))
    return float(np.percentile([_tool_run_ms(model, iterations) for _ in range(TOOL_RUNS)], 10))


def _tool_run_ms(model: Path, iterations: int) -> float:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        onnxruntime_test.run_model(str(model), iterations, override_initializers=False)
    found = re.search(r"avg latency: ([0-9.e-]+) ms", printed.getvalue())
    assert found is not None
    return float(found.group(1))


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """This thread on the core that the agent measures on."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def whole_matrix(home: Home, devices: list[str], models: list[Path], console: Console) -> dict[str, Any]:
    """Every model on every device, measured afresh."""
    began_s = time.time()
    matrix = measure(home, Request(tuple(models), tuple(devices), max_age_s=0.0), console)
    return {"began_s": began_s, "ended_s": time.time(), "cells": [asdict(cell) for cell in matrix.cells]}


def repeated(first: dict[str, Any], again: dict[str, Any]) -> dict[str, Any]:
    """One cell, both times; one without a number does not agree."""
    row = {
        "model": Path(first["model"]).stem,
        "device": first["device"],
        "first_ms": first["latency_ms"],
        "again_ms": again["latency_ms"],
        "agrees": False,
        "reason": first["error"] or again["error"],
    }
    if row["reason"]:
        return row
    ends_ms = [(cell["latency_ms_low"], cell["latency_ms_high"]) for cell in (first, again)]
    (low, high), (low_again, high_again) = ends_ms
    return {**row, "agrees": low <= high_again and low_again <= high, "intervals_ms": ends_ms}


def show_repetition(rows: list[dict[str, Any]]) -> None:
    """The table of the repetition."""
    print(f"\n{'model':<16}{'device':<8}{'first ms':>10}{'again ms':>10}{'moved':>8}  intervals")
    for row in rows:
        moved = None if row["reason"] else row["again_ms"] / row["first_ms"] - 1
        verdict = row["reason"] or ("overlap" if row["agrees"] else "differ")
        print(
            f"{row['model']:<16}{row['device']:<8}{text(row['first_ms'])}{text(row['again_ms'])}"
            f"{text(moved, '.1%', 8)}  {verdict}"
        )


def text(value: float | None, form: str = ".4f", width: int = 10) -> str:
    """A number in a table; "-" where there is none."""
    return ("-" if value is None else format(value, form)).rjust(width)


if __name__ == "__main__":
    main()
