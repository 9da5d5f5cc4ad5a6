"""A command on several devices side by side: one result or one reason a device, and one exit code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from hwprune.cli.context import Session
from hwprune.cli.failures import RESUMABLE, Failure, explain
from hwprune.cli.output import emit_json

if TYPE_CHECKING:
    from hwprune.experiments.part import Work
    from hwprune.experiments.side_by_side import Part


def check_names(session: Session, names: Sequence[str], pool: bool) -> list[str]:
    """Make sure that every device is known, and named once, before anything is begun on one of them.

    Args:
        session: this call of the program.
        names: of the devices.
        pool: they are one.

    Returns:
        Names of what is worked on; one for all devices of a pool.

    Raises:
        ConfigError: boards of a pool are not identical.
        DeviceError: one is unknown.
        UsageError: one is named twice.
    """
    from hwprune.experiments.devices import find
    from hwprune.experiments.members import AND, members_of

    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise click.UsageError(f"{', '.join(twice)} is named twice: one job at a time uses a device")
    for name in names:
        find(session.home, name)
    if not pool:
        return list(names)
    members_of(session.home, AND.join(names))
    return [AND.join(names)]


def run_fleet(session: Session, names: Sequence[str], work: Work) -> list[Part[Failure]]:
    """Work on several devices at the same time; on this computer afterwards, which is busy with the others' until then.

    Args:
        session: this call of the program.
        names: of the devices.
        work: what to do on each.

    Raises:
        StoreError: the store cannot be opened.
    """
    from hwprune.experiments.devices import find
    from hwprune.experiments.side_by_side import run_side_by_side

    with session.home.open_store():
        pass  # made once and not by whoever is first: 30 boards were seen to wait for that until some gave up
    here = [name for name in names if find(session.home, name).transport == "local"]
    return run_side_by_side(names, work, explain=explain, console=session.console, alone=here)


def end_fleet(
    context: click.Context,
    parts: Sequence[Part[Failure]],
    as_json: bool,
    *,
    facts: Callable[[Any], dict[str, Any]],
    show: Callable[[Any], None],
) -> None:
    """Print what became of every device, and end with the exit code that stands for all of them.

    Args:
        context: of the command.
        parts: what became of the devices.
        as_json: print one object a device.
        facts: a result for programs.
        show: prints a result for people.
    """
    if as_json:
        emit_json([_as_dict(part, facts) for part in parts])
    else:
        for part in parts:
            if part.failure is None:
                show(part.result)
    for part in parts:
        if part.failure is not None:
            click.echo(f"error: {part.name}: {_message(part, part.failure)}", err=True)
    context.exit(exit_code(parts))


def exit_code(parts: Sequence[Part[Failure]]) -> int:
    """0 where all went well; the code that all failures have in common; else 1."""
    codes = {part.failure.exit_code for part in parts if part.failure is not None}
    return 0 if not codes else codes.pop() if len(codes) == 1 else 1


def _as_dict(part: Part[Failure], facts: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    if part.failure is None:
        return {"name": part.name, "result": facts(part.result), "error": None}
    error = {**part.failure.as_dict()["error"], "message": _message(part, part.failure)}
    return {"name": part.name, "result": None, "error": error}


def _message(part: Part[Failure], failure: Failure) -> str:
    if part.resumable is None or failure.exit_code not in RESUMABLE:
        return failure.message
    return f"{failure.message}; resume with: hwprune search --resume {part.resumable}"
