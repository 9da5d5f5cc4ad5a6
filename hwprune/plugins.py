"""Plug-ins by file name: a module in a folder is an entry of that folder's kind, and so is a third party's entry point."""

import importlib
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from hwprune.errors import ConfigError, UnknownNameError


def names(package: str) -> list[str]:
    """Names of the plug-ins of ``package`` (``hwprune.networks``), listed without importing any of them."""
    folder = importlib.import_module(package).__path__
    own = [module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_")]
    return sorted({*own, *(point.name for point in entry_points(group=package))})


def load(package: str, name: str) -> ModuleType:
    """Import the plug-in ``name`` of ``package``.

    Raises:
        UnknownNameError: no file and no entry point has this name.
    """
    if name not in names(package):
        raise UnknownNameError(package.rsplit(".", 1)[-1].removesuffix("s"), name, names(package))
    for point in entry_points(group=package, name=name):
        module: ModuleType = point.load()
        return module
    return importlib.import_module(f"{package}.{name}")


def resolve(reference: str) -> Any:
    """Object that ``package.module:attribute`` names.

    Raises:
        ConfigError: the module cannot be imported or lacks the attribute.
    """
    module_name, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{reference!r} cannot be imported ({error}): check the spelling and PYTHONPATH") from error
