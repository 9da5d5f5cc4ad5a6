"""Runs side by side: hypervolume on one reference point, each run's pick, and the conditions in which they differ.

Everything here comes from the runs' folders. Objectives are columns of ``front.csv`` as they are written there, so
that whoever has these files gets the same numbers.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import moocore
import numpy as np
import numpy.typing as npt

from hwprune.config import Problem, RunConfig
from hwprune.errors import ConfigError, RunError
from hwprune.fronts import Front, FrontRow
from hwprune.records import Conditions, same_clock
from hwprune.reports.front import load_front, read_csv, write_csv
from hwprune.reports.verdict import loss

FloatArray = npt.NDArray[np.float64]
Split = Literal["test", "val"]

#: What is compared, all minimized; the error is 1 - metric where more is better, else the metric itself.
OBJECTIVES = ("error", "latency_ms", "planned_memory_bytes")

#: The reference point lies this share of the runs' whole range beyond their worst value.
MARGIN = 0.1

#: Points of the metric (hundredths) below the dense network at which the runs' fastest networks are listed.
DROPS = (0.0, 0.5, 1.0, 2.0, 5.0)

#: Metrics are written with six digits, so that a drop of exactly the limit may exceed it by less than this.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ComparedRun:
    """A finished run, as its folder tells it.

    Attributes:
        label: what it is called here: its id, or its folder's path where two have the same.
        folder: where it is.
        front: what it found.
        problem: what it was asked.
        table: its ``front.csv``, cells by column.
        conditions: what its numbers depend on, by name; None for what was not recorded.
        reference_ms: time of the reference kernel at the clock that its latencies are given at; None if not known.
    """

    label: str
    folder: Path
    front: Front
    problem: Problem
    table: tuple[dict[str, str], ...]
    conditions: dict[str, Any]
    reference_ms: float | None

    def objectives(self, split: Split) -> FloatArray:
        """``(n, 3)`` values of :data:`OBJECTIVES`, one row a network of ``front.csv``."""
        metric = [float(row[f"{split}_{self.front.metric}"]) for row in self.table]
        error = [1 - value if self.front.higher_is_better else value for value in metric]
        columns = [error, *([float(row[name]) for row in self.table] for name in OBJECTIVES[1:])]
        return np.array(columns, dtype=np.float64).T

    def is_on_device_of(self, other: ComparedRun) -> bool:
        """Whether both were measured on one device in one state."""
        return bool(self.conditions["fingerprint"] == other.conditions["fingerprint"])

    def fastest(self, max_drop_points: float) -> FrontRow | None:
        """The fastest trusted network at most ``max_drop_points`` below the dense one; None without a dense one."""
        if self.front.dense is None:
            return None
        near = [row for row in self.front.rows if 100 * loss(self.front, row) <= max_drop_points + _ROUNDING]
        return min(near, key=lambda row: row.latency_ms)

    def point(self, row: FrontRow) -> dict[str, Any]:
        """A network of the run for programs: which one, how good, how fast and how large."""
        dense = self.front.dense
        return {
            "point": row.id,
            "metric": row.val_metric if row.test_metric is None else row.test_metric,
            "drop_points": 100 * loss(self.front, row) if dense else None,
            "latency_ms": row.latency_ms,
            "latency_ms_low": row.latency_ms_low,
            "latency_ms_high": row.latency_ms_high,
            "planned_memory_bytes": row.planned_memory_bytes,
            "speedup": dense.latency_ms / row.latency_ms if dense else None,
            "trust": row.trust,
            "simulated": row.simulated,
        }


@dataclass(frozen=True)
class Comparison:
    """What runs say together.

    Attributes:
        runs: the runs, in the order they were named.
        split: whose metric is compared: ``test`` where every network has it, else ``val``.
        ideal: the corner that the box begins at, by objective.
        ref_point: the corner that it ends at.
        hv: share of the box that a run's networks dominate, in [0, 1], by run.
        max_drop_points: points of the metric (hundredths) that a pick may lie below the dense network.
        picks: the fastest network within that, by run; None where the dense network is not known.
        conditions_differ: condition -> run -> value, for those in which the runs differ.
    """

    runs: tuple[ComparedRun, ...]
    split: Split
    ideal: dict[str, float]
    ref_point: dict[str, float]
    hv: dict[str, float]
    max_drop_points: float
    picks: dict[str, FrontRow | None]
    conditions_differ: dict[str, dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and for the page."""
        metric = self.runs[0].front.metric
        return {
            "runs": {run.label: _facts(run) for run in self.runs},
            "metric": f"{self.split}_{metric}",
            "hv": self.hv,
            "ideal": self.ideal,
            "ref_point": self.ref_point,
            "max_drop_points": self.max_drop_points,
            "picks": {run.label: _point(run, self.picks[run.label]) for run in self.runs},
            "fastest": [
                {"drop_points": drop, "networks": {run.label: _point(run, run.fastest(drop)) for run in self.runs}}
                for drop in sorted({*DROPS, self.max_drop_points})
            ],
            "conditions_differ": self.conditions_differ,
        }


def compare(folders: Sequence[Path], max_drop_points: float = 1.0) -> Comparison:
    """Read runs and put them side by side.

    Args:
        folders: of two finished runs or more.
        max_drop_points: points of the metric (hundredths) that a pick may lie below its dense network, 0 or more.

    Raises:
        ConfigError: a run is named twice, or they prune different networks, tasks or data.
        RunError: a folder holds no finished run, or a damaged one.
    """
    runs = read_runs(folders)
    complete = all(row[f"test_{run.front.metric}"] for run in runs for row in run.table)
    split: Split = "test" if complete else "val"
    values = {run.label: run.objectives(split) for run in runs}
    ideal, ref_point = box(np.concatenate(list(values.values())))
    return Comparison(
        runs=runs,
        split=split,
        ideal=dict(zip(OBJECTIVES, ideal.tolist(), strict=True)),
        ref_point=dict(zip(OBJECTIVES, ref_point.tolist(), strict=True)),
        hv={label: hypervolume(F, ideal, ref_point) for label, F in values.items()},
        max_drop_points=max_drop_points,
        picks={run.label: run.fastest(max_drop_points) for run in runs},
        conditions_differ=differences(runs),
    )


def box(F: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Corners of the box that hypervolumes are shares of: zero, and a tenth beyond the worst of ``(n, m)`` values.

    Where a metric that is no fraction makes values negative, the smallest one stands in place of zero.
    """
    ideal = np.minimum(F.min(axis=0), 0.0)
    extent = F.max(axis=0) - ideal
    extent[extent <= 0] = 1.0
    return ideal, ideal + (1 + MARGIN) * extent


def hypervolume(F: FloatArray, ideal: FloatArray, ref_point: FloatArray) -> float:
    """Share of the box from ``ideal`` to ``ref_point`` that ``(n, m)`` values dominate."""
    return float(moocore.hypervolume((F - ideal) / (ref_point - ideal), ref=np.ones(F.shape[1])))


def read_runs(folders: Sequence[Path]) -> tuple[ComparedRun, ...]:
    """Finished runs that can be compared.

    Raises:
        ConfigError: a run is named twice, or they prune different networks, tasks or data.
        RunError: a folder holds no finished run, or a damaged one.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("a run is named twice: name different ones")
    names = [folder.resolve().name for folder in folders]
    runs = tuple(
        _read(folder, str(folder) if names.count(name) > 1 else name)
        for folder, name in zip(folders, names, strict=True)
    )
    first = runs[0]
    for run in runs[1:]:
        for what, ours, theirs in _identity(first, run):
            if ours != theirs:
                raise ConfigError(
                    f"these runs cannot be compared, they have different {what}: {ours} in {first.label}, "
                    f"{theirs} in {run.label}; name runs of one network and task"
                )
    return runs


def differences(runs: Sequence[ComparedRun]) -> dict[str, dict[str, Any]]:
    """Conditions in which runs differ: condition -> run -> value."""
    names = dict.fromkeys(name for run in runs for name in run.conditions)
    found = {name: {run.label: run.conditions.get(name) for run in runs} for name in names}
    differ = {
        name: values for name, values in found.items() if len({json.dumps(value) for value in values.values()}) > 1
    }
    pairs = itertools.combinations(runs, 2)
    if any(one.is_on_device_of(other) and not same_clock(one.reference_ms, other.reference_ms) for one, other in pairs):
        differ["reference_ms"] = {run.label: run.reference_ms for run in runs}
    return differ


def _read(folder: Path, label: str) -> ComparedRun:
    front = load_front(folder)
    problem = RunConfig.load(folder / "config.yaml").problem
    environment = _json(folder / "environment.json")
    measured = [row["device_reference_ms"] for row in _json(folder / "measurements.json")]
    return ComparedRun(
        label=label,
        folder=folder,
        front=front,
        problem=problem,
        table=tuple(_table(folder, front)),
        conditions=_conditions(front, problem, environment),
        reference_ms=next((level for level in reversed(measured) if level is not None), None),
    )


def _table(folder: Path, front: Front) -> list[dict[str, str]]:
    """Rows of ``front.csv``; that is written anew where it is missing or lags behind, as ``hwprune report`` does."""
    path = folder / "front.csv"
    with tempfile.TemporaryDirectory() as draft_name:
        draft = Path(draft_name) / path.name
        write_csv(front.rows, draft, front.metric)
        if not path.is_file() or path.read_bytes() != draft.read_bytes():
            write_csv(front.rows, path, front.metric)
    return read_csv(path)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): this run is damaged, start a new one") from error


def _identity(first: ComparedRun, run: ComparedRun) -> list[tuple[str, Any, Any]]:
    """What two runs must have in common, and what they have."""
    ours, theirs = first.problem, run.problem
    return [
        ("networks", first.front.network, run.front.network),
        ("tasks", _name(ours.task), _name(theirs.task)),
        ("metrics", first.front.metric, run.front.metric),
        ("data sets", ours.data["name"], theirs.data["name"]),
    ]


def _name(spec: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" if key != "name" else str(value) for key, value in spec.items())


def _conditions(front: Front, problem: Problem, environment: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's numbers depend on: the device, what was measured how, weights and images, effort, versions."""
    recorded = environment.get("conditions", {})
    tuned = sum(row.finetuned for row in front.points)
    simulated = sum(row.simulated for row in front.rows)
    share = "all" if tuned == len(front.points) else "some"
    told = {"scenario": "burst", **front.conditions}  # runs of before there were others do not say it
    return {
        **{field.name: told.get(field.name) for field in fields(Conditions)},
        **{name: front.device.get(name) for name in ("cpu_model", "kernel", "governor", "clock_limits_mhz")},
        "cores": recorded.get("cores"),
        "batch_size": problem.batch_size,
        "weights_digest": recorded.get("weights_digest"),
        "data_digest": front.conditions.get("data_digest"),
        **{name: recorded.get(name) for name in ("train_images", "val_images", "test_images")},
        "bn_images": problem.evaluation.bn_images,
        "metric_dtype": front.conditions.get("metric_dtype"),
        "objectives": list(front.objectives),
        "constraints": {name: str(bound) for name, bound in problem.constraints.items()},
        "evaluations": problem.budget.evaluations,
        "simulated": f"{simulated} of {len(front.rows)} networks" if simulated else "none",
        "finetuned": f"{share} points, {problem.finetune.epochs} epochs" if tuned else "none",
        "hwprune": environment.get("hwprune"),
        **environment.get("packages", {}),
    }


def _point(run: ComparedRun, row: FrontRow | None) -> dict[str, Any] | None:
    return None if row is None else run.point(row)


def _facts(run: ComparedRun) -> dict[str, Any]:
    """A run for programs."""
    dense = run.front.dense
    return {
        "folder": str(run.folder),
        "device": run.conditions["device"],
        "method": run.front.method,
        "network": run.front.network,
        "data": run.front.data,
        "networks": len(run.table),
        "untrusted": len(run.front.untrusted),
        "dense": None if dense is None else run.point(dense),
        "reference_ms": run.reference_ms,
        "conditions": run.conditions,
    }
