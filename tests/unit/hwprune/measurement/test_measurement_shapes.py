from collections.abc import Sequence

import numpy as np
import pytest

from hwprune.errors import TraceError
from hwprune.measurement.shapes import ShapeArithmetic
from latency_models.shapes import LayerShape

SIZES = (8, 16, 1)


def conv(in_channels: int, out_channels: int) -> LayerShape:
    return LayerShape("conv2d", in_channels, out_channels, 6, 5, kernel=(3, 3), padding=(1, 1))


def small_network(widths: Sequence[int]) -> list[LayerShape]:
    """Two convolutions, a concatenation with four constant channels, and a classifier on the flattened 6x5 map."""
    first, second, third = widths
    return [conv(3, first), conv(first + 4, second), LayerShape("dense", (second + first) * 30, 10 + third, 1, 1)]


def test_the_dense_widths_give_the_dense_layers() -> None:
    assert ShapeArithmetic.learn(small_network, SIZES)([SIZES]).row(0) == tuple(small_network(SIZES))


def test_all_widths_give_the_layers_that_cutting_gives() -> None:
    arithmetic = ShapeArithmetic.learn(small_network, SIZES)
    widths = np.stack(np.meshgrid(np.arange(1, 9), np.arange(1, 17), [1]), axis=-1).reshape(-1, 3)
    shapes = arithmetic(widths)
    assert len(shapes) == 128
    for index, row in enumerate(widths.tolist()):
        assert shapes.row(index) == tuple(small_network(row))


def test_channel_counts_are_exact_integers_of_networks_as_wide_as_they_come() -> None:
    def wide(widths: Sequence[int]) -> list[LayerShape]:
        return [LayerShape("dense", widths[0] * 4096, widths[1], 1, 1)]

    shapes = ShapeArithmetic.learn(wide, (65536, 65536))([[65521, 3]])
    assert shapes.in_channels.tolist() == [[65521 * 4096]]
    assert shapes.in_channels.dtype == np.int64


def test_a_product_of_widths_is_refused() -> None:
    def product(widths: Sequence[int]) -> list[LayerShape]:
        return [conv(widths[0] * widths[1], 4)]

    with pytest.raises(TraceError, match=r"layer 0 \(conv2d\).*protect the layers"):
        ShapeArithmetic.learn(product, (8, 16))


def test_a_layer_that_comes_and_goes_is_refused() -> None:
    def sometimes(widths: Sequence[int]) -> list[LayerShape]:
        return [conv(3, widths[0])] * (1 if widths[0] < 8 else 2)

    with pytest.raises(TraceError, match="more than their channels: protect"):
        ShapeArithmetic.learn(sometimes, (8,))


def test_grouped_convolutions_lose_whole_groups() -> None:
    def grouped(widths: Sequence[int]) -> list[LayerShape]:
        return [LayerShape("conv2d_grouped", 4 * widths[0], 6 * widths[0], 8, 8, group_channels=4)]

    assert ShapeArithmetic.learn(grouped, (8,))([[3]]).row(0) == tuple(grouped([3]))


def test_a_layer_whose_groups_follow_the_width_is_refused() -> None:
    def grouped(widths: Sequence[int]) -> list[LayerShape]:
        return [LayerShape("conv2d_grouped", 4 * widths[0], 4 * widths[0], 8, 8, group_channels=widths[0])]

    with pytest.raises(TraceError, match="more than their channels: protect"):
        ShapeArithmetic.learn(grouped, (8,))
