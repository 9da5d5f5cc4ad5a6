"""Candidates a minute in a search on ResNet-56, against the plain way; and whether the front stands when re-evaluated.

    python benchmarks/evaluation.py [--quick] [--resume] [--workers N]

The plain way: the candidate is cut, its BatchNorm statistics are re-estimated and the whole validation split is scored
in float32, by both cores together. Ours: what ``hwprune search`` does for every candidate, the last pass over the front
in float32 included; at least 10 times as many are asked for, and the same top-1 within 0.1 points, the same hypervolume
within 1 %. Objectives are error, multiply-adds and parameters, so that no device takes part. Both use the same images.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import torch
from comparison.cifar import problem_or_exit
from conditions import command, commit, conditions, print_conditions, print_result

from hwprune import training
from hwprune.config import Problem
from hwprune.experiments.judging import Crew, open_judge
from hwprune.experiments.progress import Silent
from hwprune.experiments.run import search_problem
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.plan import PruningPlan
from hwprune.records import Evaluation
from hwprune.search import methods
from hwprune.search.evaluation import SearchContext
from hwprune.search.events import Progress
from hwprune.search.journal import Journal

BUDGET, BUDGET_QUICK = 400, 24
#: Of 5,000; BatchNorm, whose images stay as many, takes most of the time then.
VAL_IMAGES_QUICK = 1000
#: Candidates, drawn from all that the search evaluated, by which the plain way is timed.
PLAIN, PLAIN_QUICK = 8, 1
#: Points of the front that are re-evaluated the plain way.
POINTS_QUICK = 2
#: Error, multiply-adds and parameters of the hypervolume's reference point, as shares of the dense network's; the error
#: alone as a number.
REFERENCE = (0.5, 1.05, 1.05)

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Search, then repeat the plain way, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{BUDGET_QUICK} evaluations, another seed")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier call stopped")
    parser.add_argument("--workers", type=int, default=2, help="processes [2]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = problem_or_exit("evaluation", 56, val_images=VAL_IMAGES_QUICK if options.quick else None)
    print_conditions()
    folder = RESULTS / "evaluation.partial"
    if not options.resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    seed = int(time.time()) % 10_000 if options.quick else 0
    bench = Workbench.open(problem)
    ours = _ours(bench, problem, folder, BUDGET_QUICK if options.quick else BUDGET, options.workers, seed)
    plain = _plain(bench, folder, ours, options.quick, seed)
    result = _compared(bench, ours, plain) | {"benchmark": "evaluation", "seed": seed, "workers": options.workers}
    if not options.quick:
        record = {
            **result,
            "conditions": conditions(),
            "command": command("evaluation"),
            "commit": commit(),
            "seeds": [seed],
        }
        (RESULTS / "evaluation.json").write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(folder)
    print_result(result)


def _ours(bench: Workbench, problem: Problem, folder: Path, budget: int, workers: int, seed: int) -> dict[str, Any]:
    """A search and its last pass; what an earlier call did is counted with the time that it took then."""
    journal = Journal(folder / "journal.jsonl")
    with Crew(workers).team(problem) as team:
        judge = open_judge(bench, team, None, Silent())
        assert judge is not None
        told = search_problem(bench, None, None, {}, None, judge)
        random_state = np.random.default_rng(seed)
        context = SearchContext(told, budget, random_state, journal=journal, progress=_Told(budget))
        archive = methods.build("hamp").run(context)
        journal.close()
        front = archive.front()
        exact_s, metrics = _once(folder / "exact.json", lambda: _exact(judge, bench, front))
    search_s = sum(found.seconds for found in (*archive.evaluations, *archive.failures))
    print(
        f"{context.spent} evaluations in {search_s:.0f} s, {context.given_up} given up early; "
        f"{len(front)} points in float32 in {exact_s:.0f} s"
    )
    return {
        "evaluations": context.spent,
        "given_up": context.given_up,
        "search_s": search_s,
        "exact_s": exact_s,
        "a_minute": 60 * context.spent / (search_s + exact_s),
        "archive": archive.evaluations,
        "front": front,
        "metrics": metrics,
    }


def _exact(judge: Any, bench: Workbench, front: list[Evaluation]) -> tuple[float, list[float]]:
    started = time.perf_counter()
    scores = list(judge.exact([bench.plan(found.widths) for found in front]))
    return time.perf_counter() - started, [float(score.metric) for score in scores]


def _plain(bench: Workbench, folder: Path, ours: dict[str, Any], quick: bool, seed: int) -> dict[str, Any]:
    """Top-1 of points of the front the plain way, and the time that the plain way takes for all kinds of candidates."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    generator = np.random.default_rng(seed)
    drawn = generator.choice(len(ours["archive"]), PLAIN_QUICK if quick else PLAIN, replace=False)
    checked = range(len(ours["front"]))
    if quick:
        checked = sorted(generator.choice(len(ours["front"]), min(POINTS_QUICK, len(ours["front"])), replace=False))
    images = bench.problem.evaluation.bn_images
    batchnorm = training.BatchNormEstimator(bench.task, images=images, seed=bench.problem.evaluation.seed)
    bench.task.evaluate(bench.dense, "val", limit=256)  # the library's own start-up is nobody's time
    seconds = [
        _once(folder / f"plain-{row}.json", lambda row=row: _plain_way(bench, batchnorm, ours["archive"][row]))[0]
        for row in drawn
    ]
    top1 = {}
    for number in checked:
        found = ours["front"][number]
        _, top1[int(number)] = _once(folder / f"point-{number}.json", lambda f=found: _plain_way(bench, batchnorm, f))
        print(f"point {number}: {ours['metrics'][number]:.4f}, the plain way {top1[int(number)]:.4f}", flush=True)
    return {"seconds": seconds, "top1": top1}


def _plain_way(bench: Workbench, batchnorm: training.BatchNormEstimator, found: Evaluation) -> tuple[float, float]:
    """Seconds and top-1."""
    plan = bench.plan(found.widths)
    started = time.perf_counter()
    module = bench.slicer.cut(plan)
    if plan.key != PruningPlan.dense(bench.groups).key:
        batchnorm(module)
    top1 = bench.task.evaluate(module, "val", limit=bench.problem.evaluation.val_images)
    return time.perf_counter() - started, top1


def _compared(bench: Workbench, ours: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    plain_a_minute = 60 / float(np.mean(plain["seconds"]))
    ratio = ours["a_minute"] / plain_a_minute
    points = sorted(plain["top1"])
    differences = [abs(ours["metrics"][number] - plain["top1"][number]) for number in points]
    mine = [ours["metrics"][number] for number in points]
    volumes = [_hypervolume(bench, [ours["front"][n] for n in points], top1) for top1 in (mine, plain["top1"].values())]
    searched = _hypervolume(bench, ours["front"], [found.metric or 0 for found in ours["front"]])
    whole = _hypervolume(bench, ours["front"], ours["metrics"])
    change = abs(volumes[0] / volumes[1] - 1)
    print(f"ours {ours['a_minute']:.1f} a minute, the plain way {plain_a_minute:.2f}: {ratio:.1f} times (10 asked for)")
    print(f"top-1 differs by {max(differences):.4f} at most (0.001 allowed), hypervolume by {change:.2%} (1 % allowed)")
    return {
        "ratio": ratio,
        "ours_a_minute": ours["a_minute"],
        "plain_a_minute": plain_a_minute,
        "top1_difference_max": max(differences),
        "hypervolume_change": change,
        "hypervolume_change_since_search": abs(searched / whole - 1),
        "points": len(points),
        "evaluations": ours["evaluations"],
        "given_up": ours["given_up"],
        "search_s": ours["search_s"],
        "exact_s": ours["exact_s"],
        "plain_s": plain["seconds"],
    }


def _hypervolume(bench: Workbench, front: list[Evaluation], top1: Any) -> float:
    """Of a front with these accuracies; costs as shares of the dense network's."""
    dense = search_problem(bench, None, None, {}, None).cheap(np.asarray(bench.groups.sizes)[None])
    rows = [
        [1 - metric, *(found.objectives[name] / float(dense[name][0]) for name in ("macs", "params"))]
        for found, metric in zip(front, top1, strict=True)
    ]
    return float(moocore.hypervolume(np.array(rows), ref=np.array(REFERENCE)))


def _once(path: Path, work: Any) -> Any:
    """What ``work`` gives, or gave in an earlier call."""
    if not path.exists():
        path.write_text(json.dumps(work()))
    return json.loads(path.read_text())


class _Told:
    """Prints how a search stands, with the time left."""

    def __init__(self, budget: int) -> None:
        self._budget, self._started, self._fresh = budget, time.perf_counter(), 0

    def __call__(self, step: Progress) -> None:
        self._fresh += not step.replayed
        if step.spent % 20 == 0 and self._fresh:
            each_s = (time.perf_counter() - self._started) / self._fresh
            left_min = each_s * (self._budget - step.spent) / 60
            print(f"{step.spent} of {self._budget} evaluations, {left_min:.1f} min left", flush=True)


if __name__ == "__main__":
    main()
