"""Pareto-optimal pruned networks from latencies and memory measured on your own devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(path: str | Path) -> nn.Module:
    """The pruned network that ``hwprune export`` wrote into the folder ``path``, in evaluation mode.

    Raises:
        RunError: the folder holds no export.
        WeightsError: the weights do not fit.
    """
    from hwprune.experiments.export import load as load_export  # torch only when it is needed

    return load_export(path)
