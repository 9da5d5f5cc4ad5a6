"""The network behind a search problem, for methods that look inside it: its parts, its weights, its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hwprune.pruning.plan import Groups, PruningPlan
from hwprune.pruning.structured import Slicer
from hwprune.tasks.base import Task
from hwprune.training import BatchNormEstimator

FloatArray = npt.NDArray[np.float64]


class PrunableNetwork(Protocol):
    """A dense network with its task.

    Weights that a method has trained further are adopted: they get a digest, by which plans name them.
    """

    dense: nn.Module
    task: Task

    @property
    def groups(self) -> Groups:
        """Coupled channels that may be pruned."""
        ...

    @property
    def slicer(self) -> Slicer:
        """Cuts candidates out of the dense network."""
        ...

    @property
    def scores(self) -> Sequence[FloatArray]:
        """Importance of every group's units, higher for those to keep."""
        ...

    @property
    def dtype(self) -> torch.dtype | None:
        """Number format in which candidates are scored; None for float32."""
        ...

    @property
    def batchnorm(self) -> BatchNormEstimator | None:
        """Re-estimates BatchNorm statistics; None where they stay as they are inherited."""
        ...

    @property
    def val_images(self) -> int:
        """Validation images that candidates are judged on."""
        ...

    @property
    def seed(self) -> int:
        """Of everything random."""
        ...

    def cut(self, plan: PruningPlan) -> nn.Module:
        """The pruned network with the weights that the plan names."""
        ...

    def inherit(self, plan: PruningPlan) -> nn.Module:
        """The same with BatchNorm statistics of its own."""
        ...

    def macs(self, plan: PruningPlan) -> float:
        """Multiply-adds of one image."""
        ...

    def copy(self) -> nn.Module:
        """A copy of the dense network, to be trained."""
        ...

    def adopt(self, module: nn.Module) -> str:
        """Keep further trained weights of the dense network's shapes; their digest."""
        ...

    def adopted(self, weights: str) -> nn.Module | None:
        """The dense network with adopted weights; None where they are not kept here."""
        ...
