"""``hwprune search``: find the front of a problem on a device."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hwprune.cli.context import (
    Session,
    as_json_option,
    examples,
    overrides_option,
    pool_option,
    runs_option,
    scenario_option,
    scheduler_option,
    workers_option,
)
from hwprune.cli.fleet import check_names, end_fleet, run_fleet
from hwprune.cli.output import emit_facts, emit_json
from hwprune.cli.report import run_facts, show_run
from hwprune.scenario import Scenario

if TYPE_CHECKING:
    from hwprune.config import Problem
    from hwprune.experiments.part import Work
    from hwprune.experiments.progress import Console

#: What may be said beside --resume: nothing of it changes what the run finds.
RESUMES_WITH = frozenset({"resume", "as_json", "workers", "scheduler"})


@click.command(
    epilog=examples(
        "hwprune search configs/problems/digits-resnet20.yaml --budget 40",
        "hwprune search configs/problems/cifar10-resnet56.yaml --device pi4 --device rack7",
        "hwprune search PROBLEM.yaml --workers 8",
        "hwprune search PROBLEM.yaml --scheduler tcp://host:8786",
        "hwprune search --resume runs/RUN",
    )
)
@click.argument("problem_path", metavar="[PROBLEM.yaml]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--device",
    "names",
    metavar="NAME",
    multiple=True,
    default=["local"],
    show_default=True,
    help="Where it shall run; given several times, one search on each, side by side.",
)
@pool_option
@click.option("--method", default="hamp", show_default=True, help="Search method.")
@overrides_option
@click.option("--budget", metavar="N|MINUTES", help="True evaluations, time, or both: 200, 30min, 200,30min.")
@click.option("--dry-run", is_flag=True, help="Print expected evaluations, device minutes and wall time, and stop.")
@click.option("--resume", metavar="RUN", type=click.Path(path_type=Path), help="Go on with an interrupted run.")
@click.option("--remeasure", is_flag=True, help="Measure again what the store knows.")
@click.option("--max-age", "max_age_h", type=click.FloatRange(min=0), help="Measure again what is older, in hours.")
@scenario_option
@runs_option
@workers_option
@scheduler_option
@as_json_option
@click.pass_context
def search(
    context: click.Context,
    problem_path: Path | None,
    names: Sequence[str],
    pool: bool,
    method: str,
    overrides: tuple[str, ...],
    budget: str | None,
    dry_run: bool,
    resume: Path | None,
    remeasure: bool,
    max_age_h: float | None,
    scenario_text: str,
    runs_folder: Path,
    workers: int,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Search the front of pruned networks of PROBLEM.yaml on a device, or on several side by side.

    --set KEY=VALUE sets a key of the problem (data.path=...) or a setting of the method (selection=nsga2); the method's
    settings are read from ../methods/METHOD.yaml beside the problem's folder where that file is.
    """
    session: Session = context.obj
    if resume is not None:
        _refuse_beside_resume(context)
        from hwprune.experiments import run
        from hwprune.experiments.judging import Crew

        crew = Crew(workers, scheduler)
        report = run.resume(resume, home=session.home, console=session.console, crew=crew)
        return show_run(session, report.folder, as_json)
    if problem_path is None:
        raise click.UsageError("name a PROBLEM.yaml, or --resume RUN", context)
    if budget is not None:
        from hwprune.config import parse_budget

        overrides = (*overrides, *parse_budget(budget))
    scenario = Scenario.parse(scenario_text)
    problem, settings = read_problem(problem_path, overrides, method)
    from hwprune.experiments.judging import Crew

    chosen: dict[str, Any] = {
        "home": session.home,
        "method": method,
        "method_settings": settings,
        "crew": Crew(workers, scheduler),
    }
    names = check_names(session, names, pool)
    if len(names) > 1:
        settings.update(shared_by_several(settings, overrides))
    if dry_run:
        from hwprune.experiments import run

        plans = {name: asdict(run.dry_run(problem, device_name=name, **chosen)) for name in names}
        return _show_plans(plans, as_json)
    work: Work = functools.partial(
        search_one,
        problem=problem,
        **chosen,
        runs_folder=runs_folder,
        max_age_s=0.0 if remeasure else None if max_age_h is None else max_age_h * 3600,
        scenario=scenario,
    )
    if len(names) == 1:
        return show_run(session, work(names[0], session.console), as_json)
    parts = run_fleet(session, names, work)
    end_fleet(context, parts, as_json, facts=run_facts, show=lambda folder: show_run(session, folder, as_json=False))


def shared_by_several(settings: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Settings that differ where several devices are named: accuracies belong to the network, so they are shared.

    What the user sets stays.
    """
    said = {override.partition("=")[0].strip() for override in overrides}
    return {"recall": True} if "recall" in settings and "recall" not in said else {}


def search_one(name: str, console: Console, *, problem: Problem, **options: Any) -> Path:
    """Folder of a finished search on one device; a function of the module, for processes of their own."""
    from hwprune.experiments import run

    return run.search(problem, device_name=name, console=console, **options).folder


def _show_plans(plans: dict[str, dict[str, Any]], as_json: bool) -> None:
    """What searches would cost: one a device."""
    if as_json:
        several = [{"name": name, "result": plan, "error": None} for name, plan in plans.items()]
        return emit_json(several if len(plans) > 1 else next(iter(plans.values())))
    for name, plan in plans.items():
        emit_facts({"device": name, **plan} if len(plans) > 1 else plan)


def read_problem(path: Path, overrides: Sequence[str], method: str) -> tuple[Problem, dict[str, Any]]:
    """A problem and the method's settings: its defaults, then ``../methods/METHOD.yaml``, then the overrides.

    Raises:
        ConfigError: one of them cannot be used.
    """
    from hwprune.config import load_method_settings, load_problem
    from hwprune.search import methods

    settings = methods.defaults(method)
    file = path.parent.parent / "methods" / f"{method}.yaml"
    if file.is_file():
        settings = load_method_settings(file, settings)
    problem, settings = load_problem(path, overrides, settings)
    methods.build(method, settings)  # a wrong value is told before anything is loaded
    return problem, settings


def _refuse_beside_resume(context: click.Context) -> None:
    """A run goes on as it was started: what else is said on the command line would be lost in silence."""
    for parameter in context.command.params:
        name = str(parameter.name)
        said = context.get_parameter_source(name) is not ParameterSource.DEFAULT
        if said and name not in RESUMES_WITH:
            shown = parameter.opts[0] if isinstance(parameter, click.Option) else "PROBLEM.yaml"
            raise click.UsageError(f"--resume goes on as the run was started: drop {shown}", context)
