"""``hwprune device``: register, list, check and profile devices."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hwprune.cli.context import Session, as_json_option, overrides_option
from hwprune.cli.output import emit, emit_facts, emit_json, emit_table

name_argument = click.argument("name", metavar="NAME")


@click.group()
def device() -> None:
    """Register and profile devices."""


@device.command()
@click.argument("name", metavar="NAME", default="local")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of one inference.")
@as_json_option
@click.pass_obj
def add(session: Session, name: str, threads: int, as_json: bool) -> None:
    """Register this computer under NAME [local]: find out what it is."""
    from hwprune.experiments.devices import add_local

    added = add_local(session.home, name, threads)
    if as_json:
        emit_json(added.model_dump(mode="json"))
    else:
        emit(f"added {added.name}; next: hwprune device profile {added.name}")


@device.command("list")
@as_json_option
@click.pass_obj
def list_devices(session: Session, as_json: bool) -> None:
    """List the registered devices."""
    registry = session.home.devices
    devices = [registry.get(name) for name in registry.names()]
    if as_json:
        emit_json([found.model_dump(mode="json") for found in devices])
    elif devices:
        columns = ("name", "platform", "transport", "threads", "cores")
        emit_table([{column: getattr(found, column) for column in columns} for found in devices])
    else:
        session.console.info("no devices yet; register this computer with: hwprune device add local")


@device.command()
@name_argument
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the newest model's staircase and its predicted against measured networks, as PNG.",
)
@as_json_option
@click.pass_obj
def show(session: Session, name: str, picture: Path | None, as_json: bool) -> None:
    """Print what is known of a device, and how good its latency models are."""
    from hwprune.experiments.known_models import known_models

    found = session.home.devices.get(name)
    known = known_models(session.home, found)
    facts = {**found.model_dump(mode="json"), "fingerprint": found.fingerprint if found.description else None}
    if picture is not None:
        from hwprune.reports.device import draw_model

        if not known:
            raise click.UsageError(f"{name} has no latency model to draw: run 'hwprune device profile {name}' first")
        draw_model(known[0].model, f"{name}: {known[0].path.name}", picture)
    if as_json:
        emit_json({**facts, "models": [each.summary() for each in known]})
        return
    description = facts.pop("description")
    emit_facts({**facts, **description})
    if known:
        emit("")
        emit_table([_model_row(each.summary()) for each in known])


def _model_row(card: dict[str, Any]) -> dict[str, object]:
    """A latency model's line."""
    scores = card["scores"]["networks"]
    return {
        "latency model": Path(card["file"]).stem,
        "kernels": card["kernels"],
        "networks": card["networks"],
        "held-out error %": scores.get("mape"),
        "within 5 %": scores.get("within_5"),
        "rank correlation": scores.get("spearman"),
    }


@device.command()
@name_argument
@as_json_option
@click.pass_context
def check(context: click.Context, name: str, as_json: bool) -> None:
    """Find out whether a device is fit to measure on; exit code 3 where it is not."""
    from hwprune.experiments.devices import check as check_device

    rows = check_device(context.obj.home, name)
    if as_json:
        emit_json([asdict(row) for row in rows])
    else:
        emit_table([{"check": row.what, "ok": row.ok, "found": row.found, "remedy": row.remedy} for row in rows])
    if not all(row.ok for row in rows):
        context.exit(3)


@device.command()
@name_argument
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Forget a device; its measurements stay in the store."""
    session.home.devices.remove(name)
    session.console.info(f"removed {name}")


@device.command()
@name_argument
@click.argument("problem_path", metavar="[PROBLEM.yaml]", required=False, type=click.Path(path_type=Path))
@click.option("--network", metavar="MODEL", help="Network to profile for, as 'hwprune scan' takes it.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Choose no more kernels after this long.",
)
@overrides_option
@as_json_option
@click.pass_obj
def profile(
    session: Session,
    name: str,
    problem_path: Path | None,
    network: str | None,
    minutes: float,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure kernels and a few networks on a device, fit its latency model and print the model's error.

    With a problem, the kernels of its network are measured; without one, those of --network or of common shapes.
    """
    from hwprune.config import load_problem

    if overrides and problem_path is None:
        raise click.UsageError("--set overrides keys of a problem: name one")
    if network is not None and problem_path is not None:
        raise click.UsageError("a problem names its network: drop --network")
    problem = load_problem(problem_path, overrides)[0] if problem_path else None
    from hwprune.experiments.profile import COMMON_NETWORK
    from hwprune.experiments.profile import profile as run_profile
    from hwprune.experiments.profiler import Effort

    report = run_profile(
        session.home,
        name,
        problem,
        network=network or COMMON_NETWORK,
        effort=Effort(minutes=minutes),
        console=session.console,
    )
    if as_json:
        emit_json(asdict(report))
    else:
        emit_facts(asdict(report))
