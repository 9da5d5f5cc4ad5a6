"""Candidates become numbers for a resident library, or libraries of their own."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from hwprune.compilation.compiler import Compiler
from hwprune.compilation.targets import host_target
from hwprune.config import Problem
from hwprune.experiments.candidates import CandidateJobs, linked_job
from hwprune.experiments.workbench import Workbench

PROBLEM = {"network": {"name": "resnet_cifar", "depth": 8}, "data": {"name": "digits", "size": 8, "channels": 3}}


class Cosine(nn.Module):
    """Has an operator without a kernel of ours."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 10, 1)

    def forward(self, x):
        return torch.cos(self.conv2(torch.relu(self.conv1(x)))).mean((2, 3))


@pytest.fixture(scope="module")
def bench():
    return Workbench.open(Problem.model_validate(PROBLEM), with_weights=False)


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    return Compiler(host_target(), tmp_path_factory.mktemp("compiled"))


def test_every_candidate_is_numbers_for_one_library(bench, compiler):
    said = []
    jobs = CandidateJobs(compiler, bench, said.append)
    sizes = np.asarray(bench.groups.sizes)
    plans = [
        bench.plan(widths)
        for widths in (sizes, np.ones_like(sizes), *np.random.default_rng(5).integers(1, sizes + 1, (8, len(sizes))))
    ]
    found = [jobs.job(plan) for plan in plans]
    assert {job.artifact.kind for job in found} == {"resident"}
    assert len({job.artifact.sha256 for job in found}) == 1
    assert len({job.key for job in found}) == len(plans)
    assert said == []
    for plan, job in zip(plans, found, strict=True):
        alone = linked_job(compiler, bench, bench.slicer.cut(plan))
        assert job.planned_memory_bytes == alone.planned_memory_bytes
        assert alone.key == alone.artifact.sha256
    assert found[0].artifact.planned_memory_bytes >= found[0].planned_memory_bytes


def test_a_library_made_again_has_the_same_name(bench, compiler):
    plan = bench.plan(bench.groups.sizes)
    first, again = (CandidateJobs(compiler, bench, print).job(plan) for _ in range(2))
    assert first.key == again.key
    assert first.self_test == again.self_test


def test_candidates_that_cannot_be_resident_are_linked_alone_and_that_is_said_once(bench, compiler):
    said = []
    other = dataclasses.replace(bench, dense=Cosine().eval())
    jobs = CandidateJobs(compiler, other, said.append)
    found = [jobs.job(other.plan([width])) for width in (8, 3)]
    assert [job.artifact.kind for job in found] == ["network", "network"]
    assert [job.numbers for job in found] == [(), ()]
    assert len(said) == 1
    assert "fallback:cos" in said[0]
