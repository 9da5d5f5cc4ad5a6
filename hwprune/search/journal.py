"""The journal of a search: one JSON line for everything that cost something, written as it happens."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from hwprune.errors import RunError
from hwprune.records import Evaluation


class Journal:
    """Append-only file of evaluations, refinements and parts; what it holds is never paid for again.

    A search is resumed by running it again from its start: it asks for the same candidates, and the journal answers
    for those that it knows.

    Attributes:
        path: the file; None keeps the journal in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._evaluations: dict[str, Evaluation] = {}
        self._completions: dict[str, Evaluation] = {}
        self._refinements: dict[int, dict[str, Any]] = {}
        self._parts: dict[str, dict[str, Any]] = {}
        self._file: IO[bytes] | None = None
        if path is not None:
            self._read(path)

    def __len__(self) -> int:
        return len(self._evaluations)

    def evaluation(self, plan_key: str) -> Evaluation | None:
        """The recorded evaluation of a plan."""
        return self._evaluations.get(plan_key)

    @property
    def evaluations(self) -> list[Evaluation]:
        """All recorded evaluations, in their order."""
        return list(self._evaluations.values())

    def completion(self, plan_key: str) -> Evaluation | None:
        """The recorded evaluation on the whole split of a plan that was given up early before."""
        return self._completions.get(plan_key)

    def refinement(self, generation: int) -> dict[str, Any] | None:
        """What was measured after a generation; None where nothing is recorded."""
        return self._refinements.get(generation)

    def add_evaluation(self, evaluation: Evaluation) -> None:
        """Record an evaluation; it is on the disk when this returns."""
        self._evaluations[evaluation.plan_key] = evaluation
        self._append({"kind": "evaluation", **asdict(evaluation)})

    def add_completion(self, evaluation: Evaluation) -> None:
        """Record the evaluation on the whole split of a plan that was given up early before."""
        self._completions[evaluation.plan_key] = evaluation
        self._append({"kind": "completion", **asdict(evaluation)})

    def add_refinement(self, generation: int, data: dict[str, Any]) -> None:
        """Record what was measured after a generation; it is on the disk when this returns."""
        self._refinements[generation] = data
        self._append({"kind": "refinement", "generation": generation, "data": data})

    def part(self, name: str) -> dict[str, Any] | None:
        """What a part of the search has found; None where nothing is recorded."""
        return self._parts.get(name)

    def add_part(self, name: str, data: dict[str, Any]) -> None:
        """Record what a part of the search has found; it is on the disk when this returns."""
        self._parts[name] = data
        self._append({"kind": "part", "name": name, "data": data})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, record: dict[str, Any]) -> None:
        if self.path is None:
            return
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab")
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(
                f"cannot write {self.path} ({error.strerror}): free the disk, then --resume the run"
            ) from error

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # killed while writing: that line was never acted on
            with path.open("r+b") as file:
                file.truncate(whole)
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise RunError(f"{path}, line {number}: not a record of a search ({error}): start a new run") from error

    def _take(self, record: dict[str, Any]) -> None:
        kind = record.pop("kind")
        if kind in ("evaluation", "completion"):
            evaluation = Evaluation(**{**record, "widths": tuple(record["widths"])})
            known = self._evaluations if kind == "evaluation" else self._completions
            known[evaluation.plan_key] = evaluation
        elif kind == "refinement":
            self._refinements[record["generation"]] = record["data"]
        elif kind == "part":
            self._parts[record["name"]] = record["data"]
        else:
            raise ValueError(f"unknown kind {kind!r}")
