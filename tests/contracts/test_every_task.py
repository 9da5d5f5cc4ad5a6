"""What every task in hwprune/tasks must do, on the digits."""

import re

import pytest
import torch
import yaml
from torch import nn

from hwprune import datasets, networks, plugins, tasks
from hwprune.datasets.data import Data
from hwprune.errors import UnknownNameError
from hwprune.tasks.base import BaseTask, Task

NAMES = plugins.names("hwprune.tasks")


@pytest.fixture(scope="module")
def data() -> Data:
    return datasets.load({"name": "digits", "size": 16})


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest, data: Data) -> Task:
    return tasks.build(request.param, data)


@pytest.fixture
def network(data: Data) -> nn.Module:
    torch.manual_seed(0)
    return networks.build({"name": "resnet_cifar", "depth": 8}, data.num_classes, data.input_shape[0])


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_shows_its_yaml(name: str) -> None:
    shown = re.findall(r"^ *task: (.*)$", plugins.load("hwprune.tasks", name).__doc__ or "", re.MULTILINE)
    specs = [yaml.safe_load(spec) for spec in shown]
    assert name in [spec if isinstance(spec, str) else spec["name"] for spec in specs]


def test_the_metric_has_a_name_and_a_direction(task: Task) -> None:
    assert re.fullmatch("[a-z0-9_]+", task.metric.name)
    better, worse = (1.0, 0.5) if task.metric.higher_is_better else (0.5, 1.0)
    assert task.error(better) < task.error(worse)


def test_the_example_input_has_the_shape_of_a_batch(task: Task) -> None:
    batch = next(task.batches("val", 3))
    assert task.example_input(3).shape == batch[0].shape


def test_the_loss_is_a_number_that_training_can_follow(task: Task, network: nn.Module) -> None:
    batch = next(task.batches("train", 8, shuffle_seed=0, augment=True))
    loss = task.loss(task.forward(network, batch), batch)
    loss.backward()
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_metric_is_the_same_at_every_reading(task: Task, network: nn.Module) -> None:
    assert task.evaluate(network, "val", limit=64) == task.evaluate(network, "val", limit=64)


def test_scoring_keeps_weights_statistics_and_mode(task: Task, network: nn.Module) -> None:
    before = {key: value.clone() for key, value in network.train().state_dict().items()}
    task.evaluate(network, "val", limit=64, dtype=torch.bfloat16)
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_task_with_logits_returns_one_a_class(task: Task, network: nn.Module, data: Data) -> None:
    if task.needs_logits:
        batch = next(task.batches("val", 3))
        assert task.forward(network, batch).shape == (3, data.num_classes)


def test_right_images_are_those_that_the_metric_counts(task: BaseTask, network: nn.Module) -> None:
    batches = list(task.batches("val", 50, limit=100))
    with torch.inference_mode():
        counts = [task.right(task.forward(network.eval(), batch), batch) for batch in batches]
    right = [count for count in counts if count is not None]
    if right:
        assert sum(right) / 100 == pytest.approx(task.evaluate(network, "val", limit=100))


@pytest.mark.parametrize("name", NAMES)
def test_it_refuses_an_option_that_it_does_not_have(name: str, data: Data) -> None:
    with pytest.raises(UnknownNameError, match="no_such_option"):
        tasks.build({"name": name, "no_such_option": 1}, data)
