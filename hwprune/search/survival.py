"""Who survives: one rule for all (portfolio, hypervolume, NSGA-II), or a portfolio of rules that earn their turns.

Feasible individuals come first, whatever the rule; the rest follow by rising constraint violation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import moocore
import numpy as np
import numpy.typing as npt

from hwprune.search.archive import Archive
from hwprune.search.portfolio import Choice, hv_greedy, peel

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Rule = Callable[[FloatArray, int], Choice]


def feasible_first(rule: Rule, F: FloatArray, CV: FloatArray, n: int) -> Choice:
    """Let ``rule`` choose among the feasible, and fill up with the least infeasible.

    Args:
        rule: selection among feasible individuals.
        F: ``(n_pop, n_obj)`` objective values.
        CV: ``(n_pop,)`` constraint violations, 0 where feasible.
        n: rows wanted.
    """
    feasible = np.flatnonzero(CV <= 0)
    infeasible = np.flatnonzero(CV > 0)
    fill = infeasible[np.argsort(CV[infeasible], kind="stable")]
    if not feasible.size:
        # Nothing to trade off yet: the nearest to feasibility breed most.
        return Choice(fill[:n], 1.0 / (1 + np.arange(len(fill[:n]))))
    choice = rule(F[feasible], n)
    fill = fill[: n - len(choice.rows)]
    rows = np.concatenate([feasible[choice.rows], fill])
    if choice.investments is None:
        return Choice(rows, None)
    return Choice(rows, np.concatenate([choice.investments, np.zeros(len(fill))]))


def nsga2(F: FloatArray, n: int) -> Choice:
    """Rank, then crowding distance (Deb et al. 2002)."""
    rank = moocore.pareto_rank(F)
    crowding = np.empty(len(F))
    for level in np.unique(rank):
        members = np.flatnonzero(rank == level)
        crowding[members] = crowding_distance(F[members])
    return Choice(np.lexsort([-crowding, rank])[:n], None)


def sms_emoa(F: FloatArray, n: int) -> Choice:
    """Rank; where a front fits in part, the smallest hypervolume contribution goes first (Beume et al. 2007)."""
    rank = moocore.pareto_rank(F)
    order: list[int] = []
    for level in np.unique(rank):
        members = np.flatnonzero(rank == level).tolist()
        removed: list[int] = []
        while len(order) + len(members) > n and members:
            points = _normalised(F[members])
            contributions = moocore.hv_contributions(points, ref=np.full(F.shape[1], 1.1))
            removed.append(members.pop(int(np.argmin(contributions))))
        order += [*members, *reversed(removed)]
    return Choice(np.array(order[:n], dtype=np.int64), None)


def moea_d(F: FloatArray, n: int) -> Choice:
    """Each of ``n`` weight vectors takes what is left of smallest Tchebycheff value (Zhang and Li 2007)."""
    points = _normalised(F)
    # Fixed weights: the rule is a function of F alone, and a resumed run sees the same ones.
    weights = np.random.default_rng(0).dirichlet(np.ones(F.shape[1]), size=n)
    values = (points[None] * weights[:, None]).max(axis=2) + 1e-6 * points.sum(axis=1)
    order: list[int] = []
    for row in values[: len(F)]:
        row[order] = np.inf
        order.append(int(np.argmin(row)))
    return Choice(np.array(order, dtype=np.int64), None)


def ibea(F: FloatArray, n: int, kappa: float = 0.05) -> Choice:
    """The least fit by the additive epsilon indicator goes, again and again (Zitzler and Künzli 2004)."""
    points = _normalised(F)
    indicator = (points[:, None] - points[None]).max(axis=2)  # how far row i must move to weakly dominate row j
    losses = np.exp(-indicator / (np.abs(indicator).max() * kappa + 1e-12))
    np.fill_diagonal(losses, 0)
    fitness = -losses.sum(axis=0)
    alive = np.ones(len(F), dtype=bool)
    while alive.sum() > n:
        worst = int(np.argmin(np.where(alive, fitness, np.inf)))
        alive[worst] = False
        fitness += losses[worst]
    rows = np.flatnonzero(alive)
    return Choice(rows[np.argsort(-fitness[rows], kind="stable")], None)


RULES: dict[str, Rule] = {"hsr": peel, "hv_greedy": hv_greedy, "nsga2": nsga2}
OPERATORS: dict[str, Rule] = {"nsga2": nsga2, "sms_emoa": sms_emoa, "moea_d": moea_d, "ibea": ibea}


class OperatorPortfolio:
    """Survival rules that take turns by the hypervolume gain of the generations that followed them.

    Attributes:
        window: generations that credit looks back on.
        rule: ``ucb`` (upper confidence bound) or ``probability_matching``.
        ucb_c: weight of the confidence term.
        pm_floor: smallest probability of an operator.
    """

    def __init__(
        self,
        *,
        window: int = 10,
        rule: Literal["ucb", "probability_matching"] = "ucb",
        ucb_c: float = 1.0,
        pm_floor: float = 0.1,
    ) -> None:
        self.window = window
        self.rule = rule
        self.ucb_c = ucb_c
        self.pm_floor = pm_floor
        self._history: deque[tuple[str, float]] = deque(maxlen=window)

    def credit(self, operator: str, gain: float) -> None:
        """Book the hypervolume gain of a generation whose survivors ``operator`` had chosen."""
        self._history.append((operator, max(gain, 0.0)))

    def pick(self, random_state: np.random.Generator) -> str:
        """Name of the operator whose turn it is."""
        gains = {name: [gain for used, gain in self._history if used == name] for name in OPERATORS}
        largest = max((gain for _, gain in self._history), default=0.0) or 1.0
        quality = {name: float(np.mean(values)) / largest if values else 0.0 for name, values in gains.items()}
        names = list(OPERATORS)
        if self.rule == "ucb":
            unused = [name for name in names if not gains[name]]
            if unused:
                return unused[0]
            bonus = {name: self.ucb_c * np.sqrt(2 * np.log(len(self._history)) / len(gains[name])) for name in names}
            return max(names, key=lambda name: quality[name] + bonus[name])
        total = sum(quality.values())
        shares = np.array([quality[name] / total if total else 1 / len(names) for name in names])
        return str(random_state.choice(names, p=self.pm_floor + (1 - self.pm_floor * len(names)) * shares))


class Survival:
    """The selection at work; a portfolio of rules is credited with the hypervolume that follows its choices.

    Attributes:
        name: of the rule that selected last.
    """

    def __init__(self, selection: str, **portfolio: Any) -> None:
        self._selection = selection
        self._portfolio = OperatorPortfolio(**{"rule": portfolio.pop("op_rule", "ucb"), **portfolio})
        self._ref_point: FloatArray | None = None
        self._volume = 0.0
        self.name = "" if selection == "operator_portfolio" else selection

    @property
    def rule(self) -> Rule:
        """The rule that selected last."""
        return RULES.get(self.name) or OPERATORS[self.name]

    def select(self, archive: Archive, rows: IntArray, n: int, random_state: np.random.Generator) -> Choice:
        """Up to ``n`` of an archive's ``rows``, best first."""
        if self._selection == "operator_portfolio":
            self._turn(archive, random_state)
        choice = feasible_first(self.rule, archive.F[rows], archive.CV[rows], n)
        return Choice(rows[choice.rows], choice.investments)

    def _turn(self, archive: Archive, random_state: np.random.Generator) -> None:
        if self._ref_point is None:
            low, high = archive.F.min(axis=0), archive.F.max(axis=0)
            self._ref_point = high + 0.1 * (high - low) + 1e-9
        volume = archive.hypervolume(self._ref_point)
        if self.name:
            self._portfolio.credit(self.name, volume - self._volume)
        self._volume = volume
        self.name = self._portfolio.pick(random_state)


def crowding_distance(F: FloatArray) -> FloatArray:
    """``(n,)`` crowding distances of one front; infinite at the ends of every objective."""
    n, n_obj = F.shape
    distance = np.zeros(n)
    for objective in range(n_obj):
        order = np.argsort(F[:, objective], kind="stable")
        values = F[order, objective]
        gaps = (values[2:] - values[:-2]) / max(values[-1] - values[0], 1e-300)
        distance[order[1:-1]] += gaps
        distance[order[[0, -1]]] = np.inf
    return distance


def _normalised(F: FloatArray) -> FloatArray:
    low = F.min(axis=0)
    return np.asarray((F - low) / np.maximum(F.max(axis=0) - low, 1e-12))
