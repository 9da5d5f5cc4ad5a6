"""Training of a pruned sub-network beside the dense one: what it classifies, and how near its features stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hwprune import training
from hwprune.pruning.segments import Segments
from hwprune.pruning.structured import Slicer
from hwprune.search.compute import Compute
from hwprune.search.detectors import Frozen
from hwprune.search.network import PrunableNetwork
from hwprune.search.subnetworks import PartJudge, SubNetwork, Units


@dataclass(frozen=True)
class Trainee:
    """A member of a sub-network's front that is to be trained.

    Attributes:
        network: the whole network.
        segments: its parts.
        part: the sub-network.
        judge: of it.
        units: that the member keeps.
    """

    network: PrunableNetwork
    segments: Segments
    part: SubNetwork
    judge: PartJudge
    units: Units

    @property
    def epoch_compute(self) -> Compute:
        """Multiply-adds of one epoch: the member forward and backward, the frozen layers around it forward."""
        judge, network = self.judge, self.network
        images = network.task.size("train") / judge.unit
        pruned = judge.macs(judge.slicer.cut(judge.plan(self.units)))
        frozen = self.segments.macs(network.dense, end=self.part.end)
        return Compute.training((pruned + judge.detector_macs) * images) + Compute(frozen * images)


class _Course(nn.Module):
    """Gives classes, features and what the features should be."""

    def __init__(self, trainee: Trainee, before: Sequence[Trainee], p_mix: float) -> None:
        super().__init__()
        segments, part, judge = trainee.segments, trainee.part, trainee.judge
        self.member = judge.raw(trainee.units)
        self._given = Frozen(segments.part(segments.places[0], part.start))
        self._aim = Frozen(segments.part(part.start, part.end))
        self._detector = nn.Identity() if judge.detector is None else Frozen(judge.detector)
        self._p_mix = p_mix if before else 0.0
        self._first: nn.Module = nn.Identity()
        self._pruned = nn.ModuleList()
        if self._p_mix:
            self._first = Frozen(segments.part(segments.places[0], before[0].part.start))
            self._pruned.extend(Frozen(each.judge.candidate(each.units)) for each in before)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            given = self._given(x)
            aim = self._aim(given)
            if self._p_mix and float(torch.rand(())) < self._p_mix:
                given = self._pruned[int(torch.randint(len(self._pruned), ()))](self._first(x))
        features = self.member(given)
        return self._detector(features), features, aim


def train_member(
    trainee: Trainee, before: Sequence[Trainee], *, epochs: int, lr: float, lam: float, p_mix: float
) -> str:
    """Train a member with its features held near the dense network's; the digest of the weights.

    Args:
        trainee: the member.
        before: members of the sub-network before it.
        epochs: passes over the training images.
        lr: largest learning rate.
        lam: weight of the features' mean squared distance.
        p_mix: probability that a batch comes from a pruned predecessor.
    """
    network, judge = trainee.network, trainee.judge
    course = _Course(trainee, before, p_mix)
    schedule = training.TrainingSettings(
        epochs=epochs, lr=lr, batch_size=min(128, network.task.size("train")), warmup_epochs=0, seed=network.seed
    )

    def loss(outputs: Any, batch: Any) -> Tensor:
        logits, features, aim = outputs
        classes = network.task.loss(logits, batch)
        # The classifier's own output is no feature that anybody reads.
        return classes if judge.detector is None else classes + lam * (features - aim).square().mean()

    masks: dict[str, Any] = {}
    parameters = dict(course.member.named_parameters())
    for name, key, places in judge.muted(trainee.units):
        parameter = parameters.get(f"{name}.{key}")
        if parameter is not None:
            mask = masks.setdefault(f"{name}.{key}", np.ones(parameter.shape, bool))
            mask[places] = False
    with training.held_zeros(course.member, masks):
        training.fit(course, network.task, schedule, loss)
    inner = judge.inner(trainee.units)
    whole = network.copy()
    part = Slicer(judge.part, judge.groups).paste(course.member, inner)
    whole.load_state_dict({**whole.state_dict(), **part.state_dict()})
    return network.adopt(whole)
