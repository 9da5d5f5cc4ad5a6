"""What a front says, in numbers and in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hwprune.fronts import Front, FrontRow
from hwprune.records import Evaluation
from hwprune.units import format_ms

FloatArray = npt.NDArray[np.float64]

#: A loss of this much of the metric is what most users call free.
FREE_LOSS = 0.01

#: The reference point lies this far above the dense network's error; other objectives end at the dense network's own.
ERROR_MARGIN = 0.2


def metric_of(row: FrontRow) -> float:
    """The test metric where it was taken, else the validation metric."""
    return row.val_metric if row.test_metric is None else row.test_metric


def loss(front: Front, row: FrontRow) -> float:
    """How much worse the metric is than the dense network's, on the same split; negative where it is better."""
    dense = front.dense
    if dense is None:
        return float("nan")
    on_test = row.test_metric is not None and dense.test_metric is not None
    kept, whole = (metric_of(row), metric_of(dense)) if on_test else (row.val_metric, dense.val_metric)
    return whole - kept if front.higher_is_better else kept - whole


def is_faster(row: FrontRow, dense: FrontRow) -> bool:
    """Whether the speed-up is real: the intervals of both latencies do not overlap."""
    return row.latency_ms_high < dense.latency_ms_low


def verdict(front: Front) -> str:
    """One sentence: how much faster the network got for how little, or that it did not."""
    dense = front.dense
    if dense is None:
        return (
            "No speed-up can be stated: the dense network's own measurement is untrusted; repeat it on a quiet device."
        )
    faster = [row for row in front.points if is_faster(row, dense)]
    if not faster:
        return "No real speed-up: no point's latency interval lies below the dense network's."
    free = [row for row in faster if loss(front, row) <= FREE_LOSS]
    best = min(free, key=lambda row: row.latency_ms) if free else min(faster, key=lambda row: loss(front, row))
    split = "validation" if best.test_metric is None or dense.test_metric is None else "test"
    lost = 100 * loss(front, best)
    cost = f"{lost:.2f} points less" if lost > 0 else f"{-lost:.2f} points more"
    how = "simulated" if best.simulated or dense.simulated else "measured"
    return (
        f"Point {best.id} is {dense.latency_ms / best.latency_ms:.2f} times faster than the dense network, {how} "
        f"({format_ms(best.latency_ms)} against {format_ms(dense.latency_ms)}), with "
        f"{best.planned_memory_bytes / dense.planned_memory_bytes:.0%} of its memory, "
        f"at {cost} {front.metric} on the {split} split."
    )


def prediction_error(front: Front) -> dict[str, float]:
    """How well the latency model foretold the measured points; empty with fewer than two of them, or simulated ones.

    Returns:
        ``mape`` (a fraction), ``worst`` (a fraction) and ``spearman`` (in [-1, 1]).
    """
    pairs = [(row.predicted_latency_ms, row.latency_ms) for row in front.rows if row.predicted_latency_ms is not None]
    if len(pairs) < 2 or any(row.simulated for row in front.rows):
        return {}
    predicted, measured = np.array(pairs, dtype=np.float64).T
    relative = np.abs(predicted - measured) / measured
    ranks = [np.argsort(np.argsort(values)) for values in (predicted, measured)]
    return {
        "mape": float(relative.mean()),
        "worst": float(relative.max()),
        "spearman": float(np.corrcoef(ranks[0], ranks[1])[0, 1]),
    }


def hypervolume_curve(evaluations: Sequence[Evaluation], objectives: Sequence[str]) -> FloatArray:
    """``(n,)`` hypervolume after each evaluation, each objective in units of the dense network's, in [0, 1] of the box.

    The dense network is the evaluation that keeps the most channels. The box reaches from 0 to its values, for the
    error to 0.2 above its own.
    """
    import moocore

    known = {
        found.plan_key: np.array([found.objectives[name] for name in objectives])
        for found in evaluations
        if found.error is None and all(name in found.objectives for name in objectives)
    }
    if not known:
        return np.empty(0)
    dense = max((found for found in evaluations if found.plan_key in known), key=lambda found: sum(found.widths))
    margin = np.array([ERROR_MARGIN if name == "error" else 0.0 for name in objectives])
    ref_point = known[dense.plan_key] + margin
    ref_point[ref_point <= 0] = 1.0
    curve: list[float] = []
    F = np.empty((0, len(objectives)))
    for found in evaluations:
        if found.plan_key in known:
            F = np.vstack([F, known[found.plan_key] / ref_point])
            F = F[moocore.is_nondominated(F)]
        curve.append(float(moocore.hypervolume(F, ref=np.ones(len(objectives)))) if len(F) else 0.0)
    return np.array(curve)
