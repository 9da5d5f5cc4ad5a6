"""Kernels written as loops over vectors instead of scheduled: LLVM gets them as they stand.

TVM's lowering passes take twice as long as LLVM, and their common subexpressions keep more values alive than there are
registers (docs/compilation.md); code that is written out needs none of them but VectorizeLoop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from hwprune.compilation.kernels.tensor import ZERO

#: Attribute of a function that is not to be lowered any more.
EXPLICIT = "hwprune.explicit"

#: Buffers have no size of their own here: offsets are counted from where the caller points.
_UNBOUNDED = 1 << 30


def function(symbol: str, numbers: Sequence[str], buffers: Sequence[str], body: Callable[..., None]) -> Any:
    """TIR function of integers and float32 pointers; ``body`` gets them in this order and writes the statements."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(symbol)
        T.func_attr({EXPLICIT: True})
        arguments = [T.arg(name, T.int32()) for name in numbers]
        arguments += [T.arg(name, T.buffer((_UNBOUNDED,), "float32")) for name in buffers]
        body(*arguments)
    return builder.get()


def loop(extent: Any) -> Any:
    """Context of a loop from 0, or from the first to before the last of two; it gives the counter."""
    return T.serial(*extent) if isinstance(extent, tuple) else T.serial(0, extent)


def select(condition: Any, one: Any, other: Any) -> Any:
    """The one where the condition holds, else the other."""
    return tirx.Select(condition, one, other)


def inside(low: Any, value: Any, high: Any) -> Any:
    """The value, or the bound that it lies beyond."""
    return T.max(T.min(value, high), low)


def between(value: Any, end: Any, body: Callable[[], None]) -> None:
    """Run ``body`` where the value is at least 0 and before ``end``."""
    with T.If(tirx.all(value >= 0, value < end)), T.Then():
        body()


def bind(value: Any) -> Any:
    """A name for a value that is used several times."""
    return T.Bind(value)


def long(value: Any) -> Any:
    """The integer with 64 bits: constants that are added to it become part of the address of a load."""
    return T.cast(value, "int64")


def when(flags: Any, bit: int, body: Callable[[], None]) -> None:
    """Run ``body`` where the bit of ``flags`` is set."""
    with T.If(tirx.bitwise_and(flags, tirx.const(bit, "int32")) != 0), T.Then():
        body()


class Vectors:
    """Vectors of ``lanes`` values in a buffer of the caller's."""

    def __init__(self, buffer: Any, lanes: int) -> None:
        self._buffer = buffer
        self._lanes = lanes

    def __getitem__(self, offset: Any) -> Any:
        return self._buffer[T.ramp(offset, 1, self._lanes)]

    def __setitem__(self, offset: Any, value: Any) -> None:
        T.buffer_store(self._buffer, value, [T.ramp(offset, 1, self._lanes)])

    def clear(self, offset: Any) -> None:
        """Set a vector to zero."""
        self[offset] = self.zeros()

    def prefetch(self, offset: Any) -> None:
        """Ask for the cache line at ``offset``; it may lie beyond the buffer."""
        T.evaluate(tirx.call_intrin("void", "tirx.prefetch", T.address_of(self._buffer[offset]), 0, 2, 1))

    def spread(self, offset: Any) -> Any:
        """One value in every lane."""
        return T.broadcast(self._buffer[offset], self._lanes)

    def zeros(self) -> Any:
        """A vector of zeros."""
        return T.broadcast(ZERO, self._lanes)

    def spread_lane(self, vector: Any, lane: int) -> Any:
        """One value of a vector in every lane."""
        return T.broadcast(tirx.Shuffle([vector], [tirx.const(lane, "int32")]), self._lanes)


def transposed(rows: Sequence[Any]) -> Sequence[Any]:
    """Columns of a square of vectors: its two halves are interleaved row by row, as often as halving leads to one."""
    lanes = len(rows)
    low = [index // 2 + index % 2 * lanes for index in range(lanes)]
    high = [index + lanes // 2 for index in low]
    for _ in range(lanes.bit_length() - 1):
        pairs = zip(rows[: lanes // 2], rows[lanes // 2 :], strict=True)
        rows = [bind(tirx.Shuffle(list(pair), picks)) for pair in pairs for picks in (low, high)]
    return rows


class Sums:
    """Vectors in registers: local memory that is only read and written whole, at fixed places."""

    def __init__(self, count: int, lanes: int) -> None:
        self._buffer = T.alloc_buffer((count * lanes,), "float32", scope="local")
        self._vectors = Vectors(self._buffer, lanes)
        self._count = count
        self._lanes = lanes

    def __getitem__(self, index: int) -> Any:
        return self._vectors[index * self._lanes]

    def __setitem__(self, index: int, value: Any) -> None:
        self._vectors[index * self._lanes] = value

    def apply(self, function: Callable[[Any], Any], *indices: int) -> None:
        """Replace the values of some vectors, or of all, by ``function`` of them."""
        for index in indices or range(self._count):
            with T.vectorized(0, self._lanes) as lane:
                place = index * self._lanes + lane
                T.buffer_store(self._buffer, function(self._buffer[place]), [place])

    def clear(self) -> None:
        """Set all to zero."""
        for index in range(self._count):
            self[index] = T.broadcast(ZERO, self._lanes)
