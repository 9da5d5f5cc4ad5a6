"""Convolution without groups, fused with bias, residual and activation, on channels in blocks.

A layer is three loops in C around tiles in TIR: over chunks of input channels, whose weights stay in the nearest cache
while the whole image passes by; over groups of output blocks; over tiles of the image, whose sums stay in registers.
The tiles know neither channel counts nor image size, so a few of them serve a whole network at all its widths.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwprune.compilation.kernels.kernel import FLOATS_A_LINE, Kernel, Usage, blocks_of, divided, split_epilogue
from hwprune.compilation.kernels.tiling import GROUP_MAX, Tiling, cheapest_tiling, first_groups, groups_of, pixels_max
from hwprune.compilation.kernels.window import Pair, Window
from hwprune.compilation.targets import CpuTarget, VectorUnit
from latency_models.shapes import LayerShape

# What a call of a tile does to its sums, as bits of one integer.
ADD, BIAS, ACTIVATE = 1, 2, 4

#: Taps that are written out; of larger windows only a row is.
UNROLLED_TAPS = 25

#: Share of the nearest cache for the weights of a chunk; the image and the results pass through the rest.
WEIGHTS_SHARE = 0.6

#: Share of the nearest cache for the padded rows that a strip of the result is made of, and the fewest rows of a strip:
#: those at its edges are padded again for the next one. Costs and saves no time (within 2 %), but a copy of the whole
#: image was a third of ResNet-56's arena.
STRIP_SHARE, STRIP_MIN = 0.5, 4

#: Lines of the next weights that a tile may ask for before it starts. More would keep it waiting, and nothing be on its
#: way while it multiplies: such a tile asks channel by channel, by which layers that memory bounds are 1.04 to 1.15
#: times faster (3x3, 512 channels at 4x4); one that asks for 18 lines gains nothing. Windows of one tap have too few
#: products a channel for that, and lose.
ASKED_MAX = 32

#: Two ways to share a layer cost about the same up to here; then it matters what each thread reads.
SIMILAR_COST = 0.03


@dataclass(frozen=True)
class ConvTile(Kernel):
    """Tiles of one size, each for all taps and some input channels.

    Attributes:
        group: output blocks.
        tile: rows and columns.
        kernel: taps.
        stride: step.
        dilation: distance of the taps.
        activation: applied where the call asks for it.
        plain: whether the input is NCHW (a network's input with its few channels) instead of blocked.
        asks_by_channel: whether the next call's weights are asked for channel by channel, not before the first.
    """

    group: int
    tile: Pair
    kernel: Pair
    stride: Pair
    dilation: Pair
    activation: str
    plain: bool
    asks_by_channel: bool = False

    @property
    def is_read_in_vectors(self) -> bool:
        """Whether one load brings four channels of a pixel, which then are multiplied lane by lane.

        Only where a window of one tap has few products for its loads, and a vector has few lanes: NEON multiplies by a
        lane at no cost, SSE spreads one in an instruction; wider units have neither, and spread while they load.
        """
        return self.lanes == 4 and self.kernel == (1, 1) and not self.plain

    def build(self) -> dict[str, Any]:
        """Arguments: channels, tiles below and beside each other, flags, lines to ask for, floats a row and block."""
        from hwprune.compilation.kernels import explicit

        numbers = ("channels", "below", "beside", "flags", "ahead", "x_row", "x_block", "out_row", "out_block")
        body = explicit.function(self.symbol, numbers, ("x", "r", "w", "b", "out"), self._body)
        return {self.symbol: body}

    def _body(
        self,
        channels: Any,
        below: Any,
        beside: Any,
        flags: Any,
        ahead: Any,
        x_row: Any,
        x_block: Any,
        out_row: Any,
        out_block: Any,
        x: Any,
        r: Any,
        w: Any,
        b: Any,
        out: Any,
    ) -> None:
        """Write the loops over tiles and channels, and what follows them."""
        from hwprune.compilation.kernels.explicit import Sums, Vectors, bind, long, loop, when
        from hwprune.compilation.kernels.tensor import activate

        lanes, (rows, columns), (step_y, step_x) = self.lanes, self.tile, self.stride
        pixel = 1 if self.plain else lanes
        image, weights, biases = Vectors(x, lanes), Vectors(w, lanes), Vectors(b, lanes)
        added, result = Vectors(r, lanes), Vectors(out, lanes)
        sums = Sums(self.group * rows * columns, lanes)
        places = [(g, i, j) for g in range(self.group) for i in range(rows) for j in range(columns)]
        with loop(below) as top, loop(beside) as left:
            sums.clear()
            # The weights of the next call follow those of this one.
            following = bind(long(channels * (self.kernel[0] * self.kernel[1] * self.group * lanes)))
            asked = bind((top * beside + left) * ahead)
            if not self.asks_by_channel:
                with loop(ahead) as line:
                    weights.prefetch(following + long((asked + line) * FLOATS_A_LINE))
            corner = bind(long(top * (rows * step_y) * x_row + left * (columns * step_x * pixel)))
            done = 0
            if self.is_read_in_vectors:
                done = bind(channels // lanes * lanes)
                with loop(channels // lanes) as block:
                    self._add_block(sums, image, weights, bind(corner + long(block * x_block)), long(x_row), block)
            with loop((done, channels)) as c:
                start = bind(corner + long(c * x_block if self.plain else c // lanes * x_block + c % lanes))
                first_tap = bind(long(c * (self.kernel[0] * self.kernel[1] * self.group * lanes)))
                if self.asks_by_channel:
                    with loop(ahead) as line:
                        weights.prefetch(following + first_tap + long((asked + line) * FLOATS_A_LINE))
                self._add_products(sums, image, weights, start, long(x_row), first_tap)
            base = bind(long(top * rows * out_row + left * (columns * lanes)))
            lines = {
                (g, i): bind(base + long(g * out_block + i * out_row)) for g in range(self.group) for i in range(rows)
            }
            offsets = [lines[g, i] + j * lanes for g, i, j in places]

            def add() -> None:
                for index, offset in enumerate(offsets):
                    sums[index] = sums[index] + added[offset]

            def bias() -> None:
                for index, (g, _, _) in enumerate(places):
                    sums[index] = sums[index] + biases[g * lanes]

            when(flags, ADD, add)
            when(flags, BIAS, bias)
            if self.activation:
                when(flags, ACTIVATE, lambda: sums.apply(lambda value: activate(value, self.activation)))
            for index, offset in enumerate(offsets):
                result[offset] = sums[index]

    def _add_block(self, sums: Any, image: Any, weights: Any, start: Any, x_row: Any, block: Any) -> None:
        """Write the multiply-adds of the channels of one block, for a window of one tap."""
        from hwprune.compilation.kernels.explicit import bind, long

        lanes, group, (rows, columns), (step_y, step_x) = self.lanes, self.group, self.tile, self.stride
        first_tap = bind(long(block * (group * lanes * lanes)))
        lines = [bind(start + i * step_y * x_row) for i in range(rows)]
        pixels = [bind(image[lines[i] + j * step_x * lanes]) for i in range(rows) for j in range(columns)]
        for lane in range(lanes):
            vectors = [bind(weights[first_tap + (lane * group + g) * lanes]) for g in range(group)]
            for place, pixel in enumerate(pixels):
                value = bind(image.spread_lane(pixel, lane))
                for g in range(group):
                    index = g * rows * columns + place
                    sums[index] = sums[index] + value * vectors[g]

    def _add_products(self, sums: Any, image: Any, weights: Any, start: Any, x_row: Any, first_tap: Any) -> None:
        """Write the multiply-adds of one input channel; the taps of a large window are a loop over its rows."""
        from hwprune.compilation.kernels.explicit import bind, long, loop

        lanes, group, (rows, columns), (step_y, step_x) = self.lanes, self.group, self.tile, self.stride
        pixel = 1 if self.plain else lanes

        def row_of_taps(ky: Any) -> None:
            lines = [bind(start + (i * step_y + ky * self.dilation[0]) * x_row) for i in range(rows)]
            taps = bind(first_tap + ky * (self.kernel[1] * group * lanes))
            for kx in range(self.kernel[1]):
                vectors = [bind(weights[taps + (kx * group + g) * lanes]) for g in range(group)]
                for i in range(rows):
                    for j in range(columns):
                        value = bind(image.spread(lines[i] + (j * step_x + kx * self.dilation[1]) * pixel))
                        for g in range(group):
                            index = (g * rows + i) * columns + j
                            sums[index] = sums[index] + value * vectors[g]

        if self.kernel[0] * self.kernel[1] > UNROLLED_TAPS:
            with loop(self.kernel[0]) as ky:
                row_of_taps(long(ky))
        else:
            for ky in range(self.kernel[0]):
                row_of_taps(ky)


@dataclass(frozen=True)
class Conv(Kernel):
    """Convolution of any number of channels.

    Attributes:
        firsts: first group of 1, 2, ... output blocks that are left.
        tilings: how the image is cut for groups of 1, 2, ... blocks.
        chunk: input channels whose weights are used together.
        window: how the window moves.
        add: whether a residual is added.
        activation: applied last.
        plain: whether the input is NCHW (a network's input with its few channels) instead of blocked.
        strip: rows that are computed together at most, in a call that computes some rows only; 0 if a call computes
            all, at once.
    """

    firsts: tuple[int, ...]
    tilings: tuple[Tiling, ...]
    chunk: int
    window: Window
    add: bool
    activation: str
    plain: bool
    strip: int = 0

    @functools.cached_property
    def symbol(self) -> str:
        """Name of the C function: what a reader looks for, and a digest of all the rest."""
        window = self.window
        words = ["x".join(map(str, pair)) for pair in (window.kernel, window.stride, window.size)]
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        return "_".join(["hw_conv", *words, *(["add"] if self.add else []), *self.activation.split(), digest])

    def tile(self, group: int, rows: int, columns: int, tiles: int) -> ConvTile:
        """The kernel of one tile size, of which a call computes so many tiles."""
        window, activation = self.window, self.activation or "relu"  # a network without activations is rare: share
        lines = self.chunk * window_lines(window, group, self.lanes)
        asks_by_channel = window.taps > 1 and lines > ASKED_MAX * tiles
        steps = window.kernel, window.stride, window.dilation
        return ConvTile(self.lanes, group, (rows, columns), *steps, activation, self.plain, asks_by_channel)

    @property
    def parts(self) -> tuple[Kernel, ...]:
        """A kernel for every group and tile size."""
        return tuple(
            self.tile(group, rows, columns, (self.strip or below) * beside)
            for group in sorted(set(self.firsts))
            for rows, below in self.tilings[group - 1].rows
            for columns, beside in self.tilings[group - 1].columns
        )

    @property
    def glue(self) -> str:
        """The loops over chunks, groups and kinds of tiles."""
        window, lanes = self.window, self.lanes
        pixel = 1 if self.plain else lanes
        row, block = window.padded[1] * pixel, f"{window.padded[0] * window.padded[1] * pixel}"
        image = f"x + {'c' if self.plain else f'c / {lanes}'} * {window.size[0] * window.size[1] * pixel}"
        lane = "" if self.plain else f" + c % {lanes}"
        source, pad, rows = image + lane, "", ""
        if self.strip:
            rows, source = ", int32_t top, int32_t rows", f"{source} + top * {row}"
        if window.is_padded:
            planes = "count" if self.plain else f"(count + {lanes - 1}) / {lanes}"
            sizes = f"{window.size[0]}, {window.size[1] * pixel}, {window.padding[0]}, {window.padding[1] * pixel}"
            if self.strip:
                lines = f"{window.stride[0]} * strip + {window.span(1)[0] - window.stride[0]}"
                block = f"({lines}) * {row}"
                sizes = f"{window.size[0]}, {window.size[1] * pixel}, {window.padding[1] * pixel}, top, {lines}"
            # Chunks that are part of a block find the block padded by the first of them.
            once = "" if self.plain or self.chunk % lanes == 0 else f"if (c % {lanes} == 0) "
            function = "pad_rows" if self.strip else "pad_planes"
            source, pad = f"pad{lane}", f"\n        {once}{function}({image}, pad, {planes}, {sizes});"
        first, last = "1" if self.add else "(c > 0)", BIAS | (ACTIVATE if self.activation else 0)
        out_row, out_block = window.out[1] * lanes, window.out[0] * window.out[1] * lanes
        residual = "const float *r, " if self.add else ""
        scratch = ", float *pad" if window.is_padded else ""
        cases = "\n".join(self._case(group, row, block, out_row, out_block) for group in sorted(set(self.firsts)))
        body = f"""\
    for (int32_t c = 0, count; c < in_channels; c += count) {{
        count = in_channels - c < {self.chunk} ? in_channels - c : {self.chunk};{pad}
        const float *source = {source};
        const float *added = {"c > 0 ? out : r" if self.add else "out"};
        int32_t flags = {first} | (c + count == in_channels) * {last};
        for (int32_t o = 0, group; o < out_blocks; o += group) {{
            int32_t left = out_blocks - o;
            group = firsts[left < {len(self.firsts)} ? left - 1 : {len(self.firsts) - 1}];
            const float *weights = w + ((int64_t)c * out_blocks + (int64_t)count * o) * {window.taps * lanes};
            int64_t place = (int64_t)o * {out_block};
            switch (group) {{
{cases}
            }}
        }}
    }}"""
        if self.strip:
            following = f"rows -= strip, top += {window.stride[0]} * strip, out += {out_row} * strip"
            following += f", r += {out_row} * strip" * self.add
            body = f"""\
    for (int32_t strip; rows; {following}) {{
    strip = rows < {self.strip} ? rows : {self.strip};
{body}
    }}"""
        return f"""\
{"".join(tile_declaration(part.symbol) for part in self.parts)}\
HIDDEN void {self.symbol}(int32_t in_channels, int32_t out_blocks{rows}, const float *x, {residual}const float *w, \
const float *b, float *out{scratch})
{{
    static const int8_t firsts[] = {{{", ".join(map(str, self.firsts))}}};
{body}
}}"""

    def _case(self, group: int, row: int, block: str, out_row: int, out_block: int) -> str:
        """Calls of the tiles of one group."""
        tiling, (step_y, step_x) = self.tilings[group - 1], self.window.stride
        pixel = 1 if self.plain else self.lanes
        calls, top = [f"            case {group}:"], 0
        for rows, below in tiling.rows:
            left = 0
            for columns, beside in tiling.columns:
                offset = top * step_y * row + left * step_x * pixel
                out_offset = f"place + {top * out_row + left * self.lanes}"
                tile = self.tile(group, rows, columns, (self.strip or below) * beside)
                lines = f"{'' if tile.asks_by_channel else 'count * '}{window_lines(self.window, group, self.lanes)}"
                number = "strip" if self.strip else str(below)
                ahead = f"({lines} + {number} * {beside} - 1) / ({number} * {beside})"
                sizes = f"count, {number}, {beside}, flags, {ahead}, {row}, {block}, {out_row}, {out_block}"
                pointers = f"source + {offset}, added + {out_offset}, weights, b + o * {self.lanes}, out + {out_offset}"
                calls.append(f"                {tile.symbol}({sizes}, {pointers});")
                left += columns * beside
            top += rows * below
        return "\n".join([*calls, "                break;"])

    def build(self) -> dict[str, Any]:
        """Nothing: the tiles are built on their own."""
        return {}


def tile_declaration(symbol: str) -> str:
    """C declaration of a :class:`ConvTile`."""
    pointers = "const float *, const float *, const float *, const float *, float *"
    return f"void {symbol}({', '.join(['int32_t'] * 9)}, {pointers}) HIDDEN;\n"


def window_lines(window: Window, group: int, lanes: int) -> int:
    """Cache lines of an input channel's weights for a group."""
    return -(-window.taps * group * lanes // FLOATS_A_LINE)


def pick_chunk(window: Window, unit: VectorUnit) -> int:
    """Input channels whose weights, for the largest group, fit the nearest cache.

    A power of two, so that a chunk is a part of a block or whole blocks.
    """
    channel_bytes = window.taps * GROUP_MAX * unit.lanes * 4
    fitting = int(unit.l1_bytes * WEIGHTS_SHARE / channel_bytes)
    return max(4, 1 << max(0, fitting.bit_length() - 1))


def pick_strip(window: Window, channels: int, unit: VectorUnit) -> int:
    """Rows of the result that are computed together, so that what they are made of fits the nearest cache.

    Args:
        window: how the window moves.
        channels: of the image, whose padded rows are used together.
        unit: knows the cache.
    """
    height = window.out[0]
    row_bytes = window.padded[1] * channels * 4
    lines = int(unit.l1_bytes * STRIP_SHARE / row_bytes)
    fitting = (lines - window.span(1)[0]) // window.stride[0] + 1
    return -(-height // -(-height // max(fitting, STRIP_MIN)))


def kernel_of(shape: LayerShape, target: CpuTarget) -> Conv:
    """Kernel of a convolution: groups up to the layer's blocks, tiles and chunk from the image and the target alone."""
    lanes, window, plain = target.lanes, Window.of(shape), shape.layout != target.layout
    threads, sums = target.threads, target.accumulators
    if window.kernel == (1, 1) and window.stride == (1, 1) and not window.is_padded:
        window = _long_rows(window, threads, sums)
    height, width = window.out
    firsts = first_groups(height, width, sums)
    blocks = blocks_of(shape.out_channels, lanes)
    if blocks < GROUP_MAX:  # fewer tiles to compile; beyond, one kernel serves all widths
        firsts = firsts[:blocks]
    tilings = tuple(cheapest_tiling(group, height, width, sums)[1] for group in range(1, max(firsts) + 1))
    add, activation = split_epilogue(shape.epilogue)
    chunk = pick_chunk(window, target.unit)
    # Tiles of several rows do not fit any number of rows.
    one_row = all(tiling.rows == ((1, height),) for tiling in tilings)
    strip = pick_strip(window, chunk if plain else max(chunk, lanes), target.unit) if one_row else 0
    if threads == 1 and strip == height:
        strip = 0
    return Conv(lanes, firsts, tilings, chunk, window, add, activation, plain, strip)


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of a convolution."""
    kernel = kernel_of(shape, target)
    lanes, window = kernel.lanes, kernel.window
    in_blocks, out_blocks = blocks_of(shape.in_channels, lanes), blocks_of(shape.out_channels, lanes)
    channels = shape.in_channels if kernel.plain else in_blocks * lanes
    padded = min(channels, kernel.chunk if kernel.plain else max(kernel.chunk, lanes))
    out = out_blocks * lanes * window.out[0] * window.out[1]
    lines = window.span(kernel.strip)[0] if kernel.strip else window.padded[0]
    usage = Usage(
        kernel,
        (shape.in_channels, out_blocks, *([-window.padding[0], window.out[0]] if kernel.strip else [])),
        inputs=(channels * shape.height * shape.width, *([out] if kernel.add else [])),
        outputs=(out,),
        parameters=(out_blocks * lanes * shape.in_channels * window.taps, out_blocks * lanes),
        scratch=(padded * lines * window.padded[1],) if window.is_padded else (),
        in_place=1 if kernel.add else None,
    )
    return usage if target.threads == 1 else _shared(usage, kernel, target)


def _long_rows(window: Window, threads: int, sums: int) -> Window:
    """The memory of a window of one tap seen as one long row, or one a thread, which tiles better."""
    pixels, rows = window.size[0] * window.size[1], threads
    if pixels % threads:
        can_share_rows = 2 * window.size[1] > pixels_max(1, sums)  # tiles have one row
        rows = window.size[0] if can_share_rows else 1
    return Window((rows, pixels // rows), (1, 1), (1, 1), (0, 0))


def _shared(usage: Usage, kernel: Conv, target: CpuTarget) -> Usage:
    """The usage, its rows or its blocks shared by threads."""
    in_channels, out_blocks, *image = usage.numbers
    lanes, window, threads = kernel.lanes, kernel.window, target.threads
    height, width = window.out

    def rows(first: int, count: int) -> tuple[int, ...]:
        return in_channels, out_blocks, first * window.stride[0] - window.padding[0], count

    def blocks(_: int, count: int) -> tuple[int, ...]:
        return in_channels, count, *image

    if kernel.strip and _prefers_rows(kernel, out_blocks, target):
        row = width * lanes
        return divided(usage, threads, height, rows, [0, *[row] * kernel.add, 0, 0, row])
    block = height * width * lanes
    weights = lanes * in_channels * window.taps
    return divided(usage, threads, out_blocks, blocks, [0, *[block] * kernel.add, weights, lanes, block])


def _prefers_rows(kernel: Conv, out_blocks: int, target: CpuTarget) -> bool:
    """Whether threads share the rows of the result instead of its blocks: what costs less, else what reads less.

    All read the whole weights in the first case, and the whole image in the second.
    """
    window, (height, width) = kernel.window, kernel.window.out

    def cost(blocks: int) -> float:
        groups = groups_of(blocks, kernel.firsts)
        return sum(cheapest_tiling(group, height, width, target.accumulators)[0] for group in groups)

    rows = cost(out_blocks) * -(-height // target.threads) / height
    blocks = cost(-(-out_blocks // target.threads))
    if abs(rows / blocks - 1) > SIMILAR_COST:
        return rows < blocks
    return window.taps * out_blocks * kernel.lanes <= window.size[0] * window.size[1]


def pack_weight(usage: Usage, weight: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """``(out, in, K, K)`` -> for every chunk and group (in, K, K, group, lanes), bias to whole blocks; float32."""
    kernel = usage.kernel
    assert isinstance(kernel, Conv)
    (in_channels, out_blocks), lanes = usage.numbers[:2], kernel.lanes
    padded = np.zeros((out_blocks * lanes, *weight.shape[1:]), np.float32)
    padded[: len(weight)] = weight
    blocks = padded.reshape(out_blocks, lanes, in_channels, kernel.window.taps).transpose(2, 3, 0, 1)
    # Threads that share the blocks have a convolution each; those that share the rows have the same one.
    packed, first = [], 0
    for part in block_parts(usage):
        ends = np.cumsum(groups_of(part, kernel.firsts))[:-1]
        for start in range(0, in_channels, kernel.chunk):
            chunk = blocks[start : start + kernel.chunk, :, first : first + part]
            packed += [group.ravel() for group in np.split(chunk, ends, axis=2)]
        first += part
    return [np.concatenate(packed), pad_vector(bias, out_blocks * lanes)]


def block_parts(usage: Usage) -> list[int]:
    """Output blocks of each thread that has weights of its own; of all, where there is one, or all read the same."""
    bias = len(usage.inputs) + 1
    parts = {share.offsets[bias]: share.numbers[1] for share in usage.shares if share.numbers[1]}
    return list(parts.values()) or [usage.numbers[1]]


def pad_vector(vector: np.ndarray, length: int) -> np.ndarray:
    """The vector with zeros behind it, float32."""
    padded = np.zeros(length, np.float32)
    padded[: len(vector)] = vector
    return padded
