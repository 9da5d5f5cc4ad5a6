"""Tasks: what a network is for; one file a task, ``package.module:build`` brings another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwprune import plugins

if TYPE_CHECKING:  # torch takes a second to import, and listing names needs none of it
    from hwprune.datasets.data import Data
    from hwprune.tasks.base import Task

NOT_PLUGINS = frozenset({"base", "precision"})


def build(spec: str | Mapping[str, Any], data: Data) -> Task:
    """Task that ``spec`` names: ``classification``, or ``{"name": "package.module:build", "option": 1}``.

    Raises:
        UnknownNameError: no task has this name, or it has no such option.
    """
    task: Task = plugins.build(__name__, {"name": spec} if isinstance(spec, str) else spec, data=data)
    return task
