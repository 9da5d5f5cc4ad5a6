from collections.abc import Sequence

import numpy as np
import pytest

from device_agents.client import Block
from hwprune.measurement.trust import fallback_complaint, grade, is_doubtful, reference_level_ms
from hwprune.records import bootstrap_interval_ms

REFERENCE_MS = 0.04


def block(
    seed: int, *, noise: float = 0.0, reference: float = 1.0, after: float | None = None, calls: int = 30
) -> Block:
    """A block of 0.3 ms calls with one-sided noise, at a clock that is slower by the factor ``reference``."""
    generator = np.random.default_rng(seed)
    values = 0.3 * reference * (1 + noise * generator.exponential(size=calls))
    return Block(tuple(values.tolist()), REFERENCE_MS * reference, REFERENCE_MS * (after or reference))


def process(count: int = 10, first: int = 0, **how: float) -> list[Block]:
    return [block(first + number, **how) for number in range(count)]  # type: ignore[arg-type]


def flat(processes: Sequence[Sequence[Block]]) -> list[Block]:
    return [block for blocks in processes for block in blocks]


def test_steady_blocks_earn_an_a_and_are_all_kept() -> None:
    processes = [process(noise=0.01), process(first=10, noise=0.01)]
    found = grade(processes, reference_level_ms(flat(processes)))
    assert (found.trust, found.reason, found.drift) == ("A", "", 0.0)
    assert found.values_ms == tuple(tuple(block.values_ms for block in blocks) for blocks in processes)


def test_blocks_whose_reference_moved_are_dropped() -> None:
    steady, moved = process(noise=0.01), [block(50, reference=1.8), block(51, after=1.8), block(52, after=1.05)]
    found = grade([moved[:1] + steady + moved[1:]], REFERENCE_MS)
    assert found.trust == "A"
    assert found.values_ms == (tuple(block.values_ms for block in steady),)


def test_blocks_within_three_percent_are_kept_where_those_within_one_are_too_few() -> None:
    found = grade([process(4) + process(4, reference=1.02)], REFERENCE_MS)
    assert len(found.values_ms[0]) == 8
    assert found.drift == pytest.approx(0.02)
    assert (found.trust, found.reason) == ("B", "reference moved by 2.0%, A allows 1%")


def test_blocks_at_the_devices_own_level_go_before_slower_ones() -> None:
    own, slow = process(5), process(40, reference=1.3)
    assert reference_level_ms(own + slow) == pytest.approx(1.3 * REFERENCE_MS)
    assert reference_level_ms(own + slow, REFERENCE_MS) == pytest.approx(REFERENCE_MS)
    assert reference_level_ms(own[:4] + slow, REFERENCE_MS) == pytest.approx(1.3 * REFERENCE_MS)
    assert reference_level_ms(process(20) + slow, 1.3 * REFERENCE_MS) == pytest.approx(REFERENCE_MS), "a faster one"


def test_a_wide_interval_is_named_and_graded() -> None:
    wide = [process(noise=0.0, first=0), [block(9, reference=1.0)] * 2]
    shifted = [Block(tuple(value * 1.04 for value in block.values_ms), *[REFERENCE_MS] * 2) for block in wide[0]]
    found = grade([wide[0], shifted], REFERENCE_MS)
    low_ms, high_ms = bootstrap_interval_ms(found.values_ms)
    assert 0.01 < (high_ms - low_ms) / 2 / 0.3 < 0.03
    assert found.trust == "B"
    assert found.reason.startswith("interval of +-2.0%")


def test_numbers_that_differ_wildly_between_processes_are_not_trusted() -> None:
    slow = [Block(tuple(value * 2 for value in block.values_ms), *[REFERENCE_MS] * 2) for block in process()]
    found = grade([process(), slow], REFERENCE_MS)
    assert found.trust == "C"
    assert "B allows 3%" in found.reason


def test_too_few_steady_blocks_are_not_trusted() -> None:
    found = grade([process(4) + process(6, reference=1.5)], REFERENCE_MS)
    assert found.trust == "C"
    assert found.drift == pytest.approx(0.5)
    assert "held still in 4 of 10 blocks" in found.reason
    assert len(found.values_ms[0]) == 10  # evidence, not an estimate


def test_every_process_must_have_steady_blocks() -> None:
    found = grade([process(10), process(10, reference=1.5)], REFERENCE_MS)
    assert found.trust == "C"
    assert "held still in 10 of 20 blocks" in found.reason


def test_a_device_that_is_slower_than_it_can_be_is_not_trusted_however_steady() -> None:
    found = grade([process(reference=1.8)], REFERENCE_MS * 1.8, device_reference_ms=REFERENCE_MS)
    assert found.trust == "C"
    assert "the reference kernel runs 1.80 times as long as usual" in found.reason
    assert found.is_steady


@pytest.mark.parametrize(
    ("step", "trust"), [(1.02, "A"), (0.98, "A"), (1.15, "B"), (0.85, "B"), (1.3, "C"), (0.8, "C")]
)
def test_the_further_the_clock_is_off_the_less_is_believed(step: float, trust: str) -> None:
    assert grade([process(reference=step)], REFERENCE_MS * step, device_reference_ms=REFERENCE_MS).trust == trust


def test_blocks_under_load_are_doubtful_where_the_reference_is_slower_than_known() -> None:
    slow, good, faster = block(0, reference=1.2), block(1, reference=1.02), block(2, reference=0.95)
    assert is_doubtful(slow, False, REFERENCE_MS)
    assert is_doubtful(block(0, after=1.2), False, REFERENCE_MS)
    assert not is_doubtful(good, False, REFERENCE_MS)
    assert not is_doubtful(faster, False, REFERENCE_MS)
    assert not is_doubtful(slow, True, REFERENCE_MS)
    assert not is_doubtful(slow, False, None)


def test_doubtful_blocks_are_evidence_only() -> None:
    found = grade([process(2)], REFERENCE_MS, doubtful=[process(20)])
    assert found.trust == "C"
    assert found.reason.endswith("held still in 2 of 22 blocks only, and other programs were busy during 20")
    assert grade([process(10)], REFERENCE_MS, doubtful=[process(20)]).trust == "A"


def test_a_short_undisturbed_moment_is_found_where_it_is_asked_for() -> None:
    busy, rest = process(40, reference=1.2), process(6)
    assert reference_level_ms(busy + rest) == pytest.approx(REFERENCE_MS * 1.2)
    assert reference_level_ms(busy + rest, support=0.0) == REFERENCE_MS
    assert reference_level_ms(busy + rest[:4], support=0.0) == pytest.approx(REFERENCE_MS * 1.2)


def test_the_level_is_where_most_blocks_stand() -> None:
    assert reference_level_ms(process(10)) == REFERENCE_MS


def test_the_level_is_the_faster_of_two_steps_of_the_clock() -> None:
    assert reference_level_ms(process(10, reference=1.04) + process(6)) == REFERENCE_MS


def test_a_few_fast_blocks_do_not_make_the_level() -> None:
    assert reference_level_ms(process(20) + process(3, reference=0.9)) == REFERENCE_MS


def test_scattered_blocks_of_a_shared_core_do_not_make_the_level() -> None:
    generator = np.random.default_rng(0)
    scattered = [block(number, reference=generator.uniform(1.5, 2.0)) for number in range(30)]
    assert reference_level_ms(scattered + process(8)) == REFERENCE_MS


def test_the_level_of_nothing_but_scatter_is_low() -> None:
    scattered = [block(0, reference=1.1**number) for number in range(10)]
    assert REFERENCE_MS <= reference_level_ms(scattered) < REFERENCE_MS * 1.1**2
    assert grade([scattered], reference_level_ms(scattered)).trust == "C"


def test_there_is_no_level_without_blocks() -> None:
    assert np.isnan(reference_level_ms([]))


@pytest.mark.parametrize(
    ("share", "complaint"),
    [
        (0.0, ""),
        (0.05, ""),
        (0.06, "6% of the time is in kernels without a schedule of ours (erf, mul)"),
        (None, "an unknown share of the time is in kernels without a schedule of ours (erf, mul)"),
    ],
)
def test_time_in_kernels_without_a_schedule_is_complained_about(share: float | None, complaint: str) -> None:
    assert fallback_complaint(["erf", "mul"], share) == complaint


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    truth = 0.3 + 0.01 * -np.log(0.9)  # 10th percentile of the exponential noise
    inside = 0
    for _ in range(100):
        values = 0.3 + generator.exponential(0.01, size=(3, 10, 30))
        low_ms, high_ms = bootstrap_interval_ms(tuple(tuple(map(tuple, process.tolist())) for process in values))
        inside += low_ms <= truth <= high_ms
    assert 88 <= inside <= 100


def test_the_interval_is_that_of_resampling_one_by_one() -> None:
    generator = np.random.default_rng(1)
    values = [[0.3 * (1 + 0.05 * generator.random(20)) * (1 + 0.02 * number) for number in range(8)] for _ in range(3)]
    estimates = []
    for _ in range(2000):
        calls = []
        for chosen in generator.integers(3, size=3):
            calls += [values[chosen][number] for number in generator.integers(8, size=8)]
        estimates.append(np.percentile(np.concatenate(calls), 10))
    expected = np.percentile(estimates, [2.5, 97.5])
    found = bootstrap_interval_ms(tuple(tuple(tuple(b.tolist()) for b in process) for process in values))
    assert np.allclose(found, expected, rtol=0.004)


def test_no_values_have_no_interval_and_equal_values_a_point() -> None:
    assert all(np.isnan(bound) for bound in bootstrap_interval_ms(()))
    assert all(np.isnan(bound) for bound in bootstrap_interval_ms(((), ((),))))
    assert bootstrap_interval_ms((((2.0, 2.0), (2.0,)),)) == (2.0, 2.0)
    assert bootstrap_interval_ms((((1.5,),),)) == (1.5, 1.5)
