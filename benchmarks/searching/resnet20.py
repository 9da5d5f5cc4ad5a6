"""ResNet-20 on CIFAR-10 as recorded: accuracies of thousands of plans, kernels of several devices, no network at hand.

The residual stream stays whole, so each of the nine blocks has one width of its own: a network's latency and packed
weights are sums over blocks, its arena the largest of what each block needs. :mod:`searching.record` has recorded them.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator

from hwprune.search.problem import SearchProblem
from hwprune.search.space import SearchSpace
from hwprune.search.synthetic import WidthPlan, width_plan
from searching.analytic import Target

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

DATA = Path(__file__).resolve().parents[1] / "data"
SIZES = (16, 16, 16, 32, 32, 32, 64, 64, 64)
#: The table leaves the first block of every stage whole, and gives the others four widths each: 4,096 plans.
TABLED = (1, 2, 4, 5, 7, 8)
TABLE_LEVELS = 4
#: Step of the widths of the large space, by stage; 16 widths a block, the smallest a tenth of the dense one.
LARGE_STEPS = (1, 1, 1, 2, 2, 2, 4, 4, 4)


@dataclass(frozen=True)
class Kernels:
    """What ResNet-20 costs on one device, block by block.

    Attributes:
        name: of the device.
        base_latency_ms: what depends on no width.
        latency_ms: for each block the time by its width, 1 to dense.
        weights_bytes: packed weights, the same.
        live_bytes: what lives at once while the block runs, the same.
    """

    name: str
    base_latency_ms: float
    latency_ms: list[FloatArray]
    weights_bytes: list[FloatArray]
    live_bytes: list[FloatArray]

    def __call__(self, widths: IntArray) -> dict[str, FloatArray]:
        """Latency and peak memory of ``(n, 9)`` widths, ``(n,)`` each."""

        def by_block(tables: list[FloatArray]) -> FloatArray:
            return np.column_stack([table[widths[:, block] - 1] for block, table in enumerate(tables)])

        latency_ms = self.base_latency_ms + by_block(self.latency_ms).sum(axis=1)
        memory = by_block(self.weights_bytes).sum(axis=1) + by_block(self.live_bytes).max(axis=1)
        return {"latency": latency_ms, "peak_memory": memory}


def missing(problem: str) -> list[str]:
    """Recordings that a problem takes and that there are not, or not whole."""
    kind = problem.removeprefix("resnet20_")
    found = [name for name in ("importance", "devices", kind) if not has(name)]
    if kind == "table" and has(kind) and len(_read(kind)["correct"]) < len(table_plans()):
        found.append(kind)
    if kind == "large" and has(kind) and "best" not in _read(kind):
        found.append("reference")
    return found


def has(name: str) -> bool:
    """Whether there is such a recording, whole or not."""
    return (DATA / f"resnet20_{name}.json").exists()


def _read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((DATA / f"resnet20_{name}.json").read_text())
    return data


@functools.cache
def devices() -> dict[str, Kernels]:
    """Recorded devices by name, in the order of their recording."""
    found = {}
    for name, data in _read("devices")["devices"].items():
        tables = [[np.array(row) for row in data[key]] for key in ("latency_ms", "weights_bytes", "live_bytes")]
        found[name] = Kernels(name, data["base_latency_ms"], *tables)
    return found


@functools.cache
def _scores() -> tuple[FloatArray, ...]:
    return tuple(np.array(scores) for scores in _read("importance")["scores"])


@functools.cache
def table_errors() -> dict[tuple[int, ...], float]:
    """Error of every plan of the table, by its nine widths."""
    data = _read("table")
    pairs = zip(table_plans().tolist(), data["correct"], strict=True)
    return {tuple(plan): 1 - correct / data["val_images"] for plan, correct in pairs}


def table_plans() -> IntArray:
    """``(4096, 9)`` widths of the table, dense first."""
    levels = np.array(np.meshgrid(*[np.arange(TABLE_LEVELS)] * len(TABLED), indexing="ij")).reshape(len(TABLED), -1).T
    plans = np.tile(np.array(SIZES), (len(levels), 1))
    for column, block in enumerate(TABLED):
        plans[:, block] = SIZES[block] * (TABLE_LEVELS - levels[:, column]) // TABLE_LEVELS
    return plans


def table(device: str) -> Target:
    """The tabulated space on a device; its front is known."""
    kernels, errors = devices()[device], table_errors()

    def whole(widths: IntArray) -> IntArray:
        plans = np.tile(np.array(SIZES), (len(widths), 1))
        plans[:, TABLED] = widths
        return plans

    def accuracy(plan: WidthPlan) -> float:
        return 1 - errors[tuple(whole(np.array([plan.widths]))[0].tolist())]

    sizes = [SIZES[block] for block in TABLED]
    space = SearchSpace.of(
        sizes,
        round_to=[size // TABLE_LEVELS for size in sizes],
        pruning_ratio_max=1 - 1 / TABLE_LEVELS,
        scores=[_scores()[block] for block in TABLED],
    )
    problem = SearchProblem(
        space, ("error", "latency", "peak_memory"), lambda widths: kernels(whole(widths)), width_plan, accuracy
    )
    plans = table_plans()
    costs = kernels(plans)
    F = np.column_stack([list(errors.values()), costs["latency"], costs["peak_memory"]])
    return _target(problem, F, F[0])


class Interpolated:
    """Error of any widths, between a few thousand recorded ones.

    Cubic radial basis functions over all recorded plans, smoothed as much as predicts held-out ones best; on the logit
    scale, over the importance that each block loses. HAMP's own surrogate is of another family.

    Attributes:
        mean_absolute_error: of a tenth of the recorded plans that the others predict.
        front_error: the same for those of them that are on the recorded front or within two points of error of it.
    """

    SMOOTHINGS = (0.0, 0.01, 0.1, 1.0, 10.0)

    def __init__(self, space: SearchSpace, widths: IntArray, errors: FloatArray) -> None:
        self._space = space
        inside = np.clip(errors, 1e-3, 1 - 1e-3)
        y = np.log(inside / (1 - inside))
        X = space.lost_importance(widths)
        test = np.random.default_rng(0).permutation(len(y)) < len(y) // 10
        held_out = {}
        for smoothing in self.SMOOTHINGS:
            fitted = RBFInterpolator(X[~test], y[~test], smoothing=smoothing, kernel="cubic")
            held_out[smoothing] = np.abs(1 / (1 + np.exp(-fitted(X[test]))) - errors[test])
        best = min(held_out, key=lambda smoothing: float(held_out[smoothing].mean()))
        good = errors[test] < errors.min() + 0.2
        self.smoothing = best
        self.mean_absolute_error = float(held_out[best].mean())
        self.front_error = float(held_out[best][good].mean())
        self._fitted = RBFInterpolator(X, y, smoothing=best, kernel="cubic")

    def __call__(self, widths: IntArray) -> FloatArray:
        """``(n,)`` errors of ``(n, 9)`` widths."""
        return np.asarray(1 / (1 + np.exp(-self._fitted(self._space.lost_importance(widths)))))


def large_space() -> SearchSpace:
    """The space of which a few thousand plans are recorded; 6e10 plans."""
    return SearchSpace.of(SIZES, round_to=LARGE_STEPS, pruning_ratio_max=0.9, scores=_scores())


@functools.cache
def interpolated() -> Interpolated:
    """The recorded plans of the large space, interpolated."""
    return _interpolate(_read("large"))


def large(device: str) -> Target:
    """The interpolated space on a device, its reference the best of what was recorded and of long searches."""
    return _large_target(_read("large"), interpolated(), devices()[device])


def recorded_so_far(data: dict[str, Any]) -> Target:
    """The large space on the first device, as far as it is recorded."""
    return _large_target(data, _interpolate(data), next(iter(devices().values())))


def _interpolate(data: dict[str, Any]) -> Interpolated:
    return Interpolated(large_space(), np.array(data["widths"]), 1 - np.array(data["correct"]) / data["val_images"])


def _large_target(data: dict[str, Any], error: Interpolated, kernels: Kernels) -> Target:
    space = large_space()
    problem = SearchProblem(
        space,
        ("error", "latency", "peak_memory"),
        kernels,
        width_plan,
        lambda plan: 1 - float(error(np.array([plan.widths]))[0]),
    )
    widths = np.vstack([space.sizes, *(np.array(data[key]) for key in ("widths", "best") if key in data)])
    costs = kernels(widths)
    F = np.column_stack([error(widths), costs["latency"], costs["peak_memory"]])
    return _target(problem, F, F[0])


def _target(problem: SearchProblem, F: FloatArray, dense: FloatArray) -> Target:
    ref_point = dense + np.array([0.2, 0, 0])
    front = F[(ref_point > F).all(axis=1)]
    return Target(problem, ref_point, float(moocore.hypervolume(front, ref=ref_point)))
