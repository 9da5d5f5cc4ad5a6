"""A network divided into sub-networks, each of which can be pruned and judged by itself.

What a sub-network is given and what it should give are cached; a detector behind it says what its features are worth.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hwprune.pruning.layers import channel_axes, is_producer
from hwprune.pruning.plan import Groups, PruningPlan
from hwprune.pruning.segments import Place, Segments, groups_within, macs
from hwprune.pruning.structured import Slicer
from hwprune.search.compute import Compute
from hwprune.search.detectors import Detector
from hwprune.search.network import PrunableNetwork
from hwprune.tasks.precision import autocast
from hwprune.training.batchnorm import estimating

#: Images of a batch.
BATCH = 128

Units = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class SubNetwork:
    """A stretch of the network.

    Attributes:
        start: what it is given.
        end: what it gives.
        numbers: groups of channels that are pruned in it.
        leaving: those whose channels reach the next sub-network, which goes on expecting all of them.
    """

    start: Place
    end: Place
    numbers: tuple[int, ...]
    leaving: frozenset[int]


def divide(
    segments: Segments, groups: Groups, split: Literal["stages", "equal_macs"] = "stages", n_parts: int | None = None
) -> list[SubNetwork]:
    """Sub-networks from input to output.

    Channels that are made in several of them stay whole.

    Args:
        segments: the network.
        groups: its channel groups.
        split: at the boundaries of stages, or into parts of equal multiply-adds.
        n_parts: how many of these, at most: one begins and ends where a single tensor connects, and has channels to
            prune; None for as many as there are stages.
    """
    stages = segments.stages(groups)
    if len(stages) > 1 and len(stages[0]) == 1:  # a stem of one layer
        stages = [stages[0] + stages[1], *stages[2:]]
    firsts = [min(segments.producer(groups[number]) for number in stage) for stage in stages[1:]]
    cuts = [max((place for place in segments.places if place.index < first), key=_index) for first in firsts]
    if split == "equal_macs":
        cuts = _equal_cuts(segments, n_parts or len(stages))
    ends = [*sorted(set(cuts), key=_index), segments.places[-1]]
    found: list[SubNetwork] = []
    start = segments.places[0]
    for end in ends:
        numbers, leaving = [], set()
        for number, group in enumerate(groups):
            calls = [call for member in group.members for call in segments.calls(member.module)]
            made = [
                call
                for member in group.members
                if member.side == "out" and is_producer(segments.module.get_submodule(member.module))
                for call in segments.calls(member.module)
            ]
            if start.index < min(made) and max(made) <= end.index:
                numbers.append(number)
                if max(calls) > end.index:
                    leaving.add(number)
        if numbers:
            found.append(SubNetwork(start, end, tuple(numbers), frozenset(leaving)))
            start = end
    # What no group lies in behind the last one belongs to it.
    last = found.pop()
    return [*found, SubNetwork(last.start, segments.places[-1], last.numbers, last.leaving)]


def _index(place: Place) -> int:
    return place.index


def _equal_cuts(segments: Segments, parts: int) -> list[Place]:
    total = segments.macs(segments.module)
    inner = segments.places[1:-1]
    before = [segments.macs(segments.module, end=place) for place in inner]
    return [inner[int(np.argmin(np.abs(np.array(before) - total * part / parts)))] for part in range(1, parts)]


@dataclass
class PartJudge:
    """Judges candidates of one sub-network by their features; holds all it needs, so that another process can use it.

    Attributes:
        part: the dense sub-network.
        groups: all groups of the network, with the members that lie in it.
        numbers: those that are pruned.
        leaving: those whose channels leave it.
        detector: from its features to classes; None where it gives classes itself.
        val: validation features it is given, and their classes.
        train: training features for BatchNorm's statistics.
        dtype: number format.
        pixels: how often each layer's window is applied, in the sub-network.
        detector_macs: multiply-adds of the detector, an image.
        unit: multiply-adds of the dense network over the validation images.
    """

    part: nn.Module
    groups: Groups
    numbers: tuple[int, ...]
    leaving: frozenset[int]
    detector: nn.Module | None
    val: list[tuple[Tensor, Tensor]]
    train: list[Tensor]
    dtype: torch.dtype | None
    pixels: dict[str, int]
    detector_macs: float
    unit: float

    @functools.cached_property
    def slicer(self) -> Slicer:
        """Cuts candidates."""
        return Slicer(self.part, self.groups)

    def __getstate__(self) -> dict[str, Any]:
        # The slicer is quickly made anew.
        return {name: value for name, value in vars(self).items() if name != "slicer"}

    def plan(self, units: Units) -> PruningPlan:
        """Units of the sub-network's groups as a plan of the network in which all else is whole."""
        kept = list(PruningPlan.dense(self.groups).kept)
        for number, chosen in zip(self.numbers, units, strict=True):
            kept[number] = chosen
        return PruningPlan(tuple(kept))

    def inner(self, units: Units) -> PruningPlan:
        """The same plan with all channels that leave the sub-network."""
        whole = PruningPlan.dense(self.groups).kept
        kept = self.plan(units).kept
        return PruningPlan(tuple(whole[number] if number in self.leaving else each for number, each in enumerate(kept)))

    def candidate(self, units: Units, trained: nn.Module | None = None) -> nn.Module:
        """The sub-network with these units, and statistics of its own.

        Channels that leave it are zero and not cut: who reads them expects all.

        Args:
            units: of each of its groups.
            trained: the whole sub-network with other weights to inherit.
        """
        module = self.raw(units, trained)
        if self.train:
            with torch.inference_mode(), autocast(self.dtype), estimating(module):
                for features in self.train:
                    module(features)
        return module

    def raw(self, units: Units, trained: nn.Module | None = None) -> nn.Module:
        """The same with inherited statistics."""
        slicer = self.slicer if trained is None else Slicer(trained, self.groups)
        module = slicer.cut(self.inner(units)).eval()
        for name, key, places in self.muted(units):
            tensor = getattr(module.get_submodule(name), key)
            tensor.detach().index_fill_(0, torch.from_numpy(places), 0.0)
        return module

    def muted(self, units: Units) -> list[tuple[str, str, np.ndarray]]:
        """Layers, tensors and channels of them that are zero because they leave the sub-network."""
        found = []
        for number, chosen in zip(self.numbers, units, strict=True):
            group = self.groups[number]
            gone = np.setdiff1d(np.arange(group.size), chosen)
            if number not in self.leaving or not gone.size:
                continue
            for member in group.members:
                axes = channel_axes(self.part.get_submodule(member.module))
                if member.side != "out" or axes is None:
                    continue
                places = member.indices[gone].ravel()
                layer = self.part.get_submodule(member.module)
                found += [
                    (member.module, key, places)
                    for key, sides in axes.tensors.items()
                    if sides.get(0) == "out" and getattr(layer, key, None) is not None
                ]
        return found

    def error(self, module: nn.Module, behind: nn.Module | None = None) -> float:
        """Share of the validation images that the detector (or ``behind``) takes for another class."""
        detector = self.detector if behind is None else behind
        wrong = seen = 0
        with torch.inference_mode(), autocast(self.dtype):
            for features, targets in self.val:
                outputs = module(features)
                logits = outputs if detector is None else detector(outputs)
                wrong += int((logits.argmax(1) != targets).sum())
                seen += len(targets)
        return wrong / seen

    def macs(self, module: nn.Module) -> float:
        """Multiply-adds of one image in the sub-network."""
        return macs(module, self.pixels)

    def compute(self, module: nn.Module, behind_macs: float | None = None) -> Compute:
        """Multiply-adds of one candidate: its statistics, and its error with the detector or what is behind it."""
        inside, behind = self.macs(module), self.detector_macs if behind_macs is None else behind_macs
        images = sum(len(targets) for _, targets in self.val)
        statistics = sum(len(features) for features in self.train)
        return Compute((inside * (images + statistics) + behind * images) / self.unit)


def cached_features(
    network: PrunableNetwork, segments: Segments, parts: Sequence[SubNetwork], train_images: int
) -> tuple[list[list[tuple[Tensor, Tensor]]], list[list[Tensor]], Compute]:
    """What every sub-network is given by the dense one: validation features with classes, training features.

    Returns:
        Both by sub-network, and the multiply-adds of it.
    """
    steps = [segments.part(part.start, part.end) for part in parts[:-1]]
    train_images = min(train_images, network.task.size("train"))

    def chain(x: Tensor) -> list[Tensor]:
        found = [x]
        for step in steps:
            found.append(step(found[-1]))
        return found

    val: list[list[tuple[Tensor, Tensor]]] = [[] for _ in parts]
    train: list[list[Tensor]] = [[] for _ in parts]
    with torch.inference_mode(), autocast(network.dtype):
        for images, targets in network.task.batches("val", BATCH, limit=network.val_images):
            for part, features in zip(val, chain(images), strict=True):
                part.append((features, targets))
        batches = network.task.batches("train", BATCH, shuffle_seed=network.seed, limit=train_images)
        for images, _ in batches if train_images else ():
            for part_features, features in zip(train, chain(images), strict=True):
                part_features.append(features)
    share = segments.macs(network.dense, end=parts[-1].start) / segments.macs(network.dense)
    return val, train, Compute(share * (1 + train_images / network.val_images))


def part_judge(
    network: PrunableNetwork,
    segments: Segments,
    part: SubNetwork,
    detector: nn.Module | None,
    val: list[tuple[Tensor, Tensor]],
    train: list[Tensor],
) -> PartJudge:
    """The judge of one sub-network."""
    module = segments.part(part.start, part.end)
    detector_macs = 0.0
    if isinstance(detector, Detector):
        pixels = int(np.prod(part.end.shape[2:]))
        detector_macs = float(detector.conv.weight.numel() * pixels + detector.linear.weight.numel())
    elif detector is not None:
        detector_macs = segments.macs(network.dense, part.end)
    return PartJudge(
        part=module,
        groups=groups_within(module, network.groups),
        numbers=part.numbers,
        leaving=part.leaving,
        detector=detector,
        val=val,
        train=train,
        dtype=network.dtype,
        pixels=segments.pixels(part.start, part.end),
        detector_macs=detector_macs,
        unit=segments.macs(network.dense) * network.val_images,
    )
