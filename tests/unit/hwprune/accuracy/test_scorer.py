"""Scores are what the plain way finds, however they were computed."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hwprune import training
from hwprune.accuracy.build import facts_of, scorer_of
from hwprune.accuracy.prefix import Sharing
from hwprune.accuracy.scorer import FINAL, Protocol, Scorer, unpack
from hwprune.config import Problem
from hwprune.datasets.data import Data
from hwprune.experiments.workbench import Workbench
from hwprune.pruning.groups import build_groups
from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.structured import Slicer
from hwprune.tasks.classification import Classification

FAST = Protocol(torch.bfloat16, 1)


@pytest.fixture(scope="module")
def scorer(bench: Workbench) -> Scorer:
    assert bench.scorer is not None
    return bench.scorer


def plans_of(bench: Workbench, count: int, smallest: float = 0.3) -> list[PruningPlan]:
    shares = np.random.default_rng(0).uniform(smallest, 1, (count, len(bench.groups)))
    return [bench.plan(np.maximum(1, np.rint(row * bench.groups.sizes)).astype(int)) for row in shares]


def plain(bench: Workbench, plan: PruningPlan) -> float:
    module = bench.slicer.cut(plan)
    if plan.key != PruningPlan.dense(bench.groups).key:
        training.reestimate_batchnorm(module, bench.task, images=256)
    return bench.task.evaluate(module, "val")


def test_scores_in_float32_are_the_plain_ways(bench: Workbench, scorer: Scorer) -> None:
    for plan in (PruningPlan.dense(bench.groups), *plans_of(bench, 3)):
        score = scorer.score(plan, FINAL)
        assert score.images is None
        assert score.metric == pytest.approx(plain(bench, plan), abs=1.01 / 960)  # one image on the edge


def test_scores_in_bfloat16_are_near(bench: Workbench, scorer: Scorer) -> None:
    for plan in plans_of(bench, 3):
        assert scorer.score(plan, FAST).metric == pytest.approx(plain(bench, plan), abs=0.02)


def test_handed_out_networks_have_the_statistics_of_the_plain_way(bench: Workbench, scorer: Scorer) -> None:
    (plan,) = plans_of(bench, 1)
    expected = bench.slicer.cut(plan)
    training.reestimate_batchnorm(expected, bench.task, images=256)
    found = dict(scorer.network(plan).state_dict())
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_a_candidate_is_given_up_where_its_errors_reach_the_limit(bench: Workbench, scorer: Scorer) -> None:
    plan = plans_of(bench, 1)[0]
    whole = scorer.score(plan, FINAL)
    early = scorer.score(plan, FINAL, [(240, 0), (480, 0)])
    assert early.images == 240
    assert early.metric is not None
    assert early.metric * 240 == pytest.approx(round(early.metric * 240))
    assert scorer.score(plan, FINAL, [(240, 241), (480, 481)]) == whole


def test_flights_give_every_bit_of_single_scores(bench: Workbench, scorer: Scorer) -> None:
    sharing = scorer.sharing
    assert sharing is not None
    sizes = bench.groups.sizes
    base = np.maximum(1, (0.6 * sizes).astype(int))
    rows = [base.copy() for _ in range(5)]
    rows[1][-1] -= 2
    rows[2][-1] -= 4
    rows[3][1] -= 2
    rows[4] = sizes.copy()  # the dense network keeps its own statistics, and shares nothing
    plans = [bench.plan(row) for row in rows]
    single = [scorer.score(plan, FAST) for plan in plans]
    assert scorer.scores(plans, FAST, [()] * 5) == single
    looks = [(), [(240, 0)], (), [(480, 0)], ()]
    raced = scorer.scores(plans, FAST, looks)
    assert [score.images for score in raced] == [None, 240, None, 480, None]
    assert [raced[0], raced[2], raced[4]] == [single[0], single[2], single[4]]


def test_flights_join_what_differs_late_and_only_that(bench: Workbench, scorer: Scorer) -> None:
    sharing = scorer.sharing
    assert sharing is not None
    early, late = bench.groups.sizes.copy(), bench.groups.sizes.copy()
    early[0] -= 2
    late[-1] -= 2
    dense, early_plan, late_plan = (bench.plan(row) for row in (bench.groups.sizes, early, late))
    assert sharing.common(dense, early_plan) == -1
    assert 0 < sharing.common(dense, late_plan) <= sharing.common(dense, dense)
    assert sorted(map(sorted, sharing.flights([dense, early_plan, late_plan], 3))) == [[0, 2], [1]]
    assert sharing.flights([dense, early_plan, late_plan], 1) == [[0], [1], [2]]


def test_activations_beyond_the_limit_are_not_kept(bench: Workbench, scorer: Scorer) -> None:
    program = scorer.program
    assert program is not None
    large = Sharing(program, bench.groups, [1 << 40] * len(program.cuts))
    dense = PruningPlan.dense(bench.groups)
    assert large.common(dense, dense) == -1
    assert large.keep(dense, [dense]) == []


def test_weights_and_images_of_a_parcel_are_mapped_not_read(bench: Workbench) -> None:
    assert bench.parcel is not None
    scorer = unpack(bench.parcel)
    path = str(bench.parcel.folder / "tensors.safetensors")
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if path in line]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in maps]
    for tensor in (scorer.val[0][0], scorer.train[0][0], scorer.dense.get_parameter("conv1.weight")):
        assert any(low <= tensor.data_ptr() < high for low, high in ranges)


class Fragile(nn.Module):
    """Has no program, since no candidate of less than half its channels runs."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 16, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.two = nn.Conv2d(16, 10, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.one.out_channels <= 8:
            raise MemoryError("too small")
        logits: torch.Tensor = self.two(torch.relu(self.norm(self.one(x)))).mean((2, 3))
        return logits


def test_without_a_program_candidates_run_themselves_and_fail_as_data(problem: Problem, bench: Workbench) -> None:
    torch.manual_seed(0)
    network = Fragile().eval()
    groups = build_groups(network, bench.example_input)
    scorer = scorer_of(problem, bench.data, bench.task, network, groups)
    assert scorer is not None
    assert (scorer.program, scorer.sharing) == (None, None)
    good, bad = (PruningPlan((tuple(range(width)),)) for width in (12, 8))
    module = Slicer(network, groups).cut(good)
    training.reestimate_batchnorm(module, bench.task, images=256)
    scores = scorer.scores([good, bad], FINAL, [(), ()])
    assert scores[0].metric == pytest.approx(bench.task.evaluate(module, "val"), abs=1e-6)
    assert (scores[1].metric, scores[1].error) == (None, "MemoryError: too small")


class Scoring(Classification):
    """A task with a score of its own, that counts no images."""

    right = Classification.__mro__[1].right  # type: ignore[attr-defined]

    def score(self, results: Any) -> float:
        seen = [(outputs.argmax(1) == batch[1]).float().mean() for outputs, batch in results]
        return float(torch.stack(seen).mean())


def scoring(data: Data) -> Scoring:
    return Scoring(data)


def test_a_task_that_counts_nothing_is_scored_by_its_own_words(problem: Problem, bench: Workbench) -> None:
    told = problem.model_copy(update={"task": {"name": f"{__name__}:scoring"}})
    scorer = scorer_of(told, bench.data, Scoring(bench.data), bench.dense, bench.groups)
    assert scorer is not None
    assert not scorer.counts
    plan = PruningPlan.dense(bench.groups)
    assert scorer.score(plan, FINAL).metric == pytest.approx(plain(bench, plan), abs=1.01 / 960)


class Opaque:
    """A task of a user's own kind, of which no more is known than the protocol says."""

    def size(self, split: str) -> int:
        return 10


def test_what_cannot_be_kept_has_no_scorer(problem: Problem, bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scorer_of(problem, bench.data, Opaque(), bench.dense, bench.groups) is None  # type: ignore[arg-type]
    monkeypatch.setattr("hwprune.accuracy.build.KEPT_BYTES", 1000)
    assert scorer_of(problem, bench.data, bench.task, bench.dense, bench.groups) is None


def test_facts_tell_apart_what_scores_differently(problem: Problem, bench: Workbench, scorer: Scorer) -> None:
    facts = facts_of(problem, bench.data, bench.task, bench.dense, scorer)
    assert facts == facts_of(problem, bench.data, bench.task, copy.deepcopy(bench.dense), scorer)
    other = copy.deepcopy(bench.dense)
    with torch.no_grad():
        other.get_parameter("conv1.weight")[0, 0, 0, 0] += 1
    assert facts_of(problem, bench.data, bench.task, other, scorer)["weights"] != facts["weights"]
    assert facts["images"] == 960


def test_the_first_images_of_the_split_are_a_random_part_of_it(bench: Workbench, scorer: Scorer) -> None:
    sizes: Sequence[int] = [len(images) for images, _ in scorer.val]
    assert sum(sizes) == 960
    assert max(sizes) - min(sizes) <= 1
    own = torch.cat([targets for _, targets in bench.task.batches("val", 128)])
    kept = torch.cat([targets for _, targets in scorer.val])
    assert not torch.equal(own, kept)
    assert torch.equal(own.sort().values, kept.sort().values)
    assert math.isclose(float(kept[:240].float().mean()), float(own.float().mean()), abs_tol=0.8)
