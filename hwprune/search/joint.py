"""Joint schemes: one choice a sub-network, put together by how much each impairs the whole network.

An impairment is what the whole network loses when one sub-network alone is pruned. Impairments are taken to add up, as
savings do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
import numpy.typing as npt

from hwprune.search.portfolio import hv_greedy
from hwprune.search.survival import nsga2

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Joint schemes that are kept while fronts are merged.
MERGED_MAX = 2000


@dataclass(frozen=True, eq=False)
class Schemes:
    """Joint schemes.

    Attributes:
        choices: ``(n, K)`` member of every sub-network's front, -1 for the unpruned one.
        F: ``(n, 1 + n_costs)`` predicted impairment and negated savings, minimized.
    """

    choices: IntArray
    F: FloatArray

    def spread(self, n: int) -> Schemes:
        """``n`` of them that cover the predicted front best, those first that add most to it."""
        rows = hv_greedy(self.F, n).rows if len(self.F) else np.empty(0, np.int64)
        return Schemes(self.choices[rows], self.F[rows])

    def up_to(self, impairment: float) -> Schemes:
        """Those that are predicted to lose no more."""
        rows = np.flatnonzero(self.F[:, 0] <= impairment)
        return Schemes(self.choices[rows], self.F[rows])


def with_unpruned(front: FloatArray) -> FloatArray:
    """A front's ``(n, n_obj)`` values with the unpruned sub-network, which impairs nothing and saves nothing, last."""
    return np.vstack([front, np.zeros((1, front.shape[1]))])


def non_dominated(front: FloatArray) -> IntArray:
    """Rows that no other one beats in impairment and savings: a local front need not be a global one."""
    return np.flatnonzero(moocore.is_nondominated(front)) if len(front) else np.empty(0, np.int64)


def knapsack(fronts: Sequence[FloatArray]) -> Schemes:
    """All non-dominated sums of one member a front, by merging front after front; exact where values add up.

    Args:
        fronts: ``(n_k, 1 + n_costs)`` impairment and negated savings of every sub-network's members.
    """
    schemes = Schemes(np.empty((1, 0), np.int64), np.zeros((1, fronts[0].shape[1])))
    for front in fronts:
        options = with_unpruned(front)
        names = np.append(np.arange(len(front)), -1)
        F = (schemes.F[:, None] + options[None]).reshape(-1, options.shape[1])
        rows = np.flatnonzero(moocore.is_nondominated(F))
        if len(rows) > MERGED_MAX:
            rows = rows[np.sort(nsga2(F[rows], MERGED_MAX).rows)]
        before, member = np.divmod(rows, len(options))
        schemes = Schemes(np.column_stack([schemes.choices[before], names[member]]), F[rows])
    return schemes


def rank_threshold(fronts: Sequence[FloatArray]) -> Schemes:
    """One scheme for every rank of impairment among all members: each sub-network's largest saving up to that rank."""
    pooled = np.sort(np.concatenate([front[:, 0] for front in fronts]))
    found: dict[tuple[int, ...], FloatArray] = {}
    for threshold in [-np.inf, *pooled]:
        choice, total = [], np.zeros(fronts[0].shape[1])
        for front in fronts:
            allowed = np.flatnonzero(front[:, 0] <= threshold)
            if not allowed.size:
                choice.append(-1)
                continue
            member = int(allowed[np.argmin(front[allowed, 1])])
            choice.append(member)
            total = total + front[member]
        found[tuple(choice)] = total
    return Schemes(np.array(list(found), np.int64), np.array(list(found.values())))


def random_schemes(fronts: Sequence[FloatArray], n: int, random_state: np.random.Generator) -> Schemes:
    """``n`` random members a front put together: the control."""
    choices = np.column_stack([random_state.integers(-1, len(front), n) for front in fronts])
    F = sum(with_unpruned(front)[column] for front, column in zip(fronts, choices.T, strict=True))
    return Schemes(choices, np.asarray(F))
