"""TIR of the sparse convolution: it loops over lists of weights, which no schedule of a tensor expression can say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from hwprune.compilation.kernels.explicit import transposed
from hwprune.compilation.kernels.tensor import activate

if TYPE_CHECKING:
    from hwprune.compilation.kernels.sparse import SparseConv

#: Length of every argument: they are pointers in the end, and nobody checks.
ANY_LENGTH = 1 << 30


def function(kernel: SparseConv) -> Any:
    """The kernel's TIR function.

    Its arguments: in_blocks, out_blocks, chunks, input, (residual,) lists, begins, bias, output, planes, sums.
    """
    height, width = kernel.window.out
    rows, columns = kernel.tile
    with IRBuilder() as builder:
        with T.prim_func():
            T.func_name(kernel.symbol)
            in_blocks, out_blocks, chunks = (T.arg(name, T.int32()) for name in ("in_blocks", "out_blocks", "chunks"))
            names = ["x", *(["residual"] if kernel.add else []), "lists", "begins", "bias", "out", "planes", "sums"]
            arrays = {name: _Array(T.arg(name, T.buffer((ANY_LENGTH,), layout=None)), kernel.lanes) for name in names}
            code = _Code(kernel, arrays, in_blocks, out_blocks)
            with T.serial(0, height // rows * (width // columns)) as tile:
                y = T.Bind(tile // (width // columns) * rows)
                x = T.Bind(tile % (width // columns) * columns)
                code.begin()
                with T.serial(0, chunks) as chunk:
                    code.expand(chunk, y, x)
                    code.apply(chunk)
                code.finish(y * width + x)
        return builder.get()


@dataclass(frozen=True)
class _Array:
    """Memory that is read and written a vector at a time."""

    buffer: Any
    lanes: int

    def __getitem__(self, index: Any) -> Any:
        return self.buffer[T.Ramp(index, 1, self.lanes)]

    def __setitem__(self, index: Any, value: Any) -> None:
        T.buffer_store(self.buffer, value, [T.Ramp(index, 1, self.lanes)])

    def number(self, index: Any) -> Any:
        """A float of it as the integer that has its bits."""
        return T.reinterpret("int32", self.buffer[index])


@dataclass(frozen=True)
class _Code:
    """Parts of the function, each added to it where it is called.

    Attributes:
        kernel: what it is compiled for.
        arrays: arguments by name.
        in_blocks: argument.
        out_blocks: argument.
    """

    kernel: SparseConv
    arrays: dict[str, _Array]
    in_blocks: Any
    out_blocks: Any

    @property
    def out_channels(self) -> Any:
        """Output channels of whole blocks."""
        return self.out_blocks * self.kernel.lanes

    def begin(self) -> None:
        """The tile's sums are the bias."""
        lanes, vectors = self.kernel.lanes, self.kernel.vectors
        with T.serial(0, self.out_channels) as channel:
            for v in range(vectors):
                bias = T.Broadcast(self.arrays["bias"].buffer[channel], lanes)
                self.arrays["sums"][(channel * vectors + v) * lanes] = bias

    def expand(self, chunk: Any, y: Any, x: Any) -> None:
        """Planes of a chunk of input blocks, for the tile whose first output pixel is (y, x)."""
        kernel, lanes, taps_x = self.kernel, self.kernel.lanes, self.kernel.window.kernel[1]
        with T.serial(0, T.min(self.in_blocks - chunk * kernel.chunk, kernel.chunk)) as block:
            for number, phase in enumerate(kernel.phases):
                with T.serial(0, taps_x) as tap, T.serial(0, kernel.plane // lanes) as group:
                    pixels = self._local(lanes)
                    with T.serial(0, lanes) as lane:
                        pixels[lane * lanes] = self._pixel(
                            chunk * kernel.chunk + block, y, x, (phase, tap), group * lanes + lane
                        )
                    for lane, value in enumerate(transposed([pixels[lane * lanes] for lane in range(lanes)])):
                        plane = ((block * lanes + lane) * len(kernel.phases) + number) * taps_x + tap
                        self.arrays["planes"][plane * kernel.plane + group * lanes] = value

    def _local(self, vectors: int) -> _Array:
        """Memory on the stack, or registers where every index is known."""
        lanes = self.kernel.lanes
        return _Array(T.alloc_buffer((vectors * lanes,), scope="local", layout=None), lanes)

    def _pixel(self, block: Any, y: Any, x: Any, plane: tuple[int, Any], number: Any) -> Any:
        """All channels of the ``number``-th pixel of the plane of (phase, tap); zeros outside the image."""
        window, columns, lanes = self.kernel.window, self.kernel.tile[1], self.kernel.lanes
        height, width = window.size
        row = T.Bind((y + number // columns) * window.stride[0] + plane[0] - window.padding[0])
        column = T.Bind((x + number % columns) * window.stride[1] + plane[1] * window.dilation[1] - window.padding[1])
        inside = T.And(T.And(row >= 0, row < height), T.And(column >= 0, column < width))
        value = self.arrays["x"][((block * height + row) * width + column) * lanes]
        return T.if_then_else(inside, value, T.Broadcast(T.float32(0), lanes))

    def apply(self, chunk: Any) -> None:
        """Add a chunk's weights, times the pixels they see, to the sums of all output channels."""
        lanes, vectors, together = self.kernel.lanes, self.kernel.vectors, self.kernel.together
        lists, begins, sums = (self.arrays[name] for name in ("lists", "begins", "sums"))
        with T.serial(0, self.out_channels) as channel:
            acc = self._local(together * vectors)
            for v in range(together * vectors):
                is_first = v < vectors
                acc[v * lanes] = sums[(channel * vectors + v) * lanes] if is_first else T.Broadcast(T.float32(0), lanes)
            first = T.Bind(begins.number(chunk * self.out_channels + channel))
            last = T.Bind(begins.number(chunk * self.out_channels + channel + 1))
            with T.serial(0, last - first) as step:
                for u in range(together):
                    pair = ((first + step) * together + u) * 2
                    offset = T.Bind(lists.number(pair))
                    weight = T.Bind(T.Broadcast(lists.buffer[pair + 1], lanes))
                    for v in range(vectors):
                        place = (u * vectors + v) * lanes
                        acc[place] = acc[place] + weight * self.arrays["planes"][offset + v * lanes]
            for v in range(vectors):
                total = acc[v * lanes]
                for u in range(1, together):
                    total = total + acc[(u * vectors + v) * lanes]
                sums[(channel * vectors + v) * lanes] = total

    def finish(self, first: Any) -> None:
        """Sums back to blocks of channels, with the epilogue; ``first`` is the tile's first output pixel."""
        full, rest = divmod(self.kernel.pixels, self.kernel.lanes)
        with T.serial(0, self.out_blocks) as block:
            with T.serial(0, full) as group:
                self._finish_vector(block, first, group, self.kernel.lanes)
            if rest:
                self._finish_vector(block, first, full, rest)

    def _finish_vector(self, block: Any, first: Any, group: Any, count: int) -> None:
        """The first ``count`` pixels of a vector."""
        kernel, lanes = self.kernel, self.kernel.lanes
        height, width = kernel.window.out
        sums, out, residual = self.arrays["sums"], self.arrays["out"].buffer, self.arrays.get("residual")
        channels = [T.Bind(sums[((block * lanes + lane) * kernel.vectors + group) * lanes]) for lane in range(lanes)]
        turned = self._local(lanes)
        for pixel, value in enumerate(transposed(channels)):
            turned[pixel * lanes] = value
        with T.serial(0, count) as pixel:
            place = T.Bind((block * (height * width) + first + group * lanes + pixel) * lanes)
            with T.vectorized(0, lanes) as lane:
                value = turned.buffer[pixel * lanes + lane]
                value = value + residual.buffer[place + lane] if residual else value
                T.buffer_store(out, activate(value, kernel.activation), [place + lane])
