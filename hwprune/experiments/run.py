"""One search: a problem, a device and a method in, a folder with a measured front out."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_agents.registry import Device
from hwprune import objectives
from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem, RunConfig
from hwprune.errors import RunError
from hwprune.experiments import front as fronts
from hwprune.experiments.calibration import Calibrator, latency_model, model_at_hand
from hwprune.experiments.devices import find
from hwprune.experiments.home import Home
from hwprune.experiments.progress import Console
from hwprune.experiments.provenance import RunFolder, environment, run_conditions, write_text
from hwprune.experiments.session import DeviceSession, open_session
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.plan import PruningPlan
from hwprune.records import Front, Measurement
from hwprune.search import methods
from hwprune.search.evaluation import Progress, SearchContext
from hwprune.search.journal import Journal
from hwprune.search.problem import SearchProblem, check_feasible, feasible_range, parse_bounds
from hwprune.search.space import SearchSpace
from latency_models.network_model import LatencyModel

#: Device time of measuring one point of a front, processes, repeats and all; for forecasts only.
_POINT_S = 3.0
#: Points of a front; for forecasts only.
_POINTS = 25


@dataclass(frozen=True)
class RunReport:
    """A finished run.

    Attributes:
        run_id: its name.
        folder: where everything about it is.
        front: what it found.
    """

    run_id: str
    folder: Path
    front: Front


@dataclass(frozen=True)
class DryRun:
    """What a search would do and cost.

    Attributes:
        evaluations: true evaluations.
        seconds_an_evaluation: wall time of one, as just measured on the dense network.
        device_minutes: time on the device, a missing profile included.
        wall_minutes: everything together.
        profiled: the device has a latency model for this network.
        groups: channel groups that may be pruned.
        ranges: smallest, dense and largest value of every objective that is known without evaluating.
    """

    evaluations: int
    seconds_an_evaluation: float
    device_minutes: float
    wall_minutes: float
    profiled: bool
    groups: int
    ranges: dict[str, dict[str, float]]


def search(
    problem: Problem,
    *,
    home: Home,
    device_name: str,
    method: str,
    method_settings: Mapping[str, Any],
    runs_folder: Path,
    console: Console,
    max_age_s: float | None = None,
) -> RunReport:
    """Search the front of a problem on a device, and measure it.

    Args:
        problem: the resolved config.
        home: where devices, store and artifacts are.
        device_name: a registered device.
        method: name of the search method.
        method_settings: its settings.
        runs_folder: where the run's folder is made.
        console: who is told how it goes.
        max_age_s: measurements of the store that are older are made again; 0 for all.

    Raises:
        HwpruneError: the config cannot be used, or a constraint cannot be met.
        DeviceError: the device is unknown, or lost.
    """
    device = find(home, device_name)
    methods.build(method, method_settings)  # a wrong setting is said before anything is loaded
    bounds = parse_bounds(problem.constraints)
    bench = Workbench.open(problem, CpuTarget.from_dict(device.target, device.threads))
    # What no profile is needed for shows before one is made: constraints out of reach, targets that do not fit.
    check_feasible(search_problem(bench, None, None, bounds, device.channel_step))
    metric = bench.accuracy(bench.plan(bench.groups.sizes))
    console.info(f"the dense network: {bench.task.metric.name} {metric:.4f} on the validation split")
    with open_session(home, device, console, max_age_s=max_age_s) as session:
        model = latency_model(session, bench, console)
        step = session.device.channel_step
        check_feasible(search_problem(bench, session, Calibrator(session, bench, model), bounds, step))
        config = RunConfig(
            problem=problem,
            device=device.address,
            method=method,
            method_settings=dict(method_settings),
            channel_step=step,
        )
        folder = _begin(runs_folder, config, bench, device, model)
        return _search(folder, config, bench, session, model, console)


def _begin(runs_folder: Path, config: RunConfig, bench: Workbench, device: Device, model: LatencyModel) -> RunFolder:
    """Folder of a new run with all that is known before it; none where that cannot be written."""
    folder = RunFolder.create(runs_folder, f"{device.name}-{config.problem.network['name']}-{config.method}")
    try:
        write_text(folder.path / "latency_model.json", model.to_json())
        facts = {**environment(), "device": device.description, "conditions": run_conditions(bench, device)}
        folder.write_json("environment.json", facts)
        write_text(folder.path / "config.yaml", config.to_yaml())
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return folder


def resume(run_folder: Path, *, home: Home, console: Console) -> RunReport:
    """Go on with an interrupted search: nothing that its journal knows is evaluated again.

    Raises:
        RunError: there is no run, or it has ended.
    """
    folder = RunFolder.open(run_folder)
    config = RunConfig.load(folder.path / "config.yaml")
    if (folder.path / "front.json").exists():
        raise RunError(f"{folder.path} has ended: see it with 'hwprune report {folder.path}'")
    device = find(home, config.device)
    bench = Workbench.open(config.problem, CpuTarget.from_dict(device.target, device.threads))
    with open_session(home, device, console) as session:
        model = LatencyModel.from_json((folder.path / "latency_model.json").read_text())
        return _search(folder, config, bench, session, model, console)


def dry_run(
    problem: Problem, *, home: Home, device_name: str, method: str, method_settings: Mapping[str, Any]
) -> DryRun:
    """Say what a search would cost; one accuracy evaluation is made, the device is left alone.

    Raises:
        InfeasibleError: a constraint cannot be met, as far as the model of a profiled device can tell.
    """
    device = find(home, device_name)
    methods.build(method, method_settings)
    bounds = parse_bounds(problem.constraints)
    bench = Workbench.open(problem, CpuTarget.from_dict(device.target, device.threads))
    model = model_at_hand(home, device, bench)
    calibrator = None if model is None else Calibrator(None, bench, model)
    told = search_problem(bench, None, calibrator, bounds, device.channel_step)
    ranges = feasible_range(told)
    check_feasible(told, ranges)
    bench.accuracy(bench.plan(bench.groups.sizes))  # decodes and keeps the images
    started = time.perf_counter()
    bench.accuracy(bench.plan(bench.groups.sizes))
    if bench.batchnorm is not None:
        bench.batchnorm(bench.slicer.cut(bench.plan(bench.groups.sizes)), bench.dtype)
    seconds = time.perf_counter() - started
    device_minutes = (_POINTS * _POINT_S / 60) + (0 if model else 2.0)
    if problem.latency_source == "device":
        device_minutes += problem.budget.evaluations / 60
    wall_minutes = device_minutes + problem.budget.evaluations * seconds / 60
    if problem.budget.minutes is not None:
        wall_minutes = min(wall_minutes, device_minutes + problem.budget.minutes)
    return DryRun(
        problem.budget.evaluations,
        seconds,
        device_minutes,
        wall_minutes,
        model is not None,
        len(bench.groups),
        {name: dataclasses.asdict(values) for name, values in ranges.items()},
    )


def search_problem(
    bench: Workbench,
    session: DeviceSession | None,
    calibrator: Calibrator | None,
    bounds: Mapping[str, float],
    channel_step: int | None,
) -> SearchProblem:
    """The problem as a search sees it: functions of widths.

    Args:
        bench: network and task.
        session: the device; None where nothing is measured.
        calibrator: holds the latency model; None where there is none, then latency is neither computed nor bounded.
        bounds: upper bounds by objective.
        channel_step: what ``round_to: auto`` stands for; None for the target's vector length.
    """
    problem = bench.problem
    wanted = [name for name in dict.fromkeys([*problem.objectives, *bounds]) if name != "error"]
    if calibrator is None:
        wanted = [name for name in wanted if name != "latency"]
        bounds = {name: bound for name, bound in bounds.items() if name != "latency"}
    step = channel_step or bench.graph.target.lanes
    sources = objectives.Sources(
        dense_widths=np.asarray(bench.groups.sizes),
        shapes=bench.arithmetic,
        parameters=bench.slicer.parameter_counts,
        latency_ms=None if calibrator is None else lambda shapes: calibrator.model.predict(shapes),
        planned_memory_bytes=bench.memory,
    )

    def exact_memory(plan: PruningPlan) -> dict[str, float]:
        planned = bench.graph.memory(bench.slicer.cut(plan))
        return {"peak_memory": float(planned.arena_bytes + planned.weights_bytes)}

    def measure(plan: PruningPlan) -> Measurement:
        assert session is not None  # latency_source=device is asked for with one
        return session.measure_candidate(bench, plan)

    def measure_ahead(plans: Sequence[PruningPlan]) -> None:
        assert session is not None
        session.measure_candidates(bench, plans)

    measured = problem.latency_source == "device" and session is not None
    return SearchProblem(
        space=SearchSpace.of(
            bench.groups.sizes.tolist(),
            round_to=problem.pruning.round_to,
            channel_step=step,
            pruning_ratio_max=problem.pruning.pruning_ratio_max,
            scores=bench.scores,
        ),
        objectives=tuple(problem.objectives),
        costs=objectives.costs(wanted, sources),
        plan=lambda widths: bench.plan(widths),
        accuracy=bench.accuracy,
        error=bench.task.error,
        exact=exact_memory if "peak_memory" in wanted else None,
        measure=measure if measured else None,
        measure_ahead=measure_ahead if measured else None,
        bounds=bounds,
        refiner=calibrator if session is not None and "latency" in wanted and not measured else None,
        shapes=bench.arithmetic,
        channel_step=step,
    )


def _search(
    folder: RunFolder,
    config: RunConfig,
    bench: Workbench,
    session: DeviceSession,
    model: LatencyModel,
    console: Console,
) -> RunReport:
    """Run the method, measure its front, write everything down."""
    problem = config.problem
    console.resumable = folder.path
    started = time.perf_counter()
    calibrator = Calibrator(session, bench, model)
    told = search_problem(bench, session, calibrator, parse_bounds(problem.constraints), config.channel_step)
    journal = Journal(folder.path / "archive.jsonl")
    budget = problem.budget.evaluations
    if len(journal):
        console.info(f"{folder.id}: going on after {len(journal)} evaluations")
    folder.log("search", evaluations_known=len(journal), budget=budget)
    with console.progress(budget, f"{config.method} on {config.device}") as steps:
        context = SearchContext(
            told,
            budget,
            np.random.default_rng(problem.seed),
            journal=journal,
            progress=lambda progress: steps.advance(1, _note(context, progress)),
            report=lambda generation: folder.log("generation", **dataclasses.asdict(generation)),
            minutes=problem.budget.minutes,
        )
        archive = methods.build(config.method, config.method_settings).run(context)
    journal.close()
    search_s = time.perf_counter() - started
    counts = {
        "evaluations": context.spent,
        "evaluations_failed": len(archive.failures),
        "evaluations_repeated": context.repeated,
        "networks_measured_in_search": len(session.measured_networks),
        "search_s": round(search_s, 2),
        "evaluating_s": round(context.evaluating_s, 2),
    }
    console.info(f"measuring the front: {len(archive.front())} points and the dense network")
    front = fronts.measure_front(folder, config, bench, session, calibrator.model, archive, counts, console)
    folder.log("finished", points=len(front.points), untrusted=len(front.untrusted))
    console.resumable = None
    return RunReport(folder.id, folder.path, front)


def _note(context: SearchContext, progress: Progress) -> str:
    """How the search stands, in a few words."""
    best = min(
        (found.objectives.get("latency", float("nan")) for found in context.archive.front()), default=float("nan")
    )
    fastest = "" if np.isnan(best) else f", fastest {best:.3f} ms"
    return f"{len(context.archive.front_rows())} on the front{fastest}"
