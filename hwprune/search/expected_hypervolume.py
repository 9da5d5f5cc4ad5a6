"""How much hypervolume candidates promise to add: exactly for known objectives, in expectation for predicted ones.

References:
    Emmerich, Giannakoglou, Naujoks. Single- and multiobjective evolutionary optimization assisted by Gaussian random
    field metamodels. IEEE Transactions on Evolutionary Computation 10(4), 2006.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Points of a front that the free space is cut by; more would cost time, not change which candidate promises most.
FRONT_MAX = 64
#: Products of candidates and boxes that are held at a time.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class FreeSpace:
    """What lies below a reference point and no point of a front dominates, as disjoint boxes.

    Attributes:
        lower: ``(n_boxes, n_obj)`` lower corners, minus infinity where a box is open.
        upper: ``(n_boxes, n_obj)`` upper corners.
    """

    lower: FloatArray
    upper: FloatArray

    @classmethod
    def below(cls, ref_point: npt.ArrayLike, front: FloatArray) -> FreeSpace:
        """Space below an ``(n_obj,)`` ``ref_point`` that an ``(n, n_obj)`` ``front`` leaves free."""
        ref = np.asarray(ref_point, dtype=np.float64)
        space = cls(np.full((1, len(ref)), -np.inf), ref[None].copy())
        inside = front[(front < ref).all(axis=1)]
        if len(inside) > FRONT_MAX:
            inside = inside[_spread(inside, FRONT_MAX)]
        # By the last objective: every point then cuts few of the boxes that are there.
        for point in inside[np.argsort(inside[:, -1], kind="stable")]:
            space = space.without(point)
        return space

    def without(self, point: FloatArray) -> FreeSpace:
        """The space that is left when an ``(n_obj,)`` ``point`` joins the front."""
        hit = (point < self.upper).all(axis=1)
        if not hit.any():
            return self
        low, high = self.lower[hit].copy(), self.upper[hit]
        lower, upper = [self.lower[~hit]], [self.upper[~hit]]
        for objective, value in enumerate(point):
            # What is better than the point here, and no better in the objectives before.
            better = low[:, objective] < value
            part = high[better].copy()
            part[:, objective] = value
            lower.append(low[better])
            upper.append(part)
            low = low.copy()
            low[:, objective] = np.maximum(low[:, objective], value)
        return FreeSpace(np.vstack(lower), np.vstack(upper))

    def gains(self, forecast: Sequence[FloatArray]) -> FloatArray:
        """``(n,)`` expected hypervolume gains of n candidates, their objectives independent of each other.

        Args:
            forecast: for each objective ``(n, Q)`` equally likely values; Q is 1 where the value is known.
        """
        n, n_boxes = len(forecast[0]), len(self.upper)
        gains = np.zeros(n)
        if not n_boxes:
            return gains
        sides = [
            tuple(np.searchsorted(edges, corner[:, objective]) for corner in (self.lower, self.upper))
            for objective, edges in enumerate(self._edges)
        ]
        step = max(1, _CHUNK // n_boxes)
        for start in range(0, n, step):
            rows = slice(start, start + step)
            volume: FloatArray | None = None
            for values, edges, (low, high) in zip(forecast, self._edges, sides, strict=True):
                below = _expected_excess(edges, values[rows])
                side = below[:, high] - below[:, low]
                volume = side if volume is None else volume * side
            assert volume is not None  # there is at least one objective
            gains[rows] = volume.sum(axis=1)
        return gains

    @functools.cached_property
    def _edges(self) -> list[FloatArray]:
        return [np.unique(np.concatenate([low, high])) for low, high in zip(self.lower.T, self.upper.T, strict=True)]


def _expected_excess(edges: FloatArray, values: FloatArray) -> FloatArray:
    """``(n, n_edges)`` means over ``(n, Q)`` values of how far each edge lies above them; 0 for the open edge."""
    excess = np.zeros((len(values), len(edges)))
    for column in values.T:
        excess += np.maximum(edges - column[:, None], 0)
    return np.asarray(excess / values.shape[1])


def _spread(F: FloatArray, n: int) -> IntArray:
    """``(n,)`` rows of a front, far from each other, the best of every objective among them."""
    points = (F - F.min(axis=0)) / np.maximum(np.ptp(F, axis=0), 1e-12)
    rows = list(dict.fromkeys(int(row) for row in F.argmin(axis=0)))
    distance = np.min([np.linalg.norm(points - points[row], axis=1) for row in rows], axis=0)
    while len(rows) < n:
        rows.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(points - points[rows[-1]], axis=1))
    return np.array(rows, dtype=np.int64)
