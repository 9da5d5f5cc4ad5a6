"""Candidates that were looked at, with what each promises, and the batch of them that promises most."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hwprune.search.expected_hypervolume import FreeSpace
from hwprune.search.forecast import Forecaster

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

#: Value added to whatever breaks a constraint: feasibility first, then the trade-off.
INFEASIBLE = 1e6
#: Candidates that a choice looks at again after each one that it takes.
_LISTED = 192


class Pool:
    """Candidates and their expected hypervolume gains.

    What promises most alone lies close together, where the surrogate is least sure; so candidates come from several
    sources (children, each local search), and every source keeps its best ones for the choice.
    """

    def __init__(self, forecaster: Forecaster, space: FreeSpace, seen: Callable[[IntArray], BoolArray]) -> None:
        self._forecaster = forecaster
        self._space = space
        self._seen = seen
        self._sources: dict[int, list[tuple[IntArray, FloatArray]]] = {}

    def add(self, widths: IntArray, source: int = -1) -> FloatArray:
        """Look at ``(n, G)`` widths: ``(n,)`` gains that each promises alone, below 0 where it breaks a constraint."""
        if not len(widths):
            return np.empty(0)
        gains = self._gains(widths)
        self._sources.setdefault(source, []).append((widths, gains))
        return gains

    def judge(self, widths: IntArray, owner: IntArray) -> FloatArray:
        """What local searches for gain make smaller; whatever they look at joins the pool."""
        gains = self._gains(widths)
        for source in np.unique(owner):
            mine = owner == source
            self._sources.setdefault(int(source), []).append((widths[mine], gains[mine]))
        return -gains

    def best(self, n: int) -> IntArray:
        """``(m, G)`` distinct candidates that promise most together and were not seen before, m up to ``n``.

        One is chosen after the other; each is taken at its median forecast for granted, so that the next one is paid
        for what it adds to it, and for what the outcome of those before would not tell.
        """
        listed = self._listed()
        if n < 1 or not len(listed):
            return listed[:0]
        joint, space = self._forecaster.joint(listed), self._space
        chosen: list[int] = []
        while len(chosen) < min(n, len(listed)):
            gains = space.gains(joint.values)
            gains[chosen] = 0.0
            best = int(np.argmax(gains))
            if gains[best] <= 0:
                break
            chosen.append(best)
            space = space.without(joint.assume(best))
        return listed[chosen]

    def _gains(self, widths: IntArray) -> FloatArray:
        forecast = self._forecaster(widths)
        return np.where(forecast.CV > 0, -INFEASIBLE * (1 + forecast.CV), self._space.gains(forecast.values))

    def _listed(self) -> IntArray:
        """``(m, G)`` distinct new candidates, the best of every source."""
        each = max(1, _LISTED // max(1, len(self._sources)))
        found = []
        for parts in self._sources.values():
            widths, gains = np.vstack([w for w, _ in parts]), np.concatenate([g for _, g in parts])
            order = np.argsort(-gains, kind="stable")
            order = order[gains[order] > 0][: 8 * each]  # what local searches visit, they visit many times
            widths = widths[order]
            _, first = np.unique(widths, axis=0, return_index=True)
            widths = widths[np.sort(first)]
            found.append(widths[~self._seen(widths)][:each])
        if not found:
            return np.empty((0, self._forecaster.n_var), dtype=np.int64)
        widths = np.vstack(found)
        return widths[np.sort(np.unique(widths, axis=0, return_index=True)[1])]
