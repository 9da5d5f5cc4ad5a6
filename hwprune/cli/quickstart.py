"""``hwprune quickstart``: everything once, on this computer and the handwritten digits of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import click

from hwprune.cli.context import Session, as_json_option, runs_option
from hwprune.cli.report import show_run


@click.command()
@runs_option
@as_json_option
@click.pass_obj
def quickstart(session: Session, runs_folder: Path, as_json: bool) -> None:
    """Register this computer, profile it, train, search, fine-tune and show the front: minutes, no download."""
    from hwprune.experiments.quickstart import quickstart as run_quickstart

    report = run_quickstart(session.home, runs_folder, session.console)
    show_run(session, report.folder, as_json)
