"""A run's folder: its name, what it ran under, and its journal of events."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hwprune
from hwprune import training
from hwprune.errors import RunError

if TYPE_CHECKING:
    from device_agents.registry import Device
    from hwprune.experiments.workbench import Workbench

#: Packages whose versions change numbers.
PACKAGES = ("apache-tvm", "numpy", "pymoo", "scikit-learn", "torch", "torch-pruning", "torchvision")


@dataclass(frozen=True)
class RunFolder:
    """``runs/<id>/``: everything that is known of one search.

    Attributes:
        path: the folder; its name is the run's id.
    """

    path: Path

    @classmethod
    def create(cls, runs: Path, stem: str) -> RunFolder:
        """A new folder named after the device, the network, the method and the time.

        Raises:
            RunError: it cannot be made.
        """
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{stem}-{now}")
        for attempt in range(100):
            path = runs / (name if not attempt else f"{name}-{attempt}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise RunError(f"cannot make {path} ({error.strerror}): name a writable folder with --runs") from error
            return cls(path)
        raise RunError(f"{runs} holds a hundred runs named {name}: name another folder with --runs")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run.

        Raises:
            RunError: there is no run in this folder.
        """
        if not (path / "config.yaml").is_file():
            raise RunError(f"{path} is not a run (no config.yaml in it): name a folder that 'hwprune search' made")
        return cls(path)

    @property
    def id(self) -> str:
        """The run's id."""
        return self.path.name

    def write_json(self, name: str, data: Any) -> None:
        """Write a JSON file whole or not at all."""
        write_text(self.path / name, json.dumps(data, indent=1, sort_keys=True) + "\n")

    def read_json(self, name: str) -> Any:
        """Content of a JSON file of the run.

        Raises:
            RunError: the file is missing or damaged.
        """
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.path / name} cannot be read ({error}): this run is damaged, start a new one"
            ) from error

    def log(self, event: str, **details: Any) -> None:
        """Append one event to ``log.jsonl``, with its time (UTC)."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        with (self.path / "log.jsonl").open("a") as stream:
            stream.write(json.dumps({"time": now, "event": event, **details}) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(content)
    draft.replace(path)


def environment() -> dict[str, Any]:
    """Versions and machine of this process, for the record."""
    return {
        "hwprune": hwprune.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host_cpus": os.cpu_count(),
        "command": sys.argv,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def run_conditions(bench: Workbench, device: Device) -> dict[str, Any]:
    """What a run's numbers depend on and no front tells: the dense weights, the images, where threads are pinned."""
    val_images = bench.task.size("val")
    return {
        "weights_digest": training.weights_digest(bench.dense),
        "train_images": bench.task.size("train"),
        "val_images": min(bench.problem.evaluation.val_images or val_images, val_images),
        "test_images": bench.task.size("test"),
        "cores": list(device.cores),
    }
