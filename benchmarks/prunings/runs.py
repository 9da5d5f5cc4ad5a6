"""One run of one entry: searched, measured, and judged anew on the whole validation split."""

from __future__ import annotations

import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moocore
import numpy as np
from scipy.stats import spearmanr
from torch import nn

from hwprune import datasets, tasks, training
from hwprune.config import Problem, RunConfig
from hwprune.experiments import run
from hwprune.experiments.finetune import finetune
from hwprune.experiments.home import Home
from hwprune.experiments.points import PointFiles
from hwprune.experiments.progress import Console
from hwprune.experiments.provenance import RunFolder
from hwprune.experiments.workbench import Workbench
from hwprune.records import FrontRow
from hwprune.tasks.base import Task
from prunings.entries import NETWORKS, Entry

DEVICE = "local"
#: Budget in passes of the dense network over the validation images that a search sees; fronts are judged on all.
DENSE_PASSES, VAL_IMAGES, BN_IMAGES = 200.0, 1000, 640
#: How far above the dense network's error the reference point stands.
ERROR_SLACK = 0.20
#: Points of a front that are fine-tuned: the most accurate up to these shares of the dense latency (or parameters).
FINETUNED_AT = (0.75, 0.5, 0.35)


@dataclass(frozen=True)
class Setting:
    """Where everything is.

    Attributes:
        images: CIFAR-10, a folder of ``train``, ``val`` and ``test``.
        weights: folder of ``NETWORK.safetensors``.
        home: of the device's profile and the compiled kernels.
        runs: where run folders go.
        console: told how it goes.
        epochs: of fine-tuning.
    """

    images: Path
    weights: Path
    home: Home
    runs: Path
    console: Console
    epochs: int = 2

    def problem(self, network: str, entry: Entry, seed: int, dense_passes: float) -> Problem:
        """The problem of a run."""
        told: dict[str, Any] = {
            "network": NETWORKS[network],
            "weights": str(self.weights / f"{network}.safetensors"),
            "data": {"name": "image_folder", "path": str(self.images), "val_images": VAL_IMAGES},
            # Whether a front has settled is not asked: every method spends what it may.
            "budget": {"evaluations": None, "dense_passes": dense_passes, "stop_when_settled": False},
            "seed": seed,
            "evaluation": {"threads": 1, "bn_images": BN_IMAGES},
            "finetune": {"epochs": self.epochs, "lr": 0.02, "batch_size": 128},
        }
        for section, values in entry.problem.items():
            told[section] = {**told.get(section, {}), **values}
        return Problem.model_validate(told)

    @functools.cached_property
    def task(self) -> Task:
        """Classification with the whole validation split."""
        return tasks.build(
            {"name": "classification"}, datasets.load({"name": "image_folder", "path": str(self.images)})
        )


@dataclass
class Finished:
    """A run's folder, its networks rebuilt.

    Attributes:
        setting: where everything is.
        folder: the run.
    """

    setting: Setting
    folder: Path

    @functools.cached_property
    def bench(self) -> Workbench:
        """The run's problem; its dense weights are not needed."""
        return Workbench.open(RunConfig.load(self.folder / "config.yaml").problem, with_weights=False)

    def module(self, point: str) -> nn.Module:
        """A network of the front with the weights that are handed out."""
        files = PointFiles(RunFolder.open(self.folder))
        module = self.bench.slicer.cut(files.plan(point))
        training.load_weights(module, files.weights(point))
        return module.eval()

    def judged(self, row: FrontRow) -> dict[str, float]:
        """A point by all measures, its error on the whole validation split."""
        metric = self.setting.task.evaluate(self.module(row.id), "val", dtype=self.bench.dtype)
        return {
            "error": 1 - metric,
            "latency_ms": row.latency_ms,
            "memory_bytes": row.planned_memory_bytes,
            "params": row.params,
            "macs": row.macs,
        }


def run_entry(setting: Setting, network: str, entry: Entry, seed: int, dense_passes: float) -> dict[str, Any]:
    """Search, measure, judge; what came out as plain data."""
    started = time.perf_counter()
    report = run.search(
        setting.problem(network, entry, seed, dense_passes),
        home=setting.home,
        device_name=DEVICE,
        method=entry.method,
        method_settings=dict(entry.settings),
        runs_folder=setting.runs,
        console=setting.console,
    )
    finished = Finished(setting, report.folder)
    return {
        "run": report.folder.name,
        "dense": finished.judged(report.front.dense) if report.front.dense else None,
        "points": {row.id: finished.judged(row) for row in report.front.points},
        "counts": report.front.counts,
        "seconds": round(time.perf_counter() - started, 1),
        **_joint(report.folder),
    }


def hypervolume(record: dict[str, Any], *, by_weight: bool) -> float:
    """Normalised volume that a run's points dominate.

    Below (dense error + 0.20, dense latency, dense memory), each axis in units of it; of single weights, in error and
    share of parameters, below (1, 1).
    """
    dense, points = record["dense"], [*record["points"].values(), record["dense"]]
    if by_weight:
        F = np.array([[point["error"], point["params"] / dense["params"]] for point in points])
        return float(moocore.hypervolume(F, ref=np.ones(2)))
    reference = np.array([dense["error"] + ERROR_SLACK, dense["latency_ms"], dense["memory_bytes"]])
    F = np.array([[point["error"], point["latency_ms"], point["memory_bytes"]] for point in points]) / reference
    return float(moocore.hypervolume(F, ref=np.ones(3)))


def finetune_points(setting: Setting, record: dict[str, Any], *, by_weight: bool) -> dict[str, Any]:
    """Three points of a run fine-tuned alike; chosen by validation, reported on test."""
    column = "params" if by_weight else "latency_ms"
    dense = record["dense"]
    chosen: list[str] = []
    for share in FINETUNED_AT:
        within = [name for name, point in record["points"].items() if point[column] <= share * dense[column]]
        chosen += [min(within, key=lambda name: record["points"][name]["error"])] if within else []
    folder = setting.runs / record["run"]
    wanted = list(dict.fromkeys(chosen))
    if not wanted:
        return {}
    front = finetune(folder, wanted, setting.console)
    rows = {row.id: row for row in front.points}
    return {
        name: {
            "val_error_inherited": record["points"][name]["error"],
            "val_error": 1 - rows[name].val_metric,
            "test_error": 1 - (rows[name].test_metric or 0.0),
            "share": record["points"][name][column] / dense[column],
        }
        for name in wanted
    }


def _joint(folder: Path) -> dict[str, Any]:
    """How well impairments add up: rank correlation of what was predicted for joint schemes with what they lost."""
    lines = [json.loads(line) for line in (folder / "archive.jsonl").read_text().splitlines()]
    told = next((line["data"]["found"] for line in lines if line.get("name") == "joint schemes"), None)
    if told is None:
        return {}
    errors = {
        line["plan_key"]: line["objectives"]["error"]
        for line in lines
        if line["kind"] == "evaluation" and line["error"] is None
    }
    pairs = [
        (predicted, errors[key])
        for key, predicted in zip(told["plan_keys"], told["predicted"], strict=True)
        if key in errors
    ]
    if len(pairs) < 3:
        return {}
    return {"impairments_spearman": float(spearmanr(*zip(*pairs, strict=True)).statistic)}
