"""Children that are new: crossover and mutation of chosen parents (steps 6b and 6c)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwprune.search.operators import latin_hypercube, polynomial_mutation, simulated_binary_crossover
from hwprune.search.space import SearchSpace

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

#: Rounds of breeding that try for new children, and rounds of random ones where the parents' surroundings are used up.
_BRED, _DRAWN = 10, 10


@dataclass(frozen=True)
class Breeder:
    """Simulated binary crossover and polynomial mutation.

    Attributes:
        sbx_prob: probability of crossover.
        sbx_eta: its distribution index.
        pm_prob: probability that a gene mutates; None for 1 / number of genes.
        pm_eta: distribution index of the mutation.
    """

    sbx_prob: float
    sbx_eta: float
    pm_prob: float | None
    pm_eta: float

    def children(
        self,
        space: SearchSpace,
        widths: IntArray,
        draw: Callable[[int], IntArray],
        n: int,
        seen: Callable[[IntArray], BoolArray],
        random_state: np.random.Generator,
    ) -> IntArray:
        """``(m, G)`` distinct children that were not seen before, m up to ``n``.

        Args:
            space: encodes and decodes them.
            widths: ``(n_pop, G)`` population.
            draw: number of parents to their ``(number,)`` rows in the population.
            n: children wanted.
            seen: mask of the ``(n, G)`` widths that are not wanted.
            random_state: source of randomness.
        """
        genomes = space.encode(widths)
        pm_prob = 1 / space.n_var if self.pm_prob is None else self.pm_prob
        found = np.empty((0, space.n_var), dtype=np.int64)
        for attempt in range(_BRED + _DRAWN):
            missing = n - len(found)
            if missing <= 0:
                break
            if attempt < _BRED:
                A, B = np.split(genomes[draw(2 * -(-missing // 2))], 2)
                X = simulated_binary_crossover(A, B, space.upper, random_state, prob=self.sbx_prob, eta=self.sbx_eta)
                X = polynomial_mutation(X, space.upper, random_state, prob=pm_prob, eta=self.pm_eta)
            else:
                X = space.upper * latin_hypercube(missing, space.n_var, random_state)
            bred = space.decode(X)
            found = distinct(np.vstack([found, bred[~seen(bred)]]))
        return found[:n]


def distinct(widths: IntArray) -> IntArray:
    """``(n, G)`` widths without repetition, in the order of their first appearance."""
    return widths[np.sort(np.unique(widths, axis=0, return_index=True)[1])]


def among(widths: IntArray, others: IntArray) -> BoolArray:
    """``(n,)`` mask of the ``(n, G)`` widths that are among ``(m, G)`` others."""
    known = {row.tobytes() for row in np.ascontiguousarray(others, np.int64)}
    return np.array([row.tobytes() in known for row in np.ascontiguousarray(widths, np.int64)], dtype=bool)
