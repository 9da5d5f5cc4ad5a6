"""Parts of a search, and the multiply-adds that it counts."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from hwprune.search.compute import Compute, Part
from hwprune.search.evaluation import BudgetExhausted, SearchContext
from hwprune.search.journal import Journal
from hwprune.search.synthetic import staircase_problem


def context(budget=10, **more):
    problem = staircase_problem(blocks_per_stage=3)
    dense = sum(problem.space.sizes)
    problem = replace(problem, passes=lambda plan: 2 * sum(plan.widths) / dense)
    return SearchContext(problem, budget, np.random.default_rng(0), **more)


def test_part_is_done_once_and_counts_again_after_a_kill(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return Part({"found": [1, 2]}, Compute(3.0, 4.0))

    for _ in range(2):
        journal = Journal(tmp_path / "archive.jsonl")
        search = context(journal=journal)
        assert search.part("one", work) == {"found": [1, 2]}
        assert search.compute == Compute(3.0, 4.0)
        journal.close()
    assert len(calls) == 1


def test_parts_side_by_side_are_what_they_are_one_by_one():
    works = {str(number): lambda number=number: Part({"n": number}, Compute(1.0)) for number in range(3)}
    alone = context()
    with ThreadPoolExecutor(2) as executor:
        together = context(executor=executor)
        assert together.parts(works) == alone.parts(works) == {str(number): {"n": number} for number in range(3)}
    assert together.compute == alone.compute == Compute(3.0)


def test_budget_holds_as_many_multiply_adds_as_its_evaluations_of_the_dense_network():
    search = context(budget=10)
    assert (search.passes, search.affordable) == (20.0, 10)
    search.part("most", lambda: Part({}, Compute(9.0, 8.5)))
    assert search.affordable == 1
    sizes = search.problem.space.sizes
    search.evaluate(sizes[None], "initial", 0)
    assert search.compute.total == 19.5
    search.charge(Compute(0.5))
    with pytest.raises(BudgetExhausted):
        search.evaluate(sizes[None] - 2, "offspring", 1)
    with pytest.raises(BudgetExhausted):
        search.part("more", lambda: Part({}))


def test_multiply_adds_can_be_the_only_limit():
    search = context(budget=1000, dense_passes=5.0)
    widths = np.vstack([search.problem.space.sizes - 2 * number for number in range(1, 6)])
    with search.until_spent():
        search.evaluate(widths, "sweep", 0)
    assert 3.0 < search.compute.total <= 5.0  # one costs a little less than 2, and only what fits is begun
    assert search.spent == 2
