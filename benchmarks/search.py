"""How many true evaluations a search takes to reach 90, 95 and 98 % of the hypervolume of the best front that is known.

    python benchmarks/search.py [--quick | --resume] [--problem NAME ...] [--method NAME ...] [--seeds 11]
    python benchmarks/search.py --record devices|table|large --images DATA.npz --weights RESNET20.safetensors
    python benchmarks/search.py --record reference

Problems without noise: four test functions, of which nothing is cheap, and ResNet-20 on CIFAR-10 as recorded: a space
of 4,096 plans that was evaluated whole (``resnet20_table``), and one of 6e10 plans of which a few thousand were
evaluated and the others are interpolated (``resnet20_large``); latency and memory are those of measured kernels. HAMP
needs at most a third of NSGA-II's evaluations on the first, a tenth on the second, and never more on the test
functions. A run that does not arrive counts as its cap and is listed. A second and a third device, searched with the
accuracies that the searches before have left, need at most a third of the first one's evaluations.

Results go to ``benchmarks/results/search.json`` run by run; ``--resume`` goes on where they end. ``--quick`` runs a
small part with a fresh seed and writes nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from conditions import command, commit, conditions, print_conditions, print_result
from scipy.stats import wilcoxon
from searching import analytic, resnet20, rivals
from searching.analytic import Target
from searching.arrivals import one_after_the_other, run

RESULTS = Path(__file__).resolve().parent / "results" / "search.json"
#: Evaluations at which a run ends that has not arrived: fewer where three objectives are forecast, which takes longer.
CAPS = {"resnet20_large": 3000, "resnet20_table": 2000, "dtlz2": 1500, "dtlz7": 1500, "wfg4": 1500, "zdt1": 3000}
METHODS = ("hamp", "nsga2", "sms_emoa", "age_moea2", "random", "tpe")
#: TPE's own time grows with the square of its trials.
TPE_CAP = 400
QUICK_PROBLEMS, QUICK_CAP = ("resnet20_table", "zdt1"), 800
NEXT_DEVICE = "next_device"
RECORDINGS = ("devices", "table", "large", "reference")


def main() -> None:
    """Run what is asked for, print a table and the result."""
    arguments = _parser().parse_args()
    if arguments.record:
        return _record(arguments)
    print_conditions()
    seeds = [secrets.randbelow(2**31)] if arguments.quick else list(range(arguments.seeds))
    problems = arguments.problem or list(QUICK_PROBLEMS if arguments.quick else CAPS)
    for problem in [name for name in problems if name.startswith("resnet20")]:
        if lacking := resnet20.missing(problem):
            print(f"{problem} is left out: record {', '.join(lacking)} first (--record)")
            problems.remove(problem)
    methods = arguments.method or list(METHODS[:2] if arguments.quick else METHODS)
    for method in (name for name in methods if rivals.lacking(name)):
        print(f"{method} is left out: pip install {rivals.lacking(method)}")
    methods = [name for name in methods if not rivals.lacking(name)]
    runs = _known() if arguments.resume else []
    if arguments.quick:
        print(f"seed {seeds[0]}, runs end after {QUICK_CAP} evaluations")
    jobs = list(_jobs(problems, methods, seeds))
    todo = [job for job in jobs if not any(all(found[key] == value for key, value in job.items()) for found in runs)]
    started = time.monotonic()
    for number, job in enumerate(todo, 1):
        runs += _run(job, QUICK_CAP if arguments.quick else 10**9)
        if not arguments.quick:
            _write(runs)
            left_min = (time.monotonic() - started) / number * (len(todo) - number) / 60
            print(f"  {number} of {len(todo)} runs, {left_min:.0f} min left", flush=True)
    _print_table(runs)
    print_result(result_of(runs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small part, with a fresh seed, within a minute")
    parser.add_argument("--resume", action="store_true", help="go on with benchmarks/results/search.json")
    parser.add_argument("--problem", action="append", choices=list(CAPS), help="one of these only; may be repeated")
    parser.add_argument("--method", action="append", choices=METHODS, help="the same for methods")
    parser.add_argument("--seeds", type=int, default=11, help="seeds 0, 1, ... of every method")
    parser.add_argument("--record", choices=RECORDINGS, help="record a ResNet-20 problem anew")
    parser.add_argument("--images", type=Path, help="npz file of CIFAR-10, for --record")
    parser.add_argument("--weights", type=Path, help="weights of ResNet-20, for --record")
    parser.add_argument("--minutes", type=float, default=60, help="when a recording stops for now")
    return parser


def _record(arguments: argparse.Namespace) -> None:
    from searching import record  # takes torch and TVM

    from hwprune.experiments.home import Home

    if arguments.record == "reference":
        return record.record_reference()
    if arguments.images is None or arguments.weights is None:
        raise SystemExit("--record needs --images and --weights")
    if arguments.record == "devices":
        return record.record_devices(arguments.images, arguments.weights, Home.find())
    recorder = record.record_table if arguments.record == "table" else record.record_large
    return recorder(arguments.images, arguments.weights, arguments.minutes)


@functools.cache
def _target(problem: str) -> Target:
    if not problem.startswith("resnet20"):
        return analytic.target(problem)
    device = next(iter(resnet20.devices()))
    return resnet20.table(device) if problem == "resnet20_table" else resnet20.large(device)


def _jobs(problems: list[str], methods: list[str], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """What is to be run, seed by seed, so that an interrupted benchmark has whole seeds."""
    for seed in seeds:
        for problem in problems:
            for method in methods:
                yield {"problem": problem, "method": method, "seed": seed}
        if "resnet20_table" in problems and "hamp" in methods:
            yield {"problem": NEXT_DEVICE, "method": "hamp", "seed": seed}


def _run(job: dict[str, Any], cap: int) -> list[dict[str, Any]]:
    method, seed = job["method"], job["seed"]
    if job["problem"] == NEXT_DEVICE:
        targets = [resnet20.table(device) for device in resnet20.devices()]
        arrivals = list(one_after_the_other(targets, rivals.of("hamp recalls"), seed, CAPS["resnet20_table"]))
        pairs = zip(resnet20.devices(), arrivals, strict=True)
        found = [{**job, "device": device, **asdict(arrival)} for device, arrival in pairs]
    else:
        cap = min(cap, CAPS[job["problem"]], TPE_CAP if method == "tpe" else cap)
        found = [{**job, "cap": cap, **asdict(run(_target(job["problem"]), rivals.of(method)(), seed, cap))}]
    for row in found:
        told = ", ".join(f"{share} % {count or '-'}" for share, count in row["evaluations"].items())
        print(
            f"{row['problem']} {method} seed {seed} {row.get('device', '')}: {told} ({row['seconds']:.1f} s)",
            flush=True,
        )
    return found


def result_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over seeds, what never arrived, and the share of evaluations that further devices needed."""
    plain = [row for row in runs if row["problem"] != NEXT_DEVICE]
    medians: dict[str, dict[str, float]] = {}
    p_values: dict[str, float] = {}
    for problem in dict.fromkeys(row["problem"] for row in plain):
        counts = {
            method: _counts(plain, problem, method)
            for method in dict.fromkeys(row["method"] for row in plain if row["problem"] == problem)
        }
        medians[problem] = {method: float(np.median(list(by_seed.values()))) for method, by_seed in counts.items()}
        if {"hamp", "nsga2"} <= counts.keys():
            seeds = sorted(counts["hamp"].keys() & counts["nsga2"].keys())
            pairs = [(counts["hamp"][seed], counts["nsga2"][seed]) for seed in seeds]
            if len(pairs) > 1 and any(one != other for one, other in pairs):
                p_values[problem] = float(wilcoxon(*np.array(pairs).T).pvalue)
    censored = [
        f"{row['problem']} {row['method']} seed {row['seed']}" for row in plain if row["evaluations"]["95"] is None
    ]
    return {
        "evaluations_to_95": medians,
        "censored": censored,
        "next_device_share": _next_device_share(runs),
        "wilcoxon_p": p_values,
        "seeds": len({row["seed"] for row in plain}),
    }


def _counts(runs: list[dict[str, Any]], problem: str, method: str, share: str = "95") -> dict[int, int]:
    """Evaluations by seed; the cap where a run did not arrive."""
    mine = [row for row in runs if row["problem"] == problem and row["method"] == method]
    return {row["seed"]: row["evaluations"][share] or row["cap"] for row in mine}


def _next_device_share(runs: list[dict[str, Any]]) -> float | None:
    """Worse of two medians: evaluations of the second and the third device over those of the first."""
    by_seed: dict[int, list[dict[str, Any]]] = {}
    for row in runs:
        if row["problem"] == NEXT_DEVICE:
            by_seed.setdefault(row["seed"], []).append(row)
    shares = [[_to_95(later) / _to_95(rows[0]) for later in rows[1:]] for rows in by_seed.values()]
    return float(np.median(np.array(shares), axis=0).max()) if shares else None


def _to_95(row: dict[str, Any]) -> int:
    """Evaluations to 95 %; as many as were spent where the run did not arrive."""
    return int(row["evaluations"]["95"] or row["spent"])


def _print_table(runs: list[dict[str, Any]]) -> None:
    plain = [row for row in runs if row["problem"] != NEXT_DEVICE]
    print(f"\n{'problem':<16}{'method':<12}{'90 %':>8}{'95 %':>8}{'98 %':>8}   medians of evaluations (spread at 95 %)")
    for problem, method in dict.fromkeys((row["problem"], row["method"]) for row in plain):
        columns = [list(_counts(plain, problem, method, share).values()) for share in ("90", "95", "98")]
        medians = "".join(f"{np.median(column):>8.0f}" for column in columns)
        print(f"{problem:<16}{method:<12}{medians}   {min(columns[1])} to {max(columns[1])}")


def _known() -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    return runs


def _write(runs: list[dict[str, Any]]) -> None:
    """Write all runs so far, with what they depend on."""
    document = {
        "command": command("search"),
        "commit": commit(),
        "seeds": sorted({row["seed"] for row in runs}),
        "conditions": conditions(),
        "RESULT": result_of(runs),
        "runs": runs,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(part, RESULTS)


if __name__ == "__main__":
    main()
