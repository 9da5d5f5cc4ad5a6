"""Energy as an objective, by a counter that rises as that of a processor which draws 20 W."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from hwprune.cli.console import Console
from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem
from hwprune.errors import ConfigError
from hwprune.experiments.devices import add_local
from hwprune.experiments.energy import check_meter, fit_energy
from hwprune.experiments.home import Home
from hwprune.experiments.session import open_session
from hwprune.experiments.workbench import Workbench
from hwprune.objectives.macs import layer_macs

WATTS = 20
ZONE = "sys/class/powercap/intel-rapl:0"

PROBLEM = {
    "network": {"name": "resnet_cifar", "depth": 8},
    "data": {"name": "digits", "size": 16, "channels": 3},
    "evaluation": {"threads": 1},
}


@pytest.fixture
def metered(tmp_path, monkeypatch):
    """Root of a computer whose energy counter is kept by a thread."""
    folder = tmp_path / "root" / ZONE
    folder.mkdir(parents=True)
    (folder / "name").write_text("package-0\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")
    counter = folder / "energy_uj"
    counter.write_text("0".zfill(15))
    ended = threading.Event()

    def count():
        with counter.open("r+") as stream:
            while not ended.wait(0.0005):
                stream.seek(0)
                stream.write(str(int(time.monotonic() * WATTS * 1e6)).zfill(15))
                stream.flush()

    thread = threading.Thread(target=count)
    thread.start()
    monkeypatch.setenv("HWPRUNE_ROOT", str(tmp_path / "root"))
    yield
    ended.set()
    thread.join()


@pytest.mark.measures
@pytest.mark.timeout(300)
def test_energy_of_candidates_is_predicted_from_that_of_a_few(metered, tmp_path):
    home = Home(tmp_path / "home")
    device = add_local(home, "metered")
    assert device.description["energy_meter"] == [ZONE]
    check_meter(device)
    bench = Workbench.open(Problem.model_validate(PROBLEM), CpuTarget.from_dict(device.target), with_weights=False)

    def millions(widths):
        return layer_macs(bench.arithmetic(widths)).sum(axis=1) / 1e6

    with open_session(home, device, Console()) as session:
        energy = fit_energy(session, bench, millions)
        widths = np.array([bench.groups.sizes, np.maximum(1, np.array(bench.groups.sizes) // 4)])
        measured = session.measure_candidates(bench, [bench.plan(row) for row in widths])
    for found, predicted_mj in zip(measured, energy(widths), strict=True):
        assert found.error is None
        # Time during which another program had the core is in the energy, and not in the latency.
        assert 0.6 < found.energy_mj / (WATTS * found.latency_ms) < 6
        assert predicted_mj == pytest.approx(found.energy_mj, rel=0.5)


def test_a_device_without_a_meter_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("HWPRUNE_ROOT", str(tmp_path / "nothing"))
    device = add_local(Home(tmp_path / "home"), "plain")
    with pytest.raises(ConfigError, match=r"'plain' tells no energy \(no readable .*powercap.*\); remove it from"):
        check_meter(device)
