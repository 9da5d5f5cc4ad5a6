"""Pools by name: ``A+B+C`` are identical boards that work together."""

from __future__ import annotations

from device_agents.registry import FINGERPRINT_FACTS, Device
from device_agents.replay import PREFIX
from hwprune.errors import ConfigError
from hwprune.experiments.devices import find
from hwprune.experiments.home import Home

#: Between the names of a pool's members; no device's name can hold it.
AND = "+"


def members_of(home: Home, name: str) -> list[Device]:
    """The boards of a pool that is called ``A+B+C``; the one device of another name.

    Raises:
        ConfigError: they are not identical, or one is named twice.
        DeviceError: one is unknown.
    """
    names = [name] if name.startswith(PREFIX) else name.split(AND)
    boards = [find(home, each) for each in names]
    if len({board.name for board in boards}) < len(boards):
        raise ConfigError(f"{name}: name each board of a pool once")
    for board in boards[1:]:
        differ = _differences(boards[0], board)
        if differ:
            raise ConfigError(
                f"{boards[0].name} and {board.name} are not identical, they differ in {', '.join(differ)}: "
                "leave out --pool to work on each of them"
            )
    return boards


def _differences(one: Device, other: Device) -> list[str]:
    facts = [fact for fact in FINGERPRINT_FACTS if one.description.get(fact) != other.description.get(fact)]
    entries = ("platform", "target", "threads", "cores")
    return [*facts, *(entry for entry in entries if getattr(one, entry) != getattr(other, entry))]
