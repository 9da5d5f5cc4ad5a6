"""`hwprune measure` of ONNX files: against ONNX Runtime's own performance tool, and against itself some time later.

    python benchmarks/measure.py [--quick] [--pause MINUTES] [--resume]

1. *The tool.* Every model is measured with ``--engine onnxruntime`` and by ``onnxruntime.tools.onnxruntime_test``, the
   tool that comes with the package (``onnxruntime_perf_test`` is not in it), on the same core in turns. The tool gives
   the mean of its iterations; what counts is the 10th percentile of many short runs of it, as hwprune's latency is that
   of single calls. The tool takes no number of threads, so its sessions are made with one. Judged is the median ratio
   of a model over all rounds, of latencies as they were timed (at most 5 % from 1).
2. *The repetition.* The whole matrix of models and devices is measured, and measured again after a pause. A cell agrees
   if both 95 % intervals overlap; at least 90 % of the cells shall. The devices are the cores of this computer.

Partial results lie in ``results/measure.json``; ``--resume`` goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from comparison.model_zoo import QUICK, ZOO, write_zoo
from conditions import print_conditions, print_result
from onnxruntime.tools import onnxruntime_test

from hwprune.cli.console import Console
from hwprune.experiments.devices import add_local
from hwprune.experiments.home import Home
from hwprune.experiments.matrix import Cell, Matrix
from hwprune.experiments.measure import Request, measure

RESULTS = Path(__file__).parent / "results" / "measure.json"

ROUNDS, ROUNDS_QUICK = 5, 1
PAUSE_MIN = 30.0
#: Runs of the tool in a round, and iterations that take at least so long together.
TOOL_RUNS, TOOL_S = 25, 0.02
DIFFERENCE_MAX, AGREEMENT_MIN = 0.05, 0.9


def main() -> None:
    """Measure, print tables and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} models, one round, no pause")
    parser.add_argument("--pause", type=float, default=PAUSE_MIN, metavar="MINUTES", help="before the repetition")
    parser.add_argument("--resume", action="store_true", help=f"go on from {RESULTS.name}")
    options = parser.parse_args()
    print_conditions()
    partial = Partial(options.resume)
    names = list(ZOO)[:QUICK] if options.quick else list(ZOO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = write_zoo(folder, names)
        home = Home(folder / "home")
        devices = add_devices(home)
        tool = partial.part("tool", lambda: by_the_tool(home, devices[-1], models, options.quick))
        pause_min = 0.0 if options.quick else options.pause
        repeated = partial.part("repetition", lambda: repetition(home, devices, models, pause_min))
    if not options.quick:
        partial.forget()
    worst = max((abs(row["ratio"] - 1) for row in tool), default=None)
    print(f"\nlargest difference from the tool {worst:.1%} (at most {DIFFERENCE_MAX:.0%} is asked for)")
    share = repeated["agreeing"] / max(1, repeated["cells"])
    print(f"{repeated['agreeing']} of {repeated['cells']} cells agree, {share:.0%} (at least {AGREEMENT_MIN:.0%})")
    print_result(
        {
            "benchmark": "measure",
            "quick": options.quick,
            "onnxruntime": onnxruntime.__version__,
            "worst_difference": worst,
            "tool": tool,
            "agreeing_share": share,
            "repetition": repeated,
        }
    )


class Partial:
    """Parts of a long run that are done.

    Args:
        is_resumed: whether parts of the run before count.
    """

    def __init__(self, is_resumed: bool) -> None:
        self._done: dict[str, Any] = json.loads(RESULTS.read_text()) if is_resumed and RESULTS.is_file() else {}

    def part(self, name: str, work: Any) -> Any:
        """What was found, or is found now."""
        if name not in self._done:
            self._done[name] = work()
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(self._done))
        return self._done[name]

    def forget(self) -> None:
        """The run is over."""
        RESULTS.unlink(missing_ok=True)


def add_devices(home: Home) -> list[str]:
    """A device for every core of this computer, three at most."""
    names = []
    for core in sorted(os.sched_getaffinity(0))[:3]:
        device = add_local(home, f"core{core}")
        home.devices.add(device.model_copy(update={"cores": (core,)}))
        names.append(device.name)
    return names


def by_the_tool(home: Home, device: str, models: list[Path], quick: bool) -> list[dict[str, Any]]:
    """Every model by hwprune and by the tool, in turns."""
    print(f"\n{'model':<16}{'hwprune ms':>12}{'tool ms':>10}{'ratio':>8}  trust  tvm/onnxruntime")
    (core,) = home.devices.get(device).cores
    rows = []
    for model in models:
        ours_ms, tool_ms, trust, ratios = [], [], "", []
        for _ in range(ROUNDS_QUICK if quick else ROUNDS):
            cells = measure(home, Request((model,), (device,), "onnxruntime", max_age_s=0.0), Console(quiet=True)).cells
            with on_core(core):
                told_ms = tool_latency_ms(model)
            if cells[0].is_good:
                ours_ms.append(_as_timed_ms(cells[0]))
                tool_ms.append(told_ms)
                trust += cells[0].trust or "-"
                ratios.append(cells[0].tvm_over_onnxruntime)
        known = [ratio for ratio in ratios if ratio is not None]
        row = {
            "model": model.stem,
            "hwprune_ms": statistics.median(ours_ms) if ours_ms else float("nan"),
            "tool_ms": statistics.median(tool_ms) if tool_ms else float("nan"),
            "ratio": statistics.median(a / b for a, b in zip(ours_ms, tool_ms, strict=True))
            if ours_ms
            else float("nan"),
            "trust": trust,
            "tvm_over_onnxruntime": statistics.median(known) if known else None,
        }
        print(
            f"{row['model']:<16}{row['hwprune_ms']:>12.4f}{row['tool_ms']:>10.4f}{row['ratio']:>8.3f}  {trust:<5}"
            f"{_text(row['tvm_over_onnxruntime'], '.2f', 17)}",
            flush=True,
        )
        rows.append(row)
    return rows


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


def repetition(home: Home, devices: list[str], models: list[Path], pause_min: float) -> dict[str, Any]:
    """The matrix, and the same again after a pause."""
    request = Request(tuple(models), tuple(devices), max_age_s=0.0)
    first = measure(home, request, Console(quiet=True))
    time.sleep(60 * pause_min)
    second = measure(home, request, Console(quiet=True))
    rows = [_repeated(cell, second) for cell in first.cells]
    print(f"\n{'model':<16}{'device':<8}{'first ms':>10}{'again ms':>10}{'moved':>8}  intervals")
    for row in rows:
        verdict = {True: "overlap", False: "differ", None: "no number"}[row["agrees"]]
        print(
            f"{row['model']:<16}{row['device']:<8}{_text(row['first_ms'])}{_text(row['again_ms'])}"
            f"{_text(row['moved'], '.1%', 8)}  {verdict}"
        )
    known = [row for row in rows if row["moved"] is not None]
    agreeing = sum(bool(row["agrees"]) for row in known)
    return {
        "pause_min": pause_min,
        "cells": len(known),
        "agreeing": agreeing,
        "failed": len(rows) - len(known),
        "rows": rows,
    }


def _repeated(cell: Cell, second: Matrix) -> dict[str, Any]:
    again = second.cell(cell.model, cell.device, cell.engine)
    row = {
        "model": Path(cell.model).stem,
        "device": cell.device,
        "first_ms": cell.latency_ms,
        "again_ms": again.latency_ms,
    }
    if not (cell.is_good and again.is_good):
        return {**row, "moved": None, "agrees": None, "reason": cell.error or again.error}
    ends = (cell.latency_ms_low, cell.latency_ms_high, again.latency_ms_low, again.latency_ms_high)
    low, high, low_again, high_again = (end or 0.0 for end in ends)
    moved = (again.latency_ms or 0.0) / (cell.latency_ms or 1.0) - 1
    return {**row, "moved": moved, "agrees": low <= high_again and low_again <= high, "intervals_ms": ends}


def _text(value: float | None, form: str = ".4f", width: int = 10) -> str:
    return ("-" if value is None else format(value, form)).rjust(width)


if __name__ == "__main__":
    main()
