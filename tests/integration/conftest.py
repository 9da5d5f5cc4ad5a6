"""The commands in processes of their own, and one home folder with a profiled device that all tests share."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hwprune.cli.app import root

#: Digits for a network that is trained in seconds.
DIGITS = """\
network: {name: resnet_cifar, depth: 8}
weights: digits.safetensors
data: {name: digits, size: 16, channels: 3}
pruning: {round_to: 1}
budget: {evaluations: 14}
training: {epochs: 5, batch_size: 32}
finetune: {epochs: 1}
evaluation: {threads: 1, bn_images: 256}
"""

#: A search ends with this code where nothing could be measured with trust, and asks to be resumed.
UNTRUSTED = 4


@dataclass(frozen=True)
class Commands:
    """``hwprune`` as a user calls it from a folder.

    Attributes:
        folder: working folder; ``home`` in it is the home folder.
    """

    folder: Path

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """A command that runs on."""
        return subprocess.Popen(
            [sys.executable, "-m", "hwprune", *map(str, arguments)],
            cwd=self.folder,
            env={
                **os.environ,
                "HWPRUNE_HOME": str(self.folder / "home"),
                "OMP_NUM_THREADS": "1",
                # Of user_code.py, and of the checkout that is tested where another one is installed.
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """A command that has ended."""
        process = self.start(*arguments)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def inside(self, *arguments: object) -> Result:
        """A command in this process, which has imported all that a new one would import for seconds."""
        with contextlib.chdir(self.folder):
            runner = CliRunner(env={"HWPRUNE_HOME": str(self.folder / "home")})
            return runner.invoke(root, list(map(str, arguments)))

    def json(self, *arguments: object) -> Any:
        """What a command prints with ``--json``, in this process; it must end well."""
        ended = self.inside(*arguments, "--json")
        assert ended.exit_code == 0, ended.stderr
        return json.loads(ended.stdout)

    def search(self, problem: str, *arguments: object, runs: str = "runs") -> Path:
        """Folder of a finished search, the only one in ``runs``."""
        ended = self("search", problem, "--runs", runs, *arguments)
        return self.finish(next((self.folder / runs).glob("*"), None), ended)

    def finish(self, run: Path | None, ended: subprocess.CompletedProcess[str]) -> Path:
        """The run whose search ``ended``; resumed where the machine was too busy for its front to be believed."""
        for _ in range(2):
            if run and ended.returncode == UNTRUSTED:
                ended = self("search", "--resume", run)
        if ended.returncode == UNTRUSTED:
            pytest.skip(f"this machine is too busy to measure anything: {ended.stderr.splitlines()[-1]}")
        assert run, ended.stderr
        assert ended.returncode == 0, ended.stderr
        return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a profiled device: it measures, and another test beside it would disturb the numbers."""
    for item in items:
        if "profile" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.measures)


@pytest.fixture(scope="session")
def hwprune(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Commands in a folder with a registered device and the digits problem, trained."""
    commands = Commands(tmp_path_factory.mktemp("user"))
    (commands.folder / "digits.yaml").write_text(DIGITS)
    assert commands.json("train", "digits.yaml")["path"] == "digits.safetensors"
    assert commands.json("device", "add", "local")["name"] == "local"
    return commands


@pytest.fixture(scope="session")
def profile(hwprune: Commands) -> dict[str, Any]:
    """What ``device profile`` says of the digits problem; repeated where too little could be trusted."""
    for _ in range(3):
        ended = hwprune("device", "profile", "local", "digits.yaml", "--minutes", 0.1, "--json")
        if ended.returncode != UNTRUSTED:
            break
    else:
        pytest.skip(f"this machine is too busy to measure anything: {ended.stderr.splitlines()[-1]}")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(scope="session")
def searched(hwprune: Commands, profile: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """A finished search of the digits problem by HAMP, and a recording of the device that was made right after it.

    The search measures for a minute, so all tests share it; and what other tests measure later is in no recording.
    """
    run = hwprune.search("digits.yaml", "--method", "hamp", "--budget", 14)
    return run, hwprune.json("device", "record", "local", f"{run.name}.jsonl.gz")


@pytest.fixture(scope="session")
def run(searched: tuple[Path, dict[str, Any]]) -> Path:
    """Folder of the search."""
    return searched[0]


@pytest.fixture(scope="session")
def recorded(searched: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    """What was told of the recording."""
    return searched[1]
