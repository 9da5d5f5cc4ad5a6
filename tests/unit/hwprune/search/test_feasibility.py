from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from hwprune.errors import InfeasibleError
from hwprune.search.feasibility import feasibility
from hwprune.search.problem import SearchProblem
from hwprune.search.synthetic import staircase_problem

PROBLEM = staircase_problem(blocks_per_stage=3)
DENSE = {name: float(value[0]) for name, value in PROBLEM.cheap(PROBLEM.space.sizes[None]).items()}


def bounded(**bounds: float) -> SearchProblem:
    return replace(PROBLEM, bounds=bounds)


def test_every_constraint_is_said_to_be_within_reach() -> None:
    one, other, both = feasibility(bounded(latency=0.6 * DENSE["latency"], peak_memory=2 * DENSE["peak_memory"]))
    assert one.startswith(f"latency_ms <= {0.6 * DENSE['latency']:g} can be met: from ")
    assert "the dense network meets it" in other
    assert both.startswith("all constraints can be met together: latency_ms ")


def test_error_can_only_be_told_by_evaluating() -> None:
    assert feasibility(bounded(error=0.1)) == ["error <= 0.1: only evaluating can tell"]


def test_one_that_is_out_of_reach_is_refused() -> None:
    with pytest.raises(InfeasibleError, match=r"latency_ms <= 0\.0001 cannot be met"):
        feasibility(bounded(latency=1e-4))


def opposed(widths: np.ndarray) -> Mapping[str, np.ndarray]:
    """Costs of which one falls where the other rises."""
    kept = widths.sum(axis=1) / PROBLEM.space.sizes.sum()
    return {"latency": kept, "peak_memory": 1 - kept}


def test_constraints_that_exclude_each_other_are_refused() -> None:
    problem = replace(PROBLEM, costs=opposed)
    assert "together" in feasibility(replace(problem, bounds={"latency": 0.5, "peak_memory": 0.51}))[-1]
    with pytest.raises(InfeasibleError, match="cannot be met together: the nearest candidate found has latency_ms"):
        feasibility(replace(problem, bounds={"latency": 0.4, "peak_memory": 0.4}))


def test_narrow_corner_is_found() -> None:
    """Where only a few of the widths keep both bounds, samples alone would call them out of reach."""
    smallest = np.array([4, 4, 4, 8, 8, 8, 64, 64, 64])
    values = {name: float(value[0]) for name, value in PROBLEM.cheap(smallest[None]).items()}
    assert (
        "together"
        in feasibility(bounded(latency=1.001 * values["latency"], peak_memory=1.001 * values["peak_memory"]))[-1]
    )
