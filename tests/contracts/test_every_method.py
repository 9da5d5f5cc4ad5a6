"""What every search method keeps to, found by its file."""

import functools
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_network import network_problem

from hwprune import plugins
from hwprune.errors import ConfigError, UnknownNameError
from hwprune.records import Evaluation
from hwprune.search import methods
from hwprune.search.archive import Archive
from hwprune.search.evaluation import NothingEvaluatedError, SearchContext
from hwprune.search.events import Progress
from hwprune.search.journal import Journal
from hwprune.search.problem import SearchProblem
from hwprune.search.synthetic import staircase_problem

NAMES = plugins.names("hwprune.search.methods")
#: They evaluate parts of a network, and whole ones at last.
IN_PARTS = frozenset({"smoea", "emo_dir"})
#: They look inside a network, which a problem of formulas does not have.
INSIDE = frozenset({"hierarchical", "global_magnitude", "torch_pruning"}) | IN_PARTS
#: They follow one path through the space, which may be shorter than the budget.
PATHS = frozenset({"uniform", "netadapt", "torch_pruning"})
every_method = pytest.mark.parametrize("name", NAMES)
every_method_of_widths = pytest.mark.parametrize("name", sorted(set(NAMES) - INSIDE))
BUDGET = 60
#: Of a real network, which takes its time.
BUDGET_INSIDE = 24


def problem_for(name: str) -> SearchProblem:
    if name not in INSIDE:
        return staircase_problem(blocks_per_stage=3)
    return network_problem(methods.objectives(name, {}, ["error", "params"]))


def budget_of(name: str) -> int:
    return BUDGET_INSIDE if name in INSIDE - IN_PARTS else BUDGET


def run(
    name: str, problem: SearchProblem | None = None, seed: int = 0, budget: int | None = None, **more: Any
) -> Archive:
    budget = budget_of(name) if budget is None else budget
    context = SearchContext(problem or problem_for(name), budget, np.random.default_rng(seed), **more)
    archive = methods.build(name).run(context)
    assert context.compute.total <= context.passes * (1 + 1e-6)
    return archive


def without_times(evaluations: list[Evaluation]) -> list[Evaluation]:
    return [replace(evaluation, seconds=0.0) for evaluation in evaluations]


@dataclass(frozen=True)
class Finished:
    """A search from its start to its end, of which several tests ask."""

    problem: SearchProblem
    archive: Archive
    steps: list[Progress]
    lines: list[bytes]


@functools.cache
def finished(name: str) -> Finished:
    """The search with the first seed, journaled."""
    problem, steps = problem_for(name), list[Progress]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive.jsonl"
        journal = Journal(path)
        archive = run(name, problem, journal=journal, progress=steps.append)
        journal.close()
        return Finished(problem, archive, steps, path.read_bytes().splitlines(keepends=True))


@every_method
def test_budget_is_never_exceeded_and_no_plan_evaluated_twice(name: str) -> None:
    archive = finished(name).archive
    keys = [step.evaluation.plan_key for step in finished(name).steps]
    assert len(keys) == len(set(keys)) == len(archive) <= budget_of(name)
    # Everything else spends what it was given, on parts of the network or on it.
    assert len(archive) > budget_of(name) // 3 or name in IN_PARTS
    assert len(archive) == budget_of(name) or name in IN_PARTS | PATHS


@every_method
def test_dense_network_comes_first(name: str) -> None:
    problem = finished(name).problem
    assert finished(name).archive.evaluations[0].plan_key == problem.plan(problem.space.sizes).key


@every_method
def test_same_seed_gives_the_same_archive(name: str) -> None:
    assert without_times(run(name).evaluations) == without_times(finished(name).archive.evaluations)


@every_method
@pytest.mark.parametrize("lost_bytes", [1, 150])
def test_run_that_was_killed_ends_at_the_same_archive(name: str, lost_bytes: int, tmp_path: Path) -> None:
    whole, lines, path = finished(name).archive, finished(name).lines, tmp_path / "archive.jsonl"
    kept = 2 * len(lines) // 5
    path.write_bytes(b"".join(lines[:kept]))
    os.truncate(path, path.stat().st_size - lost_bytes)  # in the middle of a line
    steps: list[Progress] = []
    journal = Journal(path)
    known = len(journal)
    resumed = run(name, journal=journal, progress=steps.append)
    journal.close()
    assert known == sum(b'"evaluation"' in line for line in lines[: kept - 1]) > 0
    assert [step.replayed for step in steps] == [True] * known + [False] * (len(steps) - known)
    assert without_times(resumed.evaluations) == without_times(whole.evaluations)
    assert len(Journal(path)) == len(whole)


class Drift:
    """A device that turns out slower than its model thinks, a little more every time it is asked."""

    def __init__(self) -> None:
        self.factor = 1.0
        self.asked = 0

    def measure(self, front: Sequence[Evaluation]) -> dict[str, Any]:
        self.asked += 1
        return {"factor": self.factor * (1.1 + 0.001 * len(front))}

    def apply(self, data: dict[str, Any]) -> None:
        self.factor = data["factor"]


def drifting_problem() -> tuple[SearchProblem, Drift]:
    problem, drift = staircase_problem(blocks_per_stage=3), Drift()
    costs = problem.costs

    def corrected(widths: np.ndarray) -> dict[str, np.ndarray]:
        values = dict(costs(widths))
        return {**values, "latency": drift.factor * values["latency"]}

    return replace(problem, costs=corrected, refiner=drift), drift


@every_method_of_widths
def test_model_that_is_corrected_in_mid_search_is_corrected_alike_after_a_kill(name: str, tmp_path: Path) -> None:
    problem, drift = drifting_problem()
    path = tmp_path / "archive.jsonl"
    journal = Journal(path)
    whole = run(name, problem, journal=journal)
    journal.close()
    assert drift.asked > 0
    assert np.array_equal(whole.values("latency"), problem.cheap(whole.widths)["latency"])
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:45]))
    problem, again = drifting_problem()
    journal = Journal(path)
    resumed = run(name, problem, journal=journal)
    journal.close()
    assert without_times(resumed.evaluations) == without_times(whole.evaluations)
    assert again.asked <= drift.asked


@every_method
def test_candidates_that_fail_are_counted_and_kept_out(name: str) -> None:
    problem = problem_for(name)
    good, dense = problem.accuracy, problem.plan(problem.space.sizes).key

    def is_fragile(plan_key: str) -> bool:
        return int(plan_key, 16) % 2 == 0 and plan_key != dense

    def fragile(plan: Any) -> float:
        if is_fragile(plan.key):
            raise RuntimeError("does not run")
        return good(plan)

    archive = run(name, replace(problem, accuracy=fragile))
    assert archive.failures
    assert not any(is_fragile(evaluation.plan_key) for evaluation in archive.evaluations)
    assert len(archive) + len(archive.failures) <= budget_of(name)


@every_method
def test_search_in_which_everything_fails_says_why(name: str) -> None:
    def broken(plan: Any) -> float:
        raise RuntimeError("no such operator")

    with pytest.raises(NothingEvaluatedError, match="no such operator"):
        run(name, replace(problem_for(name), accuracy=broken))


@every_method
def test_front_keeps_the_constraints(name: str) -> None:
    free = problem_for(name)
    bounded = free.objectives[1]
    dense = free.cheap(free.space.sizes[None])[bounded].item()
    archive = run(name, replace(free, bounds={bounded: 0.8 * dense}))
    assert archive.front()
    assert all(found.objectives[bounded] <= 0.8 * dense for found in archive.front())


@every_method
@pytest.mark.parametrize("budget", [1, 7])
def test_tiny_budget_is_kept(name: str, budget: int) -> None:
    spent = len(run(name, budget=budget))
    assert 1 <= spent <= budget
    assert name in IN_PARTS | PATHS or spent == budget


@pytest.mark.parametrize("name", sorted(INSIDE))
def test_method_that_looks_inside_a_network_says_so_where_there_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} looks inside the network"):
        run(name, staircase_problem(blocks_per_stage=3))


@pytest.mark.parametrize("name", sorted(INSIDE))
def test_every_point_of_the_front_is_a_network_that_does_what_the_search_saw(name: str) -> None:
    problem, archive = finished(name).problem, finished(name).archive
    for found in archive.front():
        plan = archive.plan(found.plan_key)
        assert problem.accuracy(plan) == found.metric
        assert plan.key == found.plan_key


@every_method
def test_unknown_setting_is_refused_with_the_nearest_name(name: str) -> None:
    known = next(iter(methods.defaults(name)), None)
    wrong = f"{known}x" if known else "anything"
    with pytest.raises(UnknownNameError, match=f"did you mean '{known}'" if known else "known: none"):
        methods.build(name, {wrong: 1})


@every_method
def test_setting_of_a_wrong_type_is_refused(name: str) -> None:
    for setting in methods.defaults(name):
        with pytest.raises(ConfigError, match=f"{name}: {setting}"):
            methods.build(name, {setting: {"not": "a value"}})


def test_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'hamp'"):
        methods.build("hanp")
