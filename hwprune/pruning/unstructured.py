"""Single weights: a row of bits over all weights of a network's convolutions and linear layers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hwprune.pruning.layers import is_producer

Bits = NDArray[np.bool_]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class WeightLayout:
    """Where each weight that may be dropped stands in one long row; biases and BatchNorm are not among them.

    Attributes:
        names: parameters in the order of the layers (``layer1.0.conv1.weight``).
        shapes: of each.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, module: nn.Module) -> WeightLayout:
        """Layout of a dense network."""
        found: dict[int, tuple[str, tuple[int, ...]]] = {}  # by parameter: layers may share one
        for name, layer in module.named_modules():
            weight = layer._parameters.get("weight") if is_producer(layer) else None
            if weight is not None:
                found.setdefault(id(weight), (f"{name}.weight", tuple(weight.shape)))
        return cls(tuple(name for name, _ in found.values()), tuple(shape for _, shape in found.values()))

    @functools.cached_property
    def starts(self) -> NDArray[np.int64]:
        """``(layers + 1,)`` first bit of every parameter, and the number of all bits."""
        return np.cumsum([0, *(math.prod(shape) for shape in self.shapes)])

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(self.starts[-1])

    def slices(self) -> Iterator[tuple[str, tuple[int, ...], slice]]:
        """Name, shape and place of every parameter."""
        for index, (name, shape) in enumerate(zip(self.names, self.shapes, strict=True)):
            yield name, shape, slice(int(self.starts[index]), int(self.starts[index + 1]))

    def row(self, module: nn.Module) -> FloatArray:
        """``(size,)`` weights of a network with the layout's shapes."""
        with torch.no_grad():
            return torch.cat([module.get_parameter(name).flatten() for name in self.names]).float().numpy()

    def pack(self, bits: Bits) -> bytes:
        """``(size,)`` bits as a plan holds them."""
        return np.packbits(bits).tobytes()

    def unpack(self, mask: bytes) -> Bits:
        """``(size,)`` bits of a plan's mask."""
        return np.unpackbits(np.frombuffer(mask, np.uint8), count=self.size).view(np.bool_)
