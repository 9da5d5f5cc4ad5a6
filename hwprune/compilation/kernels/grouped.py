"""Convolution in groups, and depthwise with several outputs a channel, on channels in blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwprune.compilation.kernels.conv import ACTIVATE, BIAS, ConvTile, pad_vector, tile_declaration, window_lines
from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, divided, split_epilogue
from hwprune.compilation.kernels.tiling import GROUP_MAX, Tiling, cheapest_tiling
from hwprune.compilation.kernels.window import Window
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape


@dataclass(frozen=True)
class Grouped(Kernel):
    """Convolution whose blocks of outputs each see a run of the input channels, any number of groups.

    Groups that are narrower than a vector share one: its outputs see the inputs of all of its groups, with zeros for
    weights outside of the groups' diagonal. So nothing is gathered, and lanes are never empty. The tiles are those of
    the convolution without groups.

    Attributes:
        group: output blocks computed together; a unit.
        tiling: how the image is cut.
        window: how the window moves.
        add: whether a residual is added.
        activation: applied last.
    """

    group: int
    tiling: Tiling
    window: Window
    add: bool
    activation: str

    def tile(self, rows: int, columns: int) -> ConvTile:
        """The kernel of one tile size."""
        window, activation = self.window, self.activation or "relu"  # as for convolutions without groups
        size = (rows, columns)
        return ConvTile(self.lanes, self.group, size, window.kernel, window.stride, window.dilation, activation, False)

    @property
    def parts(self) -> tuple[Kernel, ...]:
        """A kernel for every tile size."""
        return tuple(self.tile(rows, columns) for rows, _ in self.tiling.rows for columns, _ in self.tiling.columns)

    @property
    def glue(self) -> str:
        """The loops over units, runs of their input channels, and kinds of tiles; a run begins or ends with a block."""
        window, lanes = self.window, self.lanes
        size, rim, out_size = window.size, window.padding, window.out
        source = "x"
        if window.is_padded:
            sizes = f"{size[0]}, {size[1] * lanes}, {rim[0]}, {rim[1] * lanes}"
            source = f"pad;\n    pad_planes(x, pad, in_blocks, {sizes})"
        block, out_block = window.padded[0] * window.padded[1] * lanes, out_size[0] * out_size[1] * lanes
        unit = self.group * lanes
        last = BIAS | (ACTIVATE if self.activation else 0)
        return f"""\
{"".join(tile_declaration(part.symbol) for part in self.parts)}\
HIDDEN void {self.symbol}(int32_t in_channels, int32_t in_blocks, int32_t first, int32_t units, int32_t span, \
int32_t depth, int32_t group_in, int32_t group_out, const float *x, {"const float *r, " if self.add else ""}\
const float *w, const float *b, float *out{", float *pad" if window.is_padded else ""})
{{
    const float *source = {source};
    (void)in_blocks;
    for (int32_t u = 0; u < units; u++) {{
        int32_t c = (first + u) * {unit} / group_out * group_in;
        if (c > in_channels - depth)
            c = in_channels - depth;
        for (int32_t done = 0, count; done < depth; done += count, c += count) {{
            count = depth - done;
            if (c % {lanes} && count > {lanes} - c % {lanes})
                count = {lanes} - c % {lanes};
            const float *image = source + (int64_t)(c / {lanes}) * {block} + c % {lanes};
            const float *weights = w + ((int64_t)u * span + done) * {window.taps * unit};
            const float *added = {"done ? out : r" if self.add else "out"};
            int32_t flags = {"1" if self.add else "(done > 0)"} | (done + count == depth) * {last};
            int64_t place = (int64_t)u * {self.group * out_block};
{self._tiles(block, out_block)}
        }}
    }}
}}"""

    def _tiles(self, block: int, out_block: int) -> str:
        """Calls of the tiles of one unit."""
        (step_y, step_x), lanes = self.window.stride, self.lanes
        row, out_row = self.window.padded[1] * lanes, self.window.out[1] * lanes
        lines, top = [], 0
        for rows, below in self.tiling.rows:
            left = 0
            for columns, beside in self.tiling.columns:
                offset, out_offset = top * step_y * row + left * step_x * lanes, top * out_row + left * lanes
                tiles, weights = below * beside, window_lines(self.window, self.group, lanes)
                ahead = f"(count * {weights} + {tiles - 1}) / {tiles}"
                sizes = f"count, {below}, {beside}, flags, {ahead}, {row}, {block}, {out_row}, {out_block}"
                places = f"image + {offset}, added + place + {out_offset}, weights, b + u * {self.group * lanes}"
                symbol = self.tile(rows, columns).symbol
                lines.append(f"            {symbol}({sizes}, {places}, out + place + {out_offset});")
                left += columns * beside
            top += rows * below
        return "\n".join(lines)

    def build(self) -> dict[str, Any]:
        """Nothing: the tiles are built on their own."""
        return {}


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of a convolution in groups."""
    lanes, window = target.lanes, Window.of(shape)
    group_in = shape.group_channels
    group_out = max(1, shape.out_channels * group_in // max(shape.in_channels, 1))
    in_blocks, out_blocks = blocks_of(shape.in_channels, lanes), blocks_of(shape.out_channels, lanes)
    (height, width), sums = window.out, target.accumulators
    # Blocks together only where they are of one group; then they see the same inputs, at any number of groups.
    group = min(
        (n for n in range(1, GROUP_MAX + 1) if n == 1 or group_out % (n * lanes) == 0),
        key=lambda n: cheapest_tiling(n, height, width, sums)[0] / n,
    )
    units, span = out_blocks // group, group_in * _groups_met(group * lanes, group_out)
    add, activation = split_epilogue(shape.epilogue)
    block = lanes * height * width
    out = out_blocks * block

    def numbers(first: int, count: int) -> tuple[int, ...]:
        depth = min(span, shape.in_channels)
        return shape.in_channels, in_blocks, first, count, span, depth, group_in, group_out

    usage = Usage(
        Grouped(lanes, group, cheapest_tiling(group, height, width, sums)[1], window, add, activation),
        numbers(0, units),
        inputs=(in_blocks * lanes * shape.height * shape.width, *([out] if add else [])),
        outputs=(out,),
        parameters=(out_blocks * lanes * span * window.kernel[0] * window.kernel[1], out_blocks * lanes),
        scratch=(in_blocks * lanes * window.padded[0] * window.padded[1],) if window.is_padded else (),
        in_place=1 if add else None,
    )
    steps = [0, *([block] if add else []), lanes * span * window.taps, lanes, block]
    return divided(usage, target.threads, units, numbers, [group * step for step in steps])


def pack_weight(usage: Usage, weight: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """``(out, in of a group, K, K)`` -> (units, span, K, K, group, lanes), and the bias to whole blocks; float32."""
    kernel = usage.kernel
    assert isinstance(kernel, Grouped)
    in_channels, _, _, units, span, depth, group_in, group_out = usage.numbers
    unit, taps = kernel.group * kernel.lanes, weight.shape[2:]
    packed = np.zeros((units, span, *taps, unit), np.float32)
    for channel, filters in enumerate(weight):
        first = min(channel // unit * unit // group_out * group_in, in_channels - depth)
        begin = channel // group_out * group_in - first
        packed[channel // unit, begin : begin + group_in, ..., channel % unit] = filters
    return [packed, pad_vector(bias, units * unit)]


def _groups_met(unit: int, group_out: int) -> int:
    """Most groups that a run of ``unit`` outputs belongs to, over all places where such a run begins."""
    period = group_out // math.gcd(unit, group_out)
    return max((begin + unit - 1) // group_out - begin // group_out + 1 for begin in range(0, period * unit, unit))
