"""Waits until the device is cool and has nothing else to do, within a limit, and says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from device_agents.client import AgentClient

#: Busy cores beside the agent that still count as quiet: what an idle system does anyway; on many cores, as a share.
QUIET_CORES, QUIET_SHARE = 0.3, 0.05

#: A zone may be this much warmer than when it was seen first.
WARMER_CELSIUS = 3.0

#: Raspberry Pi's flags for under-voltage, a capped clock, throttling and heat at this moment.
THROTTLED_NOW = 0b1111

#: Resolution of the times that a device tells.
TICK_S = 0.01

_LOOK_S = 0.25
_PAUSE_S = 1.0
#: After a wait that brought nothing the next one is not tried for so long: the load is there to stay.
_RESIGNED_S = 120.0
#: A device that was found ready is not looked at again for so long, except when a measurement did not go well.
_FRESH_S = 30.0


@dataclass
class Readiness:
    """Knows how warm the device was at first, and whether waiting has been worth it lately.

    Attributes:
        client: the device.
        say: told once a wait what is waited for, and when waiting was in vain.
    """

    client: AgentClient
    say: Callable[[str], None]
    _base_celsius: dict[str, float] = field(default_factory=dict)
    _was_ready: bool = True
    _settled_until: float = 0.0

    def wait(self, limit_s: float, *, doubtful: bool = False) -> None:
        """Return when the device is ready, or after ``limit_s``.

        Args:
            limit_s: longest wait.
            doubtful: look although it was found ready a moment ago.
        """
        start = time.monotonic()
        if start < self._settled_until and not (doubtful and self._was_ready):
            return
        said = False
        while obstacle := self._obstacle():
            left_s = limit_s - (time.monotonic() - start)
            if left_s <= 0:
                if limit_s > 0:
                    self.say(f"the device is still not ready ({obstacle}): measuring anyway")
                self._was_ready, self._settled_until = False, time.monotonic() + _RESIGNED_S
                return
            if not said:
                self.say(f"waiting for up to {limit_s:.0f} s until the device is ready: {obstacle}")
                said = True
            time.sleep(min(_PAUSE_S, left_s))
        self._was_ready, self._settled_until = True, time.monotonic() + _FRESH_S

    def _obstacle(self) -> str:
        """What stands against measuring now; "" if nothing does."""
        start, before = time.monotonic(), self.client.state()
        time.sleep(_LOOK_S)
        after, elapsed_s = self.client.state(), time.monotonic() - start
        return throttling(after) or heat(after, self._base_celsius) or load(before, after, elapsed_s)


def throttling(state: dict[str, Any]) -> str:
    """Says if the device tells that it is slowed down at this moment."""
    flags = state.get("throttle_flags") or 0
    return f"it is throttled (flags {flags:#x})" if flags & THROTTLED_NOW else ""


def heat(state: dict[str, Any], base_celsius: dict[str, float]) -> str:
    """Says if a zone is warmer than at first; notes zones that are seen for the first time."""
    for zone, celsius in (state.get("temperatures_celsius") or {}).items():
        base = base_celsius.setdefault(zone, celsius)
        if celsius > base + WARMER_CELSIUS:
            return f"{zone} is at {celsius:.0f} degrees, {base:.0f} at first"
    return ""


def load(before: dict[str, Any], after: dict[str, Any], elapsed_s: float) -> str:
    """Says if other programs kept cores busy between two readings, while the agent rested."""
    cores = busy_cores(before, after, elapsed_s)
    return f"other programs keep {cores:.1f} cores busy" if cores > quiet_cores(before, after, elapsed_s) else ""


def quiet_cores(before: dict[str, Any], after: dict[str, Any], elapsed_s: float) -> float:
    """Busy cores that do not disturb a device of so many cores."""
    first, last = before.get("cpu_times_s"), after.get("cpu_times_s")
    elapsed_s = _device_s(before, after, elapsed_s)
    cores = sum(last[name] - first[name] for name in last) / elapsed_s if first and last else 1.0
    return max(QUIET_CORES, QUIET_SHARE * float(cores))


def busy_cores(before: dict[str, Any], after: dict[str, Any], elapsed_s: float) -> float:
    """Cores that were busy, but for the agent's own work, or taken away by a hypervisor, between two readings.

    0 where the device does not tell.
    """
    first, last = before.get("cpu_times_s"), after.get("cpu_times_s")
    if not first or not last:
        return 0.0
    spent_s: float = sum(last[name] - first[name] for name in ("busy", "stolen"))
    own_before_s, own_after_s = before.get("agent_time_s"), after.get("agent_time_s")
    own_s = 0.0 if own_before_s is None or own_after_s is None else own_after_s - own_before_s
    # Times come in ticks of 10 ms: one of each reading may belong to the time outside.
    return max(0.0, spent_s - own_s - 2 * TICK_S) / _device_s(before, after, elapsed_s)


def _device_s(before: dict[str, Any], after: dict[str, Any], elapsed_s: float) -> float:
    """Time between two readings by the device's own clock: ours counts the way there, too."""
    passed_s: float = (after.get("clock_s") or 0.0) - (before.get("clock_s") or 0.0)
    return passed_s if passed_s > 0 else elapsed_s
