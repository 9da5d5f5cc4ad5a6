"""Devices that are one computer take turns; others do not wait."""

from __future__ import annotations

import threading
from pathlib import Path

from hwprune.experiments.home import Home
from hwprune.experiments.turns import turn_on


def is_free(home: Home, machine: str) -> bool:
    """Whether another thread gets its turn within a moment."""
    got = threading.Event()

    def take() -> None:
        with turn_on(home, machine):
            got.set()

    threading.Thread(target=take, daemon=True).start()
    return got.wait(0.3)


def test_one_computer_is_used_by_one_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with turn_on(home, "boot 1"):
        assert not is_free(home, "boot 1")
        assert is_free(home, "boot 2")
    assert is_free(home, "boot 1")


def test_nobody_waits_for_a_device_that_does_not_tell_where_it_is(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with turn_on(home, ""):
        assert is_free(home, "")
