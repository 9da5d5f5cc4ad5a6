"""Layer shapes of many candidates by arithmetic: no cutting, no tracing, no compiling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from hwprune.errors import TraceError
from latency_models.shapes import LayerShape, NetworkShapes

#: What a network looks like at given widths of its groups, found the slow way: cut it and read its graph.
ShapesAt = Callable[[Sequence[int]], Sequence[LayerShape]]

_CHECKS = 3

#: Candidates worked on at a time: their arrays stay in a core's own cache.
_CHUNK = 1 << 11


@dataclass(frozen=True)
class ShapeArithmetic:
    """The layers' channel counts as an affine function of the groups' widths, learnt by finite differences.

    A channel count is a sum of widths of groups, times the pixels where a map is flattened, plus what no group owns.
    So the dense network and the networks with one unit less in one group tell everything.

    Attributes:
        templates: the L layers of the dense network.
        sizes: ``(G,)`` dense widths of the groups.
        slopes: ``(G, 2 L)`` channels a unit of a group adds to each layer's input, then to each layer's output.
        dense: ``(2 L,)`` channel counts of the dense network, inputs first.
    """

    templates: tuple[LayerShape, ...]
    sizes: npt.NDArray[np.float64]
    slopes: npt.NDArray[np.float64]
    dense: npt.NDArray[np.float64]

    @classmethod
    def learn(cls, shapes_at: ShapesAt, sizes: Iterable[int], *, seed: int = 0) -> Self:
        """Probe a network at its dense widths and at one unit less in each group, and check random widths.

        Args:
            shapes_at: layer shapes at given widths, ``lambda widths: graph.shapes(slicer.cut(plan_of(widths)))``.
            sizes: dense width of every group.
            seed: of the random widths.

        Raises:
            TraceError: the layers change with the widths in another way than by their channel counts, or the counts
                are not affine in the widths.
        """
        widths = [int(size) for size in sizes]
        layers = tuple(shapes_at(widths))
        dense = _channels(layers)
        slopes = np.zeros((len(widths), len(dense)))
        for group, size in enumerate(widths):
            if size > 1:  # a group of one unit is never pruned
                narrower = [*widths[:group], size - 1, *widths[group + 1 :]]
                slopes[group] = dense - _channels(_alike(shapes_at(narrower), layers, narrower))
        arithmetic = cls(layers, np.asarray(widths, dtype=np.float64), slopes, dense)
        generator = np.random.default_rng(seed)
        for _ in range(_CHECKS):
            random_widths = [int(generator.integers(1, size + 1)) for size in widths]
            expected = tuple(_alike(shapes_at(random_widths), layers, random_widths))
            predicted = arithmetic(np.asarray([random_widths])).row(0)
            for number, (found, wanted) in enumerate(zip(predicted, expected, strict=True)):
                if found != wanted:
                    raise TraceError(
                        f"layer {number} ({wanted.op}) has {wanted.in_channels} -> {wanted.out_channels} channels at "
                        f"widths {random_widths}, not {found.in_channels} -> {found.out_channels} as a sum of its "
                        "groups' widths would be: protect the layers whose shape depends on widths in another way"
                    )
        return arithmetic

    def __call__(self, widths: npt.ArrayLike) -> NetworkShapes:
        """Layer shapes of ``(n, G)`` widths; some 10^5 candidates a second."""
        less = np.asarray(widths, dtype=np.float64) - self.sizes
        counts = np.empty((len(less), len(self.dense)), dtype=np.int64)
        for start in range(0, len(less), _CHUNK):
            part = slice(start, start + _CHUNK)
            # In floats, whose matrix product is fast and, far below 2^53, exact.
            counts[part] = np.rint(self.dense + less[part] @ self.slopes)
        layers = len(self.templates)
        return NetworkShapes(self.templates, counts[:, :layers], counts[:, layers:])


def _channels(layers: Sequence[LayerShape]) -> npt.NDArray[np.float64]:
    inputs, outputs = [layer.in_channels for layer in layers], [layer.out_channels for layer in layers]
    return np.asarray(inputs + outputs, dtype=np.float64)


def _alike(layers: Sequence[LayerShape], dense: Sequence[LayerShape], widths: Sequence[int]) -> Sequence[LayerShape]:
    """``layers``, if they are the dense network's in all but their channel counts."""
    if [layer.template for layer in layers] != [layer.template for layer in dense]:
        raise TraceError(
            f"the network's layers at widths {list(widths)} differ from the dense network's in more than their "
            "channels: protect the layers that change with the widths"
        )
    return layers
