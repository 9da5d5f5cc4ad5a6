"""Model files measured on three boards, one of which is killed midway and comes back for the rest."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from servers import CORE, MARK, wait_for
from torch import nn

from hwprune.experiments import session
from hwprune.experiments.devices import add_board
from hwprune.experiments.home import Home
from hwprune.experiments.measure import Request, measure
from hwprune.experiments.progress import Silent
from hwprune.models.model_file import export_onnx

pytestmark = [pytest.mark.boards, pytest.mark.ssh, pytest.mark.timeout(280)]

BOARDS = ("first", "second", "third")


class Resized(nn.Module):
    def forward(self, x):
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x, y):
        return self.conv(x) + y


@pytest.fixture
def models(tmp_path):
    """Files that no classifier needs: two inputs, resizing, a transposed convolution."""
    image = torch.rand(1, 8, 16, 16)
    zoo = {
        "joined": (Joined(), (image, image)),
        "resized": (Resized(), (image,)),
        "doubled": (nn.ConvTranspose2d(8, 8, 2, 2), (image,)),
    }
    paths = []
    for name, (module, example) in zoo.items():
        paths.append(tmp_path / f"{name}.onnx")
        paths[-1].write_bytes(export_onnx(module.eval(), example))
    return tuple(paths)


@pytest.fixture
def servers(start_server):
    """Boards on this computer that take turns, and do not see what else runs here."""
    found = {}
    for name in BOARDS:
        server = found[name] = start_server(name)
        root = server.folder / "root"
        for fact in ("proc/cpuinfo", "proc/sys/kernel/random/boot_id"):
            (root / fact).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path("/") / fact, root / fact)
        server.restart(f"SetEnv HOME={server.home} {MARK}={server.folder} HWPRUNE_ROOT={root}")
    return found


def is_filled(cell):
    """Whether it has a number; on a busy computer it may be one that is not trusted."""
    return cell.latency_ms is not None


def test_every_cell_but_those_of_a_killed_board_is_filled_and_the_rest_when_it_is_back(
    servers, models, tmp_path, monkeypatch
):
    monkeypatch.setattr(session, "RECONNECT_WAITS_S", (0.2, 0.5))
    home = Home(tmp_path / "home")
    for name, server in servers.items():
        add_board(home, name, server.way(), cores=(CORE,))
    killed = servers["second"]

    def kill():
        wait_for(lambda: any("child.main" in command for command in killed.processes().values()), 200.0)
        killed.stop()

    request = Request(models, BOARDS)
    killer = threading.Thread(target=kill)
    killer.start()
    matrix = measure(home, request, Silent())
    killer.join()
    lost = [cell for cell in matrix.cells if not is_filled(cell)]
    assert lost
    assert all(cell.device == "second" and cell.error for cell in lost)
    assert len(matrix.cells) == len(models) * len(BOARDS)

    killed.start()
    again = measure(home, request, Silent())
    assert all(is_filled(cell) for cell in again.cells)
    for before in matrix.cells:
        after = again.cell(before.model, before.device, before.engine)
        if before.is_good:
            assert (after.source, after.latency_ms) == ("store", before.latency_ms)
