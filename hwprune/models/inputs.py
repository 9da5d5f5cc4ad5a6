"""What a network takes: name, type and fixed shape of every input, and example values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hwprune.errors import ConfigError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelInput:
    """One input.

    Attributes:
        name: as the file has it.
        dtype: type of its numbers, as torch names it.
        shape: fixed, batch first.
    """

    name: str
    dtype: str
    shape: Shape

    def example(self, generator: torch.Generator) -> Tensor:
        """Random numbers; zeros where numbers are whole, for they may be places in a table."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        if not dtype.is_floating_point:
            return torch.zeros(self.shape, dtype=dtype)
        return torch.randn(self.shape, generator=generator).to(dtype)

    @property
    def size_bytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * int(torch.empty(0, dtype=getattr(torch, self.dtype)).element_size())


def fixed_shape(name: str, sizes: Sequence[int | None] | None, given: Shape | None) -> Shape:
    """The shape of an input: what is given, else the file's; a first size that is free is a batch of one.

    Args:
        name: of the input.
        sizes: as the file has them, None for those that are free; None where it does not say how many there are.
        given: by the user.

    Raises:
        ConfigError: a size is free, or the given shape does not fit.
    """
    if given is not None:
        fits = sizes is None or (
            len(sizes) == len(given) and all(size in (None, 0, each) for size, each in zip(sizes, given, strict=True))
        )
        if not fits:
            raise ConfigError(f"input {name!r} is {_text(sizes or ())}, not {_text(given)}: correct --shape")
        return given
    if sizes is None or any(not size for size in sizes[1:]):
        told = "of any shape" if sizes is None else f"{_text(sizes)}, which leaves sizes free"
        raise ConfigError(f"input {name!r} is {told}: add --shape {name}=1x3x224x224 or whatever it is")
    return (sizes[0] or 1, *(size for size in sizes[1:] if size)) if sizes else ()


def _text(sizes: Sequence[int | None]) -> str:
    return "x".join("?" if not size else str(size) for size in sizes) or "a single number"
