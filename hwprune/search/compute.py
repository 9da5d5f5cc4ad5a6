"""What a search spends on candidates beside the device's time: multiply-adds, forward and backward apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Multiply-adds backward for each one forward: the gradients of a layer's weights and of its inputs.
BACKWARD_PER_FORWARD = 2.0


@dataclass(frozen=True)
class Compute:
    """Multiply-adds in passes of the dense network over the validation images that candidates are judged on.

    Attributes:
        forward: of inference, re-estimated BatchNorm statistics included.
        backward: of training.
    """

    forward: float = 0.0
    backward: float = 0.0

    @property
    def total(self) -> float:
        """Both together."""
        return self.forward + self.backward

    def __add__(self, other: Compute) -> Compute:
        return Compute(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> Compute:
        return Compute(self.forward * times, self.backward * times)

    @classmethod
    def training(cls, forward: float) -> Compute:
        """Of training steps whose forward passes take ``forward``."""
        return cls(forward, BACKWARD_PER_FORWARD * forward)


@dataclass(frozen=True)
class Part:
    """What a part of a search has found, and what that took.

    Attributes:
        data: the finding as plain data, for the journal.
        compute: multiply-adds of it.
    """

    data: Mapping[str, Any]
    compute: Compute = Compute()
