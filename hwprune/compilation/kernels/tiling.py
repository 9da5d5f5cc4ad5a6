"""How an image is cut into register tiles, and a layer's output blocks into groups that are computed together."""

from __future__ import annotations

import functools
from dataclasses import dataclass

#: Most output blocks a tile; with five or more, too few of their sums fit the registers.
GROUP_MAX = 4

#: Blocks up to which :func:`first_groups` looks ahead; beyond, the cheapest group is taken again and again.
LOOKAHEAD = 16

#: Sums that keep both multiply-add units busy: latency 4 times 2 units.
SUMS_MIN = 8

#: What a tile costs beside its multiply-adds, as a share of its loads: larger tiles win where all else is equal.
LOAD_OVERHEAD = 0.08

Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Tiling:
    """Tiles of an image.

    Attributes:
        rows: (rows of a tile, tiles below each other), all tiles of one size behind each other.
        columns: (columns of a tile, tiles beside each other).
    """

    rows: Runs
    columns: Runs


def even_runs(length: int, parts: int) -> Runs:
    """A length cut into parts that differ by one at most, the larger ones first."""
    size, larger = divmod(length, parts)
    runs = ((size + 1, larger), (size, parts - larger))
    return tuple((size, count) for size, count in runs if count and size)


def pixels_max(group: int, sums: int) -> int:
    """Pixels a tile of ``group`` blocks, of which none is spilled (docs/compilation.md).

    Of one block, every weight meets one pixel after the other, and LLVM loads more inputs ahead.
    """
    return max(1, min(sums // group, (3 * sums + 3) // 4 if group == 1 else sums))


def tile_cost(group: int, pixels: int) -> float:
    """Half cycles a tap and input channel: multiply-adds or loads (two of each a cycle), or waiting for sums."""
    loads = group + pixels
    return max(group * pixels, loads, SUMS_MIN) + LOAD_OVERHEAD * loads


@functools.cache
def cheapest_tiling(group: int, height: int, width: int, sums: int) -> tuple[float, Tiling]:
    """Cost of an image a tap and input channel, and its tiles: parts of rows, or several whole rows.

    Args:
        group: blocks computed together.
        height: rows of the result.
        width: columns of the result.
        sums: vectors of sums that the registers can hold.
    """
    limit = pixels_max(group, sums)
    candidates: list[Tiling] = []
    for columns in range(1, min(limit, width) + 1):
        runs = even_runs(width, -(-width // columns))
        if runs[0][0] == columns:
            candidates.append(Tiling(((1, height),), runs))
    candidates += [
        Tiling(even_runs(height, -(-height // rows)), ((width, 1),))
        for rows in range(2, min(limit // width, height) + 1)
    ]

    def cost(tiling: Tiling) -> float:
        return sum(
            below * beside * tile_cost(group, rows * columns)
            for rows, below in tiling.rows
            for columns, beside in tiling.columns
        )

    # Fewer sizes mean fewer kernels to compile.
    return min(((cost(tiling), tiling) for tiling in candidates), key=lambda found: (found[0], _sizes(found[1])))


def _sizes(tiling: Tiling) -> int:
    return len(tiling.rows) * len(tiling.columns)


@functools.cache
def first_groups(height: int, width: int, sums: int) -> tuple[int, ...]:
    """The first group of the cheapest cut, for 1, 2, ... output blocks; the last one for any larger number.

    Without it a number of blocks that no good group divides would be slower than the next larger one.
    """
    costs = [cheapest_tiling(group, height, width, sums)[0] for group in range(1, GROUP_MAX + 1)]
    best: list[tuple[float, int]] = [(0.0, 0)]
    for blocks in range(1, LOOKAHEAD + 1):
        # At equal cost the larger group: it reads the image less often.
        best.append(
            min(
                (round(costs[group - 1] + best[blocks - group][0], 6), -group)
                for group in range(1, min(GROUP_MAX, blocks) + 1)
            )
        )
    return tuple(-group for _, group in best[1:])


def groups_of(blocks: int, firsts: tuple[int, ...]) -> list[int]:
    """Sizes of the groups of a layer, in order."""
    groups: list[int] = []
    while blocks:
        groups.append(firsts[min(blocks, len(firsts)) - 1])
        blocks -= groups[-1]
    return groups
