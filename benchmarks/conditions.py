"""What a benchmark's numbers depend on: printed above them by every script, and by itself when run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_agents.agent.host_facts import cpu_model
from device_agents.agent.host_state import Absent

PACKAGES = ("apache-tvm", "numpy", "torch")


def conditions() -> dict[str, Any]:
    """CPU, cores, load of the last minute and versions."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in PACKAGES},
    }


def commit() -> str:
    """Commit that is checked out, with a plus where files were changed; empty where there is no git."""
    folder = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        asked = {"capture_output": True, "text": True, "check": True, "cwd": folder}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **asked).stdout.strip()
        return head + ("+" if subprocess.run(["git", "diff", "HEAD", "--name-only"], **asked).stdout.strip() else "")
    return ""


def command(script: str) -> str:
    """The call of a benchmark as it was typed; of absolute paths, which are somebody's own, the last part."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return " ".join(["python", f"benchmarks/{script}.py", *words])


def _cpu_model() -> str:
    try:
        return cpu_model("/")
    except Absent:
        return platform.processor() or platform.machine()


def print_conditions() -> None:
    """Print one line of them."""
    print(", ".join(f"{name} {value}" for name, value in conditions().items()), flush=True)


def print_result(result: Mapping[str, Any]) -> None:
    """Print the last line of a benchmark, for programs."""
    print("RESULT " + json.dumps({**result, "conditions": conditions()}), flush=True)


if __name__ == "__main__":
    print_conditions()
