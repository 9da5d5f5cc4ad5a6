"""The clock that a device's numbers are given at: the level of its reference kernel while nothing disturbs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from device_agents.registry import Device
from hwprune.measurement.session import Subject
from hwprune.measurement.trust import DOUBT_LIMITS, LIMITS
from hwprune.records import Measurement, clock_doubt
from hwprune.store import Store

#: A device that is slower than it can be may come back; a clock that has stood there for so long is its own now.
SETTLED_S = 60.0

#: Stored numbers whose level differs by more are of a superseded one.
SAME_LEVEL = 0.05

NEVER_QUIET = "other programs have been busy ever since the device was measured first"


@dataclass
class Clock:
    """One device's reference levels, by version of the kernels' schedules.

    Attributes:
        device: the device's entry in the inventory.
        store: tells the level of earlier measurements.
        say: told when the device's clock has changed.
        recalibrate: take the level anew instead of from the store.
    """

    device: Device
    store: Store
    say: Callable[[str], None]
    recalibrate: bool = False
    _own_ms: dict[str, float | None] = field(init=False, default_factory=dict)
    _provisional_ms: dict[str, float] = field(init=False, default_factory=dict)
    _elsewhere: tuple[float, float] | None = field(init=False, default=None)  # level and since when

    def level_ms(self, schedule_version: str) -> float | None:
        """Level that this device's numbers are given at; None before the first ones."""
        if schedule_version not in self._own_ms:
            name, fingerprint = self.device.name, self.device.fingerprint
            known = None if self.recalibrate else self.store.reference_ms(name, fingerprint, schedule_version)
            self._own_ms[schedule_version] = known
        return self._own_ms[schedule_version]

    def expected_ms(self, schedule_version: str) -> float | None:
        """The same; while it is not known, the best level that was seen of a device that was never at rest."""
        return self.level_ms(schedule_version) or self._provisional_ms.get(schedule_version)

    def learn(self, subjects: Sequence[Subject], schedule_version: str, was_quiet: bool) -> None:
        """Take over what a sitting tells of the clock; its subjects are graded again where that changes them.

        Args:
            subjects: what was timed in turns.
            schedule_version: of their kernels.
            was_quiet: other programs rested meanwhile.
        """
        levels = [subject.level_ms for subject in subjects if subject.grade is not None and subject.grade.is_steady]
        if not levels:
            return
        level_ms, known_ms = min(levels), self.level_ms(schedule_version)
        if known_ms is None and was_quiet:
            self._own_ms[schedule_version] = level_ms
        elif known_ms is None:
            # Good enough to tell slower moments by; numbers given at it were seen 30 % off.
            self._provisional_ms[schedule_version] = min(level_ms, self._provisional_ms.get(schedule_version, level_ms))
            for subject in subjects:
                if subject.grade is not None and subject.grade.trust != "C":
                    subject.grade = replace(subject.grade, trust="C", reason=NEVER_QUIET)
        elif was_quiet and self._has_moved(level_ms, known_ms):
            self.say(
                f"device {self.device.name!r} now runs at {known_ms / level_ms:.2f} times the clock that it was "
                "measured at first; what was measured then will be measured again when it is needed"
            )
            self._own_ms[schedule_version] = level_ms
            for subject in subjects:
                subject.regrade(subject.level_ms, level_ms)

    def is_current(self, measurement: Measurement) -> bool:
        """Whether its numbers are given at the clock that the device's numbers are given at now."""
        known_ms = self.level_ms(measurement.conditions.schedule_version)
        then_ms = measurement.device_reference_ms
        return known_ms is None or (then_ms is not None and abs(then_ms / known_ms - 1) <= SAME_LEVEL)

    def is_off(self, measurement: Measurement) -> bool:
        """Whether it was measured at a clock from which no number can be given at the device's own."""
        is_near = clock_doubt(measurement.clock_ratio) <= DOUBT_LIMITS["B"]
        return measurement.error is None and not (is_near and self.is_current(measurement))

    def _has_moved(self, level_ms: float, known_ms: float) -> bool:
        """Whether the device has another clock than the known one: a faster one, or a slower one to stay."""
        if clock_doubt(known_ms / level_ms) <= LIMITS["B"]:
            self._elsewhere = None
            return False
        now = time.monotonic()
        if self._elsewhere is None or abs(level_ms / self._elsewhere[0] - 1) > LIMITS["B"]:
            self._elsewhere = level_ms, now
        return level_ms < known_ms or now - self._elsewhere[1] > SETTLED_S
