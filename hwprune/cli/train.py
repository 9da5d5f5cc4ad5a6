"""``hwprune train``: the dense network of a problem."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hwprune.cli.context import Session, as_json_option, overrides_option, problem_argument
from hwprune.cli.output import emit_facts, emit_json


@click.command()
@problem_argument
@click.option(
    "--out",
    "out_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of the weights [the problem's 'weights', else PROBLEM.safetensors].",
)
@overrides_option
@as_json_option
@click.pass_obj
def train(
    session: Session, problem_path: Path, out_path: Path | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Train the dense network of a problem and write its weights.

    Repeated after an interruption, it goes on behind the last whole epoch.
    """
    from hwprune.config import PRETRAINED, load_problem
    from hwprune.experiments.train import train as run_training

    problem, _ = load_problem(problem_path, overrides)
    named = None if problem.weights == PRETRAINED else problem.weights
    out_path = out_path or Path(named or f"{problem_path.stem}.safetensors")
    report = run_training(problem, out_path, session.console)
    if as_json:
        emit_json(asdict(report))
    else:
        emit_facts(asdict(report))
