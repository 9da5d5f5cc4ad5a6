"""From an archive of evaluations to a front of networks, each measured whole."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import moocore
import numpy as np

from hwprune.accuracy.judge import AccuracyJudge
from hwprune.config import RunConfig
from hwprune.errors import UntrustedError
from hwprune.experiments.points import PointFiles
from hwprune.experiments.progress import Console
from hwprune.experiments.provenance import RunFolder
from hwprune.experiments.session import DeviceSession
from hwprune.experiments.workbench import Workbench
from hwprune.fronts import Front, FrontRow
from hwprune.pruning.plan import PruningPlan
from hwprune.records import Evaluation, Measurement
from hwprune.scenario import Scenario
from hwprune.search.archive import Archive
from latency_models.network_model import LatencyModel


def measure_front(
    folder: RunFolder,
    config: RunConfig,
    bench: Workbench,
    session: DeviceSession,
    model: LatencyModel,
    archive: Archive,
    counts: dict[str, float],
    console: Console,
    judge: AccuracyJudge | None = None,
) -> Front:
    """Measure the archive's non-dominated networks and the dense one afresh, and write what stays the front.

    A network that its measured latency shows to be dominated leaves the front; one whose measurement stays untrusted or
    fails is listed apart.

    Raises:
        UntrustedError: nothing could be measured with trust.
    """
    dense = PruningPlan.dense(bench.groups)
    found = [evaluation for evaluation in archive.front() if evaluation.plan_key != dense.key]
    plans = [dense, *(archive.plan(evaluation.plan_key) for evaluation in found)]
    modules = []
    with console.progress(len(plans), "cutting the front") as steps:
        for plan in plans:
            modules.append(bench.inherit(plan))
            steps.advance()
    measurements = session.measure_final(bench, modules, model, console, Scenario.parse(config.scenario))
    metrics = _metrics(bench, plans, found, judge, console)
    rows = _rows(bench, model, plans, metrics, measurements)
    good = [row for row in rows if row is not None and row.trust != "C"]
    if not good:
        reasons = {measurement.error or measurement.trust_reason for measurement in measurements}
        raise UntrustedError(
            f"no network of the front could be measured with trust ({'; '.join(sorted(reasons))}): "
            "close other programs and start again with --resume"
        )
    kept = _non_dominated(good, bench, config.problem.objectives)
    points = sorted((row for row in kept if row.id != "dense"), key=lambda row: row.latency_ms)
    names = {row.id: f"p{number:02d}" for number, row in enumerate(points)} | {"dense": "dense"}
    untrusted = [row for row in rows if row is not None and row.trust == "C"]
    names |= {row.id: f"u{number:02d}" for number, row in enumerate(untrusted) if row.id != "dense"}
    by_id = {row.id: index for index, row in enumerate(rows) if row is not None}
    files = PointFiles(folder)
    final: list[FrontRow] = []
    apart: list[FrontRow] = []
    told = [*(row for row in kept if row.id == "dense"), *points, *untrusted]
    with console.progress(len(told), "scoring the front on the test split") as steps:
        for row in told:
            module, plan = modules[by_id[row.id]], plans[by_id[row.id]]
            files.write(names[row.id], plan, module)
            test = bench.task.evaluate(module, "test", dtype=bench.dtype) if row.trust != "C" else None
            (apart if row.trust == "C" else final).append(replace(row, id=names[row.id], test_metric=test))
            steps.advance()
    front = _front(folder, config, bench, session, model, final, apart, counts, measurements)
    folder.write_json("measurements.json", [measurement.as_dict() for measurement in measurements])
    folder.write_json("front.json", front.as_dict())
    return front


def _metrics(
    bench: Workbench,
    plans: list[PruningPlan],
    found: list[Evaluation],
    judge: AccuracyJudge | None,
    console: Console,
) -> list[float]:
    """Metric of the dense network and of every found one, in float32 on the whole split where there is a judge."""
    known = [math.nan if evaluation.metric is None else evaluation.metric for evaluation in found]
    if judge is None:
        return [bench.accuracy(plans[0]), *known]
    metrics = []
    with console.progress(len(plans), "scoring the front in float32") as steps:
        for score, before in zip(judge.exact(plans), [math.nan, *known], strict=True):
            metrics.append(before if score.metric is None else score.metric)
            steps.advance()
    return metrics


def _rows(
    bench: Workbench,
    model: LatencyModel,
    plans: list[PruningPlan],
    metrics: list[float],
    measurements: list[Measurement],
) -> list[FrontRow | None]:
    """Rows under provisional ids (the plan's number), None where the measurement failed."""
    widths = np.array([plan.widths for plan in plans])
    mean_ms, std_ms = model.predict(bench.arithmetic(widths))
    rows: list[FrontRow | None] = []
    for number, (plan, metric, measurement) in enumerate(zip(plans, metrics, measurements, strict=True)):
        if measurement.error is not None:
            rows.append(None)
            continue
        rows.append(
            bench.row(
                "dense" if number == 0 else str(number),
                plan,
                measurement,
                val_metric=metric,
                # The model knows widths; what sparse kernels save is only measured.
                predicted_latency_ms=float(mean_ms[number]) if plan.mask is None else None,
                predicted_latency_ms_std=float(std_ms[number]) if plan.mask is None else None,
            )
        )
    return rows


def _non_dominated(rows: list[FrontRow], bench: Workbench, names: list[str]) -> list[FrontRow]:
    """Rows that no other one beats in all objectives, as measured; the dense network stays for comparison."""
    columns = {"latency": "latency_ms", "peak_memory": "planned_memory_bytes", "macs": "macs", "params": "params"}
    columns["energy"] = "energy_mj"
    total = max(row.params for row in rows)

    def value(row: FrontRow, name: str) -> float:
        if name == "error":
            return bench.task.error(row.val_metric)
        return row.params / total if name == "density" else float(getattr(row, columns[name]))

    F = np.array([[value(row, name) for name in names] for row in rows])
    best = moocore.is_nondominated(F, keep_weakly=True)
    return [row for row, stays in zip(rows, best, strict=True) if stays or row.id == "dense"]


def _front(
    folder: RunFolder,
    config: RunConfig,
    bench: Workbench,
    session: DeviceSession,
    model: LatencyModel,
    rows: list[FrontRow],
    untrusted: list[FrontRow],
    counts: dict[str, float],
    measurements: list[Measurement],
) -> Front:
    problem = config.problem
    first = next(measurement for measurement in measurements if measurement.error is None)
    conditions: dict[str, Any] = {
        **first.conditions.__dict__,
        "input_shape": list(first.conditions.input_shape),
        "batch_size": problem.batch_size,
        "weights": problem.weights,
        "metric_dtype": "float32" if bench.dtype is None else str(bench.dtype).removeprefix("torch."),
        "data_digest": bench.data.digest,
        "state_before": first.state_before,
        "state_after": measurements[-1].state_after,
    }
    failed = sum(measurement.error is not None for measurement in measurements)
    return Front(
        run_id=folder.id,
        network=_text(problem.network),
        data=_text(problem.data),
        method=config.method,
        metric=bench.task.metric.name,
        higher_is_better=bench.task.metric.higher_is_better,
        objectives=tuple(problem.objectives),
        rows=tuple(rows),
        untrusted=tuple(untrusted),
        device=session.device.description,
        conditions=conditions,
        latency_model=model.card(),
        counts={**counts, "front_measured": len(measurements), "front_failed": failed},
        groups=tuple(group.name for group in bench.groups),
    )


def _text(spec: dict[str, Any]) -> str:
    """``{"name": "resnet_cifar", "depth": 56}`` -> ``resnet_cifar (depth 56)``."""
    options = ", ".join(f"{key} {value}" for key, value in spec.items() if key != "name")
    return f"{spec['name']} ({options})" if options else str(spec["name"])
