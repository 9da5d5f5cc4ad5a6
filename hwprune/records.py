"""Plain frozen data that every floor may hold: artifacts, measurements, evaluations."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

#: What was measured and how; raise it when the meaning of a measured number changes.
#: 1: 10th percentile of kept calls, blocks framed by a reference kernel, bootstrap over processes and blocks.
PROTOCOL_VERSION = 1

Trust = Literal["A", "B", "C"]


@dataclass(frozen=True)
class Artifact:
    """A compiled library.

    Attributes:
        path: where it lies on the host.
        sha256: digest of its bytes, its name in the store and on devices.
        kind: ``network`` (``network_run``) or ``kernels`` (a pack for profiling, ``kernel_run``).
        target: what it was compiled for, as text (LLVM's CPU name, features, lanes, threads).
        schedule_version: version of the kernels' schedules.
        description: what the library says of itself (shapes, arena and weight bytes, kernels, fallbacks).
    """

    path: Path
    sha256: str
    kind: Literal["network", "kernels"]
    target: str
    schedule_version: str
    description: dict[str, Any]

    @property
    def planned_memory_bytes(self) -> int:
        """Packed weights plus arena: what pruning changes of the memory a network needs."""
        return int(self.description["weights_bytes"]) + int(self.description["arena_bytes"])


@dataclass(frozen=True)
class Conditions:
    """What a measured number depends on beside the network; equal conditions make numbers comparable.

    Attributes:
        device: the device's name in the registry.
        fingerprint: digest of what the device is (CPU, cores, kernel, governor and clock limits).
        engine: what ran the network, ``tvm`` or ``onnxruntime``.
        dtype: ``float32``.
        input_shape: shape of one call's input, batch first.
        threads: threads of one inference.
        schedule_version: version of the kernels' schedules.
        protocol_version: version of the measurement protocol.
    """

    device: str
    fingerprint: str
    engine: str
    dtype: str
    input_shape: tuple[int, ...]
    threads: int
    schedule_version: str
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True)
class Measurement:
    """One network (or kernel) measured on one device: raw values, conditions, or the reason why there are none.

    Attributes:
        key: what was measured (an artifact's SHA-256, or the digest of a layer shape).
        conditions: what the numbers depend on.
        values_ms: kept calls, by process, block and call.
        drift: largest relative movement of the reference kernel over the kept blocks.
        trust: grade; see docs/measurement.md.
        trust_reason: why it is not better than that, "" for A.
        planned_memory_bytes: packed weights plus arena.
        process_peak_bytes: VmHWM of the process that ran it; None where the system does not tell.
        process_delta_bytes: that minus the empty runner's.
        load_ms: loading the library and its self-test.
        fallback_share: share of the time in kernels without a schedule of ours, in [0, 1].
        state_before: governor, clocks, temperature, load and throttling before; None with a reason where unreadable.
        state_after: the same afterwards.
        repeats: how often the measurement was repeated to earn its grade.
        measured_at: ISO 8601 time, UTC.
        error: why there are no values, or None.
    """

    key: str
    conditions: Conditions
    values_ms: tuple[tuple[tuple[float, ...], ...], ...] = ()
    drift: float | None = None
    trust: Trust = "C"
    trust_reason: str = ""
    planned_memory_bytes: int | None = None
    process_peak_bytes: int | None = None
    process_delta_bytes: int | None = None
    load_ms: float | None = None
    fallback_share: float | None = None
    state_before: dict[str, Any] = field(default_factory=dict)
    state_after: dict[str, Any] = field(default_factory=dict)
    repeats: int = 0
    measured_at: str = ""
    error: str | None = None

    def percentile_ms(self, q: float) -> float:
        """``q``-th percentile (0 to 100) over all kept calls, in ms; NaN where nothing was measured."""
        calls = [call for process in self.values_ms for block in process for call in block]
        return float(np.percentile(calls, q)) if calls else float("nan")

    @property
    def latency_ms(self) -> float:
        """The estimate: 10th percentile of the kept calls, the device undisturbed."""
        return self.percentile_ms(10)

    @functools.cached_property
    def interval_ms(self) -> tuple[float, float]:
        """95 % bootstrap interval of :attr:`latency_ms`, over processes and blocks; always the same for the same values."""
        return bootstrap_interval_ms(self.values_ms)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Measurement:
        """Inverse of :meth:`as_dict`."""
        conditions = dict(data["conditions"])
        conditions["input_shape"] = tuple(conditions["input_shape"])
        values = tuple(tuple(tuple(block) for block in process) for process in data["values_ms"])
        return cls(**{**data, "conditions": Conditions(**conditions), "values_ms": values})

    def without_values(self) -> Measurement:
        """The same record without its raw values, for listings."""
        return replace(self, values_ms=())


def bootstrap_interval_ms(
    values_ms: tuple[tuple[tuple[float, ...], ...], ...], resamples: int = 400
) -> tuple[float, float]:
    """95 % interval of the 10th percentile, resampling processes, then blocks inside them.

    Args:
        values_ms: calls by process, block and call.
        resamples: bootstrap resamples.

    Returns:
        Lower and upper bound in ms; (NaN, NaN) where there are no values.
    """
    processes = [[np.asarray(block) for block in process if len(block)] for process in values_ms]
    processes = [process for process in processes if process]
    if not processes:
        return float("nan"), float("nan")
    generator = np.random.default_rng(0)
    estimates = np.empty(resamples)
    for index in range(resamples):
        calls = []
        for chosen in generator.integers(len(processes), size=len(processes)):
            blocks = processes[chosen]
            calls += [blocks[block] for block in generator.integers(len(blocks), size=len(blocks))]
        estimates[index] = np.percentile(np.concatenate(calls), 10)
    low, high = np.percentile(estimates, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Evaluation:
    """One true evaluation of a candidate: what a run's archive holds.

    Attributes:
        plan_key: digest of what the genome decodes to.
        widths: kept channels of every group, in the order of the groups.
        objectives: value of every objective by name, minimized; empty where the evaluation failed.
        metric: the task's metric on the validation split (top-1 as a fraction for classification).
        origin: who proposed it: ``initial``, ``offspring``, ``local_search``, ``sweep``, ...
        generation: number of the generation, from 0.
        seconds: wall time of the evaluation.
        error: why it failed, or None.
    """

    plan_key: str
    widths: tuple[int, ...]
    objectives: dict[str, float]
    metric: float | None
    origin: str
    generation: int
    seconds: float
    error: str | None = None
