"""Networks cut to a plan by slicing their tensors: no tracing, milliseconds a candidate."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from hwprune.networks.layers import PadShortcut
from hwprune.pruning.layers import ChannelAxes, Side, channel_axes
from hwprune.pruning.parameter_counts import ParameterCounts
from hwprune.pruning.plan import Groups, Member, PruningPlan
from hwprune.pruning.unstructured import WeightLayout

Mask = NDArray[np.bool_]

_SIDES: tuple[Side, Side] = ("in", "out")


class Slicer:
    """Cuts one network to any plan of its groups.

    Tensors are read when a plan is cut, so a network that is trained further yields cuts with its newest weights.
    Submodules are followed through registration and through lists and dictionaries, not through closures or bound
    methods that a network keeps; ``build_groups`` finds out that cuts of such a network fail.
    """

    def __init__(self, module: nn.Module, groups: Groups) -> None:
        self.module = module
        self.groups = groups
        owners: dict[tuple[str, Side], list[tuple[int, Member]]] = {}
        for number, group in enumerate(groups):
            for member in group.members:
                owners.setdefault((member.module, member.side), []).append((number, member))
        layers = {name: module.get_submodule(name) for name, _ in owners}
        patterns: dict[object, _Pattern] = {}
        channels: dict[tuple[str, Side], int] = {}
        self._layers: dict[nn.Module, _Layer] = {
            layer: _Layer(name, _axes(layer), {}) for name, layer in layers.items()
        }
        for (name, side), owned in owners.items():
            count = _channel_count(layers[name], side, [member for _, member in owned])
            alike = (count, *((number, member.indices.tobytes()) for number, member in owned))
            pattern = _Pattern(len(patterns), count, tuple((number, member.indices) for number, member in owned))
            self._layers[layers[name]].patterns[side] = patterns.setdefault(alike, pattern).number
            channels[name, side] = count
        self._patterns = list(patterns.values())
        self._containers = {part: _containers(part) for part in module.modules()}
        self._parameter_counts = ParameterCounts.of(module, groups, channels)

    def cut(self, plan: PruningPlan) -> nn.Module:
        """A smaller network with the same submodule names; it shares no parameter or buffer with the dense one.

        Single weights that the plan drops are zero in it.

        Raises:
            ConfigError: the plan belongs to other groups.
        """
        cut = _Cut(self._layers, self._containers, self._masks(plan)).module(self.module)
        for name, bits in self.weight_masks(plan).items():
            cut.get_parameter(name).detach().masked_fill_(torch.from_numpy(~bits), 0.0)
        return cut

    def masked(self, plan: PruningPlan) -> nn.Module:
        """A copy of the dense network with zeros in all that :meth:`cut` removes; it answers as the cut network does.

        Raises:
            ConfigError: the plan belongs to other groups.
        """
        masks = self._masks(plan)
        masked = copy.deepcopy(self.module)
        twins = dict(zip(self.module.modules(), masked.modules(), strict=True))
        for original, layer in self._layers.items():
            for key, axes in layer.axes.tensors.items():
                tensor = getattr(twins[original], key, None)
                for axis, side in axes.items():
                    mask = masks[layer.patterns[side]] if side in layer.patterns else None
                    if tensor is not None and mask is not None:
                        removed = torch.from_numpy(np.flatnonzero(~mask)).to(tensor.device)
                        tensor.detach().index_fill_(axis, removed, 0.0)
        return masked

    def kept_channels(self, plan: PruningPlan) -> dict[tuple[str, Side], NDArray[np.int64]]:
        """Channels that stay, in rising order, of every layer side that loses some; by layer name and side.

        Raises:
            ConfigError: the plan belongs to other groups.
        """
        masks = self._masks(plan)
        sides = (
            (layer.name, side, masks[number])
            for layer in self._layers.values()
            for side, number in layer.patterns.items()
        )
        return {(name, side): np.flatnonzero(mask) for name, side, mask in sides if mask is not None}

    @functools.cached_property
    def weights(self) -> WeightLayout:
        """The weights that a plan may drop one by one."""
        return WeightLayout.of(self.module)

    def weight_masks(self, plan: PruningPlan) -> dict[str, Mask]:
        """Single weights that stay, in the shape that each parameter is cut to; empty where the plan drops none.

        Raises:
            ConfigError: the plan belongs to other groups.
        """
        if plan.mask is None:
            return {}
        bits, kept, masks = self.weights.unpack(plan.mask), self.kept_channels(plan), {}
        for name, shape, place in self.weights.slices():
            mask = bits[place].reshape(shape)
            layer = name.removesuffix(".weight")
            for axis, side in _axes(self.module.get_submodule(layer)).tensors["weight"].items():
                if (layer, side) in kept:
                    mask = mask.take(kept[layer, side], axis)
            masks[name] = mask
        return masks

    def parameter_count(self, plan: PruningPlan) -> int:
        """Parameters of the network that a plan keeps; single weights that it drops do not count.

        Raises:
            ConfigError: the plan belongs to other groups.
        """
        dropped = sum(int(mask.size - mask.sum()) for mask in self.weight_masks(plan).values())
        return int(self.parameter_counts([plan.widths])[0]) - dropped

    def paste(self, module: nn.Module, plan: PruningPlan) -> nn.Module:
        """A copy of the dense network with the tensors of a cut one where they were cut from: :meth:`cut` reversed.

        What the plan removes keeps the dense network's values.

        Args:
            module: a network that was cut to the plan, and perhaps trained.
            plan: what it was cut to.

        Raises:
            ConfigError: the plan belongs to other groups.
        """
        pasted, kept = copy.deepcopy(self.module), self.kept_channels(plan)
        for name, layer in pasted.named_modules():
            axes, other = _axes(layer).tensors, module.get_submodule(name)
            for key, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
                indices = [np.arange(length) for length in tensor.shape]
                for axis, side in axes.get(key, {}).items():
                    indices[axis] = kept.get((name, side), indices[axis])
                # Indices that are broadcast, not a grid: a layer has millions of weights.
                places = tuple(map(torch.from_numpy, np.ix_(*indices))) if indices else (...,)
                tensor.detach()[places] = getattr(other, key).detach()
        return pasted

    def parameter_counts(self, widths: ArrayLike) -> NDArray[np.int64]:
        """``(n,)`` parameters of the networks that keep ``widths``, an ``(n, G)`` array of units of every group."""
        return self._parameter_counts(np.atleast_2d(np.asarray(widths, dtype=np.int64)))

    def _masks(self, plan: PruningPlan) -> list[Mask | None]:
        """Channels that stay, by pattern; None where all do."""
        plan.check(self.groups)
        removed: list[Mask | None] = []
        for units, group in zip(plan.kept, self.groups, strict=True):
            gone = np.ones(group.size, dtype=bool)
            gone[list(units)] = False
            removed.append(gone if len(units) < group.size else None)
        return [pattern.mask(removed) for pattern in self._patterns]


@dataclass(frozen=True)
class _Layer:
    """A layer that loses channels: its name, its axes, and the pattern of each of its sides."""

    name: str
    axes: ChannelAxes
    patterns: dict[Side, int]


@dataclass(frozen=True)
class _Pattern:
    """How groups own the channels of a layer side; the sides along one path of the network share a pattern.

    Attributes:
        number: place in the slicer's list.
        channels: channels of the dense network.
        owners: groups by number, each with the channels of its units, a ``(size, k)`` array.
    """

    number: int
    channels: int
    owners: tuple[tuple[int, NDArray[np.int64]], ...]

    def mask(self, removed: Sequence[Mask | None]) -> Mask | None:
        """Channels that stay when units are ``removed`` from the groups; None where all do."""
        if all(removed[number] is None for number, _ in self.owners):
            return None
        stays = np.ones(self.channels, dtype=bool)
        for number, indices in self.owners:
            if (gone := removed[number]) is not None:
                stays[indices[gone]] = False
        return stays


_NO_AXES = ChannelAxes({}, {})
_UNTOUCHED = _Layer("", _NO_AXES, {})


class _Cut:
    """One cut in progress; modules and tensors that occur twice in the dense network stay one."""

    def __init__(
        self,
        layers: Mapping[nn.Module, _Layer],
        containers: Mapping[nn.Module, Sequence[str]],
        masks: Sequence[Mask | None],
    ) -> None:
        self.layers = layers
        self.containers = containers
        self.masks = masks
        self.indices = [None if mask is None else torch.from_numpy(np.flatnonzero(mask)) for mask in masks]
        self.copies: dict[int, Any] = {}

    def module(self, module: nn.Module) -> nn.Module:
        """Copy of a module and all below it, sliced."""
        if id(module) in self.copies:
            known: nn.Module = self.copies[id(module)]
            return known
        copied: nn.Module = object.__new__(type(module))
        self.copies[id(module)] = copied
        state = vars(copied)
        state.update(vars(module))
        for key in self.containers[module]:
            value = state[key]
            if not value:
                state[key] = type(value)()
            else:
                state[key] = value.copy() if key in _FLAT else self.container(value)
        layer = self.layers.get(module, _UNTOUCHED)
        sides = {side: index for side, number in layer.patterns.items() if (index := self.indices[number]) is not None}
        for tensors, is_parameter in ((copied._parameters, True), (copied._buffers, False)):
            for key, tensor in tensors.items():
                if tensor is not None:
                    tensors[key] = self.tensor(tensor, layer.axes.tensors.get(key, {}), sides, is_parameter)
        if isinstance(copied, PadShortcut):
            inside, outside = (self.masks[layer.patterns[side]] if side in sides else None for side in _SIDES)
            _resize_shortcut(copied, inside, outside)
        elif sides:
            _resize(copied, layer.axes, {side: len(index) for side, index in sides.items()})
        return copied

    def container(self, value: Any) -> Any:
        """Copy of a list or dictionary, lest a hook added to the cut network calls in the dense one; modules follow."""
        kind = type(value)
        if kind not in _CONTAINERS:
            return self.module(value) if isinstance(value, nn.Module) else value
        if isinstance(value, dict):
            return kind((key, self.container(entry)) for key, entry in value.items())
        return kind(self.container(entry) for entry in value)

    def tensor(self, tensor: Tensor, axes: Mapping[int, Side], sides: Mapping[Side, Tensor], is_parameter: bool) -> Any:
        """Sliced copy of a parameter or buffer."""
        if id(tensor) in self.copies:
            return self.copies[id(tensor)]
        sliced = dense = tensor.detach()
        for axis, side in axes.items():
            if side in sides:
                sliced = sliced.index_select(axis, sides[side].to(sliced.device))
        if sliced is dense:
            sliced = dense.clone()
        copied = nn.Parameter(sliced, requires_grad=tensor.requires_grad) if is_parameter else sliced
        self.copies[id(tensor)] = copied
        return copied


#: Those of them that hold tensors and names alone, or what is replaced in the copy at once.
_FLAT = frozenset(("_parameters", "_buffers", "_non_persistent_buffers_set"))
#: Containers that a copy of a module must not share; looked for by exact type, since that is fast.
_CONTAINERS = (OrderedDict, dict, list, set, tuple)


def _axes(layer: nn.Module) -> ChannelAxes:
    axes = channel_axes(layer)
    return _NO_AXES if axes is None else axes


def _containers(module: nn.Module) -> tuple[str, ...]:
    """Attributes that a copy of a module must not share; tuples of numbers, as most layers have, it may."""
    return tuple(
        key
        for key, value in vars(module).items()
        if type(value) in _CONTAINERS
        and not (isinstance(value, tuple) and not any(isinstance(entry, nn.Module) for entry in value))
    )


def _channel_count(layer: nn.Module, side: Side, members: Sequence[Member]) -> int:
    """Channels of a layer side; of a shortcut, which does not state them, as many as the groups own."""
    attribute = _axes(layer).counts.get(side)
    return int(getattr(layer, attribute)) if attribute else 1 + max(int(member.indices.max()) for member in members)


def _resize(layer: nn.Module, axes: ChannelAxes, channels: Mapping[Side, int]) -> None:
    """Bring the attributes of a sliced layer in line with its tensors."""
    if isinstance(layer, _ConvNd) and layer.groups > 1 and "out" in channels:
        layer.groups = layer.groups * channels["out"] // layer.out_channels
    state = vars(layer)  # nn.Module.__setattr__ looks for parameters first, which takes longer than all the rest
    for side, count in channels.items():
        state[axes.counts[side]] = count


def _resize_shortcut(layer: PadShortcut, inside: Mask | None, outside: Mask | None) -> None:
    """Take the zero channels away that the wider stream loses in front of and behind the narrower one's."""
    removed_front = _removed(None if outside is None else outside[: layer.front])
    layer.back -= _removed(outside) - _removed(inside) - removed_front
    layer.front -= removed_front


def _removed(mask: Mask | None) -> int:
    return 0 if mask is None else int(mask.size - mask.sum())
