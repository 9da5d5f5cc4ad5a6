"""What picks cost on devices: from runs, from the store, and why there is no number."""

import dataclasses
import datetime
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from device_agents.registry import Device, SshWay
from hwprune import training
from hwprune.compilation.compiler import Compiler
from hwprune.compilation.targets import CpuTarget, host_target
from hwprune.config import RunConfig
from hwprune.experiments.compare import costs
from hwprune.experiments.home import Home
from hwprune.experiments.picks import Cost, Pick
from hwprune.experiments.points import PointFiles
from hwprune.experiments.progress import Silent
from hwprune.experiments.provenance import RunFolder
from hwprune.experiments.workbench import Workbench
from hwprune.fronts import Front
from hwprune.records import Conditions, Measurement

MakeRun = Callable[..., Path]
DESCRIPTION = {"cpu_model": "a processor", "kernel": "6.1", "cores": [0]}
#: Nobody listens on this port.
BOARD = Device(
    name="board",
    transport="ssh",
    platform="cpu",
    target={"kind": "llvm", "mcpu": host_target().mcpu},
    ssh=SshWay(address="nobody@127.0.0.1:1", host_keys={"[127.0.0.1]:1": "ssh-ed25519 AAAA"}),
    description=DESCRIPTION,
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def pick_of(folder: Path, point: str | None = "p00") -> Pick:
    front = Front.from_dict(json.loads((folder / "front.json").read_text()))
    told = {field.name: front.conditions[field.name] for field in dataclasses.fields(Conditions)}
    conditions = Conditions(**{**told, "input_shape": tuple(told["input_shape"])})
    (measured,) = json.loads((folder / "measurements.json").read_text())
    row = next((row for row in front.rows if row.id == point), None)
    return Pick(folder.name, folder, row, conditions, measured["device_reference_ms"])


def told(found: dict[str, dict[str, Cost]], device: str) -> dict[str, tuple[float | None, str | None]]:
    return {run: (row[device].latency_ms, row[device].source) for run, row in found.items()}


def test_two_methods_on_one_device_know_all_costs_by_themselves(make_run: MakeRun, home: Home) -> None:
    picks = [pick_of(make_run(name, [("p00", ms, 0.9, 1000)])) for name, ms in (("one", 0.5), ("two", 0.4))]
    found = costs(picks, home, Silent())
    assert told(found, "local") == {"one": (0.5, "run"), "two": (0.4, "run")}
    assert [found[run]["local"].regret for run in ("one", "two")] == pytest.approx([0.25, 0])
    assert not home.path.exists()


def test_without_measuring_only_the_runs_are_asked(make_run: MakeRun, home: Home) -> None:
    rows = [("p00", 0.5, 0.9, 1000)]
    runs = [make_run("one", rows), make_run("two", rows, device="board", fingerprint="e" * 64)]
    found = costs([pick_of(run) for run in runs], home, Silent(), measure=False)
    assert told(found, "local") == {"one": (0.5, "run"), "two": (None, None)}
    assert told(found, "board") == {"one": (None, None), "two": (0.5, "run")}
    assert found["two"]["local"].reason == "p00 of two was not measured here: --measure does"
    assert [found["one"][device].own for device in ("local", "board")] == [True, False]
    assert not home.path.exists()


@pytest.mark.parametrize("change", [{"reference_ms": 0.04}, {"schedule_version": "2"}, {"reference_ms": None}])
def test_numbers_under_other_conditions_do_not_stand_beside_each_other(
    make_run: MakeRun, home: Home, change: dict[str, object]
) -> None:
    old = make_run("old", [("p00", 0.5, 0.9, 1000)], **change)
    new = make_run("new", [("p00", 0.4, 0.9, 1000)])
    front = json.loads((new / "front.json").read_text())
    front["rows"][0]["measured_at"] = "2026-02-01T00:00:00.000+00:00"
    (new / "front.json").write_text(json.dumps(front))
    found = costs([pick_of(old), pick_of(new)], home, Silent(), measure=False)
    assert told(found, "local") == {"old": (None, None), "new": (0.4, "run")}
    assert found["new"]["local"].regret == 0


def test_devices_of_one_name_that_are_different_ones_stay_apart(make_run: MakeRun, home: Home) -> None:
    rows = [("p00", 0.5, 0.9, 1000)]
    runs = [make_run("one", rows), make_run("two", rows, fingerprint="e" * 64)]
    found = costs([pick_of(run) for run in runs], home, Silent(), measure=False)
    assert list(found["one"]) == ["local of one", "local of two"]
    assert told(found, "local of two") == {"one": (None, None), "two": (0.5, "run")}


def test_a_run_without_a_pick_says_so_and_is_a_device_all_the_same(make_run: MakeRun, home: Home) -> None:
    rows = [("p00", 0.5, 0.9, 1000)]
    picks = [pick_of(make_run("one", rows)), pick_of(make_run("two", rows, device="board"), point=None)]
    found = costs(picks, home, Silent(), measure=False)
    assert "two has no pick" in found["two"]["local"].reason
    assert found["one"]["board"].regret is None


def test_a_device_that_is_not_registered_leaves_its_cells_empty(make_run: MakeRun, home: Home) -> None:
    rows = [("p00", 0.5, 0.9, 1000)]
    runs = [make_run("one", rows), make_run("two", rows, device="board", fingerprint="e" * 64)]
    found = costs([pick_of(run) for run in runs], home, Silent())
    assert told(found, "board") == {"one": (None, None), "two": (0.5, "run")}
    assert "unknown device 'board'" in found["one"]["board"].reason


def test_a_device_that_has_changed_since_is_not_measured(make_run: MakeRun, home: Home) -> None:
    rows = [("p00", 0.5, 0.9, 1000)]
    home.devices.add(BOARD.model_copy(update={"description": {**DESCRIPTION, "kernel": "6.6"}}))
    runs = [
        make_run("one", rows),
        make_run("two", rows, device="board", fingerprint=BOARD.fingerprint, description=DESCRIPTION),
    ]
    found = costs([pick_of(run) for run in runs], home, Silent())
    assert "its kernel changed" in found["one"]["board"].reason
    assert told(found, "board")["two"] == (0.5, "run")


@pytest.fixture
def runs(make_run: MakeRun) -> list[Path]:
    """A run here and one on the board, with networks to rebuild."""
    rows = [("p00", 0.5, 0.9, 1000)]
    version = Compiler.schedule_version
    folders = [
        make_run("here", rows, schedule_version=version),
        make_run("there", rows, device="board", fingerprint=BOARD.fingerprint, schedule_version=version),
    ]
    bench = Workbench.open(RunConfig.load(folders[0] / "config.yaml").problem, with_weights=False)
    for folder, width in zip(folders, (9, 5), strict=True):
        plan = bench.plan([width] * len(bench.groups))
        PointFiles(RunFolder.open(folder)).write("p00", plan, bench.slicer.cut(plan))
    return folders


def test_what_the_store_knows_needs_no_device_and_what_it_does_not_says_why(runs: list[Path], home: Home) -> None:
    home.devices.add(BOARD)
    picks = [pick_of(run) for run in runs]
    found = costs(picks, home, Silent())
    assert told(found, "board") == {"here": (None, None), "there": (0.5, "run")}
    assert "127.0.0.1" in found["here"]["board"].reason

    target = CpuTarget.from_dict(BOARD.target, BOARD.threads)
    bench = Workbench.open(RunConfig.load(runs[0] / "config.yaml").problem, target, with_weights=False)
    files = PointFiles(RunFolder.open(runs[0]))
    module = bench.slicer.cut(files.plan("p00"))
    training.load_weights(module, files.weights("p00"))
    artifact = Compiler(target, home.path).network(bench.graph, module.eval())
    measurement = Measurement(
        artifact.sha256,
        picks[1].conditions,
        values_ms=(((0.6,) * 5,) * 5,) * 3,
        reference_ms=0.03,
        device_reference_ms=0.03,
        trust="A",
        planned_memory_bytes=1234,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
    )
    for unfit in (
        dataclasses.replace(measurement, values_ms=measurement.values_ms[:1]),  # one process, in passing
        dataclasses.replace(measurement, device_reference_ms=0.04),  # at another clock
        dataclasses.replace(measurement, trust="C"),
        measurement,
    ):
        with home.open_store() as store:
            store.add_measurement(unfit)
        found = costs(picks, home, Silent())
        assert told(found, "board")["here"] == ((0.6, "store") if unfit is measurement else (None, None))
    assert found["here"]["board"].regret == pytest.approx(0.2)
    assert found["here"]["board"].planned_memory_bytes == 1234
