"""What a running search tells those who watch it."""

from __future__ import annotations

from dataclasses import dataclass

from hwprune.records import Evaluation


@dataclass(frozen=True)
class Progress:
    """One true evaluation has ended.

    Attributes:
        evaluation: the evaluation.
        spent: evaluations so far, this one included.
        budget: evaluations in all.
        replayed: it was answered by the journal and cost nothing.
    """

    evaluation: Evaluation
    spent: int
    budget: int
    replayed: bool


@dataclass(frozen=True)
class Generation:
    """One generation has ended.

    Attributes:
        number: from 0, the initial population.
        spent: evaluations so far.
        front_size: feasible non-dominated evaluations.
        hypervolume: what they dominate, see :attr:`SearchContext.hypervolume`.
        surrogate_tau: rank correlation of forecasts with true values that they did not see, in [-1, 1], of the
            objective that is forecast worst; None without a surrogate.
        surrogate_used: proposals were screened by the surrogate.
        local_steps: moves that the local search made.
        selection: rule that selected the survivors.
        seconds: wall time, evaluations included.
        evaluating_s: part of it that went into true evaluations.
    """

    number: int
    spent: int
    front_size: int
    hypervolume: float
    surrogate_tau: float | None
    surrogate_used: bool
    local_steps: int
    selection: str
    seconds: float
    evaluating_s: float
