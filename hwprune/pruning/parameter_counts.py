"""Parameters of a pruned network from its widths alone, exact and for many plans at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hwprune.pruning.layers import Side, channel_axes
from hwprune.pruning.plan import Groups


@dataclass(frozen=True)
class ParameterCounts:
    """Total parameters as a polynomial in the channels of the layer sides, which are affine in the groups' widths.

    Attributes:
        dense: ``(S,)`` channels of every side of the dense network.
        slopes: ``(G, S)`` channels that a side loses with one unit of a group.
        sizes: ``(G,)`` units of every group in the dense network.
        constant: parameters that no group touches.
        linear: ``(S,)`` parameters a channel of tensors with one pruned axis.
        pairs: of tensors with two pruned axes: their sides and the parameters of one pair of channels.
    """

    dense: NDArray[np.int64]
    slopes: NDArray[np.int64]
    sizes: NDArray[np.int64]
    constant: int
    linear: NDArray[np.int64]
    pairs: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, module: nn.Module, groups: Groups, channels: Mapping[tuple[str, Side], int]) -> ParameterCounts:
        """Coefficients of a network."""
        column = {place: number for number, place in enumerate(channels)}
        slopes = np.zeros((len(groups), len(column)), dtype=np.int64)
        for row, group in enumerate(groups):
            for member in group.members:
                slopes[row, column[member.module, member.side]] += member.indices.shape[1]
        constant, linear, pairs = 0, np.zeros(len(column), dtype=np.int64), []
        seen: set[int] = set()
        for name, layer in module.named_modules():
            axes = channel_axes(layer)
            for key, tensor in layer.named_parameters(recurse=False):
                if id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                sides = axes.tensors.get(key, {}) if axes else {}
                pruned = [(axis, column[name, side]) for axis, side in sides.items() if (name, side) in column]
                each = tensor.numel() // int(np.prod([tensor.shape[axis] for axis, _ in pruned], dtype=np.int64))
                match [side for _, side in pruned]:
                    case []:
                        constant += each
                    case [side]:
                        linear[side] += each
                    case [first, second]:
                        pairs.append((first, second, each))
        dense = np.array(list(channels.values()), dtype=np.int64)
        return cls(dense, slopes, groups.sizes, constant, linear, tuple(pairs))

    def __call__(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """``(n,)`` totals of an ``(n, G)`` array of widths."""
        channels = self.dense - (self.sizes - widths) @ self.slopes
        totals: NDArray[np.int64] = self.constant + channels @ self.linear
        for first, second, each in self.pairs:
            totals += each * channels[:, first] * channels[:, second]
        return totals
