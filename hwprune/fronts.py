"""What a run found, as plain frozen data: a front and its rows, written to ``front.json`` and ``front.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hwprune.records import Measurement, Trust


@dataclass(frozen=True)
class FrontRow:
    """One network of a front, measured whole on the device; a row of ``front.csv``.

    Attributes:
        id: ``dense`` or the point's name, the one ``export --point`` takes.
        val_metric: the task's metric on the validation split, of the weights that are handed out.
        test_metric: the same on the test split; None before the final pass.
        latency_ms: the estimate, with its 95 % interval ``latency_ms_low`` to ``latency_ms_high``.
        latency_ms_p50: median of the kept calls; ``latency_ms_p90`` and ``latency_ms_p99`` alike; None if simulated.
        predicted_latency_ms: what the device's latency model said; None where it was not asked.
        predicted_latency_ms_std: the model's own spread.
        planned_memory_bytes: packed weights plus arena.
        process_peak_bytes: VmHWM of the process that ran it.
        process_delta_bytes: that minus the empty runner's.
        macs: multiply-adds of one inference.
        params: parameters left.
        trust: the measurement's grade, ``trust_reason`` why it is not better.
        device: name in the registry.
        engine: what ran it.
        dtype: number format.
        threads: threads of one inference.
        scenario: what the device was put through meanwhile.
        boards: of a pool: those that it was measured on.
        finetuned: whether the weights were fine-tuned after the search.
        val_metric_inherited: the validation metric as the search saw it, with inherited weights.
        test_metric_inherited: the test metric before fine-tuning, where it was taken.
        clock_ratio: clock while it was measured, as a share of the one that its latencies are given at.
        load_ms: loading the library and its self-test.
        repeats: how often the measurement was repeated.
        measured_at: ISO 8601 time, UTC.
        widths: kept channels of every group.
        plan_key: digest of the pruning plan; "" for the dense network.
        artifact: SHA-256 of the measured library.
        energy_mj: of one inference, by the device's own meter; None without one.
        simulated: whether a model answered in place of a replayed device, whose recording has no such network.
    """

    id: str
    val_metric: float
    test_metric: float | None
    latency_ms: float
    latency_ms_low: float
    latency_ms_high: float
    latency_ms_p50: float | None
    latency_ms_p99: float | None
    predicted_latency_ms: float | None
    planned_memory_bytes: int
    process_peak_bytes: int | None
    process_delta_bytes: int | None
    macs: int
    params: int
    trust: Trust
    device: str
    engine: str
    dtype: str
    threads: int
    scenario: str = "burst"
    boards: tuple[str, ...] = ()
    finetuned: bool = False
    val_metric_inherited: float | None = None
    test_metric_inherited: float | None = None
    latency_ms_p90: float | None = None
    predicted_latency_ms_std: float | None = None
    trust_reason: str = ""
    clock_ratio: float | None = None
    load_ms: float | None = None
    repeats: int = 0
    measured_at: str = ""
    widths: tuple[int, ...] = ()
    plan_key: str = ""
    artifact: str = ""
    energy_mj: float | None = None
    simulated: bool = False

    @classmethod
    def of(cls, id: str, measurement: Measurement, *, val_metric: float, **facts: Any) -> FrontRow:
        """Row of a measured network.

        Args:
            id: ``dense`` or the point's name.
            measurement: a measurement with values.
            val_metric: metric on the validation split.
            facts: the other fields, by name (``macs``, ``params``, ``widths``, ...).
        """
        low, high = measurement.interval_ms
        taken: dict[str, Any] = {
            "test_metric": None,
            "predicted_latency_ms": None,
            "latency_ms": measurement.latency_ms,
            "latency_ms_low": low,
            "latency_ms_high": high,
            **{
                f"latency_ms_p{q}": None if measurement.is_simulated else measurement.percentile_ms(q)
                for q in (50, 90, 99)
            },
            "planned_memory_bytes": measurement.planned_memory_bytes,
            "process_peak_bytes": measurement.process_peak_bytes,
            "process_delta_bytes": measurement.process_delta_bytes,
            "trust": measurement.trust,
            "trust_reason": measurement.trust_reason,
            "clock_ratio": measurement.clock_ratio,
            "energy_mj": measurement.energy_mj,
            "load_ms": measurement.load_ms,
            "repeats": measurement.repeats,
            "measured_at": measurement.measured_at,
            "artifact": "" if measurement.is_simulated else measurement.key,
            "simulated": measurement.is_simulated,
            "device": measurement.conditions.device,
            "engine": measurement.conditions.engine,
            "dtype": measurement.conditions.dtype,
            "threads": measurement.conditions.threads,
            "scenario": measurement.conditions.scenario,
            "boards": tuple(dict.fromkeys(measurement.boards)),
        }
        return cls(id=id, val_metric=val_metric, **{**taken, **facts})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FrontRow:
        """Inverse of ``asdict``, after JSON has made lists of tuples."""
        return cls(**{**data, **{name: tuple(data.get(name, ())) for name in ("widths", "boards")}})


@dataclass(frozen=True)
class Front:
    """What a run found: the dense network and the non-dominated ones beside it, all measured whole on one device.

    Attributes:
        run_id: the run's name.
        network: the network, as the config names it.
        data: the data set, as the config names it.
        method: the search method.
        metric: name of the task's metric, ``top1`` for classification.
        higher_is_better: the metric's direction.
        objectives: what was minimized, by name.
        rows: the dense network first, then the points by latency; trust A or B.
        untrusted: points whose measurement stayed at C, apart from the front.
        device: facts that the device's agent told.
        conditions: what the numbers depend on, and the device's state before and after.
        latency_model: the model's card, with its error on held-out kernels and networks; None where there is none.
        counts: what the run did, by name with unit (``evaluations``, ``device_measurements``, ``seconds``, ...).
        groups: names of the pruned channel groups, in the order of the rows' widths.
    """

    run_id: str
    network: str
    data: str
    method: str
    metric: str
    higher_is_better: bool
    objectives: tuple[str, ...]
    rows: tuple[FrontRow, ...]
    untrusted: tuple[FrontRow, ...] = ()
    device: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    latency_model: dict[str, Any] | None = None
    counts: dict[str, float] = field(default_factory=dict)
    groups: tuple[str, ...] = ()

    @property
    def dense(self) -> FrontRow | None:
        """The unpruned network's row; None where its measurement was not trusted."""
        return next((row for row in self.rows if row.id == "dense"), None)

    @property
    def points(self) -> tuple[FrontRow, ...]:
        """The pruned networks."""
        return tuple(row for row in self.rows if row.id != "dense")

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Front:
        """Inverse of :meth:`as_dict`."""
        rows = {name: tuple(FrontRow.from_dict(row) for row in data[name]) for name in ("rows", "untrusted")}
        texts = {name: tuple(data[name]) for name in ("objectives", "groups")}
        return cls(**{**data, **rows, **texts})
