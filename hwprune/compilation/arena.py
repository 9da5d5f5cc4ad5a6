"""Where buffers lie in one arena: two whose lives overlap never share a byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Every buffer starts at a cache line, which is a whole vector too.
ALIGNMENT_BYTES = 64


@dataclass
class Life:
    """A buffer that is needed from one step to another, both included."""

    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class ArenaPlan:
    """Byte offset of every buffer, size of the arena, and the most bytes that are needed at once."""

    offsets: Mapping[str, int]
    size_bytes: int
    live_bytes: int


def align(size_bytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def plan_arena(lives: Mapping[str, Life]) -> ArenaPlan:
    """Place the buffers the largest first, and again in the order of need; the smaller arena wins."""
    by_size = sorted(lives, key=lambda name: (-lives[name].size_bytes, lives[name].first, name))
    by_need = sorted(lives, key=lambda name: (lives[name].first, -lives[name].size_bytes, name))
    offsets, size_bytes = min((_place(lives, order) for order in (by_size, by_need)), key=lambda plan: plan[1])
    return ArenaPlan(offsets, size_bytes, _live_bytes(lives))


def _place(lives: Mapping[str, Life], order: list[str]) -> tuple[dict[str, int], int]:
    """Offsets and size: each buffer in the smallest hole that is large enough, else behind all that is alive."""
    offsets: dict[str, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # begin, end, first, last
    total = 0
    for name in order:
        life = lives[name]
        size = align(life.size_bytes)
        busy = sorted((begin, end) for begin, end, first, last in placed if first <= life.last and life.first <= last)
        offset, hole, cursor = None, 0, 0
        for begin, end in busy:
            if size <= begin - cursor and (offset is None or begin - cursor < hole):
                offset, hole = cursor, begin - cursor
            cursor = max(cursor, end)
        offset = cursor if offset is None else offset
        offsets[name] = offset
        placed.append((offset, offset + size, life.first, life.last))
        total = max(total, offset + size)
    return offsets, total


def _live_bytes(lives: Mapping[str, Life]) -> int:
    """Largest sum of sizes over the steps."""
    changes: dict[int, int] = {}
    for life in lives.values():
        changes[life.first] = changes.get(life.first, 0) + life.size_bytes
        changes[life.last + 1] = changes.get(life.last + 1, 0) - life.size_bytes
    live = most = 0
    for step in sorted(changes):
        live += changes[step]
        most = max(most, live)
    return most
