"""Resizing, and pooling to a given size: every output pixel is a weighted sum of a few input pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwprune.compilation.kernels.kernel import Kernel, Usage, blocks_of, divided
from hwprune.compilation.kernels.layout import PIXELS_A_RUN
from hwprune.compilation.kernels.pool import reduce_in_register
from hwprune.compilation.kernels.window import Pair
from hwprune.compilation.targets import CpuTarget
from latency_models.shapes import LayerShape

#: Most taps that are unrolled; more are a loop.
_UNROLLED_TAPS = 9


@dataclass(frozen=True)
class Resample(Kernel):
    """Sum over taps in rows and columns, each with a weight: (blocks, H, W, lanes) -> (blocks, H', W', lanes).

    Which pixels and which weights is told by parameters, so that one kernel serves every way of rounding.

    Attributes:
        size: height and width of the input.
        out: of the output.
        taps: rows and columns that a pixel is the sum of.
        plain: whether the output is NCHW, as the caller of a network wants it: maps of few classes are large, and whole
            blocks of them are larger.
    """

    size: Pair
    out: Pair
    taps: Pair
    plain: bool

    def build(self) -> dict[str, Any]:
        """One vector of channels is summed in a register; each table holds (pixels, taps) indices and then weights."""
        from tvm import te

        from hwprune.compilation.kernels.tensor import number, schedule_of

        lanes, (height, width), (taps_y, taps_x) = self.lanes, self.size, self.taps
        blocks = number("blocks")
        x = te.placeholder((blocks, height, width, lanes), name="x")
        rows = te.placeholder((2, self.out[0], taps_y), name="rows")
        columns = te.placeholder((2, self.out[1], taps_x), name="columns")
        ry, rx = te.reduce_axis((0, taps_y), "ry"), te.reduce_axis((0, taps_x), "rx")

        def sample(c: Any, i: Any, j: Any, v: Any, ty: Any, tx: Any) -> Any:
            return x[c, rows[0, i, ty].astype("int32"), columns[0, j, tx].astype("int32"), v]

        def weighted(c: Any, i: Any, j: Any, v: Any) -> Any:
            return te.sum(sample(c, i, j, v, ry, rx) * (rows[1, i, ry] * columns[1, j, rx]), axis=[ry, rx])

        def copied(c: Any, i: Any, j: Any, v: Any) -> Any:
            return sample(c, i, j, v, 0, 0)

        is_copy, shape = self.taps == (1, 1), (blocks, *self.out, lanes)
        total = te.compute(shape, copied if is_copy else weighted, name="total")
        if self.plain:
            channels = number("channels")
            out = te.compute((channels, *self.out), lambda c, i, j: total[c // lanes, i, j, c % lanes], name="out")
            sch = schedule_of([blocks, channels, x, rows, columns, out])
            self._schedule_plain(sch, is_copy)
            return {self.symbol: sch.mod["main"]}
        out = te.compute(shape, lambda *place: total[place], name="out")
        sch = schedule_of([blocks, x, rows, columns, out])
        if is_copy:
            sch.compute_inline(sch.get_sblock("total"))
            sch.vectorize(sch.get_loops(sch.get_sblock("out"))[-1])
        else:
            reduce_in_register(sch, "total", unroll=taps_y * taps_x <= _UNROLLED_TAPS)
        return {self.symbol: sch.mod["main"]}

    def _schedule_plain(self, sch: Any, is_copy: bool) -> None:
        """A run of pixels in blocks, in the nearest cache, then channel by channel."""
        total, out = sch.get_sblock("total"), sch.get_sblock("out")
        c, i, j = sch.get_loops(out)
        c_out, c_in = sch.split(c, [None, self.lanes])
        j_out, j_in = sch.split(j, [None, min(self.out[1], PIXELS_A_RUN)])
        sch.reorder(c_out, i, j_out, c_in, j_in)
        sch.compute_at(total, j_out, preserve_unit_loops=True)
        sch.set_scope(total, 0, "local")
        *_, j, v = loops = sch.get_loops(total)[: None if is_copy else -2]
        if is_copy:
            sch.vectorize(v)
            return
        ry, rx = sch.get_loops(total)[len(loops) :]
        sch.reorder(ry, rx, v)
        sch.vectorize(v)
        sch.decompose_reduction(total, ry)
        sch.vectorize(sch.get_loops(sch.get_sblock("total_init"))[-1])
        if self.taps[0] * self.taps[1] <= _UNROLLED_TAPS:
            for loop in sch.get_loops(sch.get_sblock("total_update"))[-3:-1]:
                sch.unroll(loop)


def specify(shape: LayerShape, target: CpuTarget) -> Usage:
    """Kernel, arguments and buffers of ``resample``; its window's size is that of its taps."""
    lanes, size, out, taps = target.lanes, (shape.height, shape.width), shape.out_size, shape.kernel
    blocks, plain = blocks_of(shape.in_channels, lanes), shape.layout.endswith("-nchw")
    usage = Usage(
        Resample(lanes, size, out, taps, plain),
        (blocks, shape.in_channels) if plain else (blocks,),
        inputs=(blocks * lanes * math.prod(size),),
        outputs=((shape.in_channels if plain else blocks * lanes) * math.prod(out),),
        parameters=(2 * out[0] * taps[0], 2 * out[1] * taps[1]),
    )

    def numbers(first: int, count: int) -> tuple[int, ...]:
        channels = max(0, min(count * lanes, shape.in_channels - first * lanes))
        return (count, channels) if plain else (count,)

    return divided(usage, target.threads, blocks, numbers, [lanes * math.prod(size), 0, 0, lanes * math.prod(out)])


def taps_of(mode: str, size: int, out: int) -> int:
    """Taps along one dimension."""
    if mode != "adaptive":
        return 2 if mode.startswith("bilinear") else 1
    return max(end - begin for begin, end in _adaptive_windows(size, out))


def table(mode: str, size: int, out: int, factor: float | None) -> np.ndarray:
    """Indices and weights of one dimension, in the arithmetic of torch, ``(2, out, taps)`` float32.

    Args:
        mode: ``nearest``, ``nearest_exact``, ``bilinear``, ``bilinear_corners`` (corners aligned) or ``adaptive`` (mean
            over windows that cover the input evenly).
        size: pixels of the input.
        out: pixels of the output.
        factor: what was asked for instead of an output size, or None.
    """
    if mode == "adaptive":
        return _adaptive_table(size, out)
    scale = np.float32(1 / factor if factor else size / out)
    pixel = np.arange(out, dtype=np.float32)
    if mode.startswith("nearest"):
        source = np.floor((pixel + np.float32(0.5 if mode == "nearest_exact" else 0)) * scale)
        index = np.minimum(source, np.float32(size - 1))[:, None]
        return np.stack([index, np.ones_like(index)])
    if mode == "bilinear_corners":
        source = pixel * np.float32((size - 1) / (out - 1) if out > 1 else 0)
    else:
        source = np.maximum((pixel + np.float32(0.5)) * scale - np.float32(0.5), np.float32(0))
    low = np.minimum(np.floor(source), np.float32(size - 1))
    high = np.minimum(low + 1, np.float32(size - 1))
    weight = np.minimum(source - low, np.float32(1))
    return np.stack([np.stack([low, high], 1), np.stack([1 - weight, weight], 1)])


def _adaptive_windows(size: int, out: int) -> list[tuple[int, int]]:
    return [(pixel * size // out, -(-(pixel + 1) * size // out)) for pixel in range(out)]


def _adaptive_table(size: int, out: int) -> np.ndarray:
    windows = _adaptive_windows(size, out)
    result = np.zeros((2, out, taps_of("adaptive", size, out)), np.float32)
    for pixel, (begin, end) in enumerate(windows):
        result[0, pixel] = begin  # what lies behind a shorter window is read from its first pixel, and weighs nothing
        result[0, pixel, : end - begin] = np.arange(begin, end)
        result[1, pixel, : end - begin] = 1 / (end - begin)
    return result
