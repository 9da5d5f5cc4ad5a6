"""Data on standard output: aligned tables for people, JSON for programs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click


def emit(text: str) -> None:
    """Print ``text``; where the reader has gone (``| head``) end in silence."""
    try:
        click.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Else the interpreter's own flush at exit complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(0) from None


def emit_json(data: Any) -> None:
    """Print ``data`` as strict JSON: what is not a number (NaN) becomes null."""
    emit(json.dumps(_plain(data), indent=2, allow_nan=False, default=str))


def emit_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows of texts and numbers under the first row's keys."""
    if not rows:
        return
    header = list(rows[0])
    cells = [[_cell(row.get(name)) for name in header] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [all(isinstance(row.get(name), int | float | None) for row in rows) for name in header]

    def line(texts: Sequence[str]) -> str:
        pairs = zip(texts, widths, right, strict=True)
        return "  ".join(
            text.rjust(width) if is_right else text.ljust(width) for text, width, is_right in pairs
        ).rstrip()

    emit("\n".join(map(line, [header, *cells])))


def emit_facts(facts: Mapping[str, object]) -> None:
    """Print one fact a line."""
    width = max(map(len, facts), default=0)
    emit("\n".join(f"{name.ljust(width)}  {_cell(value)}".rstrip() for name, value in facts.items()))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_cell, value))
    return str(value)


def _plain(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return data
