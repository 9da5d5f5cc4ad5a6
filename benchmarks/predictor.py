"""Predicted against measured latencies of random pruned networks that no model has seen, and what others predict.

    python benchmarks/predictor.py [--quick | --resume]

For each family the device is profiled as ``hwprune device profile`` does: at most 350 kernels, 10 networks and 3
minutes. Then 200 networks (widths log-uniform from 10 to 100 %, any integer) are measured three times, in passes, each
with an agent and processes of its own; what a network takes is the median (others read from the caches and memory that
cores share for seconds at a time), and how far two passes are apart is the repeat error. Coverage is that of single
measurements, every pass's, which is what an interval speaks of. The baselines get the same
whole networks, the nn-Meter-style forest the same kernels too. All that was measured is kept in
``benchmarks/results/predictor.json``: after an interruption, ``--resume`` goes on where it was. A family during which
the device's clock changed for good is measured anew, once.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from conditions import print_conditions
from measuring.dense import NARROWEST, planned, random_widths, told_console
from measuring.kept import Kept
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

from hwprune.compilation.compiler import Compiler
from hwprune.experiments.devices import LOCAL, find
from hwprune.experiments.home import Home
from hwprune.experiments.profile import example_widths
from hwprune.experiments.profiler import Effort, Profiler
from hwprune.experiments.progress import Console, Steps
from hwprune.experiments.session import DeviceSession, open_session
from hwprune.experiments.whole_networks import is_trusted
from hwprune.experiments.workbench import Workbench
from hwprune.measurement.measure import RESIDENT_SETTINGS
from hwprune.records import same_clock
from hwprune.search.space import SearchSpace
from latency_models.evaluation import MeasuredNetwork, interval_coverage, mape, scores
from latency_models.features import macs, weight_bytes, widths
from latency_models.kernel_table import KernelTable
from latency_models.network_model import LatencyModel
from latency_models.shapes import LayerShape

FAMILIES = {
    "ResNet-20": {"name": "resnet_cifar", "depth": 20},
    "ResNet-56": {"name": "resnet_cifar", "depth": 56},
    "VGG-14": {"name": "vgg_cifar", "depth": 14},
    "MobileNetV2": {"name": "torchvision_zoo", "arch": "mobilenet_v2"},
}
QUICK_FAMILIES = ("ResNet-20", "VGG-14")
NETWORKS, NETWORKS_QUICK = 200, 40
EFFORT, EFFORT_QUICK = Effort(error=0.0), Effort(error=0.0, minutes=0.5)
#: Networks measured between two writes of the file.
CHUNK = 20
PASSES = 3
#: How the networks are timed: a model is judged by them, so they have to be surer than in a search.
SETTINGS = replace(RESIDENT_SETTINGS, blocks=24, steady_blocks=12)
#: How often a network that cannot be trusted is measured: what is left out would be the hard ones.
ATTEMPTS = 3

Layers = tuple[LayerShape, ...]
#: Milliseconds of networks, and the half-widths of their 90 % intervals.
Predict = Callable[[Sequence[Layers]], tuple[np.ndarray, np.ndarray]]
Record = dict[str, Any]


def main() -> None:
    """Measure, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help=f"{NETWORKS_QUICK} networks of {' and '.join(QUICK_FAMILIES)}"
    )
    parser.add_argument("--resume", action="store_true", help="go on with benchmarks/results/predictor.json")
    options = parser.parse_args()
    count, effort = (NETWORKS_QUICK, EFFORT_QUICK) if options.quick else (NETWORKS, EFFORT)
    print_conditions()
    console = told_console()
    kept = Kept("predictor", is_resumed=options.resume, is_quick=options.quick)
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for family in QUICK_FAMILIES if options.quick else FAMILIES:
            study = Study(Home(Path(folder)), family, count, effort, kept, console)
            if not study.measure():
                console.warn(f"{family}: the device's clock changed meanwhile: all of it once more")
                kept.parts.pop(family)
                study.measure()
            figures[family] = judge(family, kept.parts[family], study.networks())
    kept.finish(summary(figures))


@dataclass
class Study:
    """One family on this computer: its model, and all passes over networks that the model does not see.

    Attributes:
        home: where the device is.
        family: its name.
        count: networks that are measured.
        effort: of the profile.
        kept: holds and takes the record.
        console: who is told how it goes.
    """

    home: Home
    family: str
    count: int
    effort: Effort
    kept: Kept
    console: Console

    def __post_init__(self) -> None:
        self._device = find(self.home, LOCAL)
        self._bench = planned(self._device, FAMILIES[self.family])

    def networks(self) -> list[Layers]:
        """The measured networks' layers."""
        shapes = self._bench.arithmetic(self.kept.parts[self.family]["widths"])
        return [shapes.row(index) for index in range(len(shapes))]

    def measure(self) -> bool:
        """Fill in what the record lacks; whether all of it is given at one clock."""
        record: Record = self.kept.parts.setdefault(self.family, {})
        if "model" not in record:
            self._profile(record)
        total = PASSES * self.count
        with self.console.progress(total, f"{self.family}, networks that the model has not seen") as steps:
            return all([self._complete(record, number, steps) for number in range(PASSES)])

    def _profile(self, record: Record) -> None:
        space = SearchSpace.of(self._bench.groups.sizes.tolist(), round_to=1, pruning_ratio_max=1 - NARROWEST)
        with open_session(self.home, self._device, self.console) as session:
            started = time.perf_counter()
            profiler = Profiler(session, self._bench, example_widths(space), self.effort)
            record["model"] = profiler.run(self.console).to_json()
            record["kernels"], record["seconds"] = profiler.kernels, time.perf_counter() - started
            record["reference_ms"] = session.board.reference_ms(Compiler.schedule_version)
        record["widths"] = random_widths(self._bench, self.count, seed=1).tolist()
        record["passes"] = [[] for _ in range(PASSES)]
        self.kept.write()

    def _complete(self, record: Record, number: int, steps: Steps) -> bool:
        """Measure what one pass lacks; whether the clock is the profile's."""
        measured: list[float | None] = record["passes"][number]
        steps.advance(len(measured))
        if len(measured) == self.count:
            return True
        with open_session(self.home, self._device, self.console) as session:
            session.board.resident_settings = SETTINGS
            while len(measured) < self.count:
                part = record["widths"][len(measured) : len(measured) + CHUNK]
                measured += measure(session, self._bench, part)
                self.kept.write()
                steps.advance(len(part))
            return same_clock(record["reference_ms"], session.board.reference_ms(Compiler.schedule_version))


def measure(session: DeviceSession, bench: Workbench, part: Sequence[Sequence[int]]) -> list[float | None]:
    """Latencies of networks in ms, measured afresh; None where one could not be trusted, however often it was tried."""
    found: dict[int, float] = {}
    for _ in range(ATTEMPTS):
        missing = [row for row in range(len(part)) if row not in found]
        if missing:
            plans = [bench.plan(part[row]) for row in missing]
            told = session.measure_candidates(bench, plans, max_age_s=0.0)
            found |= {row: each.latency_ms for row, each in zip(missing, told, strict=True) if is_trusted(each)}
    return [found.get(row) for row in range(len(part))]


def judge(family: str, record: Record, measured: Sequence[Layers]) -> dict[str, Any]:
    """Print and return the scores of one family."""
    model = LatencyModel.from_json(record["model"])
    seen = {layers for layers, _ in model.networks}
    rows = [
        (layers, told)
        for layers, *told in zip(measured, *record["passes"], strict=True)
        if None not in told and layers not in seen
    ]
    networks: list[Layers] = [layers for layers, _ in rows]
    passes = np.array([told for _, told in rows]).T
    actual_ms = np.median(passes, axis=0)
    repeat = float(np.mean([mape(one, other) for one, other in itertools.combinations(passes, 2)]))
    predictors: dict[str, Predict] = {"ours": ours(model), **baselines(model)}
    figures = {}
    for name, predict in predictors.items():
        mean_ms, half_width_ms = predict(networks)
        coverage = interval_coverage(passes, mean_ms - half_width_ms, mean_ms + half_width_ms)
        figures[name] = scores(actual_ms, mean_ms) | {"coverage_90": coverage}
    print(
        f"\n{family}: {len(networks)} of {len(measured)} networks measured in all passes with trust, "
        f"{actual_ms.min():.3f} to {actual_ms.max():.3f} ms, repeat error {repeat:.2f} %; profile of "
        f"{record['kernels']} kernels and {len(model.networks)} networks in {record['seconds']:.0f} s"
    )
    print(f"{'':<16}{'MAPE %':>8}{'in 5 %':>8}{'in 10 %':>8}{'Spearman':>10}{'coverage':>10}")
    for name, row in figures.items():
        print(
            f"{name:<16}{row['mape']:>8.2f}{row['within_5']:>8.1f}{row['within_10']:>8.1f}{row['spearman']:>10.4f}"
            f"{row['coverage_90']:>10.1f}",
            flush=True,
        )
    return {
        "scores": figures,
        "repeat_mape": repeat,
        "averaged_std": 100 * model.recipe.averaged_std,
        "kernels": record["kernels"],
        "networks": len(model.networks),
        "held_out": len(networks),
        "seconds": record["seconds"],
    }


def ours(model: LatencyModel) -> Predict:
    """The project's model."""

    def predict(networks: Sequence[Layers]) -> tuple[np.ndarray, np.ndarray]:
        mean_ms, std_ms = model.predict_networks(networks)
        return mean_ms, model.interval_factor(0.9) * std_ms

    return predict


def baselines(model: LatencyModel) -> dict[str, Predict]:
    """What else there is, fitted on the networks that the model was calibrated on."""
    networks = model.networks
    return {
        "flops_linear": whole_network(networks, work, Linear),
        "params_linear": whole_network(networks, parameters, Linear),
        "forest": whole_network(networks, all_widths, lambda: RandomForestRegressor(300, random_state=0)),
        "boosting": whole_network(networks, all_widths, lambda: GradientBoostingRegressor(random_state=0)),
        "nn_meter": kernel_forest(model.table, networks),
    }


class Linear:
    """A line of least relative error through one feature."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Linear:
        """Fit on ``(n, 1)`` features and ``(n,)`` milliseconds."""
        design = np.column_stack([np.ones(len(X)), X])
        self._coefficients = np.linalg.lstsq(design / y[:, None], np.ones(len(y)))[0]
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Milliseconds of each row."""
        return np.column_stack([np.ones(len(X)), X]) @ self._coefficients


def whole_network(
    networks: Sequence[MeasuredNetwork], features_of: Callable[[Sequence[Layers]], np.ndarray], make: Callable[[], Any]
) -> Predict:
    """A regressor of whole networks; intervals are of the residuals of networks left out."""
    X, y = features_of([layers for layers, _ in networks]), np.array([latency_ms for _, latency_ms in networks])
    rows = np.arange(len(y))
    left_out = [make().fit(X[rows != row], y[rows != row]).predict(X[[row]])[0] / y[row] - 1 for row in rows]
    fitted = make().fit(X, y)
    return lambda found: with_intervals(fitted.predict(features_of(found)), left_out)


def kernel_forest(table: KernelTable, networks: Sequence[MeasuredNetwork]) -> Predict:
    """A forest of kernels for each operator on plain features, summed: nn-Meter's way (MobiSys 2021)."""
    operators = np.array([shape.op for shape in table.shapes])
    X = plain_features(table.shapes)
    forests = {
        op: RandomForestRegressor(300, random_state=0).fit(X[operators == op], table.latency_ms[operators == op])
        for op in dict.fromkeys(operators)
    }

    def total_ms(found: Sequence[Layers]) -> np.ndarray:
        kernels = [layer for layers in found for layer in layers if layer.op in forests]
        owner = np.array([number for number, layers in enumerate(found) for layer in layers if layer.op in forests])
        op, X = np.array([kernel.op for kernel in kernels]), plain_features(kernels)
        time_ms = np.empty(len(kernels))
        for name, forest in forests.items():
            if (op == name).any():
                time_ms[op == name] = forest.predict(X[op == name])
        return np.bincount(owner, time_ms, minlength=len(found))

    summed, y = total_ms([layers for layers, _ in networks]), np.array([latency_ms for _, latency_ms in networks])
    return lambda found: with_intervals(total_ms(found), summed / y - 1)


def with_intervals(mean_ms: np.ndarray, residuals: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Predictions, with the conformal half-widths of relative residuals."""
    rank = min(len(residuals), int(np.ceil(0.9 * (len(residuals) + 1))))
    return mean_ms, mean_ms * np.sort(np.abs(residuals))[rank - 1]


def plain_features(shapes: Sequence[LayerShape]) -> np.ndarray:
    """Size, window, stride, widths, multiply-adds and parameters of kernels, without their alignment."""
    extra = [
        (shape.height, shape.kernel[0], shape.stride[0], shape.in_channels, shape.out_channels) for shape in shapes
    ]
    return np.column_stack([extra, work([(shape,) for shape in shapes]), parameters([(shape,) for shape in shapes])])


def work(networks: Sequence[Layers]) -> np.ndarray:
    """``(n, 1)`` multiply-adds."""
    return np.array([[sum(float(macs(s.template, *widths([s]))[0]) for s in layers)] for layers in networks])


def parameters(networks: Sequence[Layers]) -> np.ndarray:
    """``(n, 1)`` bytes of weights."""
    return np.array([[sum(float(weight_bytes(s.template, *widths([s]))[0]) for s in layers)] for layers in networks])


def all_widths(networks: Sequence[Layers]) -> np.ndarray:
    """``(n, L + 2)``: output channels of every layer, multiply-adds and bytes of weights."""
    channels = np.array([[shape.out_channels for shape in layers] for layers in networks])
    return np.hstack([channels, work(networks), parameters(networks)])


def summary(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The result: ours of the worst family; the baselines of theirs."""
    names = list(next(iter(figures.values()))["scores"])
    worst = {name: worst_of([family["scores"][name] for family in figures.values()]) for name in names}
    return {
        "ours": worst.pop("ours"),
        "baselines": worst,
        "repeat_mape": max(family["repeat_mape"] for family in figures.values()),
        "kernels": max(family["kernels"] for family in figures.values()),
        "networks": max(family["networks"] for family in figures.values()),
        "seconds": max(family["seconds"] for family in figures.values()),
        "families": dict(figures),
    }


def worst_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The worst of each score; coverage is bad on both sides of 90."""
    worst = {name: min(row[name] for row in rows) for name in ("within_5", "within_10", "spearman")}
    worst["mape"] = max(row["mape"] for row in rows)
    worst["coverage_90"] = max((row["coverage_90"] for row in rows), key=lambda share: abs(share - 90))
    return worst


if __name__ == "__main__":
    main()
