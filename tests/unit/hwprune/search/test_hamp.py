from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwprune.records import Score
from hwprune.search import methods
from hwprune.search.archive import Archive
from hwprune.search.evaluation import SearchContext
from hwprune.search.events import Generation
from hwprune.search.methods.base import initial_widths, population_size
from hwprune.search.problem import SearchProblem
from hwprune.search.space import SearchSpace
from hwprune.search.synthetic import reference_point, staircase_problem


def run(problem: SearchProblem, budget: int, report: Any = None, **settings: Any) -> Archive:
    context = SearchContext(problem, budget, np.random.default_rng(0), report=report)
    archive = methods.build("hamp", settings).run(context)
    assert context.spent == budget == len(archive)
    return archive


def test_start_is_dense_then_uniform_then_a_hypercube() -> None:
    space = SearchSpace.of([64, 64, 64], round_to=8)
    widths = initial_widths(space, 16, np.random.default_rng(0))
    assert widths.shape == (16, 3)
    assert widths[0].tolist() == [64, 64, 64]
    uniform = (widths == widths[:, :1]).all(axis=1)
    assert widths[uniform, 0].tolist() == sorted(widths[uniform, 0].tolist(), reverse=True)
    assert uniform[:8].all()
    assert len(np.unique(widths, axis=0)) == 16


@pytest.mark.parametrize("pop_size", [1, 4, 9])
def test_small_start_spans_from_dense_to_smallest(pop_size: int) -> None:
    widths = initial_widths(SearchSpace.of([64] * 3), pop_size, np.random.default_rng(0))
    assert len(widths) == pop_size
    assert widths[0].tolist() == [64] * 3
    assert (pop_size == 1) != (widths == 8).all(axis=1).any()


def test_start_in_a_tiny_space_is_the_whole_space() -> None:
    assert len(initial_widths(SearchSpace.of([8], round_to=4), 20, np.random.default_rng(0))) == 2


def test_population_shrinks_with_the_budget() -> None:
    assert [population_size(None, budget) for budget in (10, 60, 100, 740)] == [8, 12, 20, 20]
    assert population_size(33, 60) == 33


def test_default_budget_of_the_specification_is_thirty_generations_of_twenty() -> None:
    problem = staircase_problem(blocks_per_stage=2)
    context = SearchContext(problem, 740, np.random.default_rng(0))
    settings = {"n_gen": 3, "pop_size": 20, "tau_min": 1.0}  # the same number is spent with and without a surrogate
    archive = methods.build("hamp", {**settings, "proposal": "investment"}).run(context)
    assert len(archive) == 20 + 3 * (20 + 4)


def test_generations_of_proposals_by_expected_gain_are_small() -> None:
    problem = staircase_problem(blocks_per_stage=2)
    context = SearchContext(problem, 740, np.random.default_rng(0))
    assert len(methods.build("hamp", {"n_gen": 3, "pop_size": 20}).run(context)) == 20 + 3 * (4 + 4)


def test_hamp_beats_its_controls_on_a_staircase_of_27_groups() -> None:
    shares: dict[str, list[float]] = {"hamp": [], "nsga2": [], "random": [], "uniform": []}
    for seed in range(3):
        problem = staircase_problem(seed=seed)
        ref_point = reference_point(problem)
        for method, values in shares.items():
            context = SearchContext(problem, 100, np.random.default_rng(seed))
            volume = methods.build(method).run(context).hypervolume(ref_point)
            values.append(volume / float(ref_point.prod()))
    medians = {method: float(np.median(values)) for method, values in shares.items()}
    assert medians["hamp"] > 1.5 * medians["nsga2"]
    assert medians["hamp"] > 1.5 * medians["random"]
    assert medians["hamp"] > 1.5 * medians["uniform"]


def test_a_bound_that_leaves_nothing_of_interest_makes_all_that_is_feasible_interesting() -> None:
    """Under a tight bound every error is beyond the reference point's, and the search must know up from down."""
    errors = []
    for seed in range(3):
        problem = staircase_problem(seed=seed)
        dense_ms = problem.cheap(np.array([problem.space.sizes]))["latency"][0]
        problem = replace(problem, bounds={"latency": 0.65 * float(dense_ms)})
        context = SearchContext(problem, 100, np.random.default_rng(seed))
        archive = methods.build("hamp").run(context)
        errors.append(float(archive.F[archive.front_rows(), 0].min()))
        assert errors[-1] > context.ref_point[0]
    assert np.median(errors) < 0.4  # 0.50 where it does not


SWITCHES: list[dict[str, Any]] = [
    {"selection": "hv_greedy"},
    {"selection": "nsga2"},
    {"selection": "operator_portfolio"},
    {"selection": "operator_portfolio", "op_rule": "probability_matching"},
    {"proposal": "investment"},
    {"selection": "nsga2", "proposal": "expected_hypervolume"},
    {"encoding": "layer_threshold"},
    {"surrogate": "forest", "forest_trees": 20},
    {"surrogate": "boosting", "n_offsprings": 20},
    {"surrogate": "gaussian_process", "gaussian_process_max_rows": 30},
    {"surrogate": "ridge"},
    {"preselect_factor": 1},
    {"ls_starts": 0},
    {"ls_starts": 0, "preselect_factor": 1, "selection": "nsga2"},
    {"ls_accept": "not_worse"},
    {"parent_uniform_share": 1.0},
    {"tau_min": 1.0},
]


@pytest.mark.parametrize("settings", SWITCHES, ids=lambda settings: ",".join(f"{k}={v}" for k, v in settings.items()))
def test_every_switch_spends_the_budget_and_improves_on_its_start(settings: dict[str, Any]) -> None:
    problem = staircase_problem(blocks_per_stage=2)
    ref_point = reference_point(problem)
    start = Archive(problem.objectives)
    archive = run(problem, 50, pop_size=10, ls_steps=3, ls_neighbours_max=48, **settings)
    for evaluation in archive.evaluations[:10]:
        assert evaluation.origin == "initial"
        start.add(evaluation)
    assert archive.hypervolume(ref_point) > start.hypervolume(ref_point)


def test_generations_tell_whether_the_surrogate_was_believed() -> None:
    told: list[Generation] = []
    problem = staircase_problem(blocks_per_stage=2)
    archive = run(problem, 60, report=told.append, forest_trees=20)
    assert [step.number for step in told] == list(range(len(told)))
    assert any(step.surrogate_used for step in told)
    assert all((step.surrogate_tau or 0) >= 0.3 for step in told if step.surrogate_used)
    assert {evaluation.origin for evaluation in archive.evaluations} == {"initial", "offspring", "local_search"}


def test_error_that_cannot_be_learnt_is_searched_without_a_surrogate() -> None:
    noise = np.random.default_rng(0)
    problem = replace(staircase_problem(blocks_per_stage=2), accuracy=lambda plan: float(noise.uniform(0.1, 0.9)))
    told: list[Generation] = []
    archive = run(problem, 44, report=told.append, pop_size=12, tau_min=0.9)
    assert not any(step.surrogate_used for step in told)
    assert {evaluation.origin for evaluation in archive.evaluations} == {"initial", "offspring"}


def test_operator_portfolio_tries_several_rules() -> None:
    told: list[Generation] = []
    problem = staircase_problem(blocks_per_stage=2)
    run(problem, 100, report=told.append, pop_size=8, selection="operator_portfolio", ls_starts=0)
    assert {step.selection for step in told[1:]} >= {"nsga2", "sms_emoa", "moea_d", "ibea"}


@pytest.mark.parametrize(
    "objectives", [("error", "latency"), ("latency", "error"), ("latency", "peak_memory"), ("error",)]
)
def test_any_set_of_objectives_is_searched(objectives: tuple[str, ...]) -> None:
    problem = replace(staircase_problem(blocks_per_stage=2), objectives=objectives)
    archive = run(problem, 40, pop_size=10, forest_trees=20)
    assert archive.F.shape == (40, len(objectives))


def test_accuracies_of_earlier_searches_take_the_place_of_the_start() -> None:
    problem = staircase_problem(blocks_per_stage=2)
    earlier = run(problem, 40)
    known = [(found.widths, found.plan_key, Score(found.metric)) for found in earlier.evaluations]

    class Remembers:
        def scores(self, plans: Any, bars: Any) -> Any:
            return (Score(problem.accuracy(plan)) for plan in plans)

        def known(self) -> Any:
            return known

    context = SearchContext(replace(problem, judge=Remembers()), 8, np.random.default_rng(1))
    archive = methods.build("hamp", {"recall": True}).run(context)
    assert len(archive) == 48
    assert {found.origin for found in archive.evaluations[40:]} <= {"offspring", "local_search"}
    ref_point = reference_point(problem)
    assert archive.hypervolume(ref_point) > earlier.hypervolume(ref_point)


def test_space_that_is_used_up_ends_the_search() -> None:
    problem = replace(staircase_problem(blocks_per_stage=1), space=SearchSpace.of([16, 32, 64], round_to=[8, 16, 32]))
    context = SearchContext(problem, 100, np.random.default_rng(0))
    archive = methods.build("hamp").run(context)
    assert len(archive) == 8
