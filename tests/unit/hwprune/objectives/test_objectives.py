import numpy as np
import pytest
import torch
from torch import nn

from hwprune import objectives
from hwprune.errors import ConfigError, UnknownNameError
from hwprune.objectives import Candidates, Sources
from hwprune.objectives.macs import layer_macs
from latency_models.shapes import LayerShape, NetworkShapes


def shapes_of(template: LayerShape) -> NetworkShapes:
    """One network of one layer at the template's own widths."""
    return NetworkShapes((template,), np.array([[template.in_channels]]), np.array([[template.out_channels]]))


def multiplications(module: nn.Conv2d, height: int, width: int) -> int:
    """Multiply-adds of a convolution: with all-one weights and inputs and no padding, the sum of its outputs."""
    nn.init.ones_(module.weight)
    with torch.no_grad():
        return int(module(torch.ones(1, module.in_channels, height, width)).sum())


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"),
    [
        ((3, 3), (1, 1), (1, 1), 1),
        ((5, 3), (2, 1), (1, 1), 1),
        ((3, 3), (2, 2), (2, 2), 1),
        ((1, 1), (1, 1), (1, 1), 4),
    ],
)
def test_macs_of_a_convolution_are_its_multiplications(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], groups: int
) -> None:
    module = nn.Conv2d(8, 12, kernel, stride, dilation=dilation, groups=groups, bias=False)
    depth = 8 // groups if groups > 1 else 0
    template = LayerShape("conv2d", 8, 12, 13, 11, kernel, stride, (0, 0), dilation, depth)
    assert layer_macs(shapes_of(template)).item() == multiplications(module, 13, 11)


def test_macs_of_a_depthwise_convolution_are_its_multiplications() -> None:
    module = nn.Conv2d(8, 8, 3, 2, groups=8, bias=False)
    template = LayerShape("depthwise", 8, 8, 9, 9, (3, 3), (2, 2))
    assert layer_macs(shapes_of(template)).item() == multiplications(module, 9, 9)


def test_macs_count_padding_as_the_output_pixels_it_makes() -> None:
    template = LayerShape("conv2d", 16, 32, 32, 32, (3, 3), (2, 2), (1, 1))
    assert layer_macs(shapes_of(template)).item() == 16 * 32 * 9 * 16 * 16


def test_macs_of_a_dense_layer_are_its_weights_and_pooling_has_none() -> None:
    dense, pool = LayerShape("dense", 64, 10, 1, 1), LayerShape("max_pool", 64, 64, 8, 8, (2, 2), (2, 2))
    shapes = NetworkShapes((pool, dense), np.array([[64, 64]]), np.array([[64, 10]]))
    assert layer_macs(shapes).tolist() == [[0.0, 640.0]]


def two_layers(widths: np.ndarray) -> NetworkShapes:
    templates = (LayerShape("conv2d", 0, 0, 4, 4, (3, 3), padding=(1, 1)), LayerShape("dense", 0, 0, 1, 1))
    first = np.full(len(widths), 3)
    return NetworkShapes(
        templates, np.column_stack([first, widths[:, 0]]), np.column_stack([widths[:, 0], np.full(len(widths), 10)])
    )


SOURCES = Sources(
    dense_widths=np.array([8]),
    shapes=two_layers,
    parameters=lambda widths: 27 * widths[:, 0] + 10 * widths[:, 0] + 10,
    latency_ms=lambda shapes: (shapes.out_channels[:, 0] * 0.5, np.zeros(len(shapes))),
    planned_memory_bytes=lambda widths: 100 * widths[:, 0],
)


def test_cheap_objectives_are_computed_for_many_candidates_at_once() -> None:
    values = objectives.costs(["latency", "macs", "params", "density", "peak_memory"], SOURCES)(np.array([[8], [4]]))
    assert values["latency"].tolist() == [4.0, 2.0]
    assert values["macs"].tolist() == [3 * 8 * 9 * 16 + 80, 3 * 4 * 9 * 16 + 40]
    assert values["params"].tolist() == [306.0, 158.0]
    assert values["density"].tolist() == [1.0, 158 / 306]
    assert values["peak_memory"].tolist() == [800.0, 400.0]


def test_shapes_are_derived_once_for_all_objectives() -> None:
    calls = []

    def counted(widths: np.ndarray) -> NetworkShapes:
        calls.append(len(widths))
        return two_layers(widths)

    sources = Sources(np.array([8]), shapes=counted, latency_ms=SOURCES.latency_ms)
    objectives.costs(["latency", "macs"], sources)(np.array([[8], [4]]))
    assert calls == [2]


def test_error_is_the_tasks_error_of_the_metric() -> None:
    candidates = Candidates(np.array([[8], [4]]), SOURCES, metrics=np.array([0.9, 0.25]))
    assert objectives.load("error").evaluate(candidates) == pytest.approx([0.1, 0.75])


def test_error_of_an_unevaluated_candidate_is_refused() -> None:
    with pytest.raises(ConfigError, match="evaluate the candidates"):
        objectives.load("error").evaluate(Candidates(np.array([[8]]), SOURCES))


def test_error_is_no_cheap_objective() -> None:
    with pytest.raises(ConfigError, match="'error' takes a true evaluation"):
        objectives.costs(["error"], SOURCES)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("energy", "remove it from 'objectives'"),
        ("latency", "hwprune device profile"),
        ("macs", "hwprune can trace"),
        ("params", "hwprune can cut"),
        ("density", "hwprune can cut"),
        ("peak_memory", "hwprune can compile"),
    ],
)
def test_objective_without_its_source_is_refused_with_a_remedy(name: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy) as refusal:
        objectives.costs([name], Sources(np.array([8])))(np.array([[8]]))
    assert refusal.value.exit_code == 2


def test_energy_is_read_where_the_device_has_a_meter() -> None:
    sources = Sources(np.array([8]), energy_mj=lambda widths: 2.0 * widths[:, 0])
    assert objectives.costs(["energy"], sources)(np.array([[8]]))["energy"].tolist() == [16.0]


def test_objective_is_found_by_name_and_by_column() -> None:
    assert objectives.find("latency_ms").name == objectives.find("latency").name == "latency"
    with pytest.raises(UnknownNameError, match="did you mean 'latency'"):
        objectives.find("latencyy")
