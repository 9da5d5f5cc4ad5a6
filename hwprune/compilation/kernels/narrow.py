"""Convolution to few output channels, whose vectors hold pixels of a row instead of channels.

A block with few channels costs as much as a full one where vectors hold channels. Here each channel has sums of its
own, so that the time follows their number. The input is copied to planes, a few rows at a time, so that it pays for
windows of several taps alone. The result stays in planes if nothing but convolutions reads it, else it is turned back
into blocks.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwprune.compilation.kernels import conv
from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, divided, split_epilogue
from hwprune.compilation.kernels.window import Pair, Window
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape
from latency_models.stairs import FEW_LANES_MIN, Stair, few_layout

#: Fewest taps for which this was found to be faster than blocks of channels.
TAPS_MIN = 9

#: Most columns that may be computed for one of the image: the last vector of a row overlaps the one before.
WASTE_MAX = 1.2

#: Vectors of one channel's sums: many where few channels would leave the multiply-add units waiting. Twice 12 sums are
#: more than other tiles have, and are not spilled: 0.93 times the time of 12.
VECTORS_OF_FEW, VECTORS = 4, 2

#: Rows whose planes are made and used together, or nearly twice as many if they are the last. Larger strips that still
#: fit the nearest cache are no faster, and those that do not are slower by a tenth.
STRIP = 4


@dataclass(frozen=True)
class Planes(Kernel):
    """One row of a block of channels, as a row of each channel with zeros beside it."""

    def build(self) -> dict[str, Any]:
        """Arguments: floats from plane to plane, columns."""
        from hwprune.compilation.kernels import explicit

        return {self.symbol: explicit.function(self.symbol, ("plane", "width"), ("x", "out"), self._body)}

    def _body(self, plane: Any, width: Any, x: Any, out: Any) -> None:
        from hwprune.compilation.kernels.explicit import Vectors, bind, inside, long, loop, transposed

        lanes, image, planes = self.lanes, Vectors(x, self.lanes), Vectors(out, self.lanes)
        rows = [bind(long(channel * plane)) for channel in range(lanes)]
        for row in rows:
            planes.clear(row)
            planes.clear(row + lanes + width)
        with loop((width + lanes - 1) // lanes) as part:
            left = bind(inside(0, part * lanes, width - lanes))  # the last pixels are read again if need be
            pixels = [bind(image[long((left + pixel) * lanes)]) for pixel in range(lanes)]
            for row, channel in zip(rows, transposed(pixels), strict=True):
                planes[row + lanes + left] = channel


@dataclass(frozen=True)
class NarrowTile(Kernel):
    """Tiles of one size, each for all taps and input channels.

    Attributes:
        group: output channels.
        tile: rows, and vectors of pixels beside each other.
        kernel: taps.
        dilation: distance of the taps.
        activation: applied last.
        writes_plain: whether the result's channels are planes instead of lanes.
    """

    group: int
    tile: Pair
    kernel: Pair
    dilation: Pair
    activation: str
    writes_plain: bool

    def build(self) -> dict[str, Any]:
        """Arguments: input and output channels, rows, columns, floats from row to row and from plane to plane.

        The last number is of the result's planes, those before are of the input's.
        """
        from hwprune.compilation.kernels import explicit

        numbers = ("channels", "wanted", "rows", "width", "pitch", "plane", "out_plane")
        return {self.symbol: explicit.function(self.symbol, numbers, ("x", "w", "b", "out"), self._body)}

    def _body(
        self,
        channels: Any,
        wanted: Any,
        rows: Any,
        width: Any,
        pitch: Any,
        plane: Any,
        out_plane: Any,
        *buffers: Any,
    ) -> None:
        """Write the loops over tiles and channels, and what follows them; the last tiles overlap those before them."""
        from hwprune.compilation.kernels.explicit import Sums, Vectors, bind, inside, long, loop

        lanes, (height, beside) = self.lanes, self.tile
        image, weights, biases, result = (Vectors(buffer, lanes) for buffer in buffers)
        sums, turned = Sums(self.group * height * beside, lanes), Sums(lanes, lanes)
        span = beside * lanes
        with loop((rows + height - 1) // height) as part_y, loop((width + span - 1) // span) as part_x:
            top, left = bind(inside(0, part_y * height, rows - height)), bind(inside(0, part_x * span, width - span))
            sums.clear()
            corner = bind(long(top * pitch + left))
            with loop(channels) as channel:
                start = bind(corner + long(channel * plane))
                first = bind(long(channel * (self.kernel[0] * self.kernel[1] * self.group)))
                self._add_products(sums, image, weights, start, long(pitch), first)
            for i in range(height):
                for j in range(beside):
                    indices = range(i * beside + j, self.group * height * beside, height * beside)
                    place = bind(long((top + i) * width + left + j * lanes))
                    if self.writes_plain:
                        self._write_planes(sums, indices, wanted, (result, place, long(out_plane)), biases)
                    else:
                        self._write_block(
                            [bind(sums[index]) for index in indices], turned, (result, place * lanes), biases
                        )

    def _add_products(self, sums: Any, image: Any, weights: Any, start: Any, pitch: Any, first: Any) -> None:
        """Write the multiply-adds of one input channel."""
        from hwprune.compilation.kernels.explicit import bind

        (height, beside), (down, right) = self.tile, self.dilation
        lines = [bind(start + line * pitch) for line in range(height + (self.kernel[0] - 1) * down)]
        for ky in range(self.kernel[0]):
            for kx in range(self.kernel[1]):
                pixels = [
                    bind(image[lines[i + ky * down] + (kx * right + j * self.lanes)])
                    for i in range(height)
                    for j in range(beside)
                ]
                tap = (ky * self.kernel[1] + kx) * self.group
                for g in range(self.group):
                    weight = bind(weights.spread(first + (tap + g)))
                    for place, pixel in enumerate(pixels):
                        index = g * len(pixels) + place
                        sums[index] = sums[index] + weight * pixel

    def _write_planes(self, sums: Any, indices: Any, wanted: Any, to: Any, biases: Any) -> None:
        """Write the sums of one vector of pixels to the planes of those channels that there are."""
        from hwprune.compilation.kernels.explicit import between
        from hwprune.compilation.kernels.tensor import activate

        result, place, plane = to
        for channel, index in enumerate(indices):
            sums[index] = sums[index] + biases.spread(channel)
            sums.apply(lambda value: activate(value, self.activation), index)

            def write(channel: int = channel, index: int = index) -> None:
                result[place + channel * plane] = sums[index]

            if channel > self.group - Stair.of(self.lanes).fine:
                between(wanted - (channel + 1), self.group, write)
            else:
                write()

    def _write_block(self, channels: Any, pixels: Any, to: Any, biases: Any) -> None:
        """Write the sums of one vector of pixels as so many blocks of channels."""
        from hwprune.compilation.kernels.explicit import bind, transposed
        from hwprune.compilation.kernels.tensor import activate

        result, place = to
        bias = bind(biases[0])
        empty = [biases.zeros()] * (self.lanes - len(channels))
        for pixel, value in enumerate(transposed([*channels, *empty])):
            pixels[pixel] = value + bias
            pixels.apply(lambda value: activate(value, self.activation), pixel)
            result[place + pixel * self.lanes] = pixels[pixel]


@dataclass(frozen=True)
class NarrowConv(Kernel):
    """Convolution from any number of channels to a few, with a step of one.

    Attributes:
        sums: vectors of sums that a tile may have.
        window: how the window moves.
        activation: applied last.
        reads_plain: whether the input's channels are planes (a network's input, another of these) instead of lanes.
        writes_plain: whether the result's are.
    """

    sums: int
    window: Window
    activation: str
    reads_plain: bool
    writes_plain: bool

    @functools.cached_property
    def symbol(self) -> str:
        """Name of the C function: what a reader looks for, and a digest of all the rest."""
        words = ["x".join(map(str, pair)) for pair in (self.window.kernel, self.window.size)]
        return "_".join(["hw_narrow", *words, hashlib.sha256(repr(self).encode()).hexdigest()[:12]])

    @property
    def groups(self) -> tuple[int, ...]:
        """Output channels that there are tiles for."""
        return tuple(range(self.fine, Stair.of(self.lanes).few + 1, self.fine))

    def group_of(self, out_channels: int) -> int:
        """Output channels of the tile that computes so many."""
        return -(-out_channels // self.fine) * self.fine

    @property
    def fine(self) -> int:
        """Output channels that tiles differ by."""
        return Stair.of(self.lanes).fine

    def tile(self, group: int) -> NarrowTile:
        """The kernel of so many output channels."""
        window, lanes = self.window, self.lanes
        vectors = VECTORS_OF_FEW if VECTORS_OF_FEW * group <= self.sums else VECTORS
        beside = 2 if window.out[1] % (2 * lanes) == 0 else 1
        size = vectors // beside, beside
        steps = window.kernel, window.dilation
        return NarrowTile(lanes, group, size, *steps, self.activation, self.writes_plain)

    @property
    def pitch(self) -> int:
        """Floats from row to row of a plane: a vector of zeros before whole vectors of pixels."""
        return self.lanes * (1 + blocks_of(self.window.size[1], self.lanes))

    @property
    def parts(self) -> tuple[Kernel, ...]:
        """The copy to planes, and a kernel for every number of output channels."""
        return (*[Planes(self.lanes)] * (not self.reads_plain), *map(self.tile, self.groups))

    @property
    def glue(self) -> str:
        """The loop over strips of rows: copied to planes, then multiplied."""
        lanes, fine, window, pitch = self.lanes, self.fine, self.window, self.pitch
        (height, width), (out_height, out_width) = window.size, window.out
        row = out_width * (1 if self.writes_plain else lanes)
        pointers = "const float *, const float *, const float *, float *"
        declared = "".join(
            f"void {self.tile(group).symbol}({', '.join(['int32_t'] * 7)}, {pointers}) HIDDEN;\n"
            for group in self.groups
        )
        planes = Planes(lanes).symbol
        if self.reads_plain:
            step, copied = 1, f"plane_row(x + (c * {height} + y) * {width}, to, {width}, {lanes});"
        else:
            step, copied = lanes, f"{planes}(plane, {width}, x + (c * {height} + y * {lanes}) * {width}, to);"
            declared += f"void {planes}(int32_t, int32_t, const float *, float *) HIDDEN;\n"
        step = 1 if self.reads_plain else lanes
        sizes = f"in_channels, out_channels, count, {out_width}, {pitch}, plane, {out_height * out_width}"
        buffers = f"planes + {lanes - window.padding[1]}, w, b, out"
        cases = "\n".join(
            f"        case {group}: {self.tile(group).symbol}({sizes}, {buffers}); break;" for group in self.groups
        )
        return f"""\
{declared}\
HIDDEN void {self.symbol}(int32_t in_channels, int32_t out_channels, int32_t top, int32_t rows, \
const float *x, const float *w, const float *b, float *out, float *planes)
{{
    for (int32_t count; rows; rows -= count, top += count, out += {row} * count) {{
        count = rows < {2 * STRIP} ? rows : {STRIP};
        int32_t lines = count + {window.span(1)[0] - 1}, plane = lines * {pitch};
        for (int32_t c = 0; c < in_channels; c += {step})
            for (int32_t line = 0; line < lines; line++) {{
                int32_t y = top + line;
                float *to = planes + c * plane + line * {pitch};
                if (y >= 0 && y < {height})
                    {copied}
                else
                    for (int32_t n = 0; n < {step}; n++)
                        memset(to + n * plane, 0, {pitch + lanes} * sizeof(float));
            }}
        switch ((out_channels + {fine - 1}) / {fine} * {fine}) {{
{cases}
        }}
    }}
}}"""

    def build(self) -> dict[str, Any]:
        """Nothing: the parts are built on their own."""
        return {}


def can_be_few(shape: LayerShape, target: CpuTarget) -> bool:
    """Whether a convolution is one for this kernel as soon as it has few output channels.

    A residual is none of its business: tiles overlap, and a sum that lies in the residual's place would be added twice.
    """
    window, lanes = Window.of(shape), target.lanes
    return (
        lanes >= FEW_LANES_MIN
        and not split_epilogue(shape.epilogue)[0]
        and window.stride == (1, 1)
        and TAPS_MIN <= window.taps <= conv.UNROLLED_TAPS
        and 0 < window.padding[1] <= lanes
        and min(window.size[1], window.out[1]) >= lanes
        and blocks_of(window.out[1], lanes) * lanes <= WASTE_MAX * window.out[1]
        and window.out[0] // target.threads >= STRIP
    )


def is_chosen(shape: LayerShape, target: CpuTarget) -> bool:
    """Whether this kernel is the faster one for a convolution."""
    return shape.out_channels <= Stair.of(target.lanes).few and can_be_few(shape, target)


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of a convolution: this one where it is faster, else the one in blocks."""
    lanes, window = target.lanes, Window.of(shape)
    source, _, result = shape.layout.partition("-")
    reads_plain = source == "nchw" or (source == few_layout(lanes) and shape.in_channels <= Stair.of(lanes).few)
    if not is_chosen(shape, target):
        return conv.specify(replace(shape, layout="nchw" if reads_plain else target.layout), target)
    writes_plain = (result or source) == few_layout(lanes)
    _, activation = split_epilogue(shape.epilogue)
    kernel = NarrowConv(lanes, target.accumulators, window, activation, reads_plain, writes_plain)
    height, width = window.out
    group = kernel.group_of(shape.out_channels)
    channels = shape.in_channels if reads_plain else blocks_of(shape.in_channels, lanes) * lanes
    lines = window.span(min(2 * STRIP - 1, height))[0]
    out = (shape.out_channels if writes_plain else lanes) * height * width
    usage = Usage(
        kernel,
        (shape.in_channels, shape.out_channels, -window.padding[0], height),
        inputs=(channels * shape.height * shape.width,),
        outputs=(out,),
        parameters=(shape.in_channels * window.taps * group, lanes),
        scratch=(channels * lines * kernel.pitch + lanes,),
    )
    row = width * (1 if writes_plain else lanes)

    def rows(first: int, count: int) -> tuple[int, ...]:
        return *usage.numbers[:2], first - window.padding[0], count

    return divided(usage, target.threads, height, rows, [0, 0, 0, row])


def pack_weight(usage: Usage, weight: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """``(out, in, K, K)`` -> (in, K, K, group) or as :mod:`conv` wants it, bias to whole blocks; float32."""
    kernel = usage.kernel
    if not isinstance(kernel, NarrowConv):
        return conv.pack_weight(usage, weight, bias)
    group = kernel.group_of(len(weight))
    packed = np.zeros((*weight.shape[1:], group), np.float32)
    packed[..., : len(weight)] = weight.transpose(1, 2, 3, 0)
    return [packed, conv.pad_vector(bias, kernel.lanes)]
