"""Networks: one file a family; ``package.module:build`` brings another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwprune import plugins

if TYPE_CHECKING:  # torch takes a second to import, and listing names needs none of it
    from torch import nn

NOT_PLUGINS = frozenset({"layers"})


def build(spec: Mapping[str, Any], num_classes: int, in_channels: int) -> nn.Module:
    """Untrained network that ``spec`` names: ``{"name": "resnet_cifar", "depth": 56}``.

    Raises:
        UnknownNameError: no family has this name, or it has no such option.
        ConfigError: an option has a value that the family cannot use.
    """
    module: nn.Module = plugins.build(__name__, spec, num_classes=num_classes, in_channels=in_channels)
    return module
