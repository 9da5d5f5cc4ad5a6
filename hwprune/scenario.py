"""What a device is put through while a network is timed, as users write it.

    burst           short blocks of calls without a pause, on a device that has cooled down: the default
    sustained:10m   calls without a pause for so long, on a device that is not waited for
    paced:30Hz      calls that begin so often, with gaps between them, as a camera makes

``+cold`` behind it empties the caches before each call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from hwprune.errors import ConfigError

_UNITS_S = {"s": 1, "m": 60, "h": 3600}
_FORM = re.compile(r"burst|sustained:(?P<time>[\d.]+)(?P<unit>[smh])|paced:(?P<rate>[\d.]+)Hz")

#: Shortest and longest steady load, and slowest and fastest pace.
SECONDS_MIN, SECONDS_MAX = 10.0, 8 * 3600.0
RATE_MIN_HZ, RATE_MAX_HZ = 0.1, 1000.0


@dataclass(frozen=True)
class Scenario:
    """A load; the default is a burst: short blocks of calls without a pause, on a device that has cooled down.

    Attributes:
        seconds: length of a steady load on a device that is not waited for; None for none.
        rate_hz: calls begin so often, with gaps between them; None for no gaps.
        cold: other data fill the caches before each call.
    """

    seconds: float | None = None
    rate_hz: float | None = None
    cold: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """The scenario that a text names.

        Raises:
            ConfigError: it names none.
        """
        name, _, cold = text.partition("+")
        match = _FORM.fullmatch(name)
        if match is None or cold not in ("", "cold") or text.endswith("+"):
            raise ConfigError(
                f"unknown scenario {text!r}: write burst, sustained:10m (s, m or h) or paced:30Hz, "
                "and +cold behind it to empty the caches before each call"
            )
        try:
            seconds = float(match["time"]) * _UNITS_S[match["unit"]] if match["time"] else None
            rate_hz = float(match["rate"]) if match["rate"] else None
        except ValueError as error:
            raise ConfigError(f"scenario {text!r} holds no number: write sustained:10m or paced:30Hz") from error
        if seconds is not None and not SECONDS_MIN <= seconds <= SECONDS_MAX:
            raise ConfigError(f"scenario {text!r}: a steady load lasts {SECONDS_MIN:g} s to {SECONDS_MAX / 3600:g} h")
        if rate_hz is not None and not RATE_MIN_HZ <= rate_hz <= RATE_MAX_HZ:
            raise ConfigError(f"scenario {text!r}: a pace is {RATE_MIN_HZ:g} to {RATE_MAX_HZ:g} Hz")
        return cls(seconds, rate_hz, bool(cold))

    def __str__(self) -> str:
        suffix = "+cold" if self.cold else ""
        if self.rate_hz is not None:
            return f"paced:{self.rate_hz:g}Hz{suffix}"
        if self.seconds is None:
            return f"burst{suffix}"
        unit = next(unit for unit in "hms" if self.seconds % _UNITS_S[unit] == 0 or unit == "s")
        return f"sustained:{self.seconds / _UNITS_S[unit]:g}{unit}{suffix}"

    @property
    def is_burst(self) -> bool:
        """Whether it is the default, the only one whose numbers are given at the device's own clock."""
        return self == BURST


BURST = Scenario()
