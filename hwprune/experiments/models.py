"""A network that a user names on the command line, brought to life without a data set."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from hwprune import networks, plugins, tasks
from hwprune.compilation.targets import CpuTarget
from hwprune.config import Problem
from hwprune.datasets.data import Data, ImageSplit, Normalization, assemble
from hwprune.errors import ConfigError, UnknownNameError
from hwprune.experiments.workbench import Workbench

InputShape = tuple[int, int, int]

#: Channels, height and width of an image where nobody says: of the families for small images, and of all others.
SMALL, LARGE = (3, 32, 32), (3, 224, 224)
_IMAGES = 8


def open_model(
    reference: str, *, input_shape: InputShape | None = None, num_classes: int = 10, target: CpuTarget | None = None
) -> Workbench:
    """Workbench of a network with random weights and images of noise.

    Args:
        reference: a family with its options (``resnet_cifar,depth=56``), an architecture of torchvision
            (``mobilenet_v2``), a function (``package.module:build,width=64``), or a file of ``torch.export.save``.
        input_shape: channels, height and width of an image.
        num_classes: outputs of the network.
        target: CPU that it is compiled for; this computer's where None.

    Raises:
        ConfigError: the name, an option or the file cannot be used.
    """
    if reference.endswith(".onnx"):
        raise ConfigError(
            f"{reference}: ONNX has lost which layers belong together; give the network itself (package.module:build), "
            "or torch.export.save it as FILE.pt2"
        )
    if reference.endswith(".pt2"):
        module, shape = _exported(Path(reference))
        spec: dict[str, Any] = {"name": reference}
    else:
        spec = parse(reference)
        shape = input_shape or (SMALL if str(spec["name"]).endswith("_cifar") else LARGE)
        torch.manual_seed(0)
        module = networks.build(spec, num_classes, shape[0])
    problem = Problem.model_validate(
        {"network": spec, "data": {"name": "noise", "shape": list(shape)}, "evaluation": {"threads": 1}}
    )
    data = noise(shape, num_classes)
    return Workbench(problem, data, tasks.build(problem.task, data), module.eval(), target)


def parse(reference: str) -> dict[str, Any]:
    """Name and options of ``name,key=value,...``.

    Raises:
        ConfigError: an option has no value.
        UnknownNameError: there is no such family or architecture.
    """
    name, *options = reference.split(",")
    values: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise ConfigError(f"{reference!r}: option {option!r} has no value: write it as {option}=...")
        values[key.strip()] = yaml.safe_load(text)
    if ":" in name or name in plugins.names(networks.__name__):
        return {"name": name, **values}
    import torchvision

    architectures = torchvision.models.list_models(module=torchvision.models)
    if name not in architectures:
        raise UnknownNameError("network", name, [*plugins.names(networks.__name__), *architectures])
    return {"name": "torchvision_zoo", "arch": name, **values}


def noise(shape: InputShape, num_classes: int) -> Data:
    """A few images of noise: all that a network's shapes need."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (_IMAGES, *shape), generator=generator, dtype=torch.uint8)
    split = ImageSplit(images, torch.arange(_IMAGES) % num_classes, Normalization.of(images))
    return assemble(split, split, split, num_classes)


def parse_shape(text: str) -> InputShape:
    """Channels, height and width of ``3x224x224``.

    Raises:
        ConfigError: it is not written so.
    """
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise ConfigError(f"input {text!r}: write channels, height and width of an image as 3x224x224")
    channels, height, width = map(int, parts)
    return channels, height, width


def _exported(path: Path) -> tuple[nn.Module, InputShape]:
    """Module and image shape of a file of ``torch.export.save``."""
    if not zipfile.is_zipfile(path):  # which torch would tell in 20 lines
        raise ConfigError(f"{path} cannot be read as an exported program: write it with torch.export.save")
    try:
        program = torch.export.load(path)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} cannot be read as an exported program ({_line(error)})") from error
    inputs: Sequence[Any] = [value for value in program.example_inputs[0]] if program.example_inputs else []
    if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor) or inputs[0].dim() != 4:
        raise ConfigError(f"{path} was not exported with one batch of images: export it with one input (n, c, h, w)")
    _, channels, height, width = inputs[0].shape
    module = program.module()
    # What an exported program is called with stands fixed in it, and so does its mode.
    module.eval = lambda: module  # type: ignore[method-assign]
    return module, (int(channels), int(height), int(width))


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
