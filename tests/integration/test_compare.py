"""Two devices compared: this computer, and this computer by another core."""

from __future__ import annotations

import csv
import json

import moocore
import numpy as np
import pytest
import yaml

pytestmark = [pytest.mark.boards, pytest.mark.measures, pytest.mark.timeout(900)]

UNTRUSTED = 4


@pytest.fixture(scope="module")
def runs(hwprune, run):
    """Runs on ``local`` and on ``other``, which is pinned to another core."""
    core, *_ = hwprune.json("device", "show", "local")["cores"]
    usable = hwprune.json("device", "add", "other")["description"]["usable_cores"]
    if len(usable) < 2:
        pytest.skip("this computer has one usable core")
    entry = hwprune.folder / "home" / "devices" / "other.yaml"
    fields = yaml.safe_load(entry.read_text())
    entry.write_text(yaml.safe_dump({**fields, "cores": [next(other for other in usable if other != core)]}))
    for _ in range(3):
        ended = hwprune("device", "profile", "other", "digits.yaml", "--minutes", 0.1)
        if ended.returncode != UNTRUSTED:
            break
    else:
        pytest.skip("this machine is too busy to measure anything")
    assert ended.returncode == 0, ended.stderr
    return [
        run,
        hwprune.search("digits.yaml", "--device", "other", "--method", "nsga2", "--budget", 8, runs="runs-other"),
    ]


@pytest.fixture(scope="module")
def said(hwprune, runs):
    """What a comparison prints that had to measure."""
    return hwprune.json("compare", *runs, "--out", "compared")


def widths_of(said, run):
    """Channels that a run's pick keeps."""
    rows = {row["id"]: row for row in json.loads((run / "front.json").read_text())["rows"]}
    return rows[said["picks"][run.name]["point"]]["widths"]


def test_hypervolumes_are_those_of_the_front_files_alone(said, runs):
    tables = []
    for run in runs:
        rows = list(csv.DictReader((run / "front.csv").read_text().splitlines()))
        columns = ("test_top1", "latency_ms", "planned_memory_bytes")
        F = np.array([[float(row[column]) for column in columns] for row in rows])
        F[:, 0] = 1 - F[:, 0]
        tables.append(F)
    ref_point = 1.1 * np.concatenate(tables).max(axis=0)
    np.testing.assert_allclose(list(said["ref_point"].values()), ref_point, rtol=1e-12)
    for run, F in zip(runs, tables, strict=True):
        alone = moocore.hypervolume(F / ref_point, ref=np.ones(3))
        assert said["hv"][run.name] == pytest.approx(alone, rel=1e-12)


def test_conditions_differ_in_the_device_alone(said):
    differ = said["conditions_differ"]
    assert {"device", "fingerprint", "cores"} <= differ.keys() <= {"device", "fingerprint", "cores", "evaluations"}
    weights = {run["conditions"]["weights_digest"] for run in said["runs"].values()}
    assert len(weights) == 1
    assert None not in weights


def test_each_pick_was_measured_on_the_other_device_or_it_is_said_why_not(said, runs):
    local, other = (run.name for run in runs)
    cells = [said["regret"][local]["other"], said["regret"][other]["local"]]
    for cell in cells:
        assert not cell["own"]
        assert (cell["latency_ms"] is None) == bool(cell["reason"])
    if any("untrusted" in cell["reason"] or "has no pick" in cell["reason"] for cell in cells):
        pytest.skip("this machine is too busy to measure anything")
    if widths_of(said, runs[0]) != widths_of(said, runs[1]):
        assert [cell["source"] for cell in cells] == ["measured", "measured"]
    for run, home in ((local, "local"), (other, "other")):
        costs = said["regret"][run]
        assert costs[home]["own"]
        assert costs[home]["regret"] == 0
        assert costs["local"]["latency_ms"] == pytest.approx(costs["other"]["latency_ms"], rel=0.25)  # equal cores
        assert costs["local"]["planned_memory_bytes"] == costs["other"]["planned_memory_bytes"]


def test_a_second_comparison_measures_nothing(hwprune, said, runs):
    if any(cost["latency_ms"] is None for row in said["regret"].values() for cost in row.values()):
        pytest.skip("this machine is too busy to measure anything")
    before = hwprune.json("store", "info")["measurements"]
    again = hwprune.json("compare", *runs, "--out", "compared")
    assert hwprune.json("store", "info")["measurements"] == before
    for run, costs in again["regret"].items():
        for device, cost in costs.items():
            assert cost["source"] in {"store", "run"}
            assert cost["latency_ms"] == said["regret"][run][device]["latency_ms"]
            assert cost["regret"] == said["regret"][run][device]["regret"]
    assert again["hv"] == said["hv"]


def test_its_files_are_whole(hwprune, said):
    folder = hwprune.folder / "compared"
    assert {path.name for path in folder.iterdir()} == {"compare.json", "fronts.csv", "compare.png", "compare.html"}
    assert json.loads((folder / "compare.json").read_text())["ref_point"] == said["ref_point"]
    rows = csv.DictReader((folder / "fronts.csv").read_text().splitlines())
    assert {row["run"] for row in rows} == set(said["runs"])


def test_a_device_that_has_gone_leaves_its_cells_empty(hwprune, said, runs):
    assert hwprune("device", "remove", "other").returncode == 0
    again = hwprune.json("compare", *runs, "--out", "compared")
    cell = again["regret"][runs[0].name]["other"]
    assert cell["latency_ms"] is None
    assert "unknown device 'other'" in cell["reason"]
    assert again["regret"][runs[1].name]["other"]["source"] == "run"
