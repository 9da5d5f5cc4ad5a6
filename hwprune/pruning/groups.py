"""Prunable groups of any traceable network, built once."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
from torch import Tensor, nn

from hwprune.errors import ConfigError
from hwprune.pruning.coupling import Unit, coupled_units
from hwprune.pruning.layers import Side, channel_axes, is_producer
from hwprune.pruning.plan import Group, Groups, Member, Protected
from hwprune.pruning.soundness import unsound_groups

__all__ = ["Group", "Groups", "Member", "Protected", "build_groups"]

RESIDUAL = "reaches an addition of two activations (prune_residual: true prunes it)"

log = logging.getLogger(__name__)


def build_groups(
    module: nn.Module, example_input: Tensor, *, prune_residual: bool = False, protect: Sequence[str] = ()
) -> Groups:
    """Groups of coupled channels, each of which can be pruned independently of the others.

    The network's inputs and outputs are never pruned, nor is what cannot be cut without changing the rest
    (normalisation over channels, fixed channel numbers in ``forward``); the reasons are logged and returned.

    Args:
        module: the dense network; it is left as it is.
        example_input: one input of the task, batch first.
        prune_residual: also prune channels that reach an addition of two activations.
        protect: patterns (``features.0``, ``layer1.*``) of layers, or of modules around them, that stay whole.

    Raises:
        TraceError: the network cannot be traced.
        ConfigError: a pattern matches no layer, or nothing can be pruned.
    """
    order = {name: number for number, (name, _) in enumerate(module.named_modules())}
    producers = {name for name, layer in module.named_modules() if is_producer(layer)}
    guarded = _guarded_layers(module, protect)
    candidates: list[Group] = []
    protected: list[Protected] = []
    for units, group in _grouped(coupled_units(module, example_input), order, producers):
        reason = _protection(units, guarded, prune_residual)
        if reason:
            protected.append(Protected(group.name, reason))
        else:
            candidates.append(group)
    unsound = unsound_groups(module, example_input, candidates)
    protected += [Protected(name, reason) for name, reason in unsound.items()]
    for entry in protected:
        log.debug("%s stays whole: %s", entry.name, entry.reason)
    sound = tuple(group for group in candidates if group.name not in unsound)
    if not sound:
        reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in protected[:3])
        raise ConfigError(
            f"no channels of the network can be pruned ({reasons}): unprotect layers or change the network"
        )
    return Groups(sound, tuple(protected))


def _grouped(
    units: Sequence[Unit], order: Mapping[str, int], producers: Collection[str]
) -> list[tuple[list[Unit], Group]]:
    """Units that touch the same places equally often, in the order of the layers that produce them."""
    alike: dict[object, list[Unit]] = defaultdict(list)
    for unit in units:
        places = frozenset((place, len(channels)) for place, channels in unit.channels.items())
        alike[places, unit.residual, unit.obstacle].append(unit)

    def first_channel(unit: Unit) -> tuple[int, int]:
        name = _producer(unit, order, producers)
        return order[name], unit.channels[name, "out"][0]

    grouped: list[tuple[list[Unit], Group]] = []
    names: set[str] = set()
    for group in sorted(
        (sorted(group, key=first_channel) for group in alike.values()), key=lambda g: first_channel(g[0])
    ):
        name = _producer(group[0], order, producers)
        if name in names:  # one layer whose channels go different ways
            name = f"{name}[{first_channel(group[0])[1]}]"
        names.add(name)
        grouped.append((group, Group(name, len(group), _members(group, order))))
    return grouped


def _producer(unit: Unit, order: Mapping[str, int], producers: Collection[str]) -> str:
    """The first layer whose weights make the unit's channels."""
    return min((name for name, side in unit.channels if side == "out" and name in producers), key=order.__getitem__)


def _members(units: Sequence[Unit], order: Mapping[str, int]) -> tuple[Member, ...]:
    def place_order(place: tuple[str, Side]) -> tuple[int, Side]:
        return order[place[0]], place[1]

    places = sorted(units[0].channels, key=place_order)
    return tuple(Member(*place, np.array([unit.channels[place] for unit in units], dtype=np.int64)) for place in places)


def _protection(units: Sequence[Unit], guarded: Collection[str], prune_residual: bool) -> str:
    """Why units of one kind stay whole, or ""."""
    unit = units[0]
    if unit.obstacle:
        return unit.obstacle
    if named := sorted({name for name, _ in unit.channels} & set(guarded)):
        return f"{named[0]} is protected by the config"
    if unit.residual and not prune_residual:
        return RESIDUAL
    return "" if len(units) > 1 else "a single unit, without which nothing would be left"


def _guarded_layers(module: nn.Module, protect: Sequence[str]) -> set[str]:
    """Names of layers that a pattern matches, by their own name or by that of a module around them.

    Raises:
        ConfigError: a pattern matches no layer.
    """
    layers = [name for name, layer in module.named_modules() if channel_axes(layer) is not None]
    guarded: set[str] = set()
    for pattern in protect:
        matched = {name for name in layers if any(fnmatchcase(around, pattern) for around in _ancestry(name))}
        if not matched:
            raise ConfigError(
                f"protect: {pattern!r} matches no layer: layers have names such as {', '.join(layers[:3])}"
            )
        guarded |= matched
    return guarded


def _ancestry(name: str) -> list[str]:
    """A module's name and those of the modules around it."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
