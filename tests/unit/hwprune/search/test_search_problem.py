from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwprune.errors import CompileError, ConfigError, InfeasibleError, UnknownNameError
from hwprune.records import Conditions, Measurement
from hwprune.search.problem import SearchProblem, check_feasible, feasible_range, parse_bounds
from hwprune.search.synthetic import staircase_problem

DENSE = np.repeat([16, 32, 64], 2)


def problem_with(**fields: Any) -> SearchProblem:
    return replace(staircase_problem(blocks_per_stage=2), **fields)


def measured(trust: str = "A", error: str | None = None, latency_ms: float = 2.5) -> Measurement:
    conditions = Conditions("local", "f", "tvm", "float32", (1, 3, 32, 32), 1, "1")
    values = () if error else (((latency_ms,) * 10,),)
    return Measurement("k", conditions, values, trust=trust, trust_reason="noisy", error=error)  # type: ignore[arg-type]


def evaluate(problem: SearchProblem) -> Any:
    return problem.evaluate(problem.plan(DENSE), DENSE, "initial", 0)


def test_evaluation_holds_every_objective_and_the_metric() -> None:
    found = evaluate(problem_with())
    assert set(found.objectives) == {"error", "latency", "peak_memory"}
    assert found.metric == pytest.approx(0.94)
    assert found.objectives["error"] == pytest.approx(0.06)
    assert found.widths == tuple(DENSE)
    assert found.error is None


def test_exact_values_stand_above_predicted_ones() -> None:
    assert evaluate(problem_with(exact=lambda plan: {"peak_memory": 7.0})).objectives["peak_memory"] == 7.0


def test_latency_is_the_measured_one_where_candidates_are_measured() -> None:
    assert evaluate(problem_with(measure=lambda plan: measured())).objectives["latency"] == 2.5


def test_untrusted_measurement_is_retried_once_and_then_believed() -> None:
    answers = [measured("C"), measured("B", latency_ms=3.0)]
    found = evaluate(problem_with(measure=lambda plan: answers.pop(0)))
    assert found.error is None
    assert found.objectives["latency"] == 3.0


@pytest.mark.parametrize(
    ("answer", "reason"), [(measured("C"), "too unsteadily.*noisy"), (measured(error="timed out"), "timed out")]
)
def test_measurement_that_fails_twice_is_recorded_and_costs_no_accuracy(answer: Measurement, reason: str) -> None:
    calls: list[str] = []

    def accuracy(plan: Any) -> float:
        calls.append("accuracy")
        return 0.9

    def measure(plan: Any) -> Measurement:
        calls.append("measure")
        return answer

    found = evaluate(problem_with(measure=measure, accuracy=accuracy))
    assert calls == ["measure", "measure"]
    assert found.objectives == {}
    assert found.metric is None
    with pytest.raises(RuntimeError, match=reason):
        raise RuntimeError(found.error)


@pytest.mark.parametrize("failure", [CompileError("no kernel"), RuntimeError("out of memory"), MemoryError("full")])
def test_failure_of_one_candidate_is_data(failure: Exception) -> None:
    def accuracy(plan: Any) -> float:
        raise failure

    found = evaluate(problem_with(accuracy=accuracy))
    assert found.error == f"{type(failure).__name__}: {failure}"
    assert found.objectives == {}


def test_value_that_is_not_finite_is_a_failure() -> None:
    found = evaluate(problem_with(accuracy=lambda plan: float("nan")))
    assert found.error == "ArithmeticError: error not finite"


def test_bug_of_ours_is_no_data() -> None:
    def accuracy(plan: Any) -> float:
        raise KeyError("typo")

    with pytest.raises(KeyError):
        evaluate(problem_with(accuracy=accuracy))


def test_bounds_are_read_by_name_and_by_column() -> None:
    assert parse_bounds({"latency_ms": "<= 1.2", "macs": "<=3e6", "error": " <= 0.1 "}) == {
        "latency": 1.2,
        "macs": 3e6,
        "error": 0.1,
    }


@pytest.mark.parametrize("text", [">= 1", "1.2", "<= fast", "<= -1", "<= 1 2"])
def test_bound_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match='write "<= NUMBER"'):
        parse_bounds({"latency_ms": text})


def test_bound_on_what_is_no_objective_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="latency"):
        parse_bounds({"latencyms": "<= 1"})


def test_range_spans_dense_and_smallest() -> None:
    problem = problem_with()
    ranges = feasible_range(problem)
    assert set(ranges) == {"latency", "peak_memory"}
    for name, values in ranges.items():
        assert values.dense == problem.cheap(DENSE[None])[name].item()
        assert values.minimum <= problem.cheap(problem.space.smallest[None])[name].item()
        assert values.minimum < values.dense <= values.maximum


def test_range_sees_minima_that_are_not_at_the_smallest_widths() -> None:
    problem = problem_with(costs=lambda widths: {"latency": np.abs(widths - DENSE // 2).sum(axis=1).astype(float)})
    assert feasible_range(problem)["latency"].minimum == 0.0


def test_bound_that_nothing_meets_is_refused_before_anything_is_evaluated() -> None:
    def accuracy(plan: Any) -> float:
        raise AssertionError("nothing may be evaluated")

    with pytest.raises(InfeasibleError, match=r"latency_ms <= 0\.001 cannot be met.*raise the bound") as refusal:
        check_feasible(problem_with(bounds={"latency": 0.001}, accuracy=accuracy))
    assert refusal.value.exit_code == 5
    check_feasible(problem_with(bounds={"latency": 1.0, "error": 1e-9}, accuracy=accuracy))


def test_bound_on_an_objective_without_costs_is_refused() -> None:
    with pytest.raises(ConfigError, match="'macs'"):
        check_feasible(problem_with(bounds={"macs": 1e6}))
