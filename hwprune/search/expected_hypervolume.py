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

#: Points of a front that the free space is cut by; of more than three objectives fewer, for the boxes are many then.
#: Where a front has more, candidates beside those left out promise what is taken already.
FRONT_MAX, FRONT_MAX_CUT = 400, 64
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
        inside = front[(front < ref).all(axis=1)]
        most = FRONT_MAX if len(ref) <= 3 else FRONT_MAX_CUT
        if len(inside) > most:
            inside = inside[_spread(inside, most)]
        # By the last objective: every point then cuts few of the boxes that are there.
        inside = inside[np.argsort(inside[:, -1], kind="stable")]
        if len(ref) == 3:
            return cls(*_swept(ref, inside))
        space = cls(np.full((1, len(ref)), -np.inf), ref[None].copy())
        for point in inside:
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


def _swept(ref: FloatArray, front: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Corners of at most 2 n + 1 boxes below ``(3,)`` ``ref`` that n points, sorted by the last objective, leave free.

    At any value of the last objective, what is free are strips side by side along the first one, each up to a limit of
    the second. A point ends the strips that it reaches into and begins one; a strip between two such moments is a box.
    """
    lower: list[tuple[float, float, float]] = []
    upper: list[tuple[float, float, float]] = []

    def end(low: float, high: float, limit: float, begun: float, now: float) -> None:
        if low < high and begun < now:
            lower.append((low, -np.inf, begun))
            upper.append((high, limit, now))

    strips = [(-np.inf, float(ref[0]), float(ref[1]), -np.inf)]  # where along the first objective, limit, begun
    for x, y, now in front.tolist():
        first = next(number for number, (_, high, _, _) in enumerate(strips) if x < high)
        last = first
        while last < len(strips) and strips[last][2] > y:
            low, high, limit, begun = strips[last]
            end(max(low, x), high, limit, begun, now)
            last += 1
        if last == first:  # dominated
            continue
        low, _, limit, begun = strips[first]
        before = [(low, x, limit, begun)] if low < x else []
        strips[first:last] = [*before, (x, strips[last - 1][1], y, now)]
    for low, high, limit, begun in strips:
        end(low, high, limit, begun, float(ref[2]))
    return np.array(lower).reshape(-1, 3), np.array(upper).reshape(-1, 3)


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
