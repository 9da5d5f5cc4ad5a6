import itertools
from typing import Any

import numpy as np
import pytest

from hwprune.errors import ConfigError
from hwprune.search import methods
from hwprune.search.archive import Archive
from hwprune.search.evaluation import SearchContext
from hwprune.search.problem import SearchProblem
from hwprune.search.synthetic import staircase_problem

PROBLEM = staircase_problem(blocks_per_stage=2, latency_step=2)


def run(problem: SearchProblem = PROBLEM, budget: int = 60, **settings: Any) -> Archive:
    return methods.build("netadapt", settings).run(SearchContext(problem, budget, np.random.default_rng(0)))


def chain(archive: Archive) -> list[np.ndarray]:
    """The most accurate candidate of every iteration, from dense."""
    found = archive.evaluations
    iterations = sorted({evaluation.generation for evaluation in found})
    best = [
        min((e for e in found if e.generation == number), key=lambda e: e.objectives["error"]) for number in iterations
    ]
    return [np.array(evaluation.widths) for evaluation in best]


def test_every_iteration_narrows_one_group_of_the_best_before() -> None:
    archive = run()
    kept = chain(archive)
    for evaluation in archive.evaluations[1:]:
        changed = np.array(evaluation.widths) != kept[evaluation.generation - 1]
        assert changed.sum() == 1


def test_iterations_take_away_what_they_are_asked_to_and_ever_less() -> None:
    latency = [PROBLEM.cheap(widths[None])["latency"].item() for widths in chain(run())]
    for iteration, (before, after) in enumerate(itertools.pairwise(latency)):
        assert before - after >= 0.025 * 0.96**iteration * latency[0] * (1 - 1e-9)
    assert len(latency) > 5


def test_chain_ends_where_nothing_can_be_made_narrower() -> None:
    archive = run(budget=2000, initial_reduction=0.2, reduction_decay=1.0)
    assert len(archive) < 2000
    assert (archive.widths == PROBLEM.space.smallest).all(axis=1).any()


def test_other_resources_are_brought_down_too() -> None:
    memory = [PROBLEM.cheap(widths[None])["peak_memory"].item() for widths in chain(run(resource="peak_memory"))]
    assert all(after < before for before, after in itertools.pairwise(memory))


def test_unknown_resource_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot bring down 'energy': this problem computes latency, peak_memory"):
        run(resource="energy")
