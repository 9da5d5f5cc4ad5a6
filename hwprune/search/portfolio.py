"""Portfolio-based selection: capital is invested in individuals by the Hypervolume Sharpe-Ratio.

An individual's expected return is the share of a box that it dominates, the covariance of two is what they dominate
together; the portfolio with the best ratio of return to risk pays for quality and diversity at once.

References:
    Yevseyeva, Guerreiro, Emmerich, Fonseca. A portfolio optimization approach to selection in multiobjective
    evolutionary algorithms. PPSN 2014.
    Guerreiro, Fonseca. Hypervolume Sharpe-Ratio indicator: formalization and first theoretical results. PPSN 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import moocore
import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Investments up to this are numerical noise of the solver.
NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Choice:
    """Survivors of a selection.

    Attributes:
        rows: chosen rows, best first.
        investments: of each, for parents in proportion to it; None where parents are drawn by tournament.
    """

    rows: IntArray
    investments: FloatArray | None


def hypervolume_sharpe_ratio(F: FloatArray, lower: npt.ArrayLike, upper: npt.ArrayLike) -> tuple[float, FloatArray]:
    """Best ratio of expected return to risk, and the investments that reach it.

    The quadratic program ``min y'Qy, r'y = 1, y >= 0`` becomes a non-negative least-squares problem: on ``r'y = 1`` its
    objective is ``y'Py - 1``, and ``P`` has a symmetric root.

    Args:
        F: ``(n, n_obj)`` distinct objective vectors; with duplicates the investments are not unique.
        lower: ``(n_obj,)`` lower end of the box; points are clipped up to it.
        upper: ``(n_obj,)`` upper end; points not strictly below it get nothing.

    Returns:
        The ratio (infinite without risk, 0 without return) and ``(n,)`` investments that sum to 1 (or are all 0).
    """
    low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
    investments = np.zeros(len(F))
    inside = np.less(F, high).all(axis=1)
    if not inside.any():
        return 0.0, investments
    points = np.maximum(F[inside], low)
    worse = np.maximum(points[:, None], points[None])
    P = ((high - worse) / (high - low)).prod(axis=2)
    r = P.diagonal()
    eigenvalues, V = np.linalg.eigh(P)
    root = np.sqrt(np.maximum(eigenvalues, 0) + 1e-12)
    y, _ = nnls((V * root) @ V.T, (V / root) @ (V.T @ r), maxiter=100 * len(r))
    y = y / (r @ y)
    variance = y @ P @ y - 1
    investments[inside] = y / y.sum()
    return (float(1 / np.sqrt(variance)) if variance > 0 else float("inf")), investments


def peel(F: FloatArray, n: int) -> Choice:
    """Choose ``n`` rows by repeated investment (step 9): those that get capital first, then the same among the rest.

    One portfolio holds few individuals and never a dominated one; so its members are taken in order of their capital,
    and the next level invests in what is left. Of equal objective vectors only the first row can be chosen.

    Args:
        F: ``(n_pop, n_obj)`` objective values, minimized.
        n: rows wanted; fewer come back where fewer are distinct.

    Returns:
        Rows in the order they were chosen, and investments minus the level: positive on the first level alone.
    """
    rest = np.sort(np.unique(F, axis=0, return_index=True)[1])
    rows: list[int] = []
    investments: list[float] = []
    level = 0
    while len(rows) < n and rest.size:
        points = F[rest]
        margin = 0.2 * np.ptp(points, axis=0) + 1e-9
        # The dominated would get nothing; leaving them out spares the solver near-singular rows.
        invited = np.flatnonzero(moocore.is_nondominated(points))
        _, x = hypervolume_sharpe_ratio(points[invited], points.min(axis=0) - margin, points.max(axis=0) + margin)
        order = np.argsort(-x, kind="stable")
        chosen = order[x[order] > NEGLIGIBLE]
        if not chosen.size:
            chosen = order[:1]
        rows += rest[invited[chosen]].tolist()
        investments += (x[chosen] - level).tolist()
        rest = np.delete(rest, invited[chosen])
        level += 1
    return Choice(np.array(rows[:n], dtype=np.int64), np.array(investments[:n]))


def hv_greedy(F: FloatArray, n: int) -> Choice:
    """Choose ``n`` rows one by one, each time the one that adds most hypervolume; the gain is its investment.

    Once the non-dominated are taken nothing gains any more: the same begins among the rest, whose investment is 0.
    """
    low, high = F.min(axis=0), F.max(axis=0)
    points = (F - low) / np.maximum(high - low, 1e-12)
    rank = moocore.pareto_rank(points)
    rows: list[int] = []
    gains: list[float] = []
    for level in np.unique(rank):
        front, front_gains = _greedy_front(points, np.flatnonzero(rank == level).tolist(), n - len(rows))
        rows += front
        gains += front_gains if level == 0 else [0.0] * len(front)
    return Choice(np.array(rows, dtype=np.int64), np.array(gains))


def _greedy_front(points: FloatArray, rest: list[int], n: int) -> tuple[list[int], list[float]]:
    """Rows of one front in the order of their hypervolume gain, and the gains."""
    ref_point = np.full(points.shape[1], 1.1)
    # A gain can only shrink while the set grows, so a bound that is already too small need not be computed again.
    bounds = {row: float((ref_point - points[row]).prod()) for row in rest}
    rows: list[int] = []
    gains: list[float] = []
    while len(rows) < n and bounds:
        best, best_gain = next(iter(bounds)), -1.0
        for row in sorted(bounds, key=bounds.__getitem__, reverse=True):
            if bounds[row] <= best_gain:
                break
            bounds[row] = float(moocore.hypervolume(points[[*rows, row]], ref=ref_point)) - sum(gains)
            if bounds[row] > best_gain:
                best, best_gain = row, bounds[row]
        rows.append(best)
        gains.append(max(best_gain, 0.0))
        del bounds[best]
    return rows, gains
