"""``hwprune store``: what is kept, and making room."""

from __future__ import annotations

import click

from hwprune.cli.context import Session, as_json_option
from hwprune.cli.output import emit, emit_facts, emit_json
from hwprune.units import format_bytes


@click.group()
def store() -> None:
    """Look after measurements and compiled libraries."""


@store.command()
@as_json_option
@click.pass_obj
def info(session: Session, as_json: bool) -> None:
    """Say where the store is and what it holds."""
    home = session.home
    with home.open_store() as opened:
        measured = opened.measurements()
        facts = {
            "home": str(home.path),
            "measurements": len(measured),
            "trusted": sum(found.trust != "C" and found.error is None for found in measured),
            "devices": sorted({found.conditions.device for found in measured}),
            "artifacts_bytes": opened.artifacts.total_bytes(),
            "cap_bytes": opened.artifacts.cap_bytes,
        }
    if as_json:
        emit_json(facts)
    else:
        emit_facts(facts)


@store.command()
@click.option("--max-mib", type=click.IntRange(min=0), help="Leave at most this much [2048].")
@click.option("--dry-run", is_flag=True, help="Remove nothing, say what would go.")
@as_json_option
@click.pass_obj
def gc(session: Session, max_mib: int | None, dry_run: bool, as_json: bool) -> None:
    """Remove the compiled libraries that were not used for longest; they are compiled anew when needed."""
    with session.home.open_store() as opened:
        collected = opened.artifacts.gc(cap_bytes=None if max_mib is None else max_mib * 2**20, dry_run=dry_run)
    if as_json:
        emit_json(
            {
                "removed": collected.removed,
                "removed_bytes": collected.removed_bytes,
                "left_bytes": collected.left_bytes,
                "dry_run": dry_run,
            }
        )
    else:
        verb = "would remove" if dry_run else "removed"
        freed, left = format_bytes(collected.removed_bytes), format_bytes(collected.left_bytes)
        emit(f"{verb} {len(collected.removed)} libraries, {freed}; {left} stay")
