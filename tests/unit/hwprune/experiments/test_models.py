"""Networks that users name on the command line."""

import pytest
import torch
from torch import nn

from hwprune.errors import ConfigError, UnknownNameError
from hwprune.experiments.models import open_model, parse, parse_shape


def tiny(num_classes, width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, num_classes, 1), nn.AdaptiveAvgPool2d(1)
    )


def test_a_family_with_options():
    assert parse("resnet_cifar,depth=56") == {"name": "resnet_cifar", "depth": 56}


def test_an_architecture_of_torchvision():
    assert parse("mobilenet_v2") == {"name": "torchvision_zoo", "arch": "mobilenet_v2"}


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'mobilenet_v2'"):
        parse("mobilnet_v2")


def test_an_option_without_a_value_is_refused():
    with pytest.raises(ConfigError, match="option 'depth' has no value"):
        parse("resnet_cifar,depth")


@pytest.mark.parametrize("text", ["32", "3x32", "0x32x32", "3x32xwide"])
def test_a_shape_is_channels_height_and_width(text):
    assert parse_shape("3x24x32") == (3, 24, 32)
    with pytest.raises(ConfigError, match="3x224x224"):
        parse_shape(text)


def test_a_function_is_called_and_its_groups_are_found_without_data():
    bench = open_model(f"{__name__}:tiny,width=12", input_shape=(3, 9, 11))
    assert bench.groups.sizes.tolist() == [12]
    assert bench.example_input.shape == (1, 3, 9, 11)
    assert bench.arithmetic([[5]]).row(0)[0].out_channels == 5


def test_small_families_get_small_images():
    assert open_model("resnet_cifar,depth=8").example_input.shape == (1, 3, 32, 32)


def test_onnx_is_refused_with_what_to_give_instead():
    with pytest.raises(ConfigError, match=r"package.module:build.*\.pt2"):
        open_model("network.onnx")


def test_an_exported_program_is_read(tmp_path):
    path = tmp_path / "network.pt2"
    example = torch.zeros(1, 3, 9, 11)
    torch.export.save(torch.export.export(tiny(10).eval(), (example,)), path)
    bench = open_model(str(path))
    assert [shape.out_channels for shape in bench.graph.shapes(bench.dense)][:2] == [8, 10]


def test_a_file_that_is_no_exported_program_is_refused(tmp_path):
    path = tmp_path / "network.pt2"
    path.write_bytes(b"no program")
    with pytest.raises(ConfigError, match="cannot be read as an exported program"):
        open_model(str(path))
