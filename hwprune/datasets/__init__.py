"""Data sets: one file a source; ``package.module:build`` brings another.

A search decides on the validation split; the test split is read once, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwprune import plugins

if TYPE_CHECKING:  # torch takes a second to import, and listing names needs none of it
    from hwprune.datasets.data import Data

NOT_PLUGINS = frozenset({"data", "files", "mapped", "ordering"})


def load(spec: Mapping[str, Any], *, seed: int = 0) -> Data:
    """Data set that ``spec`` names: ``{"name": "digits", "size": 16}``.

    Args:
        spec: name and options of the source.
        seed: what splits are drawn with, where the source has none of its own; not the seed of a run, which must not
            change what is validation and what is test.

    Raises:
        UnknownNameError: no source has this name, or it has no such option.
        DataError: the data are missing, empty or of the wrong shape.
    """
    data: Data = plugins.build(__name__, spec, seed=seed)
    return data
