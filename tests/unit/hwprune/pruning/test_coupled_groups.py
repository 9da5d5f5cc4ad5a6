import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwprune.errors import ConfigError, TraceError
from hwprune.networks.layers import PadShortcut
from hwprune.pruning.groups import build_groups

IMAGE = torch.zeros(1, 3, 8, 8)


class Body(nn.Module):
    """stem -> a body that a test defines -> head."""

    def __init__(self, body, width: int = 4, out: int | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = body if isinstance(body, nn.Module) else Function(body)
        self.head = nn.Conv2d(out or width, 2, 1)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Residual(nn.Module):
    """A narrow stream of 4 channels and a wide one of 8, joined by a zero-padded shortcut (1 before, 3 behind)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.outer = nn.Conv2d(5, 8, 3, padding=1)
        self.shortcut = PadShortcut(2, 1, 3)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.outer(torch.relu(self.inner(x))) + self.shortcut(x))


def members(group):
    return {(member.module, member.side): member.indices.tolist() for member in group.members}


def build(module, **options):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return build_groups(module, IMAGE, **options)


def reason(groups, name):
    return next(entry.reason for entry in groups.protected if entry.name == name)


def test_blocks_are_pruned_and_streams_are_not_by_default():
    groups = build(Residual())
    assert [group.name for group in groups] == ["inner"]
    assert members(groups[0]) == {
        ("inner", "out"): [[0], [1], [2], [3], [4]],
        ("outer", "in"): [[0], [1], [2], [3], [4]],
    }
    assert "addition" in reason(groups, "stem")
    assert "output" in reason(groups, "head")


def test_padded_shortcuts_shift_the_channels_of_the_streams():
    groups = build(Residual(), prune_residual=True)
    assert [(group.name, group.size) for group in groups] == [("stem", 4), ("inner", 5), ("outer", 4)]
    narrow, _, wide = groups
    shifted = [[1], [2], [3], [4]]
    assert members(narrow) == {
        ("stem", "out"): [[0], [1], [2], [3]],
        ("inner", "in"): [[0], [1], [2], [3]],
        ("shortcut", "in"): [[0], [1], [2], [3]],
        ("shortcut", "out"): shifted,
        ("outer", "out"): shifted,
        ("head", "in"): shifted,
    }
    only_wide = [[0], [5], [6], [7]]
    assert members(wide) == {("outer", "out"): only_wide, ("shortcut", "out"): only_wide, ("head", "in"): only_wide}


def test_flattened_channels_own_all_their_columns():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5), nn.Linear(5, 2))
    groups = build(module)
    columns = np.arange(4 * 36).reshape(4, 36)
    assert members(groups[0]) == {("0", "out"): [[0], [1], [2], [3]], ("3", "in"): columns.tolist()}


class Concatenation(nn.Module):
    """Two branches and the network's own input, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 2, 1)
        self.right = nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(9, 2, 1)

    def forward(self, x):
        return self.head(torch.cat([x, self.left(x), self.right(x)], 1))


def test_concatenated_channels_are_shifted_also_behind_the_input():
    groups = build(Concatenation())
    assert [members(group)["head", "in"] for group in groups] == [[[3], [4]], [[5], [6], [7], [8]]]


def test_grouped_convolutions_lose_whole_groups():
    groups = build(Body(nn.Conv2d(4, 6, 3, groups=2), out=6))
    assert members(groups[0]) == {
        ("stem", "out"): [[0, 1], [2, 3]],
        ("body", "in"): [[0, 1], [2, 3]],
        ("body", "out"): [[0, 1, 2], [3, 4, 5]],
        ("head", "in"): [[0, 1, 2], [3, 4, 5]],
    }


def test_depthwise_convolutions_follow_their_producer():
    groups = build(Body(nn.Conv2d(4, 8, 3, groups=4), out=8))
    assert members(groups[0])["body", "out"] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [group.name for group in groups] == ["stem"]


class Excitation(nn.Module):
    """Squeeze and excitation: the product couples two activations inside a block."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(4, 2, 1)
        self.up = nn.Conv2d(2, 4, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


def test_squeeze_and_excitation_stays_prunable():
    groups = build(Body(Excitation()))
    assert [group.name for group in groups] == ["stem", "body.down"]
    assert members(groups[0]).keys() == {
        ("stem", "out"),
        ("body.down", "in"),
        ("body.up", "out"),
        ("head", "in"),
    }


class TwoOutputs(nn.Module):
    """A detector's shape: one backbone, two heads, one of whose features is an output too."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 1)
        self.features = nn.Conv2d(4, 4, 1)
        self.boxes = nn.Conv2d(4, 4, 1)
        self.classes = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        features = self.features(torch.relu(self.backbone(x)))
        return {"heads": (self.boxes(features), self.classes(features)), "features": features}


def test_every_output_of_several_stays_whole():
    groups = build(TwoOutputs())
    assert [group.name for group in groups] == ["backbone"]
    assert {entry.name for entry in groups.protected} == {"features", "boxes", "classes"}


def test_an_output_without_gradient_stays_whole_too():
    class Labels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.classes = nn.Conv2d(4, 5, 1)
            self.head = nn.Conv2d(5, 2, 1)

        def forward(self, x):
            scores = self.classes(self.stem(x))
            return self.head(scores), scores.argmax(1), scores.detach() > 0

    groups = build(Labels())
    assert [group.name for group in groups] == ["stem"]
    assert "answers otherwise" in reason(groups, "classes")


def test_a_layer_used_twice_is_pruned_once():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.shared = nn.Conv2d(4, 4, 1)
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.head(self.shared(torch.relu(self.shared(self.stem(x)))))

    (group,) = build(Twice())
    assert members(group).keys() == {("stem", "out"), ("shared", "in"), ("shared", "out"), ("head", "in")}


class Bias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        return x + self.bias


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(4, 4, 1)
        self.other = nn.Conv2d(4, 4, 1)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(torch.relu(self.one(x)))


class Own(nn.Module):
    """A layer of the user's own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return torch.einsum("oi,nihw->nohw", self.weight, x)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (nn.GroupNorm(2, 4), "normalises over channels"),
        (nn.LayerNorm([4, 8, 8]), "normalises over channels"),
        (Bias(), "parameter that belongs to no layer"),
        (Tied(), "shares a parameter"),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1))[:, 1:5], "padded with channels by a function"),
        (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), "fixed number of channels"),
        (lambda x: x.softmax(1), "answers otherwise"),
        (lambda x: x + x.mean(1, keepdim=True), "answers otherwise"),
        (lambda x: x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2), "fails without"),
        (Own(), "fails without"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), "computes its weight"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_what_cannot_be_cut_is_protected_with_its_reason(body, message):
    module = nn.Sequential(Body(body), nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1))
    groups = build(module, prune_residual=True)
    assert "1" in [group.name for group in groups]
    assert "0.stem" not in [group.name for group in groups]
    assert message in reason(groups, "0.stem")


def test_padding_channels_by_a_function_names_the_remedy():
    groups = build(
        nn.Sequential(Body(lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)), out=7), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 1, 1))
    )
    assert "use hwprune.networks.layers.PadShortcut" in reason(groups, "0.stem")


def test_padding_rows_and_columns_is_no_obstacle():
    groups = build(Body(lambda x: F.pad(x, (1, 2, 1, 2))))
    assert [group.name for group in groups] == ["stem"]


def test_adding_the_input_keeps_its_channels_whole():
    groups = build(nn.Sequential(Body(lambda x: x), Function(lambda x: x)), prune_residual=True)
    assert [group.name for group in groups] == ["0.stem"]

    class Restoration(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 1)
            self.last = nn.Conv2d(4, 3, 1)
            self.head = nn.Conv2d(3, 1, 1)

        def forward(self, x):
            return self.head(x + self.last(self.first(x)))

    groups = build(Restoration(), prune_residual=True)
    assert [group.name for group in groups] == ["first"]
    assert "network's input" in reason(groups, "last")


@pytest.mark.parametrize(
    ("pattern", "left"),
    [("0", ["2"]), ("2", ["4"]), ("[02]", ["4"]), ("4", ["0"])],
)
def test_protected_layers_stay_whole_on_both_sides(pattern, left):
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)
    )
    groups = build(module, protect=[pattern])
    assert {group.name for group in groups} >= set(left)
    for group in groups:
        assert not any(member.module in pattern.strip("[]") for member in group.members)


def test_a_pattern_protects_the_layers_inside_a_module():
    module = nn.Sequential(Body(lambda x: x), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 1, 1))
    assert [group.name for group in build(module, protect=["0"])] == ["1"]


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"'layer9.\*' matches no layer: layers have names such as stem"):
        build(Residual(), protect=["layer9.*"])


def test_a_network_without_prunable_channels_is_refused():
    with pytest.raises(ConfigError, match="no channels of the network can be pruned"):
        build(nn.Conv2d(3, 4, 1))


def test_a_network_that_does_not_run_is_refused():
    with pytest.raises(TraceError, match=r"shape \(1, 3, 8, 8\).*expected input.*its forward must"):
        build(nn.Conv2d(5, 4, 1))


def test_a_network_whose_output_is_detached_is_refused():
    with pytest.raises(TraceError, match="no output depends on the input"):
        build(Function(lambda x: x.detach()))


def test_building_groups_leaves_the_network_as_it_is():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 1, 1)).train()
    module[2].eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.no_grad():
        build_groups(module, IMAGE)
    assert [layer.training for layer in module.modules()] == [True, True, True, False, True]
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not any(layer._forward_hooks for layer in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
