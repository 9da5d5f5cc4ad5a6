"""Hypervolume of a run's front: of measured latencies where there are any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import moocore
import numpy as np

from prunings.runs import ERROR_SLACK


def is_measured(record: Mapping[str, Any], latency_ms: Mapping[str, float | None]) -> bool:
    """Whether every network of a front was measured, or tried to often enough."""
    return all(point["widths"] in latency_ms for point in [record["dense"], *record["points"]])


def hypervolume(record: Mapping[str, Any], latency_ms: Mapping[str, float | None] | None, *, by_weight: bool) -> float:
    """Normalised volume that a run's points dominate.

    Below (dense error + 0.20, dense latency, dense memory), each axis in units of it; of single weights, in error and
    share of parameters, below (1, 1).

    Args:
        record: the run.
        latency_ms: measured latencies by widths, points whose could not be trusted left out; None for the model's.
        by_weight: the run prunes single weights.
    """
    dense, points = record["dense"], [*record["points"], record["dense"]]
    if by_weight:
        F = np.array([[point["error"], point["params"] / dense["params"]] for point in points])
        return float(moocore.hypervolume(F, ref=np.ones(2)))

    def latency(point: Mapping[str, Any]) -> float:
        found = point["predicted_ms"] if latency_ms is None else latency_ms[point["widths"]]
        return np.inf if found is None else float(found)

    reference = np.array([dense["error"] + ERROR_SLACK, latency(dense), dense["memory_bytes"]])
    F = np.array([[point["error"], latency(point), point["memory_bytes"]] for point in points]) / reference
    return float(moocore.hypervolume(F[np.isfinite(F).all(axis=1)], ref=np.ones(3)))
