"""Two arm64 boards whose time is counted in instructions, one four times as slow, searched in one command.

Emulated, so no number here says anything of hardware; but the ratio of the two is known. Their seconds are not ours: a
sign of life every two of theirs may be one every forty of ours, so here they are given longer.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from boards import MachineBoard

from device_agents import client
from hwprune.experiments.devices import add_board
from hwprune.experiments.home import Home

pytestmark = [pytest.mark.boards, pytest.mark.ssh, pytest.mark.timeout(900)]

#: Nanoseconds an instruction: 2 to the power of it.
SHIFTS = {"fast": 3, "slow": 5}

#: What an agent may be silent for, and late by.
PATIENCE_S = 120.0

#: The command; a file, because parts of a fleet import what the command was started by.
COMMAND = f"""\
from device_agents import client
from hwprune.cli import main

client.SILENCE_S = client.MARGIN_S = {PATIENCE_S}

if __name__ == "__main__":
    main()
"""

NETWORK = """\
from torch import nn


def build(num_classes: int, in_channels: int) -> nn.Module:
    body = [nn.Conv2d(in_channels, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))
"""
PROBLEM = """\
network: "tiny:build"
weights: tiny.safetensors
data: {name: digits, size: 8, channels: 3}
pruning: {round_to: 1}
objectives: [error, latency]
budget: {evaluations: 3}
training: {epochs: 2}
evaluation: {threads: 1, bn_images: 0}
"""


@pytest.fixture(scope="module")
def hwprune(board_files, tmp_path_factory):
    """The command, in a folder with a trained problem and a home that knows both boards and has profiled them."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "command.py").write_text(COMMAND)
    (folder / "tiny.py").write_text(NETWORK)
    (folder / "problem.yaml").write_text(PROBLEM)
    home = Home(folder / "home")
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "HWPRUNE_HOME": str(home.path), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def hwprune(*words):
        command = [sys.executable, "command.py", *words, "--json"]
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended

    with contextlib.ExitStack() as running, pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "SILENCE_S", PATIENCE_S)
        patch.setattr(client, "MARGIN_S", PATIENCE_S)
        boards = [MachineBoard(board_files, folder / name, shift) for name, shift in SHIFTS.items()]
        for board in boards:
            running.callback(board.cut_power)
            board.power_on()
        with ThreadPoolExecutor() as threads:
            list(threads.map(functools.partial(add_board, home), SHIFTS, [board.way for board in boards]))
        hwprune("train", "problem.yaml")
        hwprune("device", "profile", *SHIFTS, "problem.yaml", "--minutes", "0.1")
        yield hwprune


def test_fronts_of_two_boards_are_searched_in_one_command_and_differ_by_their_speed(hwprune):
    devices = [word for name in SHIFTS for word in ("--device", name)]
    ended = hwprune("search", "problem.yaml", *devices, "--method", "uniform")
    parts = {part["name"]: part["result"] for part in json.loads(ended.stdout)}
    rows = {name: {row["plan_key"]: row for row in result["rows"]} for name, result in parts.items()}
    assert {row["device"] for row in rows["slow"].values()} == {"slow"}
    shared = rows["fast"].keys() & rows["slow"].keys()
    assert len(shared) >= 2
    for key in shared:
        fast, slow = rows["fast"][key]["latency_ms"], rows["slow"][key]["latency_ms"]
        assert slow / fast == pytest.approx(4, rel=0.02), rows["fast"][key]["id"]


def test_boards_of_different_speed_are_one_pool_once_they_are_calibrated(hwprune):
    devices = [word for name in SHIFTS for word in ("--device", name)]
    ended = hwprune("search", "problem.yaml", *devices, "--pool", "--method", "uniform")
    front = json.loads(ended.stdout)
    assert front["conditions"]["device"] == "fast+slow"
    assert all(sorted(row["boards"]) == ["fast", "slow"] for row in front["rows"])
    (told,) = [line for line in ended.stderr.splitlines() if "boards take" in line]
    assert float(told.rpartition("slow ")[2]) == pytest.approx(4, rel=0.02)
