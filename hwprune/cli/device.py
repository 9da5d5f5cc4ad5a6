"""``hwprune device``: register, list, check and profile devices."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwprune.cli.context import Session, as_json_option, examples, overrides_option, pool_option
from hwprune.cli.fleet import check_names, end_fleet, run_fleet
from hwprune.cli.output import emit, emit_facts, emit_json, emit_table
from hwprune.units import format_bytes

if TYPE_CHECKING:
    from device_agents.registry import Device
    from device_agents.ssh import HostKey
    from hwprune.config import Problem
    from hwprune.experiments.home import Home
    from hwprune.experiments.part import Work
    from hwprune.experiments.profile import ProfileReport
    from hwprune.experiments.progress import Console

name_argument = click.argument("name", metavar="NAME")


@click.group()
def device() -> None:
    """Register, check and profile devices: this computer, and any board that you can reach by SSH."""


@device.command(
    epilog=examples(
        "hwprune device add local",
        "hwprune device add pi4 --ssh pi@pi4.local",
        'hwprune device add rack7 --ssh root@10.0.0.7:2222 --identity ~/.ssh/lab --host-key "ssh-ed25519 AAAA..."',
        "hwprune device add --from boards.yaml     # lines like  pi4: {ssh: pi@pi4.local, threads: 4}",
    )
)
@click.argument("name", metavar="NAME", required=False)
@click.option("--ssh", "address", metavar="[USER@]HOST[:PORT]", help="A board; HOST may be an alias of ~/.ssh/config.")
@click.option(
    "--host-key",
    "host_keys",
    metavar="LINE",
    multiple=True,
    help="Its host key, as 'ssh-keyscan HOST' prints it; with jump hosts, theirs first.",
)
@click.option(
    "--identity", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="Private key to log in with."
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of one inference.")
@click.option(
    "--from", "inventory", metavar="FILE.yaml", type=click.Path(path_type=Path), help="Register many boards at once."
)
@as_json_option
@click.pass_context
def add(
    context: click.Context,
    name: str | None,
    address: str | None,
    host_keys: tuple[str, ...],
    identity: str | None,
    threads: int,
    inventory: Path | None,
    as_json: bool,
) -> None:
    """Register a device under NAME: find out what it is, and how to compile for it.

    Without --ssh it is this computer [local]. Of a board the host key is shown and asked for, unless it is given or
    stands in known_hosts; from then on no other one is accepted. The board needs Python 3.8 and nothing else.
    """
    session: Session = context.obj
    if inventory is not None:
        if name or address or host_keys or identity:
            raise click.UsageError("--from takes names, addresses and keys from the file: drop the others", context)
        return _add_all(context, inventory, as_json)
    if address is None and (host_keys or identity):
        raise click.UsageError("--host-key and --identity are for boards: add --ssh", context)
    if address is not None and name is None:
        raise click.UsageError("name the board: hwprune device add NAME --ssh ...", context)
    from hwprune.experiments import devices

    if address is None:
        added = devices.add_local(session.home, name or devices.LOCAL, threads)
    else:
        devices.check_free(session.home, str(name))
        asked = _confirm if sys.stdin.isatty() and sys.stderr.isatty() else None
        way = devices.pin(devices.way_to(address, identity), given=host_keys, confirm=asked)
        added = devices.add_board(session.home, str(name), way, threads=threads)
    if as_json:
        emit_json(added.model_dump(mode="json"))
    else:
        emit(f"added {added.name}: {devices.summary(added)}; next: hwprune device profile {added.name}")


def _confirm(key: HostKey) -> bool:
    """Ask the user about a host key."""
    from hwprune.experiments.devices import describe_key

    click.echo(describe_key(key), err=True)
    return click.confirm("Is it the right one, and shall it be the only one accepted from now on?", err=True)


def _add_all(context: click.Context, path: Path, as_json: bool) -> None:
    """Register the boards of a file; exit code 3 if one of them failed."""
    from hwprune.experiments.inventory import Outcome, add_all, read_inventory

    session: Session = context.obj
    entries = read_inventory(path)
    with session.console.progress(len(entries), "registering boards") as steps:

        def tell(outcome: Outcome) -> None:
            steps.advance(1, f"{outcome.name} {outcome.status}")

        outcomes = add_all(session.home, entries, tell=tell)
    if as_json:
        emit_json([asdict(outcome) for outcome in outcomes])
    else:
        columns = ("name", "address", "status", "message")
        emit_table([{column: getattr(outcome, column) for column in columns} for outcome in outcomes])
    if any(outcome.status == "failed" for outcome in outcomes):
        context.exit(3)


@device.command("list", epilog=examples("hwprune device list --json"))
@as_json_option
@click.pass_obj
def list_devices(session: Session, as_json: bool) -> None:
    """List the registered devices."""
    registry = session.home.devices
    devices = [registry.get(name) for name in registry.names()]
    if as_json:
        emit_json([found.model_dump(mode="json") for found in devices])
    elif devices:
        emit_table([_row(found) for found in devices])
    else:
        session.console.info("no devices yet; register this computer with: hwprune device add local")


def _row(found: Device) -> dict[str, object]:
    """A device's line in the list."""
    return {
        "name": found.name,
        "platform": found.platform,
        "at": found.ssh.address if found.ssh else "this computer",
        "processor": found.description.get("cpu_model"),
        "compiled for": found.target.get("mcpu") or found.target.get("arch"),
        "threads": found.threads,
        "cores": found.cores,
    }


@device.command(epilog=examples("hwprune device show pi4", "hwprune device show pi4 --picture pi4.png"))
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


@device.command(epilog=examples("hwprune device check pi4"))
@name_argument
@as_json_option
@click.pass_context
def check(context: click.Context, name: str, as_json: bool) -> None:
    """Tell what works, what is missing and how to mend it; exit code 3 where a device is not fit to measure on."""
    from hwprune.experiments.fitness import check as check_device

    rows = check_device(context.obj.home, name)
    if as_json:
        emit_json([asdict(row) for row in rows])
    else:
        emit_table([{"check": row.what, "ok": row.ok, "found": row.found, "remedy": row.remedy} for row in rows])
    if not all(row.ok for row in rows):
        context.exit(3)


@device.command(epilog=examples("hwprune device clean pi4"))
@name_argument
@as_json_option
@click.pass_obj
def clean(session: Session, name: str, as_json: bool) -> None:
    """Empty the agent's folder on a device; what is needed again is sent again."""
    from hwprune.experiments.devices import clean as clean_device

    freed_bytes = clean_device(session.home, name, say=session.console.warn)
    if as_json:
        emit_json({"name": name, "freed_bytes": freed_bytes})
    else:
        emit(f"freed {format_bytes(freed_bytes)} on {name}")


@device.command(epilog=examples("hwprune device remove pi4"))
@name_argument
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Forget a device; its measurements stay in the store, and on a board what 'device clean' would remove."""
    session.home.devices.remove(name)
    session.console.info(f"removed {name}")


@device.command(
    epilog=examples(
        "hwprune device record pi4 pi4.jsonl.gz", "hwprune search PROBLEM.yaml --device replay:pi4.jsonl.gz"
    )
)
@name_argument
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@as_json_option
@click.pass_obj
def record(session: Session, name: str, path: Path, as_json: bool) -> None:
    """Write all that was measured on a device to FILE, which answers in its place as --device replay:FILE.

    Compressed where FILE ends with .gz. What was not recorded is answered by a model, and marked as simulated.
    """
    from hwprune.experiments.recording import record as record_device

    report = record_device(session.home, name, path)
    if report.nameless:
        session.console.warn(f"{report.nameless} networks were measured by an earlier version and are left out")
    if as_json:
        emit_json(asdict(report))
    else:
        emit_facts(asdict(report))


@device.command(
    epilog=examples(
        "hwprune device profile pi4 configs/problems/digits-resnet20.yaml",
        "hwprune device profile pi4 --network mobilenet_v2 --minutes 5",
        "hwprune device profile pi5 --network mobilenet_v2 --borrow      # ten networks; kernels as pi4 has them",
        "hwprune device profile pi4 pi5 rack7 --json",
    )
)
@click.argument("words", metavar="NAME... [PROBLEM.yaml]", nargs=-1, required=True)
@click.option("--network", metavar="MODEL", help="Network to profile for, as 'hwprune scan' takes it.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Choose no more kernels after this long.",
)
@click.option(
    "--borrow", "borrowed", is_flag=True, help="Measure ten networks alone; take the kernels of the most alike device."
)
@pool_option
@overrides_option
@as_json_option
@click.pass_context
def profile(
    context: click.Context,
    words: tuple[str, ...],
    network: str | None,
    minutes: float,
    borrowed: bool,
    pool: bool,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure kernels and a few networks on a device, fit its latency model and print the model's error.

    With a problem, the kernels of its network are measured; without one, those of --network or of common shapes.
    Several devices are profiled side by side; one that fails costs the others nothing.
    """
    from hwprune.config import load_problem

    session: Session = context.obj
    names, problem_path = _names_and_problem(words)
    if overrides and problem_path is None:
        raise click.UsageError("--set overrides keys of a problem: name one")
    if network is not None and problem_path is not None:
        raise click.UsageError("a problem names its network: drop --network")
    problem = load_problem(problem_path, overrides)[0] if problem_path else None
    from hwprune.experiments.profile import COMMON_NETWORK
    from hwprune.experiments.profiler import Effort

    names = check_names(session, names, pool)
    work: Work = functools.partial(
        profile_one,
        home=session.home,
        problem=problem,
        network=network or COMMON_NETWORK,
        effort=Effort(minutes=minutes),
        borrowed=borrowed,
    )
    if len(names) == 1:
        report = work(names[0], session.console)
        return emit_json(asdict(report)) if as_json else emit_facts(asdict(report))
    end_fleet(context, run_fleet(session, names, work), as_json, facts=asdict, show=_show_profile)


def _names_and_problem(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """Names of devices, and the problem behind them if the last word is one."""
    names, last = list(words), words[-1]
    problem_path = Path(names.pop()) if last.endswith((".yaml", ".yml")) else None
    if not names:
        raise click.UsageError(f"name a device before {last}")
    return names, problem_path


def profile_one(name: str, console: Console, *, home: Home, problem: Problem | None, **options: Any) -> ProfileReport:
    """Profile one device; a function of the module, for processes of their own."""
    from hwprune.experiments.profile import profile as run_profile

    return run_profile(home, name, problem, console=console, **options)


def _show_profile(report: ProfileReport) -> None:
    emit_facts(asdict(report))
    emit("")
