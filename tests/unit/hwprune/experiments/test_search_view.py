import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hwprune.experiments.search_view import SearchView, summary
from hwprune.search import methods
from hwprune.search.evaluation import UNLIMITED, SearchContext
from hwprune.search.synthetic import staircase_problem


class Told:
    """Steps that remember what they were told."""

    def __init__(self) -> None:
        self.steps = 0.0
        self.notes: list[str] = []
        self.lines: list[Sequence[str]] = []

    def advance(self, steps: float = 1, note: str = "") -> None:
        self.steps += steps
        self.notes.append(note)

    def show(self, lines: Sequence[str]) -> None:
        self.lines.append(lines)


def searched(budget: int = 40, minutes: float | None = None, **more: Any) -> tuple[SearchContext, Told]:
    told = Told()
    context = SearchContext(
        staircase_problem(blocks_per_stage=2, latency_step=2),
        budget,
        np.random.default_rng(0),
        progress=lambda progress: view.evaluated(progress),
        report=lambda generation: view.generation(),
        minutes=minutes,
        **more,
    )
    view = SearchView(context, told, minutes, lambda: [0.02, 0.04])
    methods.build("hamp", {"n_gen": 3}).run(context)
    return context, told


def test_every_evaluation_is_a_step_and_its_note_says_how_it_stands() -> None:
    context, told = searched()
    assert told.steps == context.spent
    assert told.notes[-1].startswith(f"{len(context.archive.front())} on the front, hypervolume 0.")
    assert "fastest" in told.notes[-1]


def test_live_lines_show_trade_offs_course_model_and_time_left() -> None:
    context, told = searched()
    assert len(told.lines) == 4
    course, *picks, model, left = told.lines[-1]
    assert course.startswith(f"hypervolume {context.hypervolume:.4f}  ")
    bars = course.rpartition(" ")[2]
    assert len(bars) == len(told.lines)
    assert bars[-1] == max(bars)
    front = context.archive.front()
    assert picks[0].startswith(f"latency {front[0].objectives['latency'] * 1e3:.1f} us")
    assert len(picks) == 4
    assert model == "2 measured latencies are 3.0% off the model on average"
    assert left.startswith("at most ")


def test_search_that_ends_by_the_clock_tells_what_the_clock_leaves() -> None:
    assert re.match("at most (49|50) min", searched(UNLIMITED, minutes=50)[1].lines[-1][-1])


def test_summary_says_whose_time_it_was_and_why_the_search_ended() -> None:
    context, _ = searched()
    context.evaluating_s, context.measuring_s = 90.0, 6.0
    assert summary(context, 100.0) == f"{context.spent} evaluations in 1 min 40 s, 4.0% of it the search's own work"
    context.settled = True
    assert "has settled (--set budget.stop_when_settled=false goes on)" in summary(context, 100.0)


def test_objectives_of_any_kind_are_shown() -> None:
    problem = replace(staircase_problem(blocks_per_stage=1), objectives=("error",))
    told = Told()
    context = SearchContext(problem, 5, np.random.default_rng(0), report=lambda generation: view.generation())
    view = SearchView(context, told, None, lambda: [])
    methods.build("random", {"batch_size": 4}).run(context)
    assert "error 0.0600" in told.lines[-1][1]
