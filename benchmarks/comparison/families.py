"""Families of layer shapes, and the speeds that are asked of each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from comparison.chains import IMAGE_CHANNELS, Case

#: Every width to here, and so many sampled ones beyond it, to the largest.
WIDTHS_ALL, WIDTHS_SAMPLED, WIDTH_MAX = 64, 32, 512

#: Around vectors' lengths, where a schedule that only likes whole blocks falls.
WIDTHS_QUICK = (1, 15, 16, 17, 33, 48, 64, 65, 97)

#: No shape may be slower than ONNX Runtime by more, and no width slower than a larger one by more.
SHAPE_MIN, STEP_MAX, UNTUNED_MIN = 0.85, 1.10, 40.0

NETWORKS_224 = ("resnet18", "mobilenet_v2")


@dataclass(frozen=True)
class Family:
    """Layer shapes that are judged together.

    Attributes:
        name: as the result has it.
        geomean_min: ONNX Runtime's time over ours that is asked for, geometric mean.
        of_width: case of a width; None where a network's own shapes are the family.
        untuned: widths that are compared with TVM's unscheduled code; none where that is not asked for.
        op: kind of layers of a network, where ``of_width`` is None.
        kernel: their window.
    """

    name: str
    geomean_min: float
    of_width: Callable[[int], Case] | None = None
    untuned: tuple[int, ...] = ()
    op: Literal["conv", "depthwise"] = "conv"
    kernel: int = 1

    def cases(self, quick: bool, widths: Sequence[int] = ()) -> list[Case]:
        """What is measured; ``widths`` instead of the family's own where there are any."""
        if self.of_width:
            return [self.of_width(width) for width in widths or (WIDTHS_QUICK if quick else all_widths())]
        shapes = [case for case in shapes_224() if (case.op, case.kernel) == (self.op, self.kernel)]
        return shapes[::4] if quick else [*shapes, *map(_three_quarters, shapes), *map(_half_and_one, shapes)]

    def untuned_cases(self, quick: bool, widths: Sequence[int] = ()) -> list[Case]:
        """What is compared with TVM's unscheduled code: with ``quick`` two shapes, with widths of one's own none."""
        if self.of_width is None or widths:
            return []
        return [self.of_width(width) for width in (self.untuned[:2] if quick else self.untuned)]


def _image(op: Literal["conv", "depthwise"], size: int, kernel: int, stride: int = 1) -> Callable[[int], Case]:
    return lambda width: Case(op, width, width, size, kernel, stride)


FAMILIES = (
    Family("conv3x3_32", 1.25, _image("conv", 32, 3), (16, 33, 64)),
    Family("conv3x3_16", 1.25, _image("conv", 16, 3), (16, 33, 64, 128)),
    Family("conv3x3_8", 1.25, _image("conv", 8, 3), (16, 33, 64, 128)),
    Family("conv1x1_14", 1.1, _image("conv", 14, 1)),
    Family("conv3x3_stride2_32", 1.25, _image("conv", 32, 3, 2), (16, 33, 64)),
    Family("depthwise3x3_28", 1.1, _image("depthwise", 28, 3)),
    Family("dense", 1.1, lambda width: Case("dense", width, width)),
    Family("conv3x3_net224", 1.0, kernel=3),
    Family("conv1x1_net224", 1.0, kernel=1),
    Family("depthwise3x3_net224", 1.0, op="depthwise", kernel=3),
)


@functools.cache
def all_widths() -> tuple[int, ...]:
    """1 to 64 and as many as are sampled to 512: by a fixed seed, evenly in their logarithm, without repeats."""
    beyond = np.arange(WIDTHS_ALL + 1, WIDTH_MAX + 1)
    chosen = np.random.default_rng(0).choice(beyond, WIDTHS_SAMPLED, replace=False, p=(1 / beyond) / (1 / beyond).sum())
    return (*range(1, WIDTHS_ALL + 1), *sorted(map(int, chosen)))


@functools.cache
def shapes_224() -> tuple[Case, ...]:
    """Shapes of the 1x1 and 3x3 convolutions of the networks at 224x224 pixels, each once, in order."""
    found: dict[Case, None] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        op: Literal["conv", "depthwise"] = "conv" if layer.groups == 1 else "depthwise"
        found[
            Case(op, layer.in_channels, layer.out_channels, inputs[0].shape[2], layer.kernel_size[0], layer.stride[0])
        ] = None

    with torch.device("meta"), torch.no_grad():  # shapes alone: nothing is computed
        for name in NETWORKS_224:
            network = torchvision.models.get_model(name, weights=None).eval()
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d) and layer.kernel_size in ((1, 1), (3, 3)):
                    layer.register_forward_hook(note)
            network(torch.zeros(1, 3, 224, 224))
    return tuple(found)


def _three_quarters(case: Case) -> Case:
    return _pruned(case, lambda width: width * 3 // 4)


def _half_and_one(case: Case) -> Case:
    return _pruned(case, lambda width: width // 2 + 1)


def _pruned(case: Case, width: Callable[[int], int]) -> Case:
    """The case with fewer channels; those of an image stay."""
    in_channels = case.in_channels if case.in_channels <= IMAGE_CHANNELS else width(case.in_channels)
    return replace(case, in_channels=in_channels, out_channels=width(case.out_channels))
