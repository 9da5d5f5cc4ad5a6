"""Networks that bring trained weights need no file of them."""

import pytest
import torch
from torch import nn

from hwprune.config import PRETRAINED, Problem
from hwprune.errors import WeightsError
from hwprune.experiments.workbench import Workbench

DIGITS = {"name": "digits", "size": 8, "channels": 3}


def test_a_users_own_network_keeps_the_weights_that_it_was_built_with(tmp_path, monkeypatch):
    saved = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    saved_at = str(tmp_path / "saved.pt")
    torch.save(saved, saved_at)
    build = f"def build(num_classes, in_channels):\n    return torch.load({saved_at!r}, weights_only=False)\n"
    (tmp_path / "my_pretrained.py").write_text(f"import torch\n\n{build}")
    monkeypatch.syspath_prepend(tmp_path)
    problem = {"network": "my_pretrained:build", "weights": PRETRAINED, "data": DIGITS}
    bench = Workbench.open(Problem.model_validate(problem))
    assert torch.equal(bench.dense[0].weight, saved[0].weight)


def test_a_network_without_trained_weights_is_refused():
    problem = {"network": {"name": "resnet_cifar", "depth": 8}, "weights": PRETRAINED, "data": DIGITS}
    with pytest.raises(WeightsError, match="resnet_cifar comes without trained weights: name a file"):
        Workbench.open(Problem.model_validate(problem))
