"""What every kernel is: a key, a C function of integers and float pointers, and the sizes of its buffers."""

from __future__ import annotations

import abc
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

#: Float32 values of a cache line.
FLOATS_A_LINE = 16


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
    def parts(self) -> tuple[Kernel, ...]:
        """Kernels whose object files are linked for this one: itself, or those that its glue calls."""
        return (self,)

    @property
    def glue(self) -> str:
        """C text that defines the function from those of its parts; "" where its own object defines it."""
        return ""

    @property
    def is_composite(self) -> bool:
        """Whether its object file is made of its glue alone."""
        return self not in self.parts

    @abc.abstractmethod
    def build(self) -> dict[str, Any]:
        """Scheduled TIR functions of the object file by symbol."""


@dataclass(frozen=True)
class Share:
    """What one thread does of a use of a kernel; nothing, if the integer that counts its part is zero.

    Attributes:
        numbers: integer arguments.
        offsets: float32 values before its part of each buffer, in the order of the arguments.
    """

    numbers: tuple[int, ...]
    offsets: tuple[int, ...]


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
        shares: what every thread does; empty if one thread does all.
    """

    kernel: Kernel
    numbers: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: tuple[int, ...] = ()
    scratch: tuple[int, ...] = ()
    in_place: int | None = None
    whole_batch: bool = False
    shares: tuple[Share, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values of all buffers, in the order of the arguments."""
        return (*self.inputs, *self.parameters, *self.outputs, *self.scratch)

    @property
    def integers(self) -> tuple[int, ...]:
        """What a kernel pack is called with: the integers, or those of all shares with their offsets."""
        shares = (number for share in self.shares for number in (*share.numbers, *share.offsets))
        return tuple(shares) if self.shares else self.numbers


def even_spans(length: int, parts: int) -> list[tuple[int, int]]:
    """Begin and length of parts that differ by one at most, the longer first; where there is too little, some get 0."""
    size, longer = divmod(length, parts)
    return [(part * size + min(part, longer), size + (part < longer)) for part in range(parts)]


def divided(
    usage: Usage, threads: int, count: int, numbers: Callable[[int, int], tuple[int, ...]], steps: Sequence[int]
) -> Usage:
    """The usage, shared by threads, each with scratch of its own.

    Args:
        usage: of one thread.
        threads: how many there are.
        count: units that are to be shared.
        numbers: first unit and count of units -> integer arguments.
        steps: float32 values of a unit in each input, parameter and output; 0 where all threads need all of it.
    """
    if threads == 1:
        return usage
    scratch = [-(-size // FLOATS_A_LINE) * FLOATS_A_LINE for size in usage.scratch]
    shares = []
    for thread, (first, size) in enumerate(even_spans(count, threads)):
        offsets = [first * step for step in steps] + [thread * size for size in scratch]
        shares.append(Share(numbers(first, size), tuple(offsets)))
    return replace(usage, scratch=tuple(threads * size for size in scratch), shares=tuple(shares))


def divided_by_blocks(usage: Usage, threads: int) -> Usage:
    """The usage of a kernel whose first integer counts the units of all its buffers, shared by threads."""
    count, *others = usage.numbers
    return divided(usage, threads, count, lambda _, size: (size, *others), [size // count for size in usage.sizes])


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
