import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hwprune.errors import ConfigError, UnknownNameError
from hwprune.pruning.groups import build_groups
from hwprune.pruning.importance import CRITERIA, Ranking, ranked_plan, scores
from hwprune.pruning.structured import Slicer


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    module = Small().eval()
    with torch.no_grad():
        module.conv.weight.copy_(torch.tensor([1.0, -3.0, 2.0, 2.0]).reshape(4, 1, 1, 1))
        module.bn.weight.copy_(torch.tensor([4.0, 1.0, -2.0, 1.0]))
    return module, build_groups(module, torch.randn(1, 1, 4, 4))


def loss(module, batch):
    x, y = batch
    return nn.functional.cross_entropy(module(x), y)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1_norm", [0.5, 1.5, 1.0, 1.0]),
        ("l2_norm", [0.5, 1.5, 1.0, 1.0]),
        ("fpgm", [6 / 6.5, 14 / 6.5, 6 / 6.5 * 1, 6 / 6.5]),
        ("bn_scale", [2.0, 0.5, 1.0, 0.5]),
    ],
)
def test_scores_agree_with_a_hand_computation(network, name, expected):
    if name == "fpgm":  # distances of 1, -3, 2, 2 to one another
        sums = np.array([4 + 1 + 1, 4 + 5 + 5, 1 + 5 + 0, 1 + 5 + 0])
        expected = sums / sums.mean()
    (found,) = scores(name, *network)
    assert found == pytest.approx(expected)


def test_taylor_agrees_with_a_hand_computation(network):
    module, groups = network
    batches = [(torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 1])) for _ in range(2)]
    (found,) = scores("taylor", module, groups, iter(batches), loss=loss)
    expected = np.zeros(4)
    for batch in batches:
        module.zero_grad()
        loss(module, batch).backward()
        expected += ((module.conv.weight * module.conv.weight.grad).flatten() ** 2).detach().numpy()
    assert found == pytest.approx(expected / expected.mean(), rel=1e-4)


def test_scoring_leaves_the_network_as_it_is(network):
    module, groups = network
    module.train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    batches = [(torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 1]))]
    for name in CRITERIA:
        scores(name, module, groups, batches, loss=loss)
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_random_scores_depend_on_the_seed_alone(network):
    one, again, other = (scores("random", *network, seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_bn_scale_falls_back_on_the_norm_where_there_is_no_batchnorm():
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    groups = build_groups(module, torch.randn(1, 1, 2, 2))
    assert scores("bn_scale", module, groups)[0] == pytest.approx(scores("l2_norm", module, groups)[0])


def test_transposed_and_grouped_filters_are_scored_by_output_channel():
    module = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Conv2d(6, 2, 1)).eval()
    groups = build_groups(module, torch.randn(1, 1, 3, 3))
    with torch.no_grad():
        module[1].weight.zero_()
        module[1].weight[:2] = 1.0  # inputs of the first convolution group, so outputs 0 to 2
        module[0].weight.fill_(1.0)
    (found,) = scores("l1_norm", module, groups)
    assert found == pytest.approx([1.5, 0.5])  # the first layer is indifferent, the second is all in unit 0


def test_unknown_criteria_and_missing_batches_are_refused(network):
    with pytest.raises(UnknownNameError, match="did you mean 'l1_norm'"):
        scores("l1norm", *network)
    with pytest.raises(ConfigError, match="needs training batches and a loss"):
        scores("taylor", *network)
    with pytest.raises(ConfigError, match="no training batch"):
        scores("taylor", *network, batches=[], loss=loss)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9), st.data())
def test_a_ranked_plan_keeps_the_best_and_breaks_ties_by_index(values, data):
    width = data.draw(st.integers(1, len(values)))
    (kept,) = Ranking([np.array(values, dtype=float)]).plan([width]).kept
    expected = sorted(range(len(values)), key=lambda unit: (-values[unit], unit))[:width]
    assert kept == tuple(sorted(expected))


def test_a_ranked_plan_cuts_the_network(network):
    module, groups = network
    plan = ranked_plan(groups, scores("l1_norm", module, groups), [2])
    assert plan.kept == ((1, 2),)
    assert Slicer(module, groups).cut(plan).conv.weight.flatten().tolist() == [-3.0, 2.0]


def test_widths_and_scores_that_do_not_fit_are_refused(network):
    _, groups = network
    with pytest.raises(ConfigError, match="give 1 to 4"):
        ranked_plan(groups, [np.ones(4)], [0])
    with pytest.raises(ConfigError, match="give 1 to 4"):
        ranked_plan(groups, [np.ones(4)], [5])
    with pytest.raises(ConfigError, match="one width a group"):
        ranked_plan(groups, [np.ones(4)], [1, 1])
    with pytest.raises(ConfigError, match="do not fit the groups"):
        ranked_plan(groups, [np.ones(3)], [1])
