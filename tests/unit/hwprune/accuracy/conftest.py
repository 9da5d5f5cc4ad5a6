"""A trained network of handwritten digits with a validation split that is large enough for looks at it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hwprune import datasets, networks, tasks, training
from hwprune.config import Problem
from hwprune.experiments.workbench import Workbench


@pytest.fixture(scope="package")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """ResNet-8 on digits, trained for a few seconds."""
    folder = tmp_path_factory.mktemp("digits")
    source = load_digits()
    pixels = np.kron(source.images * 15.9, np.ones((2, 2))).astype(np.uint8)[..., None].repeat(3, axis=3)
    order = np.random.default_rng(0).permutation(len(pixels))
    parts = {"train": order[:700], "val": order[700:1660], "test": order[1660:]}
    arrays = {f"x_{name}": pixels[rows] for name, rows in parts.items()}
    arrays |= {f"y_{name}": source.target[rows] for name, rows in parts.items()}
    np.savez(folder / "digits.npz", **arrays)
    problem = Problem.model_validate(
        {
            "network": {"name": "resnet_cifar", "depth": 8},
            "weights": str(folder / "digits.safetensors"),
            "data": {"name": "arrays", "path": str(folder / "digits.npz")},
            "objectives": ["error", "macs", "params"],
            "evaluation": {"threads": 1, "bn_images": 256, "search_bn_images": 128},
        }
    )
    data = datasets.load(problem.data)
    torch.manual_seed(0)
    network = networks.build(problem.network, data.num_classes, data.input_shape[0])
    settings = training.TrainingSettings(epochs=5, batch_size=32)
    training.train(network, tasks.build(problem.task, data), settings)
    training.save_weights(network, folder / "digits.safetensors")
    return problem


@pytest.fixture(scope="package")
def bench(problem: Problem) -> Workbench:
    """The problem brought to life."""
    return Workbench.open(problem)
