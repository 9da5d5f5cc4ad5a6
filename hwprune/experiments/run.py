"""One search: a problem, a device and a method in, a folder with a measured front out."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_agents.registry import Device
from hwprune import objectives
from hwprune.accuracy.judge import AccuracyJudge
from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem, RunConfig
from hwprune.errors import RunError
from hwprune.experiments import front as fronts
from hwprune.experiments.calibration import Calibrator, latency_model, model_at_hand
from hwprune.experiments.energy import check_meter, fit_energy
from hwprune.experiments.home import Home
from hwprune.experiments.judging import ALONE, Crew, open_judge
from hwprune.experiments.members import members_of
from hwprune.experiments.pool import open_devices
from hwprune.experiments.profile import channel_steps
from hwprune.experiments.progress import Console, Silent
from hwprune.experiments.provenance import RunFolder, environment, run_conditions, write_text
from hwprune.experiments.search_view import SearchView, summary
from hwprune.experiments.session import DeviceSession
from hwprune.experiments.workbench import Workbench
from hwprune.fronts import Front
from hwprune.pruning.plan import PruningPlan
from hwprune.records import Measurement
from hwprune.scenario import BURST, Scenario
from hwprune.search import methods
from hwprune.search.evaluation import UNLIMITED, SearchContext
from hwprune.search.events import Generation
from hwprune.search.feasibility import feasibility
from hwprune.search.journal import Journal
from hwprune.search.problem import SearchProblem, check_feasible, feasible_range, parse_bounds
from hwprune.search.space import SearchSpace
from latency_models.network_model import LatencyModel

#: Device time of measuring one point of a front, processes, repeats and all; for forecasts only.
_POINT_S = 3.0
#: Evaluations over which a hypervolume that hardly grows has settled.
SETTLE_AFTER = 100
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
        evaluations: true evaluations, as many as the budget's minutes hold where those are fewer.
        seconds_an_evaluation: wall time of one, as just measured on a candidate that sees the whole split, shared by
            all processes on this machine.
        device_minutes: time on the device, a missing profile included.
        wall_minutes: everything together.
        profiled: the device has a latency model for this network.
        groups: channel groups that may be pruned.
        ranges: smallest, dense and largest value of every objective that is known without evaluating.
        constraints: what is known of each beforehand, as sentences.
    """

    evaluations: int
    seconds_an_evaluation: float
    device_minutes: float
    wall_minutes: float
    profiled: bool
    groups: int
    ranges: dict[str, dict[str, float]]
    constraints: list[str]


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
    scenario: Scenario = BURST,
    crew: Crew = ALONE,
) -> RunReport:
    """Search the front of a problem on a device, and measure it.

    Args:
        problem: the resolved config.
        home: where devices, store and artifacts are.
        device_name: a registered device, or identical ones as a pool: ``A+B+C``.
        method: name of the search method.
        method_settings: its settings.
        runs_folder: where the run's folder is made.
        console: who is told how it goes.
        max_age_s: measurements of the store that are older are made again; 0 for all.
        scenario: what the device is put through while the front is measured; candidates are timed in bursts.
        crew: where candidates are scored.

    Raises:
        HwpruneError: the config cannot be used, or a constraint cannot be met.
        DeviceError: the device is unknown, or lost.
    """
    device = members_of(home, device_name)[0]
    problem = _for_method(problem, method, method_settings, console)
    bounds = parse_bounds(problem.constraints)
    if "energy" in {*problem.objectives, *bounds}:
        check_meter(device)
    bench = Workbench.open(problem, CpuTarget.from_dict(device.target, device.threads))
    # What no profile is needed for shows before one is made: constraints out of reach, targets that do not fit.
    check_feasible(search_problem(bench, None, None, bounds, device.channel_step))
    with (
        crew.team(problem) as team,
        home.open_store() as store,
        open_devices(home, device_name, bench, console, max_age_s=max_age_s) as session,
    ):
        judge = open_judge(bench, team, store.accuracies, console)
        model = latency_model(session, bench, console)
        for note in model.notes(bench.arithmetic.templates):
            console.info(note)
        step = session.device.channel_step
        for sentence in feasibility(search_problem(bench, session, Calibrator(session, bench, model), bounds, step)):
            console.info(sentence)
        config = RunConfig(
            problem=problem,
            device=device.address,
            method=method,
            method_settings=dict(method_settings),
            channel_step=step,
            scenario=str(scenario),
        )
        folder = _begin(runs_folder, config, bench, device, model)
        return _search(folder, config, bench, session, model, judge, team, console)


def _for_method(problem: Problem, method: str, settings: Mapping[str, Any], console: Console) -> Problem:
    """The problem with the objectives that the method minimizes.

    Raises:
        ConfigError: the method or one of its settings cannot be used.
    """
    methods.build(method, settings)
    bounded, is_measured = list(parse_bounds(problem.constraints)), problem.latency_source == "device"
    objectives = methods.objectives(method, settings, problem.objectives, bounded, is_measured)
    if objectives != problem.objectives:
        console.info(
            f"{method} minimizes {' and '.join(objectives)} as its paper does; "
            f"--set minimize=problem for {', '.join(problem.objectives)}"
        )
    return problem.model_copy(update={"objectives": objectives})


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


def resume(run_folder: Path, *, home: Home, console: Console, crew: Crew = ALONE) -> RunReport:
    """Go on with an interrupted search: nothing that its journal knows is evaluated again.

    Raises:
        RunError: there is no run, or it has ended.
    """
    folder = RunFolder.open(run_folder)
    config = RunConfig.load(folder.path / "config.yaml")
    if (folder.path / "front.json").exists():
        raise RunError(f"{folder.path} has ended: see it with 'hwprune report {folder.path}'")
    device = members_of(home, config.device)[0]
    bench = Workbench.open(config.problem, CpuTarget.from_dict(device.target, device.threads))
    with (
        crew.team(config.problem) as team,
        home.open_store() as store,
        open_devices(home, config.device, bench, console) as session,
    ):
        judge = open_judge(bench, team, store.accuracies, console)
        model = LatencyModel.from_json((folder.path / "latency_model.json").read_text())
        return _search(folder, config, bench, session, model, judge, team, console)


def dry_run(
    problem: Problem,
    *,
    home: Home,
    device_name: str,
    method: str,
    method_settings: Mapping[str, Any],
    crew: Crew = ALONE,
) -> DryRun:
    """Say what a search would cost; one candidate is evaluated, twice, and the device is left alone.

    Raises:
        InfeasibleError: a constraint cannot be met, as far as the model of a profiled device can tell.
    """
    device = members_of(home, device_name)[0]
    problem = _for_method(problem, method, method_settings, Silent())
    bounds = parse_bounds(problem.constraints)
    if "energy" in {*problem.objectives, *bounds}:
        check_meter(device)
    bench = Workbench.open(problem, CpuTarget.from_dict(device.target, device.threads))
    model = model_at_hand(home, device, bench)
    calibrator = None if model is None else Calibrator(None, bench, model)
    told = search_problem(bench, None, calibrator, bounds, device.channel_step)
    ranges = feasible_range(told)
    constraints = feasibility(told, ranges)
    half = bench.plan(np.maximum(1, bench.groups.sizes // 2))
    bench.accuracy(half)  # decodes and keeps the images
    started = time.perf_counter()
    bench.accuracy(half)
    seconds = (time.perf_counter() - started) / crew.workers
    device_minutes = (_POINTS * _POINT_S / 60) + (0 if model else 2.0)
    limits = [] if problem.budget.minutes is None else [60 * problem.budget.minutes / seconds]
    limits += [] if problem.budget.evaluations is None else [problem.budget.evaluations]
    evaluations = int(min(limits, default=UNLIMITED))
    if problem.latency_source == "device":
        device_minutes += evaluations / 60
    wall_minutes = device_minutes + evaluations * seconds / 60
    return DryRun(
        evaluations,
        seconds,
        device_minutes,
        wall_minutes,
        model is not None,
        len(bench.groups),
        {name: dataclasses.asdict(values) for name, values in ranges.items()},
        constraints,
    )


def search_problem(
    bench: Workbench,
    session: DeviceSession | None,
    calibrator: Calibrator | None,
    bounds: Mapping[str, float],
    channel_step: int | None,
    judge: AccuracyJudge | None = None,
) -> SearchProblem:
    """The problem as a search sees it: functions of widths.

    Args:
        bench: network and task.
        session: the device; None where nothing is measured, then energy is neither computed nor bounded.
        calibrator: holds the latency model; None where there is none, then latency is not either.
        bounds: upper bounds by objective.
        channel_step: what ``round_to: auto`` stands for where no model tells it for each group; None for the target's
            vector length.
        judge: scores candidates many at once; None where they are scored one by one.
    """
    problem = bench.problem
    wanted = [name for name in dict.fromkeys([*problem.objectives, *bounds]) if name != "error"]
    latency_ms = None if calibrator is None else lambda shapes: calibrator.model.predict(shapes)
    energy_mj = None
    if session is not None and calibrator is not None and "energy" in wanted:
        energy_mj = fit_energy(session, bench, lambda widths: calibrator.model.predict(bench.arithmetic(widths))[0])
    unknown = {name for name, source in (("latency", latency_ms), ("energy", energy_mj)) if source is None}
    wanted = [name for name in wanted if name not in unknown]
    bounds = {name: bound for name, bound in bounds.items() if name not in unknown}
    step = channel_step or bench.graph.target.lanes
    sources = objectives.Sources(
        dense_widths=np.asarray(bench.groups.sizes),
        shapes=bench.arithmetic,
        parameters=bench.slicer.parameter_counts,
        latency_ms=latency_ms,
        planned_memory_bytes=bench.memory if "peak_memory" in wanted else None,
        energy_mj=energy_mj,
    )

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
            channel_step=step if calibrator is None else channel_steps(calibrator.model, bench),
            pruning_ratio_max=problem.pruning.pruning_ratio_max,
            scores=bench.scores,
        ),
        objectives=tuple(problem.objectives),
        costs=objectives.costs(wanted, sources),
        plan=lambda widths: bench.plan(widths),
        accuracy=bench.accuracy,
        error=bench.task.error,
        exact=lambda plan: bench.exact(plan, wanted),
        measure=measure if measured else None,
        measure_ahead=measure_ahead if measured else None,
        bounds=bounds,
        refiner=calibrator if session is not None and "latency" in wanted and not measured else None,
        shapes=bench.arithmetic,
        channel_step=step,
        judge=judge,
        passes=bench.passes,
        network=bench,
    )


def _search(
    folder: RunFolder,
    config: RunConfig,
    bench: Workbench,
    session: DeviceSession,
    model: LatencyModel,
    judge: AccuracyJudge | None,
    executor: Executor,
    console: Console,
) -> RunReport:
    """Run the method, measure its front, write everything down."""
    problem = config.problem
    console.resumable = folder.path
    started = time.perf_counter()
    calibrator = Calibrator(session, bench, model)
    told = search_problem(bench, session, calibrator, parse_bounds(problem.constraints), config.channel_step, judge)
    bench.weights_folder = folder.path / "weights"
    journal = Journal(folder.path / "archive.jsonl")
    limits = problem.budget
    budget = UNLIMITED if limits.evaluations is None else limits.evaluations
    if len(journal):
        console.info(f"{folder.id}: going on after {len(journal)} evaluations")
    folder.log("search", evaluations_known=len(journal), budget=limits.evaluations)
    whole = told.passes(told.plan(told.space.sizes))  # of one evaluation, in dense passes over the validation images
    passes = limits.dense_passes or budget * whole
    total = min(budget, round(passes / whole))
    with console.progress(None if total == UNLIMITED else total, f"{config.method} on {config.device}") as steps:

        def report(generation: Generation) -> None:
            folder.log("generation", **dataclasses.asdict(generation))
            view.generation()

        context = SearchContext(
            told,
            budget,
            np.random.default_rng(problem.seed),
            journal=journal,
            progress=lambda progress: view.evaluated(progress),
            report=report,
            minutes=limits.minutes,
            dense_passes=passes,
            working=lambda spent, note: steps.advance(spent / whole, note),
            executor=executor,
            settle_after=SETTLE_AFTER if limits.stop_when_settled else None,
        )
        view = SearchView(context, steps, limits.minutes, lambda: calibrator.deviations)
        archive = methods.build(config.method, config.method_settings).run(context)
    journal.close()
    search_s = time.perf_counter() - started
    console.info(summary(context, search_s))
    if context.shortage:
        console.warn(
            f"{config.method} ended after {context.spent} evaluations: the budget is {context.shortage}; "
            "give a larger --budget"
        )
    counts = {
        "evaluations": context.spent,
        "evaluations_failed": len(archive.failures),
        "evaluations_repeated": context.repeated,
        "evaluations_stored": context.stored,
        "evaluations_given_up": context.given_up,
        "dense_passes_forward": round(context.compute.forward, 2),
        "dense_passes_backward": round(context.compute.backward, 2),
        "networks_measured_in_search": len(session.measured_networks),
        "search_s": round(search_s, 2),
        "evaluating_s": round(context.evaluating_s, 2),
        "measuring_s": round(context.measuring_s, 2),
        "own_s": round(search_s - context.evaluating_s - context.measuring_s, 2),
    }
    console.info(f"measuring the front: {len(archive.front())} points and the dense network")
    front = fronts.measure_front(folder, config, bench, session, calibrator.model, archive, counts, console, judge)
    folder.log("finished", points=len(front.points), untrusted=len(front.untrusted))
    console.resumable = None
    return RunReport(folder.id, folder.path, front)
