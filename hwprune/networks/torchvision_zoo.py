"""Any classification network of torchvision, its first and last layer fitted to the data.

::

    network: {name: torchvision_zoo, arch: resnet18}                        # untrained
    network: {name: torchvision_zoo, arch: mobilenet_v2, weights: DEFAULT}  # ImageNet's, downloaded by torchvision

A last layer of another size than the data's classes is replaced by a new one, and so is a first convolution of another
number of channels; the other layers keep the pretrained weights.
"""

from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import nn

from hwprune.errors import ConfigError, UnknownNameError

AUXILIARY_HEADS = ("googlenet", "inception_v3")


def build(arch: str, num_classes: int, in_channels: int = 3, weights: str | None = None) -> nn.Module:
    """Network ``arch`` of torchvision for ``num_classes`` classes.

    Raises:
        UnknownNameError: torchvision has no such classification network, or that no such weights.
        ConfigError: its weights cannot be downloaded.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        raise UnknownNameError("torchvision network", arch, known)
    options: dict[str, Any] = {"aux_logits": False, "init_weights": False} if arch in AUXILIARY_HEADS else {}
    if weights is None:
        module: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=num_classes, **options)
    else:
        module = _pretrained(arch, weights, options)
        _fit_classes(module, num_classes)
    _fit_channels(module, in_channels)
    return module


def _pretrained(arch: str, weights: str, options: dict[str, Any]) -> nn.Module:
    choices = torchvision.models.get_model_weights(arch)
    if weights not in choices.__members__:
        raise UnknownNameError(f"weights of {arch}", weights, choices.__members__)
    try:
        module: nn.Module = torchvision.models.get_model(arch, weights=weights, **options)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise ConfigError(f"the weights {weights} of {arch} cannot be downloaded ({error}): go online once") from error
    return module


def _fit_classes(module: nn.Module, num_classes: int) -> None:
    name, last = [item for item in module.named_modules() if isinstance(item[1], nn.Linear | nn.Conv2d)][-1]
    if isinstance(last, nn.Linear):
        if last.out_features != num_classes:
            module.set_submodule(name, nn.Linear(last.in_features, num_classes))
    elif last.out_channels != num_classes:  # squeezenet classifies by a 1x1 convolution
        module.set_submodule(name, nn.Conv2d(last.in_channels, num_classes, 1))


def _fit_channels(module: nn.Module, in_channels: int) -> None:
    first = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    if first.in_channels != in_channels:
        first.in_channels = in_channels
        first.weight = nn.Parameter(torch.empty(first.out_channels, in_channels, *first.kernel_size))
        first.reset_parameters()
