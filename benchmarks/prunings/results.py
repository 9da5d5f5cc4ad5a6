"""The file that results are kept in: several processes may add to it at once, and none loses another one's."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conditions import command, commit, conditions

from prunings.device import write_json

PATH = Path(__file__).resolve().parents[1] / "results" / "pruning.json"


def read() -> dict[str, Any]:
    """Results so far."""
    found: dict[str, Any] = json.loads(PATH.read_text()) if PATH.exists() else {}
    return {"runs": {}, "latency_ms": {}, "smoea_vgg14": {}, **found}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Block that one process at a time is in: what it reads and writes at ``path`` goes together."""
    path.parent.mkdir(exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def adding() -> Iterator[dict[str, Any]]:
    """Results so far, to be added to; they are written, with what they depend on, when the block ends well."""
    with locked(PATH):
        found = read()
        yield found
        seeds = {int(seed) for entries in found["runs"].values() for by_seed in entries.values() for seed in by_seed}
        told = {"command": command("pruning"), "commit": commit(), "seeds": sorted(seeds), "conditions": conditions()}
        write_json(PATH, {**found, **told})
