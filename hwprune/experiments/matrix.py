"""Models x devices: what was measured, or why there is no number."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from hwprune.experiments.model_jobs import Engine
from hwprune.records import Artifact, Measurement, Trust


@dataclass(frozen=True)
class Cell:
    """One model on one device by one engine; without a latency where there is none to be trusted.

    Attributes:
        model: the file.
        device: name in the registry.
        engine: what ran it: ``tvm`` or ``onnxruntime``.
        version: of the device's ONNX Runtime, or of our kernels' schedules.
        latency_ms: the estimate, with its 95 % interval ``latency_ms_low`` to ``latency_ms_high``.
        latency_ms_p50: median of the kept calls; ``latency_ms_p90`` and ``latency_ms_p99`` alike.
        trust: its grade, ``trust_reason`` why it is not better.
        tvm_over_onnxruntime: our latency as a share of ONNX Runtime's, both measured here; None without one of them.
        planned_memory_bytes: packed weights plus arena; None where ONNX Runtime plans it.
        process_peak_bytes: VmHWM of the process that ran it.
        process_delta_bytes: that minus the empty runner's.
        load_ms: loading, and the self-test.
        fallback_calls: calls of our library that have no schedule of ours.
        fallback_ops: their operators, joined by a blank.
        fallback_share: share of the time in them, in [0, 1]; None where it is not known.
        clock_ratio: clock while it was measured, as a share of the one that its latency is given at.
        source: ``measured`` now, from the ``store`` (or a recording), or ``simulated`` by a model of a recording.
        measured_at: ISO 8601 time, UTC.
        artifact: SHA-256 of what ran.
        scenario: what the device was put through meanwhile.
        timeline: of a steady load: latencies, clocks and temperatures of each block, as ``Measurement`` has them.
        error: why there is no latency; "" where there is one.
    """

    model: str
    device: str
    engine: Engine
    version: str = ""
    latency_ms: float | None = None
    latency_ms_low: float | None = None
    latency_ms_high: float | None = None
    latency_ms_p50: float | None = None
    latency_ms_p90: float | None = None
    latency_ms_p99: float | None = None
    trust: Trust | None = None
    trust_reason: str = ""
    tvm_over_onnxruntime: float | None = None
    planned_memory_bytes: int | None = None
    process_peak_bytes: int | None = None
    process_delta_bytes: int | None = None
    load_ms: float | None = None
    fallback_calls: int | None = None
    fallback_ops: str = ""
    fallback_share: float | None = None
    clock_ratio: float | None = None
    source: Literal["measured", "store", "simulated"] | None = None
    measured_at: str = ""
    artifact: str = ""
    scenario: str = "burst"
    timeline: tuple[dict[str, Any], ...] = ()
    error: str = ""

    @classmethod
    def of(cls, model: str, engine: Engine, found: Measurement, artifact: Artifact, *, is_stored: bool) -> Self:
        """Cell of a measurement; one that stayed untrusted has its numbers, and the reason why they are none to use.

        Args:
            model: the file.
            engine: what ran it.
            found: the measurement.
            artifact: what was measured.
            is_stored: whether it was measured before.
        """
        cell = cls.failed(model, found.conditions.device, engine, found.error or "")
        if found.error is not None:
            return replace(cell, measured_at=found.measured_at, artifact=artifact.sha256)
        low_ms, high_ms = found.interval_ms
        source: Literal["measured", "store", "simulated"] = "store" if is_stored else "measured"
        told = artifact.description
        return replace(
            cell,
            version=found.conditions.engine.partition(" ")[2] or found.conditions.schedule_version,
            latency_ms=found.latency_ms,
            latency_ms_low=low_ms,
            latency_ms_high=high_ms,
            latency_ms_p50=None if found.is_simulated else found.percentile_ms(50),
            latency_ms_p90=None if found.is_simulated else found.percentile_ms(90),
            latency_ms_p99=None if found.is_simulated else found.percentile_ms(99),
            trust=found.trust,
            trust_reason=found.trust_reason,
            planned_memory_bytes=found.planned_memory_bytes,
            process_peak_bytes=found.process_peak_bytes,
            process_delta_bytes=found.process_delta_bytes,
            load_ms=found.load_ms,
            fallback_calls=told["fallback_calls"] if engine == "tvm" else None,
            fallback_ops=" ".join(told["fallback_ops"]),
            fallback_share=found.fallback_share,
            clock_ratio=found.clock_ratio,
            source="simulated" if found.is_simulated else source,
            measured_at=found.measured_at,
            artifact=artifact.sha256,
            timeline=found.timeline,
            error=f"untrusted: {found.trust_reason}" if found.trust == "C" else "",
        )

    @classmethod
    def failed(cls, model: str, device: str, engine: Engine, reason: str) -> Self:
        """A cell without a number."""
        return cls(model, device, engine, error=" ".join(reason.split()))

    @property
    def is_good(self) -> bool:
        """Whether its latency can be used."""
        return not self.error


def with_ratio(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of one model on one device with the ratio of our latency to ONNX Runtime's, where both can be used."""
    latency_ms = {cell.engine: cell.latency_ms for cell in cells if cell.is_good}
    ours_ms, theirs_ms = latency_ms.get("tvm"), latency_ms.get("onnxruntime")
    if ours_ms is None or theirs_ms is None:
        return list(cells)
    return [replace(cell, tvm_over_onnxruntime=ours_ms / theirs_ms) for cell in cells]


@dataclass(frozen=True)
class Matrix:
    """All cells of one command.

    Attributes:
        models: files, in the order that they were named in.
        devices: names, in that order.
        engines: what ran them, what was asked for first.
        cells: by model, then device, then engine.
    """

    models: tuple[str, ...]
    devices: tuple[str, ...]
    engines: tuple[Engine, ...]
    cells: tuple[Cell, ...]

    @property
    def failed(self) -> list[Cell]:
        """Cells of the engine that was asked for that have no latency to use."""
        return [cell for cell in self.cells if cell.engine == self.engines[0] and not cell.is_good]

    def cell(self, model: str, device: str, engine: Engine) -> Cell:
        """One cell."""
        return next(each for each in self.cells if (each.model, each.device, each.engine) == (model, device, engine))

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def write_csv(self, path: Path) -> None:
        """Write one line a cell, whole or not at all; what is unknown is an empty field, and there are no timelines."""
        draft = path.with_name(f".{path.name}.part")
        columns = [field.name for field in fields(Cell) if field.name != "timeline"]
        with draft.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(columns)
            for cell in self.cells:
                values = (getattr(cell, column) for column in columns)
                writer.writerow("" if value is None else value for value in values)
        draft.replace(path)
