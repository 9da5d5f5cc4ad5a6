"""Which devices can lend their kernels for a network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from device_agents.registry import Device
from hwprune.experiments.home import Home
from hwprune.experiments.known_models import lenders, model_path
from hwprune.experiments.models import open_model
from latency_models.features import mixes_channels
from latency_models.kernel_table import KernelTable, KernelTime
from latency_models.network_model import LatencyModel
from latency_models.shapes import LayerShape

ASKING, TWIN = (
    Device(name=name, transport="local", platform="cpu", target={"kind": "llvm"}, description={"cpu_model": "any"})
    for name in ("asking", "twin")
)


@pytest.mark.parametrize(
    ("is_timed", "expected"),
    [
        (lambda shape: True, ["twin"]),
        (mixes_channels, ["twin"]),  # all others are too short to be timed alone
        (lambda shape: not mixes_channels(shape), []),
        (lambda shape: shape.op == "dense", []),
    ],
    ids=["every layer", "convolutions and dense layers", "the others", "dense layers"],
)
def test_a_device_lends_its_kernels_if_it_has_those_of_all_layers_that_mix_channels(
    tmp_path: Path, is_timed: Callable[[LayerShape], bool], expected: list[str]
) -> None:
    home, bench = Home(tmp_path), open_model("resnet_cifar,depth=8", input_shape=(3, 8, 8))
    home.devices.add(TWIN)
    sizes = np.array(bench.groups.sizes)
    shapes = bench.arithmetic([sizes, sizes // 2, np.ones_like(sizes)])
    timed = {shape for row in range(3) for shape in shapes.row(row) if is_timed(shape)}
    model = LatencyModel.fit(KernelTable.averaged([(shape, KernelTime(0.01)) for shape in sorted(timed)]))
    path = model_path(home, TWIN, bench)
    path.parent.mkdir(exist_ok=True)
    path.write_text(model.to_json())
    assert list(lenders(home, ASKING, bench)) == expected
    assert not lenders(home, TWIN, bench)
