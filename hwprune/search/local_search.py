"""Surrogate-assisted local search (step 6d): several starts climb side by side, one batch of predictions a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwprune.search.problem import SearchProblem

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

#: Score added to whatever breaks a constraint: feasibility first, then the trade-off.
INFEASIBLE = 1e6


@dataclass(frozen=True)
class Neighbourhood:
    """Moves from one candidate to others.

    Attributes:
        quanta: levels that one group moves by, up and down.
        sigma: standard deviation of Gaussian steps, in genes.
        largest: most neighbours of one candidate; three quarters are single moves, the rest pairs and Gaussian steps.
    """

    quanta: tuple[int, ...]
    sigma: float
    largest: int

    def around(self, problem: SearchProblem, widths: IntArray, random_state: np.random.Generator) -> IntArray:
        """``(n, G)`` neighbours of ``(G,)`` widths."""
        n_other = max(1, self.largest // 8)
        singles = self._singles(problem, widths, self.largest - 2 * n_other, random_state)
        pairs = self._pairs(problem, widths, singles, n_other, random_state)
        genome = problem.space.encode(widths[None])
        steps = genome + random_state.normal(0, self.sigma, (n_other, len(widths)))
        moved = np.vstack([singles, pairs, problem.space.decode(np.clip(steps, 0, problem.space.upper))])
        return _elsewhere(moved, widths)

    def _singles(self, problem: SearchProblem, widths: IntArray, n: int, random_state: np.random.Generator) -> IntArray:
        """Every group a few levels up or down."""
        moves = np.array([[sign * quantum] for quantum in self.quanta for sign in (1, -1)])
        levels = np.vstack([move * np.eye(len(widths), dtype=np.int64) for move in moves])
        if len(levels) > n:
            levels = levels[random_state.choice(len(levels), n, replace=False)]
        return _elsewhere(problem.space.shift(np.broadcast_to(widths, levels.shape), levels), widths)

    def _pairs(
        self, problem: SearchProblem, widths: IntArray, singles: IntArray, n: int, random_state: np.random.Generator
    ) -> IntArray:
        """One group up, another down, at about equal cost: the trade between groups that the error decides."""
        steps = singles - widths
        up, down = np.flatnonzero((steps > 0).any(axis=1)), np.flatnonzero((steps < 0).any(axis=1))
        if not (up.size and down.size):
            return np.asarray(singles[:0])
        cost = problem.cheap(np.vstack([widths, singles]))[cost_name(problem)]
        change = cost[1:] - cost[0]
        first, second = random_state.choice(up, 8 * n), random_state.choice(down, 8 * n)
        closest = np.argsort(np.abs(change[first] + change[second]), kind="stable")[:n]
        # Both steps touch one group each; on the same group they would cancel or exceed its bounds.
        moved = widths + steps[first[closest]] + steps[second[closest]]
        return np.asarray(np.clip(moved, problem.space.smallest, problem.space.sizes))


def _elsewhere(moved: IntArray, widths: IntArray) -> IntArray:
    return np.asarray(moved[(moved != widths).any(axis=1)])


def cost_name(problem: SearchProblem) -> str:
    """The cheap objective that pair moves keep about equal: the latency where there is one."""
    cheap = [name for name in problem.objectives if name != "error"]
    return "latency" if "latency" in cheap else cheap[0]


def tchebycheff(F: FloatArray, weights: FloatArray, ideal: FloatArray, nadir: FloatArray) -> FloatArray:
    """``(n,)`` weighted Tchebycheff values of ``(n, n_obj)`` objectives, normalised to 0 at ideal and 1 at nadir.

    A little of the sum is added, so that a move counts that betters only an objective which is not the worst.
    """
    scaled = weights * (F - ideal) / np.maximum(nadir - ideal, 1e-12)
    return np.asarray(scaled.max(axis=1) + 1e-3 * scaled.sum(axis=1))


def climb(
    problem: SearchProblem,
    predict_errors: Callable[[IntArray], FloatArray],
    starts: IntArray,
    weights: FloatArray,
    ideal: FloatArray,
    nadir: FloatArray,
    *,
    steps: int,
    neighbourhood: Neighbourhood,
    sideways: bool,
    seen: Callable[[IntArray], BoolArray],
    random_state: np.random.Generator,
) -> tuple[IntArray, int]:
    """Move every start to its best neighbour while that is better, judged by predictions alone.

    Args:
        problem: what is searched.
        predict_errors: ``(n, G)`` widths to ``(n,)`` predicted errors.
        starts: ``(n_starts, G)`` widths.
        weights: ``(n_starts, n_obj)`` weights of every start's Tchebycheff value.
        ideal: ``(n_obj,)`` smallest objective values.
        nadir: ``(n_obj,)`` largest ones among the non-dominated.
        steps: most moves of a start.
        neighbourhood: the moves.
        sideways: move to an equal neighbour too.
        seen: mask of the ``(n, G)`` widths that were evaluated before.
        random_state: source of randomness.

    Returns:
        ``(n, G)`` end points, n up to n_starts, and the number of moves. A start that ends where an evaluation was made
        before gives the best neighbour without one; where there is none, nothing.
    """

    def score(widths: IntArray, owner: Sequence[int] | IntArray) -> FloatArray:
        F, CV = problem.predict(widths, predict_errors(widths))
        return tchebycheff(F, weights[owner], ideal, nadir) + np.where(CV > 0, INFEASIBLE * (1 + CV), 0.0)

    current = starts.copy()
    values = score(current, np.arange(len(starts)))
    fallback: list[IntArray | None] = [None] * len(starts)
    active = list(range(len(starts)))
    moves = 0
    for _ in range(steps):
        around = [neighbourhood.around(problem, current[start], random_state) for start in active]
        owner = np.repeat(active, [len(rows) for rows in around])
        neighbours = np.vstack(around) if around else current[:0]
        if not len(neighbours):
            break
        scores, unseen = score(neighbours, owner), ~seen(neighbours)
        climbing = []
        for start in active:
            mine = np.flatnonzero(owner == start)
            new = mine[unseen[mine]]
            fallback[start] = neighbours[new[np.argmin(scores[new])]] if new.size else None
            if not mine.size:
                continue
            best = mine[np.argmin(scores[mine])]
            if scores[best] < values[start] or (sideways and scores[best] == values[start]):
                current[start], values[start] = neighbours[best], scores[best]
                climbing.append(start)
        moves += len(climbing)
        active = climbing
        if not active:
            break
    ends = [fallback[start] if known else current[start] for start, known in enumerate(seen(current))]
    found = [end for end in ends if end is not None]
    return (np.unique(np.array(found), axis=0) if found else starts[:0]), moves
