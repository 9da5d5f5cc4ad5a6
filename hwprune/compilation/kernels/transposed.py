"""Transposed convolution without groups, fused with bias, residual and activation, on channels in blocks."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwprune.compilation.kernels.conv import block_parts, pad_vector
from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, divided, split_epilogue
from hwprune.compilation.kernels.tiling import GROUP_MAX, Tiling, cheapest_tiling, first_groups, groups_of
from hwprune.compilation.kernels.window import Pair
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape

_TILE_ARGUMENTS = ", ".join(["int32_t"] * 7 + ["const float *"] * 4 + ["float *"])


@dataclass(frozen=True)
class Phases:
    """A transposed convolution as ``stride`` x ``stride`` convolutions, each of which makes every stride-th pixel.

    An output pixel ``i`` sees the taps ``t`` for which ``i + padding - t`` is a multiple of the stride. They are the
    same for all pixels of a phase (``i`` modulo the stride), and the inputs that they meet lie side by side.

    Attributes:
        size: height and width of the input.
        out: of the output.
        kernel: taps.
        stride: distance of the inputs in the output.
        padding: rows and columns that are cut off the full result on each side.
    """

    size: Pair
    out: Pair
    kernel: Pair
    stride: Pair
    padding: Pair

    @property
    def taps(self) -> Pair:
        """Taps of a phase; the last may lie outside of the kernel and be zero."""
        return -(-self.kernel[0] // self.stride[0]), -(-self.kernel[1] // self.stride[1])

    @property
    def all_taps(self) -> int:
        """Taps of all phases."""
        return math.prod(self.taps) * math.prod(self.stride)

    def pixels(self, axis: int, phase: int) -> int:
        """Rows (axis 0) or columns (axis 1) of the output that belong to a phase; 0 where the output is too small."""
        return -(-(self.out[axis] - phase) // self.stride[axis])

    def first(self, axis: int, phase: int) -> int:
        """Row or column of the input that the first pixel of a phase meets first; it may lie before the input."""
        return (phase + self.padding[axis]) // self.stride[axis] - (self.taps[axis] - 1)

    @property
    def rim(self) -> Pair:
        """Zeros that the input needs on each side."""
        rows, columns = (self._rim(axis) for axis in (0, 1))
        return rows, columns

    def _rim(self, axis: int) -> int:
        phases = range(self.stride[axis])
        before = -min(self.first(axis, phase) for phase in phases)
        end = max(self.first(axis, phase) + self.pixels(axis, phase) + self.taps[axis] - 1 for phase in phases)
        return max(0, before, end - self.size[axis])

    @property
    def padded(self) -> Pair:
        """Size of the input with its rim."""
        return self.size[0] + 2 * self.rim[0], self.size[1] + 2 * self.rim[1]

    def tilings(self, group: int, sums: int) -> dict[Pair, Tiling]:
        """How each phase is cut for groups of ``group`` blocks, by its row and column."""
        return {
            (p, q): cheapest_tiling(group, self.pixels(0, p), self.pixels(1, q), sums)[1]
            for p in range(min(self.stride[0], self.out[0]))
            for q in range(min(self.stride[1], self.out[1]))
        }


@dataclass(frozen=True)
class PhaseTile(Kernel):
    """Tiles of one size of a phase, each for all taps and input channels: a convolution whose results lie apart.

    Attributes:
        group: output blocks.
        tile: rows and columns.
        taps: of the phase.
        apart: distance of the results in the output.
        add: whether a residual is added.
        activation: applied last.
    """

    group: int
    tile: Pair
    taps: Pair
    apart: Pair
    add: bool
    activation: str

    def build(self) -> dict[str, Any]:
        """Arguments: channels, tiles below and beside each other, floats from row to row and from block to block."""
        from hwprune.compilation.kernels import explicit

        numbers = ("channels", "below", "beside", "x_row", "x_block", "out_row", "out_block")
        return {self.symbol: explicit.function(self.symbol, numbers, ("x", "r", "w", "b", "out"), self._body)}

    def _body(self, *arguments: Any) -> None:
        """Write the loops over tiles and channels, and what follows them."""
        from hwprune.compilation.kernels.explicit import Sums, Vectors, bind, long, loop
        from hwprune.compilation.kernels.tensor import activate

        channels, below, beside, x_row, x_block, out_row, out_block, *buffers = arguments
        image, added, weights, biases, result = (Vectors(buffer, self.lanes) for buffer in buffers)
        lanes, (rows, columns), (apart_y, apart_x) = self.lanes, self.tile, self.apart
        sums = Sums(self.group * rows * columns, lanes)
        channel_floats = math.prod(self.taps) * self.group * lanes
        with loop(below) as top, loop(beside) as left:
            sums.clear()
            corner = bind(long(top * rows * x_row + left * (columns * lanes)))
            with loop(channels) as c:
                start = bind(corner + long(c // lanes * x_block + c % lanes))
                self._add_products(sums, image, weights, start, long(x_row), bind(long(c * channel_floats)))
            base = bind(long(top * (rows * apart_y) * out_row + left * (columns * apart_x * lanes)))
            places = []
            for g, i in itertools.product(range(self.group), range(rows)):
                line = bind(base + long(g * out_block + i * apart_y * out_row))
                places += [(line + j * (apart_x * lanes), g * lanes) for j in range(columns)]
            for index, (place, block) in enumerate(places):
                value = sums[index] + biases[block]
                sums[index] = value + added[place] if self.add else value
            if self.activation:
                sums.apply(lambda value: activate(value, self.activation))
            for index, (place, _) in enumerate(places):
                result[place] = sums[index]

    def _add_products(self, sums: Any, image: Any, weights: Any, start: Any, x_row: Any, first_tap: Any) -> None:
        """Write the multiply-adds of one input channel."""
        from hwprune.compilation.kernels.explicit import bind

        lanes, (rows, columns) = self.lanes, self.tile
        for tap, (ky, kx) in enumerate(itertools.product(range(self.taps[0]), range(self.taps[1]))):
            vectors = [bind(weights[first_tap + (tap * self.group + g) * lanes]) for g in range(self.group)]
            lines = [bind(start + (i + ky) * x_row) for i in range(rows)]
            for i, j in itertools.product(range(rows), range(columns)):
                value = bind(image.spread(lines[i] + (j + kx) * lanes))
                for g in range(self.group):
                    index = (g * rows + i) * columns + j
                    sums[index] = sums[index] + value * vectors[g]


@dataclass(frozen=True)
class Transposed(Kernel):
    """Transposed convolution of any number of channels.

    Attributes:
        firsts: first group of 1, 2, ... output blocks that are left.
        sums: vectors of sums that the registers hold.
        phases: what it is made of.
        add: whether a residual is added.
        activation: applied last.
    """

    firsts: tuple[int, ...]
    sums: int
    phases: Phases
    add: bool
    activation: str

    def tile(self, group: int, rows: int, columns: int) -> PhaseTile:
        """The kernel of one tile size."""
        phases = self.phases
        return PhaseTile(self.lanes, group, (rows, columns), phases.taps, phases.stride, self.add, self.activation)

    @property
    def parts(self) -> tuple[Kernel, ...]:
        """A kernel for every group and tile size."""
        tiles = (
            self.tile(group, rows, columns)
            for group in sorted(set(self.firsts))
            for tiling in self.phases.tilings(group, self.sums).values()
            for rows, _ in tiling.rows
            for columns, _ in tiling.columns
        )
        return tuple(dict.fromkeys(tiles))

    @property
    def glue(self) -> str:
        """The loops over groups, phases and kinds of tiles."""
        phases, lanes = self.phases, self.lanes
        source, (rim_y, rim_x) = "x", phases.rim
        if any(phases.rim):
            sizes = f"{phases.size[0]}, {phases.size[1] * lanes}, {rim_y}, {rim_x * lanes}"
            source = f"pad;\n    pad_planes(x, pad, (in_channels + {lanes - 1}) / {lanes}, {sizes})"
        cases = "\n".join(self._case(group) for group in sorted(set(self.firsts)))
        return f"""\
{"".join(f"void {part.symbol}({_TILE_ARGUMENTS}) HIDDEN;" for part in self.parts)}
HIDDEN void {self.symbol}(int32_t in_channels, int32_t out_blocks, const float *x, \
{"const float *r, " if self.add else ""}const float *w, const float *b, float *out\
{", float *pad" if any(phases.rim) else ""})
{{
    static const int8_t firsts[] = {{{", ".join(map(str, self.firsts))}}};
    const float *source = {source};
    const float *added = {"r" if self.add else "out"};
    for (int32_t o = 0, group; o < out_blocks; o += group) {{
        int32_t left = out_blocks - o;
        group = firsts[left < {len(self.firsts)} ? left - 1 : {len(self.firsts) - 1}];
        const float *weights = w + (int64_t)o * in_channels * {phases.all_taps * lanes};
        int64_t place = (int64_t)o * {phases.out[0] * phases.out[1] * lanes};
        switch (group) {{
{cases}
        }}
    }}
}}"""

    def _case(self, group: int) -> str:
        """Calls of all tiles of one group."""
        lines = [f"        case {group}:"]
        for (p, q), tiling in self.phases.tilings(group, self.sums).items():
            top = 0
            for rows, below in tiling.rows:
                left = 0
                for columns, beside in tiling.columns:
                    lines.append(self._call(group, (p, q), (rows, columns), (below, beside), (top, left)))
                    left += columns * beside
                top += rows * below
        return "\n".join([*lines, "            break;"])

    def _call(self, group: int, phase: Pair, tile: Pair, count: Pair, corner: Pair) -> str:
        """Call of the tiles of one size; ``corner`` is where they begin inside the phase."""
        phases, lanes = self.phases, self.lanes
        row, out_row = phases.padded[1] * lanes, phases.out[1] * lanes
        y, x = (phases.first(axis, phase[axis]) + phases.rim[axis] + corner[axis] for axis in (0, 1))
        i, j = (phase[axis] + corner[axis] * phases.stride[axis] for axis in (0, 1))
        number = (phase[0] * phases.stride[1] + phase[1]) * math.prod(phases.taps) * group * lanes
        sizes = f"in_channels, {count[0]}, {count[1]}, {row}, {phases.padded[0] * row}"
        sizes += f", {out_row}, {phases.out[0] * out_row}"
        place = f"place + {i * out_row + j * lanes}"
        buffers = f"source + {y * row + x * lanes}, added + {place}, weights + (int64_t)in_channels * {number}"
        return f"            {self.tile(group, *tile).symbol}({sizes}, {buffers}, b + o * {lanes}, out + {place});"

    def build(self) -> dict[str, Any]:
        """Nothing: the tiles are built on their own."""
        return {}


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of a transposed convolution."""
    lanes, sums = target.lanes, target.accumulators
    phases = Phases((shape.height, shape.width), shape.out_size, shape.kernel, shape.stride, shape.padding)
    in_blocks, out_blocks = blocks_of(shape.in_channels, lanes), blocks_of(shape.out_channels, lanes)
    firsts = first_groups(phases.pixels(0, 0), phases.pixels(1, 0), sums)
    add, activation = split_epilogue(shape.epilogue)
    out = out_blocks * lanes * phases.out[0] * phases.out[1]
    usage = Usage(
        Transposed(lanes, firsts[:out_blocks] if out_blocks < GROUP_MAX else firsts, sums, phases, add, activation),
        (shape.in_channels, out_blocks),
        inputs=(in_blocks * lanes * shape.height * shape.width, *([out] if add else [])),
        outputs=(out,),
        parameters=(out_blocks * lanes * shape.in_channels * phases.all_taps, out_blocks * lanes),
        scratch=(in_blocks * lanes * phases.padded[0] * phases.padded[1],) if any(phases.rim) else (),
        in_place=1 if add else None,
    )
    block = lanes * phases.out[0] * phases.out[1]
    steps = [0, *([block] if add else []), lanes * shape.in_channels * phases.all_taps, lanes, block]
    return divided(usage, target.threads, out_blocks, lambda _, count: (shape.in_channels, count), steps)


def pack_weight(usage: Usage, weight: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """``(in, out, K, K)`` -> for every group (phases, in, taps, group, lanes), and the bias to whole blocks."""
    kernel = usage.kernel
    assert isinstance(kernel, Transposed)
    (in_channels, out_blocks), lanes, phases = usage.numbers, kernel.lanes, kernel.phases
    (step_y, step_x), (taps_y, taps_x) = phases.stride, phases.taps
    whole = np.zeros((in_channels, out_blocks * lanes, step_y * taps_y, step_x * taps_x), np.float32)
    whole[:, : weight.shape[1], : phases.kernel[0], : phases.kernel[1]] = weight
    # A phase's taps are those of one remainder, met from the last to the first.
    split = whole.reshape(in_channels, out_blocks, lanes, taps_y, step_y, taps_x, step_x)[:, :, :, ::-1, :, ::-1]
    split = split[:, :, :, :, (np.arange(step_y) + phases.padding[0]) % step_y]
    split = split[..., (np.arange(step_x) + phases.padding[1]) % step_x]
    blocks = split.transpose(4, 6, 0, 3, 5, 1, 2).reshape(
        step_y * step_x, in_channels, taps_y * taps_x, out_blocks, lanes
    )
    groups = [group for part in block_parts(usage) for group in groups_of(part, kernel.firsts)]
    packed = [group.ravel() for group in np.split(blocks, np.cumsum(groups)[:-1], axis=3)]
    return [np.concatenate(packed), pad_vector(bias, out_blocks * lanes)]
