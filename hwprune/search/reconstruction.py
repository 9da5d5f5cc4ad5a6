"""How well a part of a network, with fewer filters, still gives its consumer what it was given before."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hwprune.pruning.plan import PruningPlan
from hwprune.pruning.segments import Segments, groups_within
from hwprune.pruning.structured import Slicer
from hwprune.search.compute import Compute
from hwprune.search.network import PrunableNetwork
from hwprune.tasks.precision import autocast
from hwprune.training.batchnorm import BATCH_NORMS

FloatArray = npt.NDArray[np.float64]

#: Images of a batch.
BATCH = 128


class Reconstruction:
    """Candidates of a part, compared with the part before it was pruned on cached features.

    The part ends where all channels of its groups have been consumed: in a plain network at the pre-activations of the
    next convolution or linear layer, in a residual one at the end of a block.

    Attributes:
        cached: multiply-adds that filling the cache took.
    """

    def __init__(
        self,
        network: PrunableNetwork,
        segments: Segments,
        plan: PruningPlan,
        numbers: Sequence[int],
        *,
        teacher: Literal["current", "original"] = "current",
        images: int = 1024,
        batch_statistics: bool = True,
    ) -> None:
        self._network = network
        self._segments = segments
        self._batch_statistics = batch_statistics
        self._start, self._end = segments.span([network.groups[number] for number in numbers])
        base = network.adopted(plan.weights) if plan.weights else network.dense
        assert base is not None  # cut() says so if it is not
        part = segments.part(self._start, self._end, base)
        self._slicer = Slicer(part, groups_within(part, network.groups))
        self._images = min(images, network.task.size("train"))
        current = network.cut(plan)
        self._current_parameters = self._parameters(plan.widths)
        entering = segments.part(segments.places[0], self._start, current)
        aims = segments.part(self._start, self._end, current)
        if teacher == "original":
            aims = segments.part(segments.places[0], self._end, network.dense)
        self._features: list[Tensor] = []
        self._aims: list[Tensor] = []
        batches = network.task.batches("train", BATCH, shuffle_seed=network.seed, limit=self._images)
        with torch.inference_mode(), autocast(network.dtype):
            for images_of_batch, _ in batches:
                features = entering(images_of_batch)
                self._features.append(features)
                self._aims.append(aims(images_of_batch if teacher == "original" else features).float())
        if teacher == "original":
            self._aims = [aim[:, self._left(plan)] for aim in self._aims]
        self._norm = sum(float(aim.square().sum()) for aim in self._aims)
        whole = segments.macs(current, end=self._end)
        more = segments.macs(network.dense, end=self._end) if teacher == "original" else 0.0
        self.cached = self._passes(whole + more)

    def error(self, plan: PruningPlan) -> float:
        """Squared distance of the candidate's output from the teacher's, relative to the teacher's square."""
        part = self._slicer.cut(plan).eval()
        if self._batch_statistics:
            _use_batch_statistics(part)
        total = 0.0
        with torch.inference_mode(), autocast(self._network.dtype):
            for features, aim in zip(self._features, self._aims, strict=True):
                total += float((part(features).float() - aim).square().sum())
        error = total / self._norm if self._norm else 0.0
        return error if math.isfinite(error) else sys.float_info.max

    def compute(self, plan: PruningPlan) -> Compute:
        """Multiply-adds of one call of :meth:`error`."""
        return self._passes(self._segments.macs(self._slicer.cut(plan), self._start, self._end))

    def parameter_share(self, widths: Sequence[int]) -> float:
        """Parameters of the part at these widths, as a share of those before it is pruned."""
        return self._parameters(widths) / self._current_parameters

    def _parameters(self, widths: Sequence[int]) -> float:
        return float(self._slicer.parameter_counts([list(widths)])[0])

    def _passes(self, macs: float) -> Compute:
        dense = self._segments.macs(self._network.dense)
        return Compute(macs / dense * self._images / self._network.val_images)

    def _left(self, plan: PruningPlan) -> Tensor | slice:
        """Channels of the part's output that the network still has."""
        kept = self._network.slicer.kept_channels(plan)
        producers = [
            name for name, _ in self._slicer.module.named_modules() if self._end.index in self._segments.calls(name)
        ]
        indices = kept.get((producers[0], "out")) if producers else None
        return slice(None) if indices is None else torch.from_numpy(indices)


def _use_batch_statistics(module: nn.Module) -> None:
    """Let BatchNorm normalise by the batch at hand: inherited statistics are those of more channels."""
    for layer in module.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.train()
