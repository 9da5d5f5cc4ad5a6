"""What every network in hwprune/networks must do; a file dropped there is tested by its own documented example."""

import re

import pytest
import torch
import yaml
from torch import nn

from hwprune import networks, plugins
from hwprune.errors import UnknownNameError
from hwprune.training import load_weights, save_weights

NAMES = plugins.names("hwprune.networks")


def examples(name: str) -> list[dict[str, object]]:
    """Specs that the module's docstring shows, of those that need no download."""
    shown = re.findall(r"^ *network: (\{.*\})", plugins.load("hwprune.networks", name).__doc__ or "", re.MULTILINE)
    return [spec for spec in map(yaml.safe_load, shown) if "weights" not in spec]


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return networks.build(examples(name)[0], num_classes=5, in_channels=1)


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_shows_the_yaml_of_a_network(name: str) -> None:
    assert examples(name)
    assert all(spec["name"] == name for spec in examples(name))


@pytest.mark.parametrize(("name", "spec"), [(name, spec) for name in NAMES for spec in examples(name)])
def test_every_shown_example_takes_the_classes_and_channels_of_the_data(name: str, spec: dict[str, object]) -> None:
    module = networks.build(spec, num_classes=5, in_channels=1).eval()
    with torch.inference_mode():
        assert module(torch.zeros(2, 1, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("name", NAMES)
def test_it_gives_the_same_logits_for_an_image_alone_or_in_a_batch(name: str) -> None:
    module = built(name).eval()
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(module(images)[1:], module(images[1:]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    module = built(name).train()
    module(torch.randn(4, 1, 32, 32)).square().sum().backward()
    assert [key for key, parameter in module.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_its_weights_come_back_from_a_file(name: str, tmp_path: pytest.TempPathFactory) -> None:
    module = built(name).eval()
    save_weights(module, f"{tmp_path}/weights.safetensors")
    again = networks.build(examples(name)[0], num_classes=5, in_channels=1).eval()
    load_weights(again, f"{tmp_path}/weights.safetensors")
    image = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(module(image), again(image))


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_exported(name: str) -> None:
    module = built(name).eval()
    example = torch.randn(1, 1, 32, 32)
    exported = torch.export.export(module, (example,)).module()
    assert torch.allclose(exported(example), module(example), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_it_refuses_an_option_that_it_does_not_have(name: str) -> None:
    with pytest.raises(UnknownNameError, match="no_such_option"):
        networks.build({**examples(name)[0], "no_such_option": 1}, num_classes=5, in_channels=1)
