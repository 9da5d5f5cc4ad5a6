"""``hwprune finetune``: train the points of a front on."""

from __future__ import annotations

from pathlib import Path

import click

from hwprune.cli.context import Session, as_json_option, examples, run_argument, scheduler_option, workers_option
from hwprune.cli.report import show_run


@click.command(epilog=examples("hwprune finetune runs/RUN --point p03", "hwprune finetune runs/RUN --workers 8"))
@run_argument
@click.option("--point", "points", metavar="ID", multiple=True, help="Only this point; may be repeated [all].")
@workers_option
@scheduler_option
@as_json_option
@click.pass_obj
def finetune(
    session: Session,
    run_folder: Path,
    points: tuple[str, ...],
    workers: int,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Fine-tune the points of a run's front and take their test metric."""
    from hwprune.experiments.finetune import finetune as run_finetuning
    from hwprune.experiments.judging import Crew

    run_finetuning(run_folder, points, session.console, Crew(workers, scheduler))
    show_run(session, run_folder, as_json)
