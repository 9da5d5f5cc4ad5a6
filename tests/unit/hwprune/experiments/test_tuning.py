"""A point is trained on alike in this process and in any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hwprune import training
from hwprune.config import Problem
from hwprune.errors import ConfigError
from hwprune.executors import Alone, Processes
from hwprune.experiments import tuning
from hwprune.experiments.workbench import Workbench

SETTINGS = training.TrainingSettings(epochs=1, batch_size=32, seed=3)


@pytest.fixture
def bench() -> Workbench:
    told = {
        "network": {"name": "resnet_cifar", "depth": 8},
        "data": {"name": "digits", "size": 8, "channels": 3},
        "evaluation": {"threads": 1},
    }
    return Workbench.open(Problem.model_validate(told), with_weights=False)


def origin_of(bench: Workbench) -> tuning.Origin:
    return tuning.Origin(bench.problem.network, bench.problem.task, bench.groups, None)


def test_a_point_is_tuned_alike_everywhere(bench: Workbench, tmp_path: Path) -> None:
    plan = bench.plan(np.maximum(1, bench.groups.sizes // 2))
    training.save_weights(bench.slicer.cut(plan), tmp_path / "point.safetensors")
    weights = (tmp_path / "point.safetensors").read_bytes()
    (tmp_path / "parcel").mkdir()
    parcel = tuning.pack(origin_of(bench), bench.dense, bench.data, tmp_path / "parcel")
    module = bench.slicer.cut(plan)
    torch.set_num_threads(1)
    training.finetune(module, bench.task, SETTINGS, teacher=bench.dense)
    expected = tuning.tuned(module.eval(), plan, bench.task, None)
    assert expected.weights != weights
    with Processes(1, 1) as processes:
        for executor in (Alone(), processes):
            assert executor.submit(tuning.tune, parcel, plan, weights, SETTINGS).result() == expected


def test_images_that_are_too_many_are_refused(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "SHARED_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"cannot be shared by processes.*leave --workers"):
        tuning.pack(origin_of(bench), bench.dense, bench.data, tmp_path)


def test_data_of_another_kind_are_refused(bench: Workbench, tmp_path: Path) -> None:
    class Stream:
        def __len__(self) -> int:
            return 3

    data = replace(bench.data, train=Stream())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no images with a target each"):
        tuning.pack(origin_of(bench), bench.dense, data, tmp_path)
