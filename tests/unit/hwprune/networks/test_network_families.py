import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from hwprune import networks
from hwprune.errors import ConfigError, UnknownNameError
from hwprune.networks.layers import PadShortcut
from hwprune.networks.torchvision_zoo import _fit_classes
from hwprune.pruning.groups import build_groups
from hwprune.training import load_weights


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def shared_weights() -> Path:
    folder = Path(os.environ.get("HWPRUNE_SHARED", Path(__file__).parents[5] / "shared")) / "data" / "weights"
    if not folder.is_dir():
        pytest.skip(f"no weights at {folder}: set HWPRUNE_SHARED to the shared folder")
    return folder


def tiny_network(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def test_pad_shortcut_takes_every_second_pixel_between_zero_channels() -> None:
    x = torch.arange(2 * 3 * 5 * 5, dtype=torch.float32).reshape(2, 3, 5, 5)
    out = PadShortcut(stride=2, front=1, back=2)(x)
    assert out.shape == (2, 6, 3, 3)
    assert torch.equal(out[:, 1:4], x[:, :, ::2, ::2])
    assert not out[:, :1].any()
    assert not out[:, 4:].any()


def test_pad_shortcut_follows_changed_numbers() -> None:
    shortcut = PadShortcut(1, 2, 2)
    shortcut.front, shortcut.back = 0, 1
    assert shortcut(torch.ones(1, 3, 2, 2)).shape == (1, 4, 2, 2)
    assert "front=0, back=1" in repr(shortcut)


@pytest.mark.parametrize(("spec", "groups"), [({"name": "alexnet_cifar"}, 7), ({"name": "mobilenet_cifar"}, 14)])
def test_networks_of_netadapt_have_as_many_prunable_groups_as_there(spec: dict[str, str], groups: int) -> None:
    module = networks.build(spec, 10, 3).eval()
    assert len(build_groups(module, torch.zeros(1, 3, 32, 32))) == groups


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "alexnet_cifar", "hidden": 0}, "take 1 or more"),
        ({"name": "mobilenet_cifar", "width": 0.0}, "above 0"),
    ],
)
def test_networks_of_netadapt_refuse_sizes_of_nothing(spec: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        networks.build(spec, 10, 3)


@pytest.mark.parametrize(("depth", "count"), [(20, 269_722), (56, 853_018), (110, 1_727_962)])
def test_resnets_without_shortcut_parameters_have_the_published_sizes(depth: int, count: int) -> None:
    assert parameter_count(networks.build({"name": "resnet_cifar", "depth": depth}, 10, 3)) == count


def test_projections_add_two_convolutions_and_their_batchnorms() -> None:
    pad = networks.build({"name": "resnet_cifar", "depth": 20}, 10, 3)
    projection = networks.build({"name": "resnet_cifar", "depth": 20, "shortcut": "projection"}, 10, 3)
    assert parameter_count(projection) - parameter_count(pad) == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


def test_a_new_stage_pads_a_quarter_of_its_width_on_each_side() -> None:
    module = networks.build({"name": "resnet_cifar", "depth": 8}, 10, 3)
    shortcuts = [layer for layer in module.modules() if isinstance(layer, PadShortcut)]
    assert [(layer.stride, layer.front, layer.back) for layer in shortcuts] == [(2, 8, 8), (2, 16, 16)]


def test_resnet_computes_what_its_formula_says() -> None:
    module = networks.build({"name": "resnet_cifar", "depth": 8, "widths": [2, 4, 8]}, 5, 1).eval()
    x = torch.randn(2, 1, 8, 8)
    stream = F.relu(module.bn1(module.conv1(x)))
    for stage, pad in ((module.layer1, 0), (module.layer2, 1), (module.layer3, 2)):
        block = stage[0]
        inner = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(stream)))))
        skip = F.pad(stream[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad)) if pad else stream
        stream = F.relu(inner + skip)
    assert torch.allclose(module(x), module.linear(stream.mean((2, 3))), atol=1e-6)


@pytest.mark.parametrize(("depth", "count"), [(14, 14_724_042), (16, 14_724_042 + 2 * (512 * 512 + 512))])
def test_vggs_have_thirteen_convolutions_and_the_linear_layers_of_their_depth(depth: int, count: int) -> None:
    module = networks.build({"name": "vgg_cifar", "depth": depth}, 10, 3)
    assert parameter_count(module) == count
    assert sum(isinstance(layer, nn.Conv2d) for layer in module.modules()) == 13
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in module.modules()) == depth


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 21}, "6 n \\+ 2"),
        ({"depth": 2}, "6 n \\+ 2"),
        ({"depth": 20, "shortcut": "none"}, "'pad' or 'projection'"),
        ({"depth": 20, "widths": [32, 16, 64]}, "do not fall"),
        ({}, "needs the option 'depth'"),
    ],
)
def test_resnet_names_the_option_it_cannot_use(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        networks.build({"name": "resnet_cifar", **options}, 10, 3)


def test_vgg_names_the_depths_it_has() -> None:
    with pytest.raises(ConfigError, match="14 or 16"):
        networks.build({"name": "vgg_cifar", "depth": 19}, 10, 3)


def test_an_unknown_network_offers_the_nearest_known_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet_cifar'"):
        networks.build({"name": "resnet_cifr"}, 10, 3)


def test_an_unknown_option_offers_the_nearest_known_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'depth'"):
        networks.build({"name": "resnet_cifar", "dept": 20}, 10, 3)


def test_shared_layers_are_not_listed_as_a_network() -> None:
    with pytest.raises(UnknownNameError):
        networks.build({"name": "layers"}, 10, 3)


def test_a_network_of_the_users_gets_what_it_asks_for_and_nothing_more() -> None:
    module = networks.build({"name": f"{__name__}:tiny_network"}, 7, 3)
    assert module(torch.zeros(2, 3, 4, 4)).shape == (2, 7)


def test_a_network_of_the_users_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(ConfigError, match="check the spelling"):
        networks.build({"name": "no_such_package.module:build"}, 10, 3)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_torchvision_networks_take_the_classes_and_channels_of_the_data(arch: str) -> None:
    module = networks.build({"name": "torchvision_zoo", "arch": arch}, 7, 1).eval()
    with torch.inference_mode():
        assert module(torch.zeros(1, 1, 64, 64)).shape == (1, 7)


def test_torchvision_networks_with_auxiliary_heads_come_without_them() -> None:
    module = networks.build({"name": "torchvision_zoo", "arch": "googlenet"}, 7, 3)
    assert isinstance(module(torch.zeros(2, 3, 64, 64)), torch.Tensor)


def test_an_unknown_torchvision_network_offers_the_nearest_known_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
        networks.build({"name": "torchvision_zoo", "arch": "resnet_18"}, 10, 3)


def test_unknown_torchvision_weights_offer_the_nearest_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'IMAGENET1K_V1'"):
        networks.build({"name": "torchvision_zoo", "arch": "resnet18", "weights": "IMAGENET1K"}, 10, 3)


@pytest.mark.parametrize(("arch", "head"), [("resnet18", "fc"), ("squeezenet1_1", "classifier.1")])
def test_pretrained_ends_are_replaced_where_the_data_differ(arch: str, head: str) -> None:
    module = torchvision.models.get_model(arch, weights=None)
    before = module.get_submodule(head)
    _fit_classes(module, 1000)
    assert module.get_submodule(head) is before
    _fit_classes(module, 7)
    with torch.inference_mode():
        assert module.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("spec", "file"),
    [
        ({"name": "resnet_cifar", "depth": 20}, "resnet20"),
        ({"name": "resnet_cifar", "depth": 56}, "resnet56"),
        ({"name": "vgg_cifar", "depth": 14}, "vgg14"),
    ],
)
def test_shared_weights_fit_strictly(spec: dict[str, object], file: str) -> None:
    load_weights(networks.build(spec, 10, 3), shared_weights() / f"{file}.safetensors")
