"""Models by ``hwprune measure --engine onnxruntime``, and by the performance tool in ONNX Runtime's own package.

``onnxruntime_perf_test`` is part of no package; the tool is ``onnxruntime.tools.onnxruntime_test``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.tools import onnxruntime_test

from hwprune.experiments.home import Home
from hwprune.experiments.matrix import Cell
from hwprune.experiments.measure import Request, measure
from hwprune.experiments.progress import Silent

#: Runs of the tool in a round, and their iterations: these take at least so long together, and are at least so many.
#: Runs are short, as undisturbed moments are.
TOOL_RUNS, TOOL_S, ITERATIONS_MIN = 120, 0.01, 3


def by_the_tool(home: Home, device: str, model: Path, rounds: int) -> dict[str, Any]:
    """A model by hwprune and by the tool, in turns.

    Args:
        home: knows the device.
        device: one core of this computer.
        model: ONNX file.
        rounds: of both.
    """
    (core,) = home.devices.get(device).cores
    ours_ms, tool_ms, trust, ratios = [], [], "", []
    for _ in range(rounds):
        cell = measure(home, Request((model,), (device,), "onnxruntime", max_age_s=0.0), Silent()).cells[0]
        with on_core(core):
            told_ms = tool_latency_ms(model)
        if cell.is_good:
            ours_ms.append(_as_timed_ms(cell))
            tool_ms.append(told_ms)
            trust += cell.trust or "-"
            ratios.append(cell.tvm_over_onnxruntime)
    return {
        "model": model.stem,
        "hwprune_ms": _median(ours_ms),
        "tool_ms": _median(tool_ms),
        "ratio": _median([ours / theirs for ours, theirs in zip(ours_ms, tool_ms, strict=True)]),
        "trust": trust,
        "tvm_over_onnxruntime": _median([ratio for ratio in ratios if ratio is not None]),
    }


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _as_timed_ms(cell: Cell) -> float:
    """Latency as the agent timed it, not at the clock of the device's first measurement."""
    assert cell.latency_ms is not None
    return cell.latency_ms / (cell.clock_ratio or 1.0)


class OneThread:
    """ONNX Runtime's package as its tool sees it, with sessions of one thread.

    A model has one session for all runs: the tool counts the first iterations, which touch all memory for the first
    time, and hwprune's numbers are of a network that is warm.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def InferenceSession(self, path: str, **_: Any) -> onnxruntime.InferenceSession:  # noqa: N802
        """A session as hwprune makes it; the same one for the same path."""
        if path in self._sessions:
            return self._sessions[path]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._sessions[path] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return self._sessions[path]


def tool_latency_ms(model: Path) -> float:
    """10th percentile of the mean latencies that runs of the tool print."""
    onnxruntime_test.onnxrt = OneThread()
    iterations = max(ITERATIONS_MIN, round(TOOL_S * 1e3 / _tool_run_ms(model, 20)))
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
