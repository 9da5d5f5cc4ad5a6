"""Plain frozen data that every floor may hold: artifacts, measurements, evaluations."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from latency_models.shapes import LayerShape

#: What was measured and how; raise it when the meaning of a measured number changes.
#: 1: 10th percentile of kept calls, blocks framed by a reference kernel, bootstrap over processes and blocks; given at
#:    the clock at which the device ran the reference kernel when it was measured first.
#: 2: the interval holds the clock's doubt.
PROTOCOL_VERSION = 2

#: Networks follow the reference kernel to another clock only so far: sittings whose levels differed by x disagreed by
#: 0.28 x on average (354 pairs, levels up to 0.25 apart).
CLOCK_DOUBT = 0.3

#: The same for the memory that cores share: where a pass over 16 MiB took longer by x, networks took up to 0.8 x longer
#: (26 windows of 5 s), x taken for the share of them that does not fit a core's own cache. So much is allowed for, and
#: never more than the second number.
MEMORY_DOUBT, MEMORY_DOUBT_MAX = 1.0, 0.3

Trust = Literal["A", "B", "C"]

#: Standard deviations on either side that hold 95 % of a normal distribution.
NORMAL_95 = 1.96


def digest(data: Mapping[str, Any]) -> str:
    """SHA-256 of plain data; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def network_key(shapes: Sequence[LayerShape]) -> str:
    """Digest of a network's layers: equal for networks that make the same calls; "" for none."""
    if not shapes:
        return ""
    # The text that digest({"layers": [shape.as_dict(), ...]}) takes, put together of layers that are seen many times.
    return hashlib.sha256(f'{{"layers":[{",".join(map(_layer_text, shapes))}]}}'.encode()).hexdigest()


@functools.lru_cache(maxsize=1 << 16)
def _layer_text(shape: LayerShape) -> str:
    return json.dumps(shape.as_dict(), sort_keys=True, separators=(",", ":"))


#: Latencies of one device whose reference kernel took times further apart are given at different clocks.
_SAME_CLOCK = 0.05


def same_clock(one_ms: float | None, other_ms: float | None) -> bool:
    """Whether numbers are given at one clock, by what a call of the reference kernel takes at it (None: not known)."""
    if one_ms is None or other_ms is None:
        return one_ms == other_ms
    return abs(one_ms / other_ms - 1) <= _SAME_CLOCK


@dataclass(frozen=True)
class Artifact:
    """A compiled library.

    Attributes:
        path: where it lies on the host.
        sha256: digest of its bytes, its name in the store and on devices.
        kind: ``network`` (``network_run``), ``kernels`` (a pack for profiling, ``kernel_run``), ``resident`` (a network
            at any widths, ``resident_run``) or ``onnx`` (a model for the device's own ONNX Runtime).
        target: what it was compiled for, as text (LLVM's CPU name, features, lanes, threads).
        schedule_version: version of the kernels' schedules.
        description: what the library says of itself (shapes, arena and weight bytes, kernels, fallbacks).
        shapes: layers that a network's library runs, in the order of its calls; () where it is another kind of library.
    """

    path: Path
    sha256: str
    kind: Literal["network", "kernels", "resident", "onnx"]
    target: str
    schedule_version: str
    description: dict[str, Any]
    shapes: tuple[LayerShape, ...] = ()

    @property
    def planned_memory_bytes(self) -> int | None:
        """Packed weights plus arena: what pruning changes of the memory a network needs; None where others plan it."""
        if self.kind == "onnx":
            return None
        return int(self.description["weights_bytes"]) + int(self.description["arena_bytes"])


@dataclass(frozen=True)
class Conditions:
    """What a measured number depends on beside the network; equal conditions make numbers comparable.

    Attributes:
        device: the device's name in the registry.
        fingerprint: digest of what the device is (CPU, cores, kernel, governor and clock limits).
        engine: what ran the network: ``tvm``, ``tvm-resident`` (its kernels in a resident library, with weights that
            are not its own) or ``onnxruntime`` with its version.
        dtype: ``float32``.
        input_shape: shape of one call's input, batch first.
        threads: threads of one inference.
        schedule_version: version of the kernels' schedules.
        protocol_version: version of the measurement protocol.
        scenario: what the device was put through meanwhile; see :mod:`hwprune.scenario`.
    """

    device: str
    fingerprint: str
    engine: str
    dtype: str
    input_shape: tuple[int, ...]
    threads: int
    schedule_version: str
    protocol_version: int = PROTOCOL_VERSION
    scenario: str = "burst"

    @property
    def digest(self) -> str:
        """Equal for equal conditions, and short enough for a column."""
        told = asdict(self)
        if self.scenario == "burst":
            del told["scenario"]  # so that what was measured before there were others is still found
        return digest(told)


@dataclass(frozen=True)
class MemoryReading:
    """How fast the memory that cores share was while a network was measured.

    Attributes:
        latency_ms: what a pass over more than a core's own caches hold took, as latencies are given.
        fastest_ms: the fastest pass that is known of the device.
    """

    latency_ms: float
    fastest_ms: float


@dataclass(frozen=True)
class Measurement:
    """One network (or kernel) measured on one device: raw values, conditions, or the reason why there are none.

    Attributes:
        key: what was measured (an artifact's SHA-256, or the digest of a layer shape).
        conditions: what the numbers depend on.
        values_ms: kept calls as they were timed, by process, block and call.
        drift: largest relative movement of the reference kernel over the kept blocks.
        reference_ms: what a call of the reference kernel took during the kept blocks.
        device_reference_ms: what it takes on this device at the clock that its latencies are given at.
        trust: grade; see docs/measurement.md.
        trust_reason: why it is not better than that, "" for A.
        planned_memory_bytes: packed weights plus arena.
        process_peak_bytes: VmHWM of the process that ran it; None where the system does not tell.
        process_delta_bytes: that minus the empty runner's.
        energy_mj: of one inference, by the device's own meter; None without one.
        load_ms: loading the library and its self-test.
        fallback_share: share of the time in kernels without a schedule of ours, in [0, 1].
        state_before: governor, clocks, temperature, load and throttling before; None with a reason where unreadable.
        state_after: the same afterwards.
        repeats: how often the measurement was repeated to earn its grade.
        measured_at: ISO 8601 time, UTC.
        error: why there are no values, or None.
        board_ratio: how much longer its board takes than the first of the pool, whose speed its numbers are given at; 1
            outside of pools.
        boards: of a network measured on several boards of a pool: on which one each process ran.
        board_spread: how far the estimate of any of these boards lies from the common one, as a share of it.
        timeline: of a steady load: time, latencies, clocks and temperatures of each block; ``counts`` says whether its
            values are among ``values_ms``.
        shapes_key: digest of the layers of a network, whatever it was compiled to; "" where they are not known.
        simulated_ms: mean and standard deviation by a model, where nothing was measured: of a replayed device, whose
            recording has no such network. None for what was measured.
        memory: the memory meanwhile, of a network that does not fit a core's own caches; None where nobody asked.
        cold_share: share of the network that these cannot keep, in [0, 1].
    """

    key: str
    conditions: Conditions
    values_ms: tuple[tuple[tuple[float, ...], ...], ...] = ()
    drift: float | None = None
    reference_ms: float | None = None
    device_reference_ms: float | None = None
    trust: Trust = "C"
    trust_reason: str = ""
    planned_memory_bytes: int | None = None
    process_peak_bytes: int | None = None
    process_delta_bytes: int | None = None
    energy_mj: float | None = None
    load_ms: float | None = None
    fallback_share: float | None = None
    state_before: dict[str, Any] = field(default_factory=dict)
    state_after: dict[str, Any] = field(default_factory=dict)
    repeats: int = 0
    measured_at: str = ""
    error: str | None = None
    board_ratio: float = 1.0
    boards: tuple[str, ...] = ()
    board_spread: float = 0.0
    timeline: tuple[dict[str, Any], ...] = ()
    shapes_key: str = ""
    simulated_ms: tuple[float, float] | None = None
    memory: MemoryReading | None = None
    cold_share: float = 0.0

    @property
    def is_simulated(self) -> bool:
        """Whether a model answered in place of the device."""
        return self.simulated_ms is not None

    @property
    def clock_ratio(self) -> float:
        """Clock during the measurement as a share of the clock that latencies are given at; 1 where it stands still.

        1 in every scenario but the burst as well: the clock that a load brings about is part of what is measured.

        Processors change their clock by some percent from minute to minute, for reasons outside of this device's
        control; the reference kernel in the same process shows by how much.
        """
        if self.reference_ms is None or self.device_reference_ms is None or self.conditions.scenario != "burst":
            return 1.0
        return self.device_reference_ms / self.reference_ms

    @property
    def memory_doubt(self) -> float:
        """By how much the estimate may be too high, as a share of it, because others used the memory."""
        if self.memory is None:
            return 0.0
        longer = self.memory.latency_ms / self.memory.fastest_ms - 1
        return min(MEMORY_DOUBT_MAX, MEMORY_DOUBT * self.cold_share * max(0.0, longer))

    @property
    def scale(self) -> float:
        """What values as they were timed are multiplied by: to the device's clock, and to the pool's first board."""
        return self.clock_ratio / self.board_ratio

    def percentile_ms(self, q: float) -> float:
        """``q``-th percentile (0 to 100) over all kept calls, at the device's clock; NaN where nothing was measured."""
        calls = [call for process in self.values_ms for block in process for call in block]
        return float(np.percentile(calls, q)) * self.scale if calls else float("nan")

    @property
    def latency_ms(self) -> float:
        """The estimate: 10th percentile of the kept calls, the device undisturbed; or what a model says of it."""
        return self.percentile_ms(10) if self.simulated_ms is None else self.simulated_ms[0]

    @functools.cached_property
    def interval_ms(self) -> tuple[float, float]:
        """95 % interval of :attr:`latency_ms`: by bootstrap over processes and blocks.

        Widened by the clock's doubt, and by what boards of a pool differ by; downwards also by what others' use of the
        memory may have cost. Of what was simulated, the model's own.
        """
        if self.simulated_ms is not None:
            mean_ms, std_ms = self.simulated_ms
            return max(0.0, mean_ms - NORMAL_95 * std_ms), mean_ms + NORMAL_95 * std_ms
        low_ms, high_ms = bootstrap_interval_ms(self.values_ms)
        doubt = clock_doubt(self.clock_ratio) + self.board_spread
        return low_ms * self.scale * (1 - doubt - self.memory_doubt), high_ms * self.scale * (1 + doubt)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Measurement:
        """Inverse of :meth:`as_dict`."""
        conditions = dict(data["conditions"])
        conditions["input_shape"] = tuple(conditions["input_shape"])
        values = tuple(tuple(tuple(block) for block in process) for process in data["values_ms"])
        lists = {name: tuple(data.get(name, ())) for name in ("boards", "timeline")}
        simulated, memory = data.get("simulated_ms"), data.get("memory")
        changed = {
            **lists,
            "values_ms": values,
            "simulated_ms": None if simulated is None else tuple(simulated),
            "memory": None if memory is None else MemoryReading(**memory),
        }
        return cls(**{**data, **changed, "conditions": Conditions(**conditions)})

    def without_values(self) -> Measurement:
        """The same record without its raw values, for listings."""
        return replace(self, values_ms=(), timeline=())


def clock_doubt(clock_ratio: float) -> float:
    """How far a latency may be off, as a share of it, because it was measured at another clock than it is given at."""
    return CLOCK_DOUBT * abs(clock_ratio - 1)


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
    processes = [[block for block in process if len(block)] for process in values_ms]
    processes = [process for process in processes if process]
    if not processes:
        return float("nan"), float("nan")
    blocks = [np.asarray(block) for process in processes for block in process]
    calls = np.concatenate(blocks)
    order = np.argsort(calls, kind="stable")
    block_of_call = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])[order]
    # Drawing a block k times is counting each of its calls k times: all resamples share one sorting.
    draws = _draw_blocks([len(process) for process in processes], resamples)
    counts = np.cumsum(draws[block_of_call], axis=0, dtype=np.int32)
    position = 0.1 * (counts[-1] - 1)
    below = position.astype(np.int64)
    above = np.minimum(below + 1, counts[-1] - 1)
    lower, upper = (calls[order[(counts <= rank).sum(axis=0)]] for rank in (below, above))
    low, high = np.percentile(lower + (position - below) * (upper - lower), [2.5, 97.5])
    return float(low), float(high)


def _draw_blocks(blocks_of_process: list[int], resamples: int) -> npt.NDArray[np.int32]:
    """``(blocks, resamples)`` array: how often each block is drawn, processes first and then blocks inside them."""
    generator = np.random.default_rng(0)
    processes = len(blocks_of_process)
    times = generator.multinomial(processes, [1 / processes] * processes, size=resamples)
    # A process drawn k times gives k times its number of blocks, each drawn afresh.
    draws = [
        generator.multinomial(times[:, index] * count, [1 / count] * count)
        for index, count in enumerate(blocks_of_process)
    ]
    return np.concatenate(draws, axis=1).T.astype(np.int32, order="C")


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
        seconds: wall time that it added to the search.
        error: why it failed, or None.
        images: images that the metric was taken on where the candidate was given up early; None for the whole split.
        stored: the metric was known from an earlier search.
    """

    plan_key: str
    widths: tuple[int, ...]
    objectives: dict[str, float]
    metric: float | None
    origin: str
    generation: int
    seconds: float
    error: str | None = None
    images: int | None = None
    stored: bool = False


@dataclass(frozen=True)
class Score:
    """A candidate's metric on the validation split, or the reason why there is none.

    Attributes:
        metric: the task's metric; None where the candidate cannot be scored.
        images: images that it was taken on where the candidate was given up early; None for the whole split.
        stored: it was known from an earlier search and cost nothing.
        error: why there is no metric, or None.
    """

    metric: float | None
    images: int | None = None
    stored: bool = False
    error: str | None = None
