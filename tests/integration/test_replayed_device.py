"""A device that answers from its recording: the same search ends in the same front, and the store stays as it was."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.timeout(900)  # on a busy machine every measurement waits for its turn

RECORDING = "local.jsonl.gz"


@pytest.fixture(scope="module")
def run(hwprune, profile):
    """Folder of a run on the device itself."""
    return hwprune.search("digits.yaml", "--method", "nsga2", "--budget", 10, runs="runs-recorded")


@pytest.fixture(scope="module")
def recorded(hwprune, run):
    """What was told of the recording, made after the run."""
    return hwprune.json("device", "record", "local", RECORDING)


@pytest.fixture(scope="module")
def replayed(hwprune, recorded):
    """Folder of the same search on the recording."""
    ended = hwprune("search", "digits.yaml", "--method", "nsga2", "--budget", 10, "--runs", "runs-replayed",
                    "--device", f"replay:{RECORDING}")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (found,) = (hwprune.folder / "runs-replayed").iterdir()
    return found


def front_of(run):
    return json.loads((run / "front.json").read_text())


def networks_of(front):
    return [(row["id"], row["widths"], row["latency_ms"], row["trust"], row["val_metric"]) for row in front["rows"]]


def test_a_recording_has_kernels_networks_and_models_and_is_small(recorded):
    assert recorded["kernels"] > 20
    assert recorded["networks"] >= 8
    assert recorded["models"] >= 1
    assert recorded["nameless"] == 0
    assert recorded["size_bytes"] < 4 << 20


def test_a_search_on_the_recording_ends_in_the_front_of_the_recorded_run(run, replayed):
    first, again = front_of(run), front_of(replayed)
    assert networks_of(again) == networks_of(first)
    assert not any(row["simulated"] for row in again["rows"])
    assert {row["device"] for row in again["rows"]} == {"replay-local"}


def test_nothing_of_a_replay_is_in_the_store_of_the_device(hwprune, recorded, replayed):
    again = hwprune.json("device", "record", "local", "again.jsonl")
    assert {name: again[name] for name in ("kernels", "networks", "models")} == {
        name: recorded[name] for name in ("kernels", "networks", "models")
    }
    assert [device["name"] for device in hwprune.json("device", "list")] == ["local"]


def test_what_was_not_recorded_is_marked_wherever_it_is_shown(hwprune, recorded):
    ended = hwprune("search", "digits.yaml", "--method", "random", "--budget", 12, "--set", "seed=5", "--runs",
                    "runs-other", "--device", f"replay:{RECORDING}")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (other,) = (hwprune.folder / "runs-other").iterdir()
    simulated = [row["id"] for row in front_of(other)["rows"] if row["simulated"]]
    assert simulated
    assert "simulated" in ended.stdout
    rows = [line.split(",") for line in (other / "front.csv").read_text().splitlines()]
    column = rows[0].index("simulated")
    assert [row[0] for row in rows[1:] if row[column] == "yes"] == simulated
    page = (other / "report.html").read_text()
    assert f"{len(simulated)} of {len(rows) - 1} networks are simulated" in page


def test_a_recording_cannot_be_profiled(hwprune, recorded):
    ended = hwprune("device", "profile", f"replay:{RECORDING}")
    assert ended.returncode == 2
    assert "is a recording" in ended.stderr
