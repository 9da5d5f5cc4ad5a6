import pytest

from device_agents.client import Block, TimingRequest
from device_agents.registry import Device
from hwprune.measurement import clock as clock_module
from hwprune.measurement.clock import NEVER_QUIET, Clock
from hwprune.measurement.session import Subject
from hwprune.records import Conditions, Measurement
from hwprune.store import Store

VERSION = "fixture"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def clock(store: Store, said: list[str]) -> Clock:
    device = Device(name="board", transport="local", platform="cpu", target={}, description={"cores": [0]})
    return Clock(device, store, said.append)


def sitting(clock: Clock, level_ms: float, was_quiet: bool = True) -> Subject:
    """A steady network at a clock, and what the device's clock learned of it."""
    subject = Subject([TimingRequest(1)])
    subject.blocks = [[Block((1.0, 1.001, 1.002), level_ms, level_ms) for _ in range(10)]]
    subject.regrade(level_ms, clock.expected_ms(VERSION))
    clock.learn([subject], VERSION, was_quiet)
    return subject


def grade_of(subject: Subject) -> str:
    assert subject.grade is not None
    return subject.grade.trust


def measured(level_ms: float, device_ms: float) -> Measurement:
    conditions = Conditions("board", "", "tvm", "float32", (1, 3, 8, 8), 1, VERSION)
    return Measurement("key", conditions, reference_ms=level_ms, device_reference_ms=device_ms)


def test_the_first_quiet_level_is_the_devices_own(clock: Clock) -> None:
    assert clock.level_ms(VERSION) is None
    assert grade_of(sitting(clock, 0.04)) == "A"
    assert clock.level_ms(VERSION) == 0.04


def test_a_device_that_was_never_at_rest_has_no_level_and_no_trust(clock: Clock) -> None:
    subject = sitting(clock, 0.04, was_quiet=False)
    assert subject.grade is not None
    assert (subject.grade.trust, subject.grade.reason) == ("C", NEVER_QUIET)
    assert (clock.level_ms(VERSION), clock.expected_ms(VERSION)) == (None, 0.04)


def test_a_faster_clock_is_its_own_at_once(clock: Clock, said: list[str]) -> None:
    sitting(clock, 0.048)
    assert grade_of(sitting(clock, 0.04)) == "A"
    assert clock.level_ms(VERSION) == 0.04
    assert "1.20 times the clock" in said[0]


def test_a_slower_clock_is_waited_out_and_then_taken_over(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    sitting(clock, 0.04)
    assert grade_of(sitting(clock, 0.052)) == "C"
    assert clock.level_ms(VERSION) == 0.04
    monkeypatch.setattr(clock_module, "SETTLED_S", 0.0)
    assert grade_of(sitting(clock, 0.052)) == "A"
    assert clock.level_ms(VERSION) == 0.052


def test_a_busy_moment_moves_no_clock(clock: Clock, said: list[str]) -> None:
    sitting(clock, 0.04)
    sitting(clock, 0.02, was_quiet=False)
    assert clock.level_ms(VERSION) == 0.04
    assert not said


def test_numbers_of_another_clock_are_told_from_current_ones(clock: Clock) -> None:
    sitting(clock, 0.04)
    assert clock.is_current(measured(0.04, 0.04))
    assert not clock.is_off(measured(0.042, 0.04))
    assert clock.is_off(measured(0.052, 0.04))  # too far to be corrected
    assert clock.is_off(measured(0.048, 0.048))  # given at a level that is no longer the device's
