"""``hwprune export``: one point of a front as files to take away."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hwprune.cli.context import Session, as_json_option, run_argument
from hwprune.cli.output import emit_facts, emit_json


@click.command()
@run_argument
@click.option("--point", metavar="ID", required=True, help="Which one: an id of front.csv.")
@click.option(
    "--out", "out_folder", type=click.Path(file_okay=False, path_type=Path), help="Folder of the files [RUN/export/ID]."
)
@as_json_option
@click.pass_obj
def export(session: Session, run_folder: Path, point: str, out_folder: Path | None, as_json: bool) -> None:
    """Write a point's ONNX file, its weights and its plan; hwprune.load() reads the folder back."""
    from hwprune.experiments.export import export as run_export

    out_folder = out_folder or run_folder / "export" / point
    report = run_export(run_folder, point, out_folder, session.home)
    if as_json:
        emit_json(asdict(report))
    else:
        emit_facts(asdict(report))
