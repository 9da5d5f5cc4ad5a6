"""Plug-ins by file name: a module in a folder is an entry of that folder's kind, and so is a third party's entry point.

Modules that a package keeps beside its plug-ins are named in its ``NOT_PLUGINS``.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from hwprune.errors import ConfigError, UnknownNameError


def names(package: str) -> list[str]:
    """Names of the plug-ins of ``package`` (``hwprune.networks``), listed without importing any of them."""
    home = importlib.import_module(package)
    hidden: frozenset[str] = getattr(home, "NOT_PLUGINS", frozenset())
    own = {module.name for module in pkgutil.iter_modules(home.__path__) if not module.name.startswith("_")}
    return sorted({*(own - hidden), *(point.name for point in entry_points(group=package))})


def load(package: str, name: str) -> ModuleType:
    """Import the plug-in ``name`` of ``package``.

    Raises:
        UnknownNameError: no file and no entry point has this name.
    """
    if name not in names(package):
        raise UnknownNameError(_kind(package), name, names(package))
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


def build(package: str, spec: Mapping[str, Any], **offered: Any) -> Any:
    """Call the ``build`` of the plug-in (or of the ``package.module:build``) that ``spec["name"]`` gives.

    Args:
        package: home of the plug-ins, as ``hwprune.networks``.
        spec: ``name`` and the options to call it with.
        offered: what the caller knows beside them; passed where ``build`` asks for it and ``spec`` does not say it.

    Raises:
        UnknownNameError: there is no such plug-in, or its ``build`` has no such option.
        ConfigError: there is no name, or an option that ``build`` needs is missing.
    """
    kind = _kind(package)
    options = dict(spec)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{kind} {dict(spec)} has no name: give one of {', '.join(names(package))}")
    function: Callable[..., Any] = resolve(name) if ":" in name else load(package, name).build
    parameters = inspect.signature(function).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in parameters:
                raise UnknownNameError(f"option of {kind} {name}", option, parameters)
        offered = {key: value for key, value in offered.items() if key in parameters}
    arguments = {**offered, **options}
    for parameter in parameters.values():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not variadic and parameter.name not in arguments:
            raise ConfigError(f"{kind} {name} needs the option {parameter.name!r}: add it beside the name")
    return function(**arguments)


def _kind(package: str) -> str:
    return package.rsplit(".", 1)[-1].removesuffix("s")
