"""Search methods: one file a method, found by its file name.

A method module holds ``Settings`` (its settings with their defaults) and ``METHOD``, a class of
:class:`hwprune.search.methods.base.Method`'s shape that is made from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hwprune import plugins
from hwprune.search.methods.base import Method, parse

__all__ = ["Method", "build", "defaults", "objectives"]

NOT_PLUGINS = frozenset({"base"})


def build(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """The method of this name with these settings; what is not named keeps its default.

    Raises:
        UnknownNameError: there is no such method, or it has no such setting.
        ConfigError: a setting has a value that the method cannot use.
    """
    module = plugins.load(__name__, name)
    method: Method = module.METHOD(parse(module.Settings, name, settings or {}))
    return method


def objectives(
    name: str, settings: Mapping[str, Any], wanted: Sequence[str], bounded: Sequence[str] = (), is_measured: bool = True
) -> list[str]:
    """What a method minimizes under these settings: its paper's pair, or ``wanted``, the problem's own.

    Args:
        name: of the method.
        settings: of the method.
        wanted: the problem's objectives.
        bounded: objectives that the problem constrains.
        is_measured: whether candidates' latencies are measured, and not predicted.

    Raises:
        UnknownNameError: there is no such method, or it has no such setting.
        ConfigError: a setting has a value that the method cannot use, or it cannot solve such a problem.
    """
    parsed = parse(plugins.load(__name__, name).Settings, name, settings)
    found = list(wanted if parsed.objectives is None else parsed.objectives)
    parsed.check((*found, *bounded), is_measured=is_measured)
    return found


def defaults(name: str) -> dict[str, Any]:
    """Settings of a method with their defaults, as its ``configs/methods/NAME.yaml`` lists them.

    Raises:
        UnknownNameError: there is no such method.
    """
    settings: dict[str, Any] = plugins.load(__name__, name).Settings().model_dump(mode="json")
    return settings
