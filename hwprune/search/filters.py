"""The filters of some channel groups as one row of bits, 1 for those that are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from hwprune.search.operators import polynomial_mutation, simulated_binary_crossover

Bits = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FilterBits:
    """Bits of a few groups, one group after the other.

    Attributes:
        scores: importance of every group's units, higher for those to keep.
        min_kept: ``(n_groups,)`` units that stay at least.
    """

    scores: tuple[FloatArray, ...]
    min_kept: IntArray

    @property
    def sizes(self) -> IntArray:
        """``(n_groups,)`` units of every group."""
        return np.array([len(scores) for scores in self.scores], np.int64)

    @property
    def n_bits(self) -> int:
        """Bits of all groups."""
        return int(self.sizes.sum())

    def split(self, bits: Bits) -> list[Bits]:
        """``(..., n_bits)`` rows, group by group."""
        return np.split(bits, np.cumsum(self.sizes)[:-1], axis=-1)

    def widths(self, bits: Bits) -> IntArray:
        """``(n, n_groups)`` kept units of ``(n, n_bits)`` rows."""
        return np.stack([group.sum(axis=-1) for group in self.split(bits)], axis=-1).astype(np.int64)

    def kept(self, row: Bits) -> list[tuple[int, ...]]:
        """Kept units of every group."""
        return [tuple(np.flatnonzero(group).tolist()) for group in self.split(row)]

    def ranked(self, ratios: FloatArray) -> Bits:
        """``(n, n_bits)`` rows that keep the most important units, as many as ``(n, n_groups)`` ratios say."""
        widths = np.clip(np.rint(ratios * self.sizes), self.min_kept, self.sizes).astype(np.int64)
        columns = []
        for group, scores in enumerate(self.scores):
            place = np.empty(len(scores), np.int64)
            place[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
            columns.append(place < widths[:, group, None])
        return np.concatenate(columns, axis=1)

    def repaired(self, bits: Bits) -> Bits:
        """``(n, n_bits)`` rows in which every group keeps enough: the most important dropped units return."""
        groups = []
        for group, scores, least in zip(self.split(bits), self.scores, self.min_kept, strict=True):
            group = group.copy()
            for row in np.flatnonzero(group.sum(axis=1) < least):
                order = np.argsort(np.where(group[row], -np.inf, -scores), kind="stable")
                group[row, order[:least]] = True  # kept ones come first in this order
            groups.append(group)
        return np.concatenate(groups, axis=1)


class Encoding(Protocol):
    """Genomes that decode to bits."""

    def start(self, n: int, random_state: np.random.Generator) -> npt.NDArray[np.generic]:
        """``(n, n_var)`` genomes, the unpruned one first."""
        ...

    def decode(self, genomes: npt.NDArray[np.generic]) -> Bits:
        """``(n, n_bits)`` rows of bits."""
        ...

    def vary(
        self, A: npt.NDArray[np.generic], B: npt.NDArray[np.generic], random_state: np.random.Generator
    ) -> npt.NDArray[np.generic]:
        """``(2 n, n_var)`` children of n pairs of parents."""
        ...


@dataclass(frozen=True)
class BitEncoding:
    """A genome is the bits themselves.

    Attributes:
        filters: what the bits mean.
        crossover: of each bit by itself, or of what lies behind one point.
        cx_prob: probability of crossover.
        flip_prob: probability that a bit flips; none for 1 / number of bits.
        ranked_share: share of the start that keeps the most important units, at evenly spaced ratios.
        ratio_min: smallest share of kept units at the start.
    """

    filters: FilterBits
    crossover: Literal["uniform", "one_point"] = "uniform"
    cx_prob: float = 0.9
    flip_prob: float | None = None
    ranked_share: float = 0.5
    ratio_min: float = 0.1

    def start(self, n: int, random_state: np.random.Generator) -> Bits:
        """All kept; some by importance; the rest at random, each with a share of kept units of its own."""
        filters = self.filters
        n_ranked = min(round(self.ranked_share * n), n - 1)
        ratios = np.linspace(0.95, self.ratio_min, n_ranked)[:, None] * np.ones(len(filters.sizes))
        shares = random_state.uniform(self.ratio_min, 1, (n - 1 - n_ranked, 1))
        drawn = random_state.random((len(shares), filters.n_bits)) < shares
        return np.vstack([np.ones((1, filters.n_bits), bool), filters.ranked(ratios), filters.repaired(drawn)])

    def decode(self, genomes: npt.NDArray[np.generic]) -> Bits:
        """The genomes themselves."""
        return genomes.astype(np.bool_)

    def vary(self, A: npt.NDArray[np.generic], B: npt.NDArray[np.generic], random_state: np.random.Generator) -> Bits:
        """Crossover, mutation, repair."""
        n_bits = self.filters.n_bits
        if self.crossover == "uniform":
            swapped = random_state.random(A.shape) < 0.5
        else:
            swapped = np.arange(n_bits) >= random_state.integers(1, max(n_bits, 2), (len(A), 1))
        swapped &= random_state.random((len(A), 1)) < self.cx_prob
        children = np.vstack([np.where(swapped, B, A), np.where(swapped, A, B)]).astype(np.bool_)
        flip_prob = 1 / n_bits if self.flip_prob is None else self.flip_prob
        return self.filters.repaired(children ^ (random_state.random(children.shape) < flip_prob))


@dataclass(frozen=True)
class RatioEncoding:
    """A gene is the pruned share of a group, of which the least important units go.

    Attributes:
        filters: what is kept.
        cx_prob: probability of crossover.
        eta: distribution index of crossover, and with 5 added of mutation.
    """

    filters: FilterBits
    cx_prob: float = 0.9
    eta: float = 15.0

    def start(self, n: int, random_state: np.random.Generator) -> FloatArray:
        """Unpruned, and at random, each genome round a share of its own."""
        shares = random_state.uniform(0, 0.7, (n - 1, 1))
        drawn = shares + random_state.normal(0, 0.1, (n - 1, len(self.filters.sizes)))
        return np.vstack([np.zeros((1, len(self.filters.sizes))), np.clip(drawn, 0, 1)])

    def decode(self, genomes: npt.NDArray[np.generic]) -> Bits:
        """Bits of the most important units."""
        return self.filters.ranked(1 - genomes.astype(np.float64))

    def vary(
        self, A: npt.NDArray[np.generic], B: npt.NDArray[np.generic], random_state: np.random.Generator
    ) -> FloatArray:
        """Simulated binary crossover, polynomial mutation."""
        parents = A.astype(np.float64), B.astype(np.float64)
        X = simulated_binary_crossover(*parents, 1.0, random_state, prob=self.cx_prob, eta=self.eta)
        return polynomial_mutation(X, 1.0, random_state, prob=1 / A.shape[1], eta=self.eta + 5)
