"""One node of an ONNX graph while the network runs: its attributes, and operands that are known or computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hwprune.errors import TraceError

#: What a node reads: an array that is known before anything runs (weights, shapes), or a value that is computed.
Operand = Tensor | npt.NDArray[Any]

#: Keeps an array as a parameter of the network and gives the parameter: arrays that computed values meet.
Keep = Callable[[str, npt.NDArray[Any]], Tensor]


class UnreadableError(TraceError):
    """An operator that has no reading, in this version of it or with these attributes."""


@dataclass(frozen=True)
class OnnxNode:
    """What an operator is read from.

    Attributes:
        op: the operator.
        name: of the node, for people.
        opset: version of ONNX's operators.
        attributes: by name, as Python has them; arrays for tensors.
        operands: in order; None for those that are left out.
        outputs: names of its results, "" for those that nobody reads.
        keep: keeps arrays of this node under names of its own.
    """

    op: str
    name: str
    opset: int
    attributes: dict[str, Any]
    operands: Sequence[Operand | None]
    outputs: Sequence[str]
    keep: Keep

    def has(self, index: int) -> bool:
        """Whether an operand is given."""
        return index < len(self.operands) and self.operands[index] is not None

    def tensor(self, index: int) -> Tensor:
        """An operand as a tensor.

        Raises:
            UnreadableError: it is left out.
        """
        operand = self.operands[index] if self.has(index) else None
        if operand is None:
            raise self.unreadable(f"without operand {index}")
        return operand if isinstance(operand, Tensor) else self.keep(f"operand{index}", operand)

    def known(self, index: int) -> npt.NDArray[Any] | None:
        """An operand that is known; None if it is left out or computed."""
        operand = self.operands[index] if self.has(index) else None
        return None if isinstance(operand, Tensor) else operand

    def either(self, index: int) -> Tensor | float | int | bool:
        """An operand of arithmetic: a tensor, or a single known number as Python has it."""
        known = self.known(index)
        return known.item() if known is not None and known.size == 1 and known.ndim <= 1 else self.tensor(index)

    def get(self, attribute: str, default: Any = None) -> Any:
        """An attribute, or what stands for it."""
        return self.attributes.get(attribute, default)

    def option(self, attribute: str, index: int, default: Any = None) -> Any:
        """What older versions have as an attribute and newer ones as a known operand; lists of numbers for arrays.

        Raises:
            UnreadableError: the operand is computed, so that shapes would depend on the data.
        """
        if attribute in self.attributes:
            return self.attributes[attribute]
        if not self.has(index):
            return default
        known = self.known(index)
        if known is None:
            raise self.unreadable(f"with {attribute} that are computed from the input")
        return known.tolist()

    def unreadable(self, why: str) -> UnreadableError:
        """The error that names this operator."""
        name = f" (node {self.name!r})" if self.name else ""
        return UnreadableError(
            f"ONNX operator {self.op} of opset {self.opset} {why} cannot be read{name}: replace it in the network, or "
            "have ONNX Runtime run it (--engine onnxruntime)"
        )


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """An array as a tensor of its own memory."""
    return torch.from_numpy(np.array(array, order="C"))
