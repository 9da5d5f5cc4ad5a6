"""A recorded device: what was recorded comes back, what was not is a model's and says so."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from device_agents.registry import Device
from device_agents.replay import Recording
from hwprune.errors import ConfigError
from hwprune.fronts import FrontRow
from hwprune.measurement.jobs import NetworkJob
from hwprune.measurement.replay import Replay, kernel_table
from hwprune.records import PROTOCOL_VERSION, Artifact, Conditions, Measurement, network_key
from latency_models.network_model import LatencyModel
from latency_models.shapes import LayerShape

DEVICE = Device(
    name="replay-pi4", transport="replay", platform="arm", target={}, recording="pi4.jsonl", description={"cores": [0]}
)


def conv(width: int) -> LayerShape:
    return LayerShape("conv2d", width, width, 8, 8, (3, 3), padding=(1, 1))


def measured(key: str, latency_ms: float, processes: int = 1, engine: str = "tvm", **changes: object) -> Measurement:
    conditions = Conditions("pi4", DEVICE.fingerprint, engine, "float32", (1, 16, 8, 8), 1, "schedules")
    plain = Measurement(
        "library", conditions, (((latency_ms,) * 5,) * 5,) * processes, trust="A", shapes_key=key, measured_at="then"
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def job(widths: Sequence[int], engine: str = "") -> NetworkJob:
    shapes = tuple(map(conv, widths))
    description = {"inputs": [[1, 16, 8, 8]], "weights_bytes": 100, "arena_bytes": 20}
    return NetworkJob(Artifact(Path(), "", "network", "host", "schedules", description, shapes), engine=engine)


def replay(
    networks: Sequence[Measurement] = (), *, with_kernels: bool = True, models: Sequence[LatencyModel] = ()
) -> Replay:
    kernels = {conv(width): measured("", 0.01 * width) for width in range(4, 68, 4)} if with_kernels else {}
    lines = [
        *({"kind": "kernel", "shape": shape.as_dict(), "measurement": row.as_dict()} for shape, row in kernels.items()),
        *({"kind": "network", "measurement": row.as_dict()} for row in networks),
        *({"kind": "model", "name": f"pi4-{index}", "content": model.to_json()} for index, model in enumerate(models)),
    ]
    return Replay(DEVICE, Recording({"schedule_version": "schedules"}, tuple(lines)), 16)


def key(*widths: int) -> str:
    return network_key(list(map(conv, widths)))


def test_a_recorded_network_comes_back_in_the_name_of_the_recording() -> None:
    (found,) = replay([measured(key(8, 16), 0.5)]).networks([job([8, 16])])
    assert found.latency_ms == 0.5
    assert not found.is_simulated
    assert (found.conditions.device, found.trust, found.measured_at) == ("replay-pi4", "A", "then")


def test_what_was_measured_for_a_front_and_what_in_passing_are_kept_apart() -> None:
    device = replay([measured(key(8), 0.5), measured(key(8), 0.6, 3), measured(key(16), 0.9, 3)])
    assert device.networks([job([8])])[0].latency_ms == 0.5
    assert device.networks([job([8])], final=True)[0].latency_ms == 0.6
    assert device.networks([job([8])], processes=3)[0].latency_ms == 0.6
    assert device.networks([job([16])])[0].latency_ms == 0.9  # better than a model's word


def test_of_several_measurements_of_a_network_the_last_counts() -> None:
    device = replay([measured(key(8), 0.5), measured(key(8), 0.4)])
    assert device.networks([job([8])])[0].latency_ms == 0.4


def test_a_network_that_was_not_recorded_is_simulated_and_says_so() -> None:
    (found,) = replay().networks([job([8, 16])])
    low_ms, high_ms = found.interval_ms
    assert found.is_simulated
    assert low_ms < found.latency_ms < high_ms
    assert found.latency_ms == pytest.approx(0.24, rel=0.2)  # the sum of its kernels
    assert (found.trust, found.values_ms, found.measured_at) == ("B", (), "")
    assert "simulated" in found.trust_reason
    assert found.planned_memory_bytes == 120
    assert math.isnan(found.percentile_ms(50))
    assert Measurement.from_dict(found.as_dict()) == found


def test_a_row_of_a_front_says_whether_it_was_simulated() -> None:
    device = replay([measured(key(8), 0.5)])
    rows = [FrontRow.of("p", each, val_metric=0.9, macs=1, params=1) for each in device.networks([job([8]), job([9])])]
    assert [row.simulated for row in rows] == [False, True]
    assert [row.latency_ms_p50 for row in rows] == [0.5, None]


def test_numbers_of_another_protocol_are_none() -> None:
    row = measured(key(8), 0.5)
    other = dataclasses.replace(
        row, conditions=dataclasses.replace(row.conditions, protocol_version=PROTOCOL_VERSION + 1)
    )
    assert replay([other]).networks([job([8])])[0].is_simulated


def test_recorded_kernels_come_back_and_others_are_simulated() -> None:
    found = replay().kernels([conv(8), conv(9), conv(8)])
    assert list(found) == [conv(8), conv(9)]
    assert (found[conv(8)].latency_ms, found[conv(8)].is_simulated) == (0.08, False)
    assert found[conv(9)].is_simulated
    assert 0.07 < found[conv(9)].latency_ms < 0.2


def test_the_recorded_model_of_a_network_is_the_one_with_its_name() -> None:
    table = kernel_table({conv(8): measured("", 0.1), conv(64): measured("", 0.8)})
    models = [LatencyModel.fit(table, [((conv(8),), 0.2)]), LatencyModel.fit(table, [((conv(8),), 0.4)])]
    device = replay(models=models)
    found = [device.model_of([conv(8)], f"-{index}").networks[0][1] for index in (0, 1)]
    assert found == [0.2, 0.4]


def test_an_engine_that_was_not_recorded_has_no_number_rather_than_a_simulated_one() -> None:
    device = replay([measured(key(8), 0.5, 3, "onnxruntime 1.20")])
    assert device.facts()["onnxruntime"] == "1.20"
    known, unknown = device.networks([job([8], "onnxruntime 1.20"), job([9], "onnxruntime 1.20")])
    assert known.latency_ms == 0.5
    assert unknown.error is not None
    assert device.networks([job([8])])[0].is_simulated  # by our own engine it was not


def test_a_recording_without_kernels_cannot_simulate() -> None:
    device = replay([measured(key(8), 0.5)], with_kernels=False)
    assert device.networks([job([8])])[0].latency_ms == 0.5
    with pytest.raises(ConfigError, match="no kernels to predict others from"):
        device.networks([job([9])])


def test_what_is_known_without_measuring_is_what_was_recorded() -> None:
    device = replay([measured(key(8), 0.5, 3)])
    assert device.stored(job([8])) is not None
    assert device.stored(job([9])) is None
