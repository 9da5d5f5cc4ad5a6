"""Convolution that leaves out weights that are zero, fused with bias, residual and activation.

Three formulations were possible in blocks of channels, and the third is fast:

- Vectors along output channels, as the dense kernels have them, need all lanes of a vector of weights. At 90 %
  sparsity, 82 % of the vectors of 16 weights still hold one that is not zero: hardly anything could be left out.
- Weights unrolled into code are megabytes of instructions, and seconds to minutes of LLVM for every new mask.
- Vectors along output pixels do the work that is left and nothing else: a weight is broadcast and multiplied with a run
  of input pixels. Positions and values of the weights are data, so one object serves every mask and every width.

Pixels of one channel are ``lanes`` floats apart in blocks. The kernel therefore expands a chunk of input channels to
planes, one for each channel and each horizontal tap of the window (and each phase of a vertical stride), shifted and
subsampled so that a tap reads its pixels in the columns where the output has them. The pixels of a tile of output rows
are then consecutive floats for every tap, whatever stride, padding and dilation, and nearly always aligned. (Planes
without shifted copies need a third of the memory, but an unaligned vector of 64 bytes lies in two cache lines: 1.1 to
1.6 times slower.) A chunk is as large as the nearest cache: from the second one, multiply-adds run at about 0.6 of the
rate. Sums wait in a scratch buffer and return to blocks of channels with the epilogue: the layers around need not know.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hwprune.compilation.kernels.conv import pad_vector
from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, split_epilogue
from hwprune.compilation.kernels.window import Pair, Window
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape

#: Which convolutions leave out zeros: those that get faster by it, all, or none.
Sparse = Literal["auto", "always", "never"]

Mask = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

FLOAT_BYTES = 4

#: Independent sums that hide a multiply-add's latency: where a tile has fewer, several weights are applied at a time.
IN_FLIGHT = 8

#: Vectors of a tile at most. With 14 there were no gains, and with 4 losses of 5 to 10 %.
TILE_VECTORS = 8


@dataclass(frozen=True)
class BreakEven:
    """From where on leaving out zeros is faster than the dense kernel, in one measured layer.

    Attributes:
        taps: of the window.
        channels: input and output channels.
        pixels: of the output.
        sparsity: share of zeros in [0, 1]; a layer that is faster at the lowest measured sparsity has that one.
    """

    taps: int
    channels: int
    pixels: int
    sparsity: float


#: Measured with all conversions by ``python benchmarks/sparse.py``, which prints these lines; by vector unit. Units
#: that are not in the table were not measured: networks for them stay dense.
BREAK_EVEN: dict[str, tuple[BreakEven, ...]] = {
    "avx512f": (
        BreakEven(9, 16, 1024, 0.54),
        BreakEven(9, 64, 1024, 0.5),
        BreakEven(9, 64, 256, 0.5),
        BreakEven(9, 64, 64, 0.5),
        BreakEven(9, 512, 16, 0.5),
        BreakEven(1, 256, 196, 0.53),
    ),
}


@dataclass(frozen=True)
class SparseConv(Kernel):
    """Convolution of any number of channels with any mask.

    A list of weights holds pairs (offset in the chunk's planes, weight). There is one for each chunk of input channels
    and each output channel, in this order.

    Attributes:
        tile: rows and columns of output pixels that are summed up together: whole rows, or a part of one.
        chunk: input blocks that are expanded at a time.
        window: how the window moves.
        add: whether a residual is added.
        activation: applied last.
    """

    tile: Pair
    chunk: int
    window: Window
    add: bool
    activation: str

    @property
    def pixels(self) -> int:
        """Output pixels of a tile."""
        return self.tile[0] * self.tile[1]

    @property
    def vectors(self) -> int:
        """Vectors of a tile's pixels."""
        return blocks_of(self.pixels, self.lanes)

    @property
    def together(self) -> int:
        """Weights that are applied at a time, to sums of their own; a list is filled up to a multiple with zeros."""
        return -(-IN_FLIGHT // self.vectors)

    @functools.cached_property
    def phases(self) -> tuple[int, ...]:
        """First row, relative to the tile's in the padded input, of the planes that vertical taps read.

        A channel has a plane for each phase and each horizontal tap.
        """
        taps, reach, step = self.window.kernel[0], self.window.dilation[0], self.window.stride[0]
        return tuple(sorted({tap * reach % step for tap in range(taps)}))

    @property
    def channel(self) -> int:
        """Floats of a channel's planes."""
        return len(self.phases) * self.window.kernel[1] * self.plane

    @property
    def plane(self) -> int:
        """Floats of a plane, whole vectors."""
        further = (self.window.kernel[0] - 1) * self.window.dilation[0] // self.window.stride[0]
        return blocks_of((self.tile[0] + further) * self.tile[1], self.lanes) * self.lanes

    @property
    def expanded(self) -> int:
        """Floats of a chunk's planes, and of the vector that the last tap may read behind them."""
        return (self.chunk * self.channel + 1) * self.lanes

    @property
    def tap_offsets(self) -> IntArray:
        """``(K, K)`` floats before the first pixel that each tap reads, in its channel's planes."""
        taps = np.zeros(self.window.kernel, np.int64)
        for y, x in np.ndindex(*self.window.kernel):
            row, phase = divmod(y * self.window.dilation[0], self.window.stride[0])
            plane = self.phases.index(phase) * self.window.kernel[1] + x
            taps[y, x] = plane * self.plane + row * self.tile[1]
        return taps

    def steps(self, mask: Mask) -> IntArray:
        """``(chunks, out)`` steps of ``together`` weights in each list; ``mask`` is (out, in, K, K)."""
        size = self.chunk * self.lanes
        chunks = [mask[:, start : start + size] for start in range(0, mask.shape[1], size)]
        return np.array([-(-chunk.sum(axis=(1, 2, 3)) // self.together) for chunk in chunks], np.int64)

    def build(self) -> dict[str, Any]:
        """Tile by tile: expand a chunk, apply its weights to all output channels, and at last return to blocks."""
        from hwprune.compilation.kernels.sparse_code import function

        return {self.symbol: function(self)}


def specify(shape: LayerShape, target: CpuTarget, mask: Mask) -> Usage:
    """Kernel, arguments and buffers.

    Args:
        shape: the layer.
        target: what it is compiled for.
        mask: ``(out, in, K, K)`` weights that are not left out.
    """
    lanes, kernel = target.lanes, kernel_of(shape, target)
    in_blocks, out_blocks = blocks_of(shape.in_channels, lanes), blocks_of(shape.out_channels, lanes)
    chunks = blocks_of(in_blocks, kernel.chunk)
    out_channels = out_blocks * lanes
    out = out_channels * math.prod(kernel.window.out)
    return Usage(
        kernel,
        (in_blocks, out_blocks, chunks),
        inputs=(in_blocks * lanes * shape.height * shape.width, *([out] if kernel.add else [])),
        outputs=(out,),
        parameters=(2 * kernel.together * int(kernel.steps(mask).sum()), chunks * out_channels + 1, out_channels),
        scratch=(kernel.expanded, out_channels * kernel.vectors * lanes),
        in_place=1 if kernel.add else None,
    )


def kernel_of(shape: LayerShape, target: CpuTarget) -> SparseConv:
    """Kernel of a layer: planes of a chunk fill the nearest cache."""
    lanes, window = target.lanes, Window.of(shape)
    add, activation = split_epilogue(shape.epilogue)
    tile = pick_tile(*window.out, lanes)
    block = SparseConv(lanes, tile, 1, window, add, activation)
    chunk = max(1, target.unit.l1_bytes // (block.expanded * FLOAT_BYTES))
    return SparseConv(lanes, tile, chunk, window, add, activation)


@functools.cache
def pick_tile(height: int, width: int, lanes: int) -> Pair:
    """Rows and columns of the tile that loads least for each pixel: whole rows, or a part of one."""
    tiles = [(rows, width) for rows in range(1, height + 1) if height % rows == 0]
    tiles += [(1, columns) for columns in range(1, width + 1) if width % columns == 0]

    def cost(tile: Pair) -> float:
        # A vector of pixels is loaded for each of them, and a weight and its offset for all.
        return (blocks_of(math.prod(tile), lanes) + 2) / math.prod(tile)

    return min((tile for tile in tiles if math.prod(tile) <= TILE_VECTORS * lanes), key=cost)


def is_chosen(shape: LayerShape, nonzeros: int, target: CpuTarget, sparse: Sparse) -> bool:
    """Whether a convolution leaves out zeros: where it is told to, or where that was measured to be faster.

    A plain input stays dense: it has few channels, and would have to be packed first.
    """
    if sparse != "auto":
        return sparse == "always"
    measured = BREAK_EVEN.get(target.unit.feature, ())
    pixels, fill = _tiling(shape, target.lanes)
    weights = shape.in_channels * shape.out_channels * math.prod(shape.kernel)
    # Vectors that are half empty were not measured.
    if not measured or shape.layout != target.layout or fill <= 0.5:
        return False

    def distance(layer: BreakEven) -> tuple[bool, float]:
        channels = math.sqrt(shape.in_channels * shape.out_channels)
        is_other = (layer.taps == 1) != (math.prod(shape.kernel) == 1)
        return is_other, abs(math.log(layer.channels / channels)) + abs(math.log(layer.pixels / pixels))

    return 1 - nonzeros / weights > min(measured, key=distance).sparsity


def _tiling(shape: LayerShape, lanes: int) -> tuple[int, float]:
    """Output pixels, and the share of lanes of a tile's vectors that hold one."""
    out = Window.of(shape).out
    tile = math.prod(pick_tile(*out, lanes))
    return math.prod(out), tile / (blocks_of(tile, lanes) * lanes)


def pack_weight(
    usage: Usage, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], mask: Mask
) -> list[npt.NDArray[np.float32]]:
    """Lists of weights, the step at which each begins, and the bias to whole blocks; integers as floats of their bits.

    Args:
        usage: of the kernel.
        weight: ``(out, in, K, K)``.
        bias: ``(out,)``.
        mask: ``(out, in, K, K)`` weights that are not left out.
    """
    kernel = usage.kernel
    assert isinstance(kernel, SparseConv)
    _, _, chunks = usage.numbers
    out_channels, size = usage.parameters[2], kernel.chunk * kernel.lanes
    steps = np.zeros((chunks, out_channels), np.int64)
    steps[:, : len(mask)] = kernel.steps(mask)
    begins = np.concatenate([[0], np.cumsum(steps)])
    out_channel, in_channel, y, x = np.nonzero(mask)
    rows = in_channel // size * out_channels + out_channel
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    places = begins[ordered] * kernel.together + np.arange(len(rows)) - np.searchsorted(ordered, ordered)
    pairs = np.zeros((begins[-1] * kernel.together, 2), np.float32)
    offsets = in_channel % size * kernel.channel + kernel.tap_offsets[y, x]
    pairs.view(np.int32)[places, 0] = offsets[order]
    pairs[places, 1] = weight[mask][order]
    return [pairs, begins.astype(np.int32).view(np.float32), pad_vector(bias, out_channels)]
