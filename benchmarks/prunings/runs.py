"""One run of one entry: searched on the device's model, and judged anew on the whole validation split.

No device takes part. What a run returns is measured later, all runs' networks together (:mod:`prunings.device`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from conditions import commit
from scipy.stats import spearmanr

from hwprune import training
from hwprune.config import Problem
from hwprune.executors import open_team
from hwprune.experiments.calibration import Calibrator
from hwprune.experiments.home import Home
from hwprune.experiments.judging import open_judge
from hwprune.experiments.progress import Console, Silent
from hwprune.experiments.run import search_problem
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.plan import PruningPlan
from hwprune.search import methods
from hwprune.search.archive import Archive
from hwprune.search.evaluation import UNLIMITED, SearchContext
from hwprune.search.journal import Journal
from hwprune.search.portfolio import hv_greedy
from hwprune.search.problem import parse_bounds
from prunings.device import Profiled, key_of, write_json
from prunings.entries import NETWORKS, Entry

#: Budget in passes of the dense network over the validation images that a search sees; fronts are judged on all.
DENSE_PASSES, VAL_IMAGES, BN_IMAGES = 200.0, 1000, 640
#: How far above the dense network's error the reference point stands.
ERROR_SLACK = 0.20
#: Members of a front that are judged and measured, and how far an error may move when it is judged.
JUDGED_MAX, JUDGED_ERROR = 40, 0.03
#: Points of a front that are fine-tuned: the most accurate up to these shares of the dense latency, which nearly every
#: entry reaches; of single weights, of the parameters.
FINETUNED_AT = {"resnet20": (0.9, 0.85, 0.8), "resnet56": (0.9, 0.75, 0.6), "vgg14": (0.75, 0.5, 0.35)}
WEIGHTS_FINETUNED_AT = (0.75, 0.5, 0.35)
#: Of the images' pixels, as the weights were trained on.
PIXELS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class Setting:
    """Where everything is.

    Attributes:
        images: CIFAR-10, a folder of ``train``, ``val`` and ``test``, or an ``.npz`` file of arrays.
        weights: folder of ``NETWORK.safetensors``.
        home: of the device, the compiled kernels, and the accuracies that all runs share.
        runs: where journals, trained weights and points to fine-tune go.
        console: told how it goes.
        epochs: of fine-tuning.
        workers: processes that score candidates.
    """

    images: Path
    weights: Path
    home: Home
    runs: Path
    console: Console
    epochs: int = 2
    workers: int = 1

    def problem(self, network: str, entry: Entry | None = None, seed: int = 0) -> Problem:
        """The problem of a run; of the network itself without an entry."""
        kind = "arrays" if self.images.suffix == ".npz" else "image_folder"
        told: dict[str, Any] = {
            "network": NETWORKS[network],
            "weights": str(self.weights / f"{network}.safetensors"),
            "data": {"name": kind, "path": str(self.images), "val_images": VAL_IMAGES, **PIXELS},
            "seed": seed,
            "evaluation": {"threads": 1, "bn_images": BN_IMAGES},
            "finetune": {"epochs": self.epochs, "lr": 0.02, "batch_size": 128},
        }
        for section, values in entry.problem.items() if entry else ():
            told[section] = {**told.get(section, {}), **values}
        return Problem.model_validate(told)

    def whole(self, problem: Problem) -> Problem:
        """The same with the whole validation split, and all of BatchNorm's images."""
        evaluation = problem.evaluation.model_copy(update={"search_bn_images": BN_IMAGES})
        data = {key: value for key, value in problem.data.items() if key != "val_images"}
        return problem.model_copy(update={"data": data, "evaluation": evaluation})

    def folder(self, network: str, entry: Entry, seed: int) -> Path:
        """Where a run keeps what is too large for the results."""
        return self.runs / f"{network}-{entry.name}-{seed}"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Block in which no other process works on a run; whether that is so, or another one does already."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@dataclass
class Searched:
    """A finished search.

    Attributes:
        bench: its problem brought to life.
        archive: what it evaluated.
        counts: what it spent.
    """

    bench: Workbench
    archive: Archive
    counts: dict[str, float]


def searched(
    setting: Setting, problem: Problem, entry: Entry, folder: Path, profiled: Profiled, passes: float
) -> Searched:
    """Search a problem on the device's model; an interrupted search goes on where its journal ends."""
    wanted = methods.objectives(entry.method, entry.settings, problem.objectives, is_measured=False)
    problem = problem.model_copy(update={"objectives": wanted})
    bench = Workbench.open(problem, profiled.target)
    bench.weights_folder = folder / "weights"
    journal = Journal(folder / "archive.jsonl")
    with open_team(setting.workers, None, 1) as team, setting.home.open_store() as store:
        judge = open_judge(bench, team, store.accuracies, Silent())
        calibrator, bounds = Calibrator(None, bench, profiled.model), parse_bounds(problem.constraints)
        told = search_problem(bench, None, calibrator, bounds, None, judge)
        with setting.console.progress(passes, folder.name) as steps:
            done = 0.0

            def advance() -> None:
                nonlocal done
                steps.advance(context.compute.total - done, f"{context.spent} evaluations")
                done = context.compute.total

            context = SearchContext(
                told,
                UNLIMITED,
                np.random.default_rng(problem.seed),
                journal=journal,
                dense_passes=passes,
                working=lambda *_: advance(),
                progress=lambda _: advance(),
                executor=team,
            )
            archive = methods.build(entry.method, dict(entry.settings)).run(context)
    journal.close()
    counts = {
        "evaluations": context.spent,
        "evaluations_failed": len(archive.failures),
        "evaluations_stored": context.stored,
        "evaluations_given_up": context.given_up,
        "dense_passes_forward": round(context.compute.forward, 2),
        "dense_passes_backward": round(context.compute.backward, 2),
        "evaluating_s": round(context.evaluating_s, 2),
    }
    return Searched(bench, archive, counts)


def run_entry(setting: Setting, network: str, entry: Entry, seed: int, passes: float = DENSE_PASSES) -> dict[str, Any]:
    """Search, judge on the whole split; what came out as plain data."""
    started, folder = time.perf_counter(), setting.folder(network, entry, seed)
    folder.mkdir(parents=True, exist_ok=True)
    profiled = Profiled.read(network)
    problem = setting.problem(network, entry, seed)
    found = searched(setting, problem, entry, folder, profiled, passes)
    searched_s = time.perf_counter() - started
    bench, dense = found.bench, PruningPlan.dense(found.bench.groups)
    plans = [dense, *(plan for plan in _best(found.archive, by_weight=entry.by_weight) if plan.key != dense.key)]
    rows = [
        _row(bench, plan, error, profiled, by_weight=entry.by_weight)
        for plan, error in zip(plans, _errors(setting, problem, bench, plans, profiled), strict=True)
    ]
    if seed == 0:
        _keep_some(bench, plans, rows, folder, _shares(network, entry))
    joint = _joint(folder)
    (folder / "archive.jsonl").unlink()
    if seed:
        shutil.rmtree(folder)
    return {
        "dense": rows[0],
        "points": rows[1:],
        "counts": found.counts,
        "search_s": round(searched_s, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "passes": passes,
        "commit": commit(),
        **joint,
    }


def _best(archive: Archive, *, by_weight: bool) -> list[PruningPlan]:
    """The members of a front that are judged and measured: of those that may count, the best together."""
    rows = archive.front_rows()
    F = archive.F[rows]
    if not by_weight:
        error = F[:, archive.objectives.index("error")]
        near = error <= archive.evaluations[0].objectives["error"] + ERROR_SLACK + JUDGED_ERROR
        rows, F = rows[near], F[near]
    chosen = np.sort(hv_greedy(F, JUDGED_MAX).rows) if len(rows) > JUDGED_MAX else np.arange(len(rows))
    keys = [archive.evaluations[row].plan_key for row in rows[chosen]]
    return [archive.plan(key) for key in keys]


def _errors(
    setting: Setting, problem: Problem, bench: Workbench, plans: list[PruningPlan], profiled: Profiled
) -> list[float]:
    """Errors on the whole validation split."""
    whole = Workbench.open(setting.whole(problem), profiled.target)
    whole.weights_folder = bench.weights_folder
    with open_team(setting.workers, None, 1) as team, setting.home.open_store() as store:
        judge = open_judge(whole, team, store.accuracies, Silent())
        assert judge is not None  # classification has one
        with setting.console.progress(len(plans), "judging the front on the whole split") as steps:
            errors = []
            for score in judge.scores(plans, [math.inf] * len(plans)):
                errors.append(math.nan if score.metric is None else 1 - score.metric)
                steps.advance()
    return errors


def _row(
    bench: Workbench, plan: PruningPlan, error: float, profiled: Profiled, *, by_weight: bool
) -> dict[str, int | float | str]:
    """A network by all measures; its latency only by the model, which knows widths alone."""
    row: dict[str, int | float | str] = {"error": error, "params": bench.slicer.parameter_count(plan)}
    if by_weight:
        return row
    widths = np.array([plan.widths])
    return {
        **row,
        "widths": key_of(plan.widths),
        "macs": bench.macs(plan),
        "memory_bytes": float(bench.memory(widths)[0]),
        "predicted_ms": float(profiled.model.predict(bench.arithmetic(widths))[0][0]),
    }


def _keep_some(
    bench: Workbench,
    plans: list[PruningPlan],
    rows: list[dict[str, int | float | str]],
    folder: Path,
    shares: Sequence[float],
) -> None:
    """Keep some networks of a front, with the weights that they inherit, to be fine-tuned."""
    column = "predicted_ms" if "predicted_ms" in rows[0] else "params"
    chosen: dict[int, dict[str, Any]] = {}
    for share in shares:
        within = [number for number, row in enumerate(rows) if float(row[column]) <= share * float(rows[0][column])]
        if within:
            best = min(within, key=lambda number: rows[number]["error"])
            chosen[best] = {"row": rows[best], "share": float(rows[best][column]) / float(rows[0][column])}
    for number, told in chosen.items():
        plan = plans[number]
        training.save_weights(bench.inherit(plan), folder / f"{number}.safetensors", sparse=plan.mask is not None)
        write_json(folder / f"{number}.json", {**told, "plan": plan.as_dict()}, indent=None)


def _shares(network: str, entry: Entry) -> Sequence[float]:
    return WEIGHTS_FINETUNED_AT if entry.by_weight else FINETUNED_AT[network]


def keep_again(setting: Setting, network: str, entry: Entry, record: Mapping[str, Any]) -> bool:
    """Make the kept networks of an entry's first run anew from its record, where their files are gone.

    Returns:
        Whether there are kept networks of that record now: those that do not follow from their widths take another
        search, and those that another search of the same entry left are not its.
    """
    folder, rows = setting.folder(network, entry, 0), [record["dense"], *record["points"]]
    if not kept(folder) and entry.by_widths:
        folder.mkdir(parents=True, exist_ok=True)
        bench = Workbench.open(setting.problem(network, entry))
        plans = [bench.plan(np.array(row["widths"].split(), np.int64)) for row in rows]
        _keep_some(bench, plans, rows, folder, _shares(network, entry))
    found = kept(folder).values()
    return bool(found) and all(each["row"] in rows for each in found)


def kept(folder: Path) -> Mapping[str, dict[str, Any]]:
    """Networks of a run that were kept to be fine-tuned, by name: the plan, its row and its share of the cost."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("[0-9]*.json"))}


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
