"""Whether constraints can be met, said before anything is evaluated: by the model and by arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hwprune import objectives as objective_plugins
from hwprune.errors import InfeasibleError
from hwprune.search.archive import violation
from hwprune.search.local_search import LocalSearch
from hwprune.search.operators import latin_hypercube
from hwprune.search.problem import Range, SearchProblem, check_feasible, feasible_range

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

#: Candidates that a joint check starts from, and how far it looks from the best of them.
_SAMPLES, _STARTS = 512, 8
_SEARCH = LocalSearch(steps=40, quanta=(1, 2, 4), sigma=0.05, neighbours_max=128)


def feasibility(problem: SearchProblem, ranges: Mapping[str, Range] | None = None) -> list[str]:
    """One sentence for each constraint, and one on all of them together.

    Raises:
        InfeasibleError: one of them, or all together, cannot be met.
        ConfigError: an objective is constrained that the problem's costs do not tell.
    """
    ranges = feasible_range(problem) if ranges is None else ranges
    check_feasible(problem, ranges)
    sentences = []
    for name, bound in problem.bounds.items():
        objective = objective_plugins.load(name)
        if name not in ranges:
            sentences.append(f"{objective.column} <= {bound:g}: only evaluating can tell")
            continue
        found = ranges[name]
        met = "the dense network meets it" if found.dense <= bound else f"dense {found.dense:g}"
        sentences.append(f"{objective.column} <= {bound:g} can be met: from {found.minimum:g}, {met}")
    known = {name: bound for name, bound in problem.bounds.items() if name in ranges}
    if len(known) > 1:
        sentences.append(_together(problem, known))
    return sentences


def _together(problem: SearchProblem, bounds: Mapping[str, float]) -> str:
    """A candidate that keeps all bounds.

    Raises:
        InfeasibleError: a search for one ended with none.
    """
    space, random_state = problem.space, np.random.default_rng(0)

    def violations(widths: IntArray, owner: IntArray) -> FloatArray:
        return violation(problem.cheap(widths), bounds, len(widths))

    uniform = np.linspace(0, 1, 33)[:, None] * np.ones(space.n_var)
    drawn = space.decode(space.upper * np.vstack([uniform, latin_hypercube(_SAMPLES, space.n_var, random_state)]))
    starts = drawn[np.argsort(violations(drawn, drawn), kind="stable")[:_STARTS]]
    free = replace(problem, bounds={})
    ends, _ = _SEARCH.climb(free, violations, starts, lambda widths: np.zeros(len(widths), dtype=bool), random_state)
    found = np.vstack([starts, ends])
    best = found[np.argmin(violations(found, found))][None]
    values = ", ".join(f"{objective_plugins.load(name).column} {problem.cheap(best)[name][0]:g}" for name in bounds)
    if violations(best, best)[0] > 0:
        raise InfeasibleError(
            f"the constraints cannot be met together: the nearest candidate found has {values}; "
            "raise one of them or pruning_ratio_max"
        )
    return f"all constraints can be met together: {values}"
