"""Searches on a recorded device: what was recorded comes back as it was, what was not is marked as simulated."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from device_agents import replay
from hwprune.compilation.targets import CpuTarget
from hwprune.config import load_problem
from hwprune.experiments.home import Home
from hwprune.experiments.workbench import Workbench
from hwprune.records import Conditions, Measurement, network_key
from latency_models.sampling import plan_profile, ranges_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


class Recorder:
    """Writes recordings of a device whose kernels take a time that is proportional to their multiply-adds."""

    def __init__(self, commands):
        self.folder = commands.folder
        self.home = Home(commands.folder / "home")
        self.device = self.home.devices.get("local")
        problem = load_problem(commands.folder / "digits.yaml", ())[0]
        target = CpuTarget.from_dict(self.device.target, self.device.threads)
        self.bench = Workbench.open(problem, target, with_weights=False)

    def measurement(self, latency_ms, key="", processes=1):
        conditions = Conditions("local", self.device.fingerprint, "tvm", "float32", (1, 3, 16, 16), 1, "any")
        values = (((latency_ms,) * 5,) * 5,) * processes
        told = {"trust": "A", "planned_memory_bytes": 1000, "shapes_key": key, "measured_at": "2026-01-01T00:00:00"}
        return Measurement("recorded", conditions, values, **told).as_dict()

    def write(self, name, networks):
        """Recording of kernels at some widths, and of networks: latencies in ms by widths."""
        sizes = np.array(self.bench.groups.sizes)
        ranges = ranges_of(self.bench.arithmetic(np.stack([sizes, sizes // 2, np.ones_like(sizes)])))
        shapes = plan_profile(ranges, 12 * len(ranges), self.bench.graph.target.lanes)
        lines = [
            {"kind": "kernel", "shape": shape.as_dict(), "measurement": self.measurement(latency_of(shape))}
            for shape in shapes
        ]
        for widths, latency_ms in networks.items():
            key = network_key(self.bench.graph.shapes(self.bench.candidate(widths)))
            lines.append({"kind": "network", "measurement": self.measurement(latency_ms, key, 3)})
        replay.write(self.folder / name, self.device, {"schedule_version": "any"}, lines)
        return f"replay:{name}"


def latency_of(shape):
    work = shape.in_channels * shape.out_channels * shape.height * shape.width * shape.kernel[0] * shape.kernel[1]
    return 0.002 + work / 1e8


@pytest.fixture(scope="module")
def recorder(hwprune):
    return Recorder(hwprune)


def search(hwprune, device, runs):
    """Rows of a search's front, what it printed, and its folder."""
    arguments = ("--method", "random", "--budget", 10, "--device", device, "--runs", runs)
    ended = hwprune.inside("search", "digits.yaml", *arguments)
    assert ended.exit_code == 0, ended.stderr
    (folder,) = (hwprune.folder / runs).iterdir()
    return json.loads((folder / "front.json").read_text())["rows"], ended.stdout, folder


@pytest.fixture(scope="module")
def simulated(hwprune, recorder):
    """A search on a recording that knows no network."""
    return search(hwprune, recorder.write("kernels.jsonl", {}), "runs-simulated")


def test_a_search_where_nothing_was_recorded_is_simulated_from_end_to_end(simulated):
    rows, _, _ = simulated
    assert len(rows) > 2
    assert all(row["simulated"] and row["device"] == "replay-local" for row in rows)
    dense, fastest = rows[0], rows[1]
    assert fastest["latency_ms"] < dense["latency_ms"]


def test_what_is_simulated_is_marked_wherever_it_is_shown(simulated):
    rows, printed, folder = simulated
    assert printed.count(", simulated") == len(rows)
    with (folder / "front.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [(row["simulated"], row["latency_ms_p50"]) for row in table] == [("yes", "")] * len(rows)
    page = (folder / "report.html").read_text()
    assert f"{len(rows)} of {len(rows)} networks are simulated" in page
    assert page.count(" simulated</td>") == len(rows)


def test_what_was_recorded_comes_back_as_it_was_and_stands_beside_what_is_simulated(hwprune, recorder, simulated):
    recorded = {tuple(row["widths"]): 1.01 * row["latency_ms"] for row in simulated[0][::2]}
    rows, printed, _ = search(hwprune, recorder.write("some.jsonl.gz", recorded), "runs-recorded")
    for row in rows:
        known_ms = recorded.get(tuple(row["widths"]))
        assert row["simulated"] == (known_ms is None)
        assert known_ms is None or row["latency_ms"] == pytest.approx(known_ms, rel=1e-12)
    assert {row["simulated"] for row in rows} == {True, False}
    assert printed.count(", simulated") == sum(row["simulated"] for row in rows)


def test_nothing_of_a_replay_enters_the_inventory_or_the_store(hwprune, recorder, simulated):
    assert [device["name"] for device in hwprune.json("device", "list")] == ["local"]
    with recorder.home.open_store() as store:
        assert store.measurements(device="replay-local") == []


def test_runs_on_recordings_are_compared_with_their_marks(hwprune, simulated):
    again = search(hwprune, "replay:kernels.jsonl", "runs-again")
    told = hwprune.json("compare", simulated[2], again[2], "--no-measure")
    assert all(pick["simulated"] for pick in told["picks"].values())
    assert "simulated" not in told["conditions_differ"]
    first, second = ([row["latency_ms"] for row in rows] for rows in (simulated[0], again[0]))
    assert first == second


def test_a_recording_cannot_be_profiled(hwprune, simulated):
    ended = hwprune.inside("device", "profile", "replay:kernels.jsonl")
    assert ended.exit_code == 2
    assert "is a recording" in ended.stderr
