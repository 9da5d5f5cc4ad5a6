"""A network as kernel calls on values in one arena: what shapes, memory and the library are all read from."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hwprune.compilation.arena import ArenaPlan, Life, align, plan_arena
from hwprune.compilation.kernels.kernel import Usage
from latency_models.shapes import LayerShape

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Value:
    """A tensor between calls.

    Attributes:
        storage: buffer that holds it; views share one.
        shape: as torch has it, batch first.
        blocked: whether channels lie in blocks; else contiguous, as torch has it.
        channels_last: whether the channels are the last dimension of ``shape`` (rows of features) and not the second.
    """

    storage: str
    shape: tuple[int, ...]
    blocked: bool
    channels_last: bool = False

    @property
    def channels(self) -> int:
        """Length of the dimension that blocks are made of."""
        return self.shape[-1 if self.channels_last else 1]


@dataclass(frozen=True)
class Place:
    """A position inside a storage.

    Attributes:
        storage: the buffer.
        offset_floats: float32 values before it, in every image.
        stride_floats: float32 values from one image to the next.
    """

    storage: str
    stride_floats: int
    offset_floats: int = 0


@dataclass
class Call:
    """One call of a kernel.

    Attributes:
        shape: the layer, for tables and predictors.
        specify: kernel, integers and buffer sizes; asked for when they are needed (a fallback has to be lowered first).
        inputs: what it reads.
        outputs: what it writes.
        pack: parameters as the kernel wants them.
    """

    shape: LayerShape
    specify: Callable[[], Usage]
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    pack: Callable[[Usage], Sequence[np.ndarray]] = lambda _: ()

    @functools.cached_property
    def usage(self) -> Usage:
        """Kernel, integers and buffer sizes."""
        return self.specify()


@dataclass
class Plan:
    """Calls in order.

    Attributes:
        batch: images an inference.
        threads: of an inference.
        inputs: the network's inputs.
        outputs: the network's outputs.
        calls: what is called.
        storages: float32 values of every storage, the whole batch.
    """

    batch: int
    threads: int = 1
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    calls: list[Call] = field(default_factory=list)
    storages: dict[str, int] = field(default_factory=dict)

    @functools.cached_property
    def outside(self) -> dict[str, tuple[str, int]]:
        """Storages that are the caller's: ``input`` or ``output``, and the float32 values before them."""
        places: dict[str, tuple[str, int]] = {}
        for pointer, values in (("input", self.inputs), ("output", self.outputs)):
            offset = 0
            for value in values:
                places[value.storage] = pointer, offset
                offset += math.prod(value.shape)
        return places

    @functools.cached_property
    def shared(self) -> dict[str, str]:
        """Storage -> the one whose place it takes, where a kernel may overwrite an input that nobody reads again."""
        last_reads = {place.storage: step for step, call in enumerate(self.calls) for place in call.inputs}
        shared: dict[str, str] = {}
        for step, call in enumerate(self.calls):
            if call.usage.in_place is None:
                continue
            old, new = call.inputs[call.usage.in_place].storage, call.outputs[0].storage
            readers = sum(place.storage == old for place in call.inputs)
            free = last_reads[old] == step and readers == 1 and old not in self.outside and new not in self.outside
            if free and old != new and self.storages[old] == self.storages[new]:
                shared[new] = shared.get(old, old)
        return shared

    @functools.cached_property
    def lives(self) -> dict[str, Life]:
        """Size and life of every storage of the arena and of each call's scratch (``step.index``)."""
        lives: dict[str, Life] = {}
        for step, call in enumerate(self.calls):
            for place in (*call.inputs, *call.outputs):
                name = self.shared.get(place.storage, place.storage)
                if name in self.outside:
                    continue
                life = lives.setdefault(name, Life(self.storages[name] * FLOAT_BYTES, step, step))
                life.last = step
            for index, size in enumerate(call.usage.scratch):
                lives[f"{step}.{index}"] = Life(size * FLOAT_BYTES, step, step)
        return lives

    @functools.cached_property
    def arena(self) -> ArenaPlan:
        """Where everything that lives lies."""
        return plan_arena(self.lives)

    @functools.cached_property
    def weights_bytes(self) -> int:
        """Packed parameters of all calls."""
        return sum(align(size * FLOAT_BYTES) for call in self.calls for size in call.usage.parameters)
