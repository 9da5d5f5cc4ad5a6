"""What is recorded of a device: its own measurements under present conditions, and the models made of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from device_agents.errors import UnknownDeviceError
from device_agents.registry import Device
from device_agents.replay import Recording
from hwprune.compilation.compiler import Compiler
from hwprune.errors import RunError
from hwprune.experiments.devices import find
from hwprune.experiments.home import Home
from hwprune.experiments.recording import record
from hwprune.measurement.replay import kernel_table
from hwprune.records import PROTOCOL_VERSION, Conditions, Measurement
from hwprune.store import shape_key
from latency_models.network_model import LatencyModel
from latency_models.shapes import LayerShape

PI4 = Device(name="pi4", transport="local", platform="cpu", target={"kind": "llvm"}, description={"cores": [0]})
SHAPE = LayerShape("conv2d", 16, 16, 8, 8)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.devices.add(PI4)
    return home


def measured(
    key: str = "k", *, processes: int = 1, device: Device = PI4, protocol: int = PROTOCOL_VERSION, **changes: object
) -> Measurement:
    conditions = Conditions(
        device.name, device.fingerprint, "tvm", "float32", (1, 3, 8, 8), 1, Compiler.schedule_version, protocol
    )
    values = (((0.5123456789123,) * 5,) * 5,) * processes
    plain = Measurement(
        "library", conditions, values, trust="A", shapes_key=key, measured_at="2026-01-01T00:00:00+00:00"
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def add(home: Home, *rows: Measurement) -> None:
    with home.open_store() as store:
        for row in rows:
            store.add_measurement(row)


def networks_of(path: Path) -> list[Measurement]:
    return [Measurement.from_dict(line["measurement"]) for line in Recording.read(path).of_kind("network")]


def test_the_newest_of_each_network_is_recorded_with_sane_digits(home: Home, tmp_path: Path) -> None:
    add(home, measured(trust="B"), measured(), measured("other"), measured(processes=3))
    report = record(home, "pi4", tmp_path / "pi4.jsonl")
    assert (report.networks, report.kernels, report.models, report.nameless) == (3, 0, 0, 0)
    found = networks_of(tmp_path / "pi4.jsonl")
    assert [row.trust for row in found] == ["A"] * 3
    assert {call for row in found for process in row.values_ms for block in process for call in block} == {0.512345679}


def test_failures_other_devices_and_other_protocols_are_left_out(home: Home, tmp_path: Path) -> None:
    other = PI4.model_copy(update={"description": {"cores": [0, 1]}})
    add(home, measured(), measured("a", error="it crashed"), measured("b", device=other), measured("c", protocol=1))
    record(home, "pi4", tmp_path / "pi4.jsonl")
    assert [row.shapes_key for row in networks_of(tmp_path / "pi4.jsonl")] == ["k"]


def test_networks_whose_layers_nobody_wrote_down_are_counted(home: Home, tmp_path: Path) -> None:
    add(home, measured(), *(dataclasses.replace(measured(""), key=key) for key in ("one", "two", "two")))
    assert record(home, "pi4", tmp_path / "pi4.jsonl").nameless == 2


def test_models_of_the_device_are_recorded_and_others_are_not(home: Home, tmp_path: Path) -> None:
    kernel = measured("")
    with home.open_store() as store:
        store.add_kernel_measurements([(SHAPE, dataclasses.replace(kernel, key=shape_key(SHAPE)))])
    own = LatencyModel.fit(kernel_table({SHAPE: kernel}))
    for name in ("pi4-0123456789abcdef", "pi400-0123456789abcdef"):
        (home.models / f"{name}.json").write_text(own.to_json())
    (home.models / "pi4-fedcba9876543210.json").write_text("{")
    report = record(home, "pi4", tmp_path / "pi4.jsonl.gz")
    assert (report.kernels, report.models) == (1, 1)
    (line,) = Recording.read(tmp_path / "pi4.jsonl.gz").of_kind("model")
    assert (line["name"], LatencyModel.from_json(line["content"]).data_digest) == (
        "pi4-0123456789abcdef",
        own.data_digest,
    )


def test_a_recorded_device_is_found_by_its_file(home: Home, tmp_path: Path) -> None:
    add(home, measured())
    record(home, "pi4", tmp_path / "pi4.jsonl")
    found = find(home, f"replay:{tmp_path / 'pi4.jsonl'}")
    assert (found.name, found.fingerprint) == ("replay-pi4", PI4.fingerprint)
    assert home.of(found).path != home.path
    assert home.of(PI4) is home
    assert home.devices.names() == ["pi4"]


def test_a_device_without_measurements_is_not_recorded(home: Home, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="profile pi4"):
        record(home, "pi4", tmp_path / "pi4.jsonl")
    with pytest.raises(UnknownDeviceError):
        record(home, "pi5", tmp_path / "pi5.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
