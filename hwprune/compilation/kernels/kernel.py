"""What every kernel is: a key, a C function of integers and float pointers, and the sizes of its buffers."""

from __future__ import annotations

import abc
import functools
import re
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

#: Epilogues that a kernel can apply to its values.
ACTIVATIONS = ("relu", "relu6", "silu", "sigmoid", "hardswish", "hardsigmoid")


@dataclass(frozen=True)
class Kernel(abc.ABC):
    """What one C function is compiled for; equal kernels share an object file.

    The function takes, in this order: integers, inputs, parameters, outputs, scratch.

    Attributes:
        lanes: channels of a block, one vector register.
    """

    lanes: int

    @functools.cached_property
    def symbol(self) -> str:
        """Name of the C function, made of all that the kernel is compiled for."""
        words = [_word(getattr(self, field.name)) for field in fields(self)]
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
        return "_".join(["hw", name, *(word for word in words if word)])

    @property
    def glue(self) -> str:
        """C text that defines the function from those of the object file; "" where the object defines it."""
        return ""

    @abc.abstractmethod
    def build(self) -> dict[str, Any]:
        """Scheduled TIR functions of the object file by symbol."""


@dataclass(frozen=True)
class Usage:
    """One use of a kernel: its integers and the float32 values of its buffers.

    Attributes:
        kernel: what is called.
        numbers: integer arguments (channel counts).
        inputs: values of each input.
        outputs: values of each output.
        parameters: values of each packed parameter.
        scratch: values of each scratch buffer.
        in_place: input that the output may overwrite, or None.
        whole_batch: whether one call does all images (the sizes are then the batch's); else there is a call an image.
    """

    kernel: Kernel
    numbers: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: tuple[int, ...] = ()
    scratch: tuple[int, ...] = ()
    in_place: int | None = None
    whole_batch: bool = False


def split_epilogue(epilogue: str) -> tuple[bool, str]:
    """``add+relu`` -> (True, ``relu``): whether a residual is added, and the activation."""
    words = epilogue.split("+") if epilogue else []
    return "add" in words, next((word for word in words if word != "add"), "")


def blocks_of(channels: int, lanes: int) -> int:
    """Blocks of ``lanes`` channels that hold ``channels``."""
    return -(-channels // lanes)


def _word(value: Any) -> str:
    """Part of a symbol: letters, digits and underscores."""
    if is_dataclass(value):
        return "_".join(_word(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, tuple):
        return "x".join(map(_word, value))
    if isinstance(value, bool):
        return str(int(value))
    return re.sub(r"\W+", "_", str(value))
