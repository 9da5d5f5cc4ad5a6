"""Surrogate-assisted local search (step 6d): several starts climb side by side, one batch of predictions a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwprune.search.problem import SearchProblem
from hwprune.search.space import SearchSpace

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

#: ``(n, G)`` widths and the ``(n,)`` starts that they belong to, to ``(n,)`` values that a start makes smaller.
Judge = Callable[[IntArray, IntArray], FloatArray]


@dataclass(frozen=True)
class Score:
    """Weighted Tchebycheff value of objectives, normalised to 0 at the ideal and 1 at the nadir; smaller is better.

    Attributes:
        weights: ``(n_starts, n_obj)`` weights of every start.
        ideal: ``(n_obj,)`` smallest objective values.
        nadir: ``(n_obj,)`` largest ones among the non-dominated.
    """

    weights: FloatArray
    ideal: FloatArray
    nadir: FloatArray

    def __call__(self, F: FloatArray, owner: IntArray) -> FloatArray:
        """``(n,)`` values of ``(n, n_obj)`` objectives, each with the weights of the start ``owner`` names."""
        scaled = self.weights[owner] * (F - self.ideal) / np.maximum(self.nadir - self.ideal, 1e-12)
        # A little of the sum, so that a move counts that betters only an objective which is not the worst.
        return np.asarray(scaled.max(axis=1) + 1e-3 * scaled.sum(axis=1))


@dataclass(frozen=True)
class LocalSearch:
    """Steepest descent among candidates, judged by predictions alone.

    Attributes:
        steps: most moves of a start; it ends before at the first step that betters nothing.
        quanta: levels that one group moves by, up and down.
        sigma: standard deviation of Gaussian steps, in genes.
        neighbours_max: most neighbours of one candidate; five eighths are single moves, the rest in equal parts pairs,
            Gaussian steps, and a gene drawn anew: from one hill to another.
        sideways: move to an equal neighbour too.
    """

    steps: int
    quanta: tuple[int, ...]
    sigma: float
    neighbours_max: int
    sideways: bool = False

    def climb(
        self,
        problem: SearchProblem,
        judge: Judge,
        starts: IntArray,
        seen: Callable[[IntArray], BoolArray],
        random_state: np.random.Generator,
    ) -> tuple[IntArray, int]:
        """Move every start to its best neighbour, again and again.

        Args:
            problem: what is searched.
            judge: what each start makes smaller.
            starts: ``(n_starts, G)`` widths.
            seen: mask of the ``(n, G)`` widths that were evaluated before.
            random_state: source of randomness.

        Returns:
            ``(n, G)`` end points, n up to n_starts, and the number of moves. A start that ends where an evaluation was
            made before gives the best neighbour without one; where there is none, nothing.
        """
        slopes = cost_slopes(problem)
        current = starts.copy()
        active = np.arange(len(starts))
        values = judge(current, active)
        fallback: list[IntArray | None] = [None] * len(starts)
        moves = 0
        for _ in range(self.steps):
            if not active.size:
                break
            neighbours, owner = self.around(problem.space, current[active], slopes, random_state)
            if not owner.size:
                break
            owner = active[owner]
            scores, unseen = judge(neighbours, owner), ~seen(neighbours)
            climbing = []
            for start in np.unique(owner):
                mine = np.flatnonzero(owner == start)
                best, new = mine[np.argmin(scores[mine])], mine[unseen[mine]]
                fallback[start] = neighbours[new[np.argmin(scores[new])]] if new.size else None
                if scores[best] < values[start] or (self.sideways and scores[best] == values[start]):
                    current[start], values[start] = neighbours[best], scores[best]
                    climbing.append(start)
            moves += len(climbing)
            active = np.array(climbing, dtype=np.int64)
        ends = [fallback[start] if known else current[start] for start, known in enumerate(seen(current))]
        found = [end for end in ends if end is not None]
        return (np.unique(np.array(found), axis=0) if found else starts[:0]), moves

    def around(
        self, space: SearchSpace, widths: IntArray, slopes: FloatArray, random_state: np.random.Generator
    ) -> tuple[IntArray, IntArray]:
        """``(n, G)`` neighbours of ``(m, G)`` widths, and the ``(n,)`` rows whose they are.

        Args:
            space: where they lie.
            widths: whose neighbours.
            slopes: ``(G,)`` cost of a channel of each group.
            random_state: source of randomness.
        """
        n_other = max(1, self.neighbours_max // 8)
        found, owner = [], []
        for index, row in enumerate(widths):
            singles = self._singles(space, row, self.neighbours_max - 3 * n_other, random_state)
            pairs = _pairs(row, singles - row, slopes, n_other, random_state)
            near = space.encode(row[None]) + random_state.normal(0, self.sigma, (n_other, len(row)))
            far = np.tile(space.encode(row[None]), (n_other, 1))
            far[np.arange(n_other), random_state.integers(len(row), size=n_other)] = random_state.uniform(
                0, space.upper, n_other
            )
            drawn = space.decode(np.clip(np.vstack([near, far]), 0, space.upper))
            found.append(_elsewhere(np.vstack([singles, pairs, drawn]), row))
            owner += [index] * len(found[-1])
        return np.vstack(found), np.array(owner, dtype=np.int64)

    def _singles(self, space: SearchSpace, widths: IntArray, n: int, random_state: np.random.Generator) -> IntArray:
        """Every group a few levels up or down; a group of many levels by as many sixteenths of its range, too."""
        moves = np.array([[sign * quantum] for quantum in self.quanta for sign in (1, -1)])
        sixteenth = np.maximum((space.sizes - space.smallest) // space.round_to // 16, 1)
        units = [np.ones_like(sixteenth), sixteenth] if (sixteenth > 1).any() else [sixteenth]
        levels = np.vstack([move * np.diag(unit) for unit in units for move in moves])
        if len(levels) > n:
            levels = levels[random_state.choice(len(levels), n, replace=False)]
        return _elsewhere(space.shift(np.broadcast_to(widths, levels.shape), levels), widths)


def _pairs(
    widths: IntArray, steps: IntArray, slopes: FloatArray, n: int, random_state: np.random.Generator
) -> IntArray:
    """``(m, G)`` candidates with one group up, another down, at about equal cost; m up to ``n``.

    The trade between groups that the error decides.

    Args:
        widths: ``(G,)`` where to start.
        steps: ``(n_steps, G)`` moves of one group.
        slopes: ``(G,)`` cost of a channel of each group.
        n: candidates wanted.
        random_state: source of randomness.
    """
    up, down = np.flatnonzero((steps > 0).any(axis=1)), np.flatnonzero((steps < 0).any(axis=1))
    if not (up.size and down.size):
        return np.empty((0, len(widths)), dtype=np.int64)
    first, second = random_state.choice(up, 8 * n), random_state.choice(down, 8 * n)
    group, change = (steps != 0).argmax(axis=1), steps @ slopes
    apart = group[first] != group[second]
    first, second = first[apart], second[apart]
    closest = np.argsort(np.abs(change[first] + change[second]), kind="stable")[:n]
    return np.asarray(widths + steps[first[closest]] + steps[second[closest]])


def _elsewhere(moved: IntArray, widths: IntArray) -> IntArray:
    return np.asarray(moved[(moved != widths).any(axis=1)])


def cost_slopes(problem: SearchProblem) -> FloatArray:
    """``(G,)`` cost of a channel of each group between its dense and its smallest width, 0 where nothing is cheap.

    The cost that pair moves keep about equal: the latency where it is cheap, else the first objective that is.
    """
    space = problem.space
    widths = np.tile(space.sizes, (space.n_var + 1, 1))
    widths[np.arange(space.n_var) + 1, np.arange(space.n_var)] = space.smallest
    cheap = problem.cheap(widths)
    names = [name for name in problem.objectives if name in cheap]
    if not names:
        return np.zeros(space.n_var)
    cost = cheap["latency" if "latency" in names else names[0]]
    return np.asarray((cost[0] - cost[1:]) / np.maximum(space.sizes - space.smallest, 1))
