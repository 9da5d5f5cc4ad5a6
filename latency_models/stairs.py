"""Where the latency of a layer makes a step as its channels grow: kernels compute whole vectors of channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latency_models.shapes import IntArray, LayerShape

#: Fewest lanes of a vector where few output channels have kernels of their own; these compute channels in steps of so
#: many parts of a block, and there are so many steps.
FEW_LANES_MIN, FEW_PARTS, FEW_STEPS = 8, 8, 6


@dataclass(frozen=True)
class Stair:
    """Channels are computed in steps of ``fine`` up to ``few`` of them, and in whole blocks beyond.

    Attributes:
        block: channels.
        fine: channels.
        few: channels.
    """

    block: int
    fine: int
    few: int

    @classmethod
    def of(cls, lanes: int) -> Stair:
        """What kernels for few channels make of vectors of so many lanes."""
        fine = max(1, lanes // FEW_PARTS)
        return cls(lanes, fine, fine * FEW_STEPS)

    def __str__(self) -> str:
        return f"{self.fine} up to {self.few}, then {self.block}"


#: Channels of a step, or steps of two sizes.
Step = int | Stair


def padded(channels: IntArray, step: Step) -> IntArray:
    """Channels rounded up to whole steps."""
    if isinstance(step, Stair):
        whole = np.where(channels <= step.few, padded(channels, step.fine), padded(channels, step.block))
        return np.asarray(whole, dtype=np.int64)
    return -(-channels // step) * step


def finest(step: Step) -> int:
    """Channels of the smallest step."""
    return step.fine if isinstance(step, Stair) else step


def few_layout(lanes: int) -> str:
    """Name of the layout that has channels contiguous where they are few, else in blocks."""
    return f"few{lanes}c"


def out_step(template: LayerShape, lanes: int) -> Step:
    """Step of the output channels that a layer's layout tells."""
    return Stair.of(lanes) if template.layout.rpartition("-")[2].startswith("few") else lanes
