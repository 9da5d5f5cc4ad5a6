"""Results of a long benchmark, written as they come, so that one that was interrupted goes on with ``--resume``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from conditions import command, commit, conditions, print_result

RESULTS = Path(__file__).resolve().parents[1] / "results"


class Kept:
    """What a benchmark has found so far, in ``benchmarks/results/NAME.json``.

    Args:
        name: of the benchmark.
        is_resumed: go on with what the file holds.
        is_quick: the quick form, which writes no file.

    Attributes:
        parts: what was found, by the part of the work; :meth:`write` after changes.
    """

    def __init__(self, name: str, *, is_resumed: bool = False, is_quick: bool = False) -> None:
        self.name = name
        self.path = None if is_quick else RESULTS / f"{name}.json"
        found = is_resumed and self.path is not None and self.path.exists()
        self.parts: dict[str, Any] = json.loads(self.path.read_text())["parts"] if found and self.path else {}

    def part(self, key: str, work: Callable[[], Any]) -> Any:
        """What is known of a part; else it is worked on now, and written."""
        if key not in self.parts:
            self.parts[key] = work()
            self.write()
        return self.parts[key]

    def write(self, result: Mapping[str, Any] | None = None) -> None:
        """Write all that is known, and what it depends on."""
        if self.path is None:
            return
        document = {
            "command": command(self.name),
            "commit": commit(),
            "conditions": conditions(),
            "RESULT": result,
            "parts": self.parts,
        }
        self.path.parent.mkdir(exist_ok=True)
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(document) + "\n")
        os.replace(unfinished, self.path)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write and print the result."""
        told = {"benchmark": self.name, **result}
        self.write(told)
        print_result(told)
