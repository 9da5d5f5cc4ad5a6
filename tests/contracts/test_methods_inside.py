"""Methods that look inside networks: every switch of theirs, what they train, what their plans say."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_network import network_problem
from torch import nn

from hwprune.errors import ConfigError
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.plan import PruningPlan
from hwprune.search import methods
from hwprune.search.archive import Archive
from hwprune.search.evaluation import SearchContext
from hwprune.search.journal import Journal
from hwprune.search.masks import MaskSpace
from hwprune.search.problem import SearchProblem
from hwprune.search.subnetworks import PartJudge, Units


def searched(
    name: str,
    settings: dict[str, Any],
    budget: int,
    problem: SearchProblem | None = None,
    journal: Journal | None = None,
) -> tuple[Archive, SearchContext]:
    problem = problem or network_problem(methods.objectives(name, settings, ["error", "macs", "peak_memory"]))
    context = SearchContext(problem, budget, np.random.default_rng(0), journal=journal)
    return methods.build(name, settings).run(context), context


SWITCHES = {
    "smoea, accuracy": ("smoea", {"fitness": "accuracy", "groups": [1, 2]}),
    "smoea, knee": ("smoea", {"pick": "knee", "teacher": "original", "order": "shallow_to_deep"}),
    "smoea, budget": ("smoea", {"pick": "budget", "group_share": 0.5, "crossover": "one_point", "moea": "ibea"}),
    "smoea, budgets": ("smoea", {"pick": "budget", "groups": [1, 2], "group_share": [0.5, 0.9]}),
    "smoea, any objectives": ("smoea", {"minimize": "problem", "min_filters": 3}),
    "emo_dir, tails": ("emo_dir", {"detector": "tail", "split": "equal_macs"}),
    "emo_dir, two parts": ("emo_dir", {"detector": "tail", "split": "equal_macs", "n_parts": 2}),
    "emo_dir, model": ("emo_dir", {"encoding": "layer_ratio", "minimize": "problem", "proposals": "model"}),
    "emo_dir, ratios": ("emo_dir", {"encoding": "layer_ratio", "joint": "rank_threshold", "detector_epochs": 1}),
    "emo_dir, local": ("emo_dir", {"joint": "local_accuracy", "subnet_bn_images": 0}),
    "emo_dir, any objectives": ("emo_dir", {"minimize": "problem", "joint": "random", "detector": "tail"}),
    "hierarchical, filters": ("hierarchical", {"threshold": "per_filter", "map_to_kernels": "empty_filters"}),
    "hierarchical, flat": ("hierarchical", {"coarse_share": 0.0, "importance": "taylor", "fine_moea": "moead"}),
    "hierarchical, thresholds": ("hierarchical", {"coarse_share": 1.0}),
    "hierarchical, one threshold": ("hierarchical", {"starts": "one_threshold", "importance": "lamp"}),
    "hierarchical, halfway": ("hierarchical", {"crossover_mean": "differing", "beta": 1000.0, "p_clip": 0.0}),
    "hierarchical, any objectives": ("hierarchical", {"minimize": "problem", "importance": "uniform", "beta": 0.0}),
}


@pytest.mark.parametrize("switches", SWITCHES)
def test_every_switch_finds_networks_that_are_smaller(switches: str) -> None:
    name, settings = SWITCHES[switches]
    archive, context = searched(name, settings, 60)
    assert context.compute.total <= context.passes * (1 + 1e-6)
    front = archive.front()
    dense = archive.evaluations[0].objectives
    cost = archive.objectives[1]
    assert min(found.objectives[cost] for found in front) < dense[cost]


def test_shares_that_are_not_one_a_group_are_refused() -> None:
    with pytest.raises(ConfigError, match="group_share has 2 values for 3 groups: give one a group"):
        searched("smoea", {"pick": "budget", "groups": [1, 1, 1], "group_share": [0.5, 0.9]}, 20)


def test_every_sub_network_is_searched_with_about_as_many_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: Counter[tuple[int, ...]] = Counter()
    prices = {}
    candidate = PartJudge.candidate

    def counted(judge: PartJudge, units: Units, trained: nn.Module | None = None) -> nn.Module:
        evaluated[judge.numbers] += 1
        prices[judge.numbers] = judge.compute(judge.part).total
        return candidate(judge, units, trained)

    monkeypatch.setattr(PartJudge, "candidate", counted)
    searched("emo_dir", {"detector": "tail"}, 80)
    assert max(prices.values()) > 5 * min(prices.values())  # equal multiply-adds would be five times as many
    assert max(evaluated.values()) < 2 * min(evaluated.values())


@pytest.mark.parametrize("density_min", [0.02, 0.3])
def test_first_thresholds_end_where_they_are_told_to(density_min: float) -> None:
    settings = {"q_max": 0.99, "line_sigma": 0.0, "density_min": density_min, "gen_coarse": 0, "gen_fine": 0}
    archive, _ = searched("hierarchical", settings, 60)
    assert archive.values("density").min() == pytest.approx(density_min, abs=0.05)  # a layer has few weights here


@pytest.mark.parametrize("name", ["smoea", "emo_dir"])
def test_a_budget_that_is_too_small_is_said(name: str) -> None:
    archive, context = searched(name, {}, 2)
    assert len(archive) <= 2
    assert context.shortage.startswith("too small to ")


TRAINING = {
    "smoea": {"group_ft_epochs": 1, "tau_drop": [5.0, 20.0], "calib_images": 64},
    "emo_dir": {"detector_epochs": 1, "front_ft_epochs": 1, "p_mix": 0.5, "pop_size": 4, "n_gen": 1},
}


@pytest.mark.parametrize("name", TRAINING)
def test_trained_weights_are_named_by_plans_and_found_again_after_a_kill(name: str, tmp_path: Path) -> None:
    found = []
    for known in (0.0, 0.7):  # from the start, and behind seven tenths of what the first one wrote
        problem = network_problem(methods.objectives(name, {}, []))
        bench = problem.network
        assert isinstance(bench, Workbench)
        bench.weights_folder = tmp_path / "weights"
        path = tmp_path / "archive.jsonl"
        if known:
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(lines[: int(known * len(lines))]))
        journal = Journal(path)
        archive, context = searched(name, TRAINING[name], 2000, problem, journal)
        journal.close()
        plans = [archive.plan(evaluation.plan_key) for evaluation in archive.evaluations]
        trained = [plan for plan in plans if plan.weights]
        assert trained
        for plan in trained[-2:]:
            assert problem.accuracy(plan) == archive.evaluations[archive.row(plan.key) or 0].metric
        assert context.compute.backward > 0
        found.append(
            [(plan.key, evaluation.metric) for plan, evaluation in zip(plans, archive.evaluations, strict=True)]
        )
    assert found[0] == found[1]


def test_filter_without_any_weight_is_removed_where_that_is_wanted() -> None:
    network = network_problem(["error", "density"]).network
    assert network is not None
    space = MaskSpace(network, removes_empty=True)
    group = network.groups[0]
    producer = f"{group.name}.weight"
    bits = np.ones(space.size, bool)
    for name, shape, place in network.slicer.weights.slices():
        if name == producer:
            bits[place] = (np.arange(shape[0]) >= 2).repeat((place.stop - place.start) // shape[0])
    plan = space.plan(bits)
    assert plan.kept[0] == tuple(range(2, group.size))
    assert plan.kept[1:] == PruningPlan.dense(network.groups).kept[1:]
    dense = sum(parameter.numel() for parameter in network.dense.parameters())
    assert network.slicer.parameter_count(plan) == sum(p.numel() for p in network.cut(plan).parameters()) < dense


def test_groups_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ConfigError, match="adds up to 2, the network has 3"):
        searched("smoea", {"groups": [1, 1]}, 60)


def test_latency_of_single_weights_is_refused_unless_it_is_measured() -> None:
    for name in ("hierarchical", "global_magnitude"):
        settings = {"minimize": "problem"}
        with pytest.raises(ConfigError, match="latency_source=device"):
            methods.objectives(name, settings, ["error", "latency"], is_measured=False)
        assert methods.objectives(name, settings, ["error", "latency"]) == ["error", "latency"]
        with pytest.raises(ConfigError, match="latency_source=device"):
            methods.objectives(name, {}, ["error"], ["latency"], is_measured=False)
