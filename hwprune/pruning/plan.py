"""What can be pruned (groups of coupled channels) and what a candidate keeps of it (a plan)."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from hwprune.errors import ConfigError
from hwprune.pruning.layers import Side

#: 1: kept unit indices of every group. 2: single weights, or trained weights, besides.
SCHEMA_VERSION = 2


@dataclass(frozen=True, eq=False)
class Member:
    """Channels of one side of one layer that a group owns.

    Attributes:
        module: the layer's name in the network.
        side: its input or output channels.
        indices: ``(size, k)`` array; row ``u`` holds the channels that go away with unit ``u``.
    """

    module: str
    side: Side
    indices: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are pruned at the same places of the network, so that only their number shapes it.

    Attributes:
        name: the layer that produces the channels.
        size: number of units of the dense network, at least 2.
        members: every layer side that loses channels with a unit.
    """

    name: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Protected:
    """Channels that stay whole.

    Attributes:
        name: the layer that produces them.
        reason: why none of them is pruned.
    """

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Groups(Sequence[Group]):
    """Prunable groups of a network, in the order of its layers, and what is protected."""

    groups: tuple[Group, ...]
    protected: tuple[Protected, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Group]: ...
    def __getitem__(self, index: int | slice) -> Group | Sequence[Group]:
        return self.groups[index]

    def __len__(self) -> int:
        return len(self.groups)

    @functools.cached_property
    def sizes(self) -> NDArray[np.int64]:
        """``(G,)`` units of every group in the dense network."""
        return np.array([group.size for group in self.groups], dtype=np.int64)


@dataclass(frozen=True)
class PruningPlan:
    """What a candidate keeps: units of every group, perhaps only some of their weights, perhaps trained further.

    A plan says nothing of the network it belongs to: where plans of several networks meet, a key needs the network's
    digest beside :attr:`key`.

    Attributes:
        kept: sorted unit indices of every group, in the order of the groups.
        mask: which single weights of the dense network are not zero, one bit each
            (:class:`hwprune.pruning.unstructured.WeightLayout`); None where all are kept.
        weights: digest of the dense network's weights as a search has trained them on; "" for those it began with.

    Raises:
        ConfigError: a group keeps nothing, or its indices are negative, unsorted or repeated.
    """

    kept: tuple[tuple[int, ...], ...]
    mask: bytes | None = None
    weights: str = ""

    def __post_init__(self) -> None:
        for number, units in enumerate(self.kept):
            if not units:
                raise ConfigError(f"the plan keeps no unit of group {number}: every group keeps at least one")
            if units[0] < 0 or any(low >= high for low, high in itertools.pairwise(units)):
                raise ConfigError(f"kept units of group {number} must rise from 0 upwards: sort them, without repeats")

    @classmethod
    def dense(cls, groups: Groups) -> PruningPlan:
        """The plan that prunes nothing."""
        return cls(tuple(tuple(range(group.size)) for group in groups))

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Kept units of every group."""
        return tuple(len(units) for units in self.kept)

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 of what is kept, the same for every way to arrive at it."""
        digest = hashlib.sha256(json.dumps(self.kept, separators=(",", ":")).encode())
        if self.mask is not None or self.weights:
            digest.update(b"\0" + self.weights.encode() + b"\0" + (self.mask or b""))
        return digest.hexdigest()

    def check(self, groups: Groups) -> None:
        """Make sure that the plan belongs to these groups.

        Raises:
            ConfigError: the number of groups differs, or a unit lies outside its group.
        """
        if len(self.kept) != len(groups):
            raise ConfigError(
                f"the plan is for {len(self.kept)} groups, the network has {len(groups)}: "
                "use the network, prune_residual and protect that the plan was made with"
            )
        for units, group in zip(self.kept, groups, strict=True):
            if units[-1] >= group.size:
                raise ConfigError(
                    f"the plan keeps unit {units[-1]} of group {group.name!r}, which has {group.size}: "
                    "use the network that the plan was made for"
                )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        kept = [list(units) for units in self.kept]
        if self.mask is None and not self.weights:
            return {"schema_version": 1, "kept": kept}
        mask = None if self.mask is None else base64.b64encode(zlib.compress(self.mask)).decode()
        return {"schema_version": SCHEMA_VERSION, "kept": kept, "mask": mask, "weights": self.weights}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PruningPlan:
        """Inverse of :meth:`as_dict`.

        Raises:
            ConfigError: the data is no plan, or of another schema version.
        """
        version = data.get("schema_version")
        if version not in range(1, SCHEMA_VERSION + 1):
            raise ConfigError(
                f"a plan of schema version {version!r} cannot be read, only up to {SCHEMA_VERSION}: "
                "export it again with this version of hwprune"
            )
        mask = data.get("mask")
        return cls(
            tuple(_units(units) for units in data["kept"]),
            None if mask is None else zlib.decompress(base64.b64decode(mask)),
            data.get("weights", ""),
        )


def _units(units: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(unit) for unit in units)
