from dataclasses import replace

import pytest

from hwprune.errors import UntrustedError
from hwprune.measurement.boards import board_ratios, together
from hwprune.records import Conditions, Measurement, Trust


def row(board: str, latency_ms: float, trust: Trust = "A", **facts: object) -> Measurement:
    conditions = Conditions(board, "f", "tvm", "float32", (1, 3, 8, 8), 1, "s1")
    process = tuple((latency_ms,) * 5 for _ in range(6))
    return Measurement("k", conditions, (process,) * 3, trust=trust, **facts)  # type: ignore[arg-type]


def rows(board: str, *latencies_ms: float) -> list[Measurement]:
    return [row(board, latency_ms) for latency_ms in latencies_ms]


def test_a_ratio_is_what_most_networks_say() -> None:
    found = board_ratios({"A": rows("A", 1, 2, 4), "B": rows("B", 1.1, 2.2, 4.44), "C": rows("C", 0.9, 1.8, 3.6)})
    assert found == {"A": 1.0, "B": pytest.approx(1.1), "C": pytest.approx(0.9)}


def test_a_uniform_factor_explains_a_board_however_large_it_is() -> None:
    assert board_ratios({"A": rows("A", 1, 2, 3), "B": rows("B", 4, 8, 12)})["B"] == pytest.approx(4)


def test_what_a_factor_does_not_explain_is_refused_with_names_and_amounts() -> None:
    with pytest.raises(UntrustedError, match=r"B takes 1\.000 times as long as A .* still 5\.0% off"):
        board_ratios({"A": rows("A", 1, 2, 4), "B": rows("B", 1, 2, 4.2)})


def test_too_few_trusted_networks_are_refused() -> None:
    bad = [replace(one, trust="C") for one in rows("B", 1, 2, 3)]
    with pytest.raises(UntrustedError, match="only 2 of 5 reference networks"):
        board_ratios({"A": rows("A", 1, 2, 3, 4, 5), "B": [*bad, *rows("B", 4, 5)]})


def test_numbers_of_a_board_are_given_at_the_speed_of_the_first() -> None:
    found = row("B", 2.2, board_ratio=1.1, reference_ms=0.5, device_reference_ms=0.4)
    assert found.latency_ms == pytest.approx(2.2 * 0.8 / 1.1)
    assert found.interval_ms[0] <= found.latency_ms <= found.interval_ms[1]


def test_a_network_on_two_boards_is_one_measurement_that_names_them() -> None:
    found = together([row("A", 2.0), row("B", 2.2, board_ratio=1.1, reference_ms=1.0, device_reference_ms=1.0)], "A+B")
    assert found.conditions.device == "A+B"
    assert found.boards == ("A", "A", "A", "B", "B", "B")
    assert found.latency_ms == pytest.approx(2.0)
    assert (found.trust, found.clock_ratio, found.board_ratio) == ("A", 1.0, 1.0)
    assert Measurement.from_dict(found.as_dict()) == found


def test_values_of_every_board_are_scaled_by_its_own_clock() -> None:
    slow_clock = row("A", 2.5, reference_ms=0.5, device_reference_ms=0.4)
    found = together([slow_clock, row("B", 2.0)], "A+B")
    assert found.latency_ms == pytest.approx(2.0)
    assert found.clock_ratio == 1.0


def test_boards_that_stay_apart_after_calibration_are_untrusted() -> None:
    found = together([row("A", 2.0), row("B", 2.1)], "A+B")
    assert (found.trust, found.trust_reason) == ("C", "B takes 5.0% longer than A")


def test_the_interval_holds_what_boards_differ_by_and_the_grade_knows_it() -> None:
    found = together([row("A", 2.0), row("B", 2.05)], "A+B")
    assert found.latency_ms == pytest.approx((2.0 * 2.05) ** 0.5)
    assert found.interval_ms == (pytest.approx(2.0, abs=1e-3), pytest.approx(2.05, abs=1e-3))
    assert (found.trust, "over A and B" in found.trust_reason) == ("B", True)


def test_the_worst_grade_counts_and_a_failure_is_one() -> None:
    doubtful = together([row("A", 2.0), row("B", 2.0, trust="C", trust_reason="it is loud")], "A+B")
    assert (doubtful.trust, doubtful.trust_reason) == ("C", "B: it is loud")
    failed = together([row("A", 2.0), row("B", 2.0, error="self-test")], "A+B")
    assert (failed.error, failed.conditions.device) == ("on B: self-test", "A+B")
