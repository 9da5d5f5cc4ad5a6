"""Depthwise convolution, fused with bias, residual and activation, on channels in blocks.

Nothing is padded: rows outside of the image are left out by the bounds of a loop, columns outside by tiles of their own
for the image's sides. A padded copy would be as much traffic as the layer itself, which does little else than traffic.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwprune.compilation.kernels.conv import pad_vector
from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, divided_by_blocks, split_epilogue
from hwprune.compilation.kernels.tiling import even_runs
from hwprune.compilation.kernels.window import Pair, Window
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape


@dataclass(frozen=True)
class DepthwiseTile(Kernel):
    """Some columns of every row of every block.

    Attributes:
        columns: of a tile.
        outside: columns that the first and last window reach beyond the image.
        kernel: taps.
        stride: step.
        dilation: distance of the taps.
        pad_y: rows added above and below.
        add: whether a residual is added.
        activation: applied last.
    """

    columns: int
    outside: Pair
    kernel: Pair
    stride: Pair
    dilation: Pair
    pad_y: int
    add: bool
    activation: str

    def build(self) -> dict[str, Any]:
        """Arguments: blocks, rows, tiles beside each other, rows of the input, floats from row to row."""
        from hwprune.compilation.kernels import explicit

        numbers = ("blocks", "rows", "beside", "height", "x_row", "out_row")
        return {self.symbol: explicit.function(self.symbol, numbers, ("x", "r", "w", "b", "out"), self._body)}

    def _body(self, blocks: Any, rows: Any, beside: Any, height: Any, x_row: Any, out_row: Any, *buffers: Any) -> None:
        """Write the loops over blocks, rows and tiles; the first column of a tile may lie left of the image."""
        from hwprune.compilation.kernels.explicit import Sums, Vectors, bind, inside, long, loop, select
        from hwprune.compilation.kernels.tensor import activate

        lanes, (step_y, step_x), taps = self.lanes, self.stride, self.kernel[0]
        image, added, weights, biases, result = (Vectors(buffer, lanes) for buffer in buffers)
        sums = Sums(self.columns, lanes)

        def tiles(block: Any, row: Any, bounds: tuple[Any, Any] | None) -> None:
            with loop(beside) as left:
                for j in range(self.columns):
                    sums[j] = biases[block * lanes]
                top = bind(row * step_y - self.pad_y)
                corner = bind(block * height * x_row + left * (self.columns * step_x * lanes))
                first_tap = bind(long(block * (taps * self.kernel[1] * lanes)))
                if bounds is None:
                    self._add_far_rows(sums, image, weights, corner, first_tap, top, height, x_row)
                else:
                    with loop(bounds) as ky:
                        self._add_row(sums, image, weights, bind(long(corner + (top + ky) * x_row)), first_tap, ky)
                base = bind(long((block * rows + row) * out_row + left * (self.columns * lanes)))
                if self.add:
                    for j in range(self.columns):
                        sums[j] = sums[j] + added[base + j * lanes]
                sums.apply(lambda value: activate(value, self.activation))
                for j in range(self.columns):
                    result[base + j * lanes] = sums[j]

        with loop(blocks) as block:
            if self.dilation[0] > 1:
                with loop(rows) as row:
                    tiles(block, row, None)
                return
            # Rows of which all taps are inside of the image need no bounds: they are all but the first and last few.
            before = bind(inside(0, -(-self.pad_y // step_y), rows))
            behind = bind(inside(before, (height + self.pad_y - taps + step_y) // step_y, rows))
            with loop(before + rows - behind) as edge:
                row = bind(select(edge < before, edge, edge - before + behind))
                top = bind(row * step_y - self.pad_y)
                tiles(block, row, (bind(inside(0, -top, taps)), bind(inside(0, height - top, taps))))
            with loop((before, behind)) as row:
                tiles(block, row, (0, taps))

    def _add_far_rows(self, sums: Any, image: Any, weights: Any, corner: Any, first_tap: Any, *place: Any) -> None:
        """The rows of taps that lie apart, each if it is inside of the image."""
        from hwprune.compilation.kernels.explicit import between, bind, long, loop

        top, height, x_row = place
        with loop(self.kernel[0]) as ky:
            y = bind(top + ky * self.dilation[0])
            between(
                y, height, lambda: self._add_row(sums, image, weights, bind(long(corner + y * x_row)), first_tap, ky)
            )

    def _add_row(self, sums: Any, image: Any, weights: Any, line: Any, first_tap: Any, ky: Any) -> None:
        """Write the multiply-adds of one row of taps, without those that lie beside the image."""
        from hwprune.compilation.kernels.explicit import bind, long

        lanes, (before, after), step, dilation = self.lanes, self.outside, self.stride[1], self.dilation[1]
        span = (self.columns - 1) * step + (self.kernel[1] - 1) * dilation + 1
        taps = bind(first_tap + long(ky) * (self.kernel[1] * lanes))
        for kx in range(self.kernel[1]):
            weight = bind(weights[taps + kx * lanes])
            for j in range(self.columns):
                z = j * step + kx * dilation
                if before <= z < span - after:
                    sums[j] = sums[j] + image[line + z * lanes] * weight


@dataclass(frozen=True)
class Depthwise(Kernel):
    """One filter a channel, any number of channels.

    Attributes:
        sums: vectors of sums that a tile may have.
        window: how the window moves.
        add: whether a residual is added.
        activation: applied last.
    """

    sums: int
    window: Window
    add: bool
    activation: str

    @functools.cached_property
    def symbol(self) -> str:
        """Name of the C function: what a reader looks for, and a digest of all the rest."""
        window = self.window
        words = ["x".join(map(str, pair)) for pair in (window.kernel, window.stride, window.size)]
        return "_".join(["hw_depthwise", *words, hashlib.sha256(repr(self).encode()).hexdigest()[:12]])

    @functools.cached_property
    def tiles(self) -> list[tuple[DepthwiseTile, int, int]]:
        """Tiles from left to right: their kernel, how many are alike, column of the first one."""
        window, (step, dilation) = self.window, (self.window.stride[1], self.window.dilation[1])
        width = window.out[1]
        tiles: list[tuple[DepthwiseTile, int, int]] = []
        left = 0
        for columns, count in even_runs(width, -(-width // self.sums)):
            for _ in range(count):
                start = left * step - window.padding[1]
                end = start + (columns - 1) * step + (window.kernel[1] - 1) * dilation + 1
                outside = max(0, -start), max(0, end - window.size[1])
                tile = DepthwiseTile(
                    *(self.lanes, columns, outside, window.kernel, window.stride, window.dilation),
                    *(window.padding[0], self.add, self.activation),
                )
                if tiles and tiles[-1][0] == tile:
                    tiles[-1] = (tile, tiles[-1][1] + 1, tiles[-1][2])
                else:
                    tiles.append((tile, 1, left))
                left += columns
        return tiles

    @property
    def parts(self) -> tuple[Kernel, ...]:
        """The kinds of tiles."""
        return tuple(dict.fromkeys(tile for tile, _, _ in self.tiles))

    @property
    def glue(self) -> str:
        """A call for every kind of tile; where a tile starts left of the image, so does its pointer."""
        window, lanes = self.window, self.lanes
        residual = "const float *r, " if self.add else ""
        pointers = "const float *, const float *, const float *, const float *, float *"
        lines = [f"void {part.symbol}({', '.join(['int32_t'] * 6)}, {pointers}) HIDDEN;" for part in self.parts]
        lines += [
            f"HIDDEN void {self.symbol}(int32_t blocks, const float *x, {residual}const float *w, const float *b, "
            "float *out)",
            "{",
        ]
        height, row, out_row = window.size[0], window.size[1] * lanes, window.out[1] * lanes
        for tile, count, left in self.tiles:
            start = (left * window.stride[1] - window.padding[1]) * lanes
            sizes = f"blocks, {window.out[0]}, {count}, {height}, {row}, {out_row}"
            added = f"r + {left * lanes}" if self.add else "out"
            lines.append(f"    {tile.symbol}({sizes}, x + ({start}), {added}, w, b, out + {left * lanes});")
        return "\n".join([*lines, "}"])

    def build(self) -> dict[str, Any]:
        """Nothing: the tiles are built on their own."""
        return {}


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of a depthwise convolution."""
    lanes, window = target.lanes, Window.of(shape)
    blocks = blocks_of(shape.out_channels, lanes)
    height, width = window.out
    add, activation = split_epilogue(shape.epilogue)
    # Beside the sums, registers hold a weight and the inputs that the next tap reads again.
    kernel = Depthwise(lanes, 7 * target.accumulators // 10, window, add, activation)
    out = blocks * lanes * height * width
    usage = Usage(
        kernel,
        (blocks,),
        inputs=(blocks * lanes * shape.height * shape.width, *([out] if add else [])),
        outputs=(out,),
        parameters=(blocks * lanes * window.taps, blocks * lanes),
        in_place=1 if add else None,
    )
    return divided_by_blocks(usage, target.threads)


def pack_weight(usage: Usage, weight: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """``(C, 1, K, K)`` -> (blocks, K, K, lanes), and the bias to whole blocks; float32."""
    blocks, lanes = usage.numbers[0], usage.kernel.lanes
    channels, _, *taps = weight.shape
    packed = np.zeros((blocks * lanes, *taps), np.float32)
    packed[:channels] = weight[:, 0]
    return [packed.reshape(blocks, lanes, *taps).transpose(0, 2, 3, 1), pad_vector(bias, blocks * lanes)]
