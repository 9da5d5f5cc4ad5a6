"""``hwprune config``: check a problem file, print the schema of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hwprune.cli.context import as_json_option, overrides_option, problem_argument
from hwprune.cli.output import emit, emit_json

if TYPE_CHECKING:
    from hwprune.config import Problem


@click.group()
def config() -> None:
    """Check problem files."""


@config.command()
@problem_argument
@overrides_option
@as_json_option
def check(problem_path: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Read a problem, look up every name in it, and print it with every default.

    What is unknown or not allowed ends with exit code 2.
    """
    from hwprune.config import load_problem

    problem, _ = load_problem(problem_path, overrides)
    check_names(problem)
    if as_json:
        emit_json(problem.model_dump(mode="json"))
    else:
        emit(problem.to_yaml().rstrip())


def check_names(problem: Problem) -> None:
    """Look up the plug-ins that a problem names.

    Raises:
        UnknownNameError: one of them is unknown.
        ConfigError: a ``package.module:build`` cannot be imported.
    """
    from hwprune import plugins
    from hwprune.objectives import find

    named = {"networks": problem.network, "tasks": problem.task, "datasets": problem.data}
    for package, spec in named.items():
        if ":" in spec["name"]:
            plugins.resolve(spec["name"])
        else:
            plugins.load(f"hwprune.{package}", spec["name"])
    for name in (*problem.objectives, *problem.constraints):
        find(name)


@config.command()
def schema() -> None:
    """Print the JSON Schema of a problem file, for editors."""
    from hwprune.config import problem_schema

    emit_json(problem_schema())
