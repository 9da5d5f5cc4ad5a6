import itertools
import time

import pytest

from device_agents.agent import timing
from device_agents.agent.energy import Meter
from device_agents.agent.timing import CallFailed, Gate, Job, Reference, run_round, time_calls, warm_up

NO_METER = Meter("/nowhere")
OPEN = Gate(0, 0)


class Sleeper:
    """A call of known least length that counts itself and can fail."""

    def __init__(self, seconds=0.0, fail_at=None, log=None, name=""):
        self.seconds, self.fail_at, self.log, self.name = seconds, fail_at, log, name
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.log is not None:
            self.log.append(self.name)
        if self.seconds:
            time.sleep(self.seconds)
        return 5 if self.calls == self.fail_at else 0


def test_every_value_is_a_batch_of_calls():
    call = Sleeper(0.001)
    values = time_calls(call, count=4, batch=3)
    assert call.calls == 12
    assert len(values) == 4
    assert min(values) >= 3_000_000


def test_a_status_other_than_zero_ends_the_timing():
    call = Sleeper(fail_at=3)
    with pytest.raises(CallFailed, match="returned status 5"):
        time_calls(call, count=4, batch=2)
    assert call.calls == 3


def test_a_call_without_a_status_is_a_success():
    assert len(time_calls(lambda: None, 3)) == 3


class Slow:
    """A reference kernel that stands at readings of its own making."""

    def __init__(self, *readings_ns, again=()):
        self.readings_ns = itertools.chain(readings_ns, itertools.cycle(again))

    def ns(self):
        return next(self.readings_ns)


def test_a_block_waits_until_the_device_is_at_its_level_again():
    gate = Gate(level_ns=1000, patience=2.0)
    assert gate.wait(Slow(1300, 1250, 1020, 1250), 1300) == 1020
    assert gate.wait(Slow(), 1029) == 1029
    assert gate.wait(Slow(), 700) == 700


def test_patience_ends_and_grows_with_what_was_timed():
    gate, slow = Gate(level_ns=1000, patience=0.5), Slow(again=[1300])
    began = time.perf_counter_ns()
    assert gate.wait(slow, 1300) == 1300
    assert time.perf_counter_ns() - began >= timing.FIRST_PATIENCE_NS
    gate.spent(100_000_000)
    began = time.perf_counter_ns()
    assert gate.wait(slow, 1300) == 1300
    assert time.perf_counter_ns() - began < 2_000_000_000
    assert next(slow.readings_ns) == 1300


def test_it_looks_at_the_other_cores_meanwhile_and_stays_where_the_device_is_at_its_level():
    seen = []
    gate = Gate(level_ns=1000, patience=2.0, cores=[3, 2], pin=lambda cores: seen.extend(cores))
    assert gate.wait(Slow(1300, 1250, 1000), 1300) == 1000
    assert gate.wait(Slow(), 1000) == 1000
    assert seen == [3, 2, 3]
    assert gate.wait(Slow(1000), 1300) == 1000
    assert seen[-1] == 2


def test_a_level_that_is_not_known_is_looked_for_first(monkeypatch):
    monkeypatch.setattr(timing, "LEVEL_NS", 20_000_000)
    seldom = Slow(again=[1300] * 9 + [1000])
    gate = Gate(level_ns=0, patience=2.0)
    assert gate.wait(seldom, 1300) == 1000


def test_a_device_that_is_slow_to_read_is_not_waited_for():
    slow_ns = timing.GATED_NS_MAX + 1
    assert Gate(level_ns=slow_ns / 2, patience=2.0).wait(Slow(), slow_ns) == slow_ns


@pytest.mark.parametrize("gate", [OPEN, Gate(1000, 0.0)])
def test_without_patience_nothing_is_waited_for(gate):
    assert gate.wait(Slow(), 1300) == 1300


def test_warm_up_goes_on_while_calls_get_faster():
    # Far apart, so that no load makes two of them alike.
    lengths = itertools.chain([0.4, 0.2, 0.1, 0.05], itertools.repeat(0.004))
    calls, typical_ns = warm_up(lambda: time.sleep(next(lengths)), limit_ns=4e9)
    assert calls >= 6
    assert 4e6 <= typical_ns < 50e6


def test_warm_up_ends_at_its_limit_when_calls_never_agree():
    lengths = itertools.cycle([0.001, 0.004])
    began = time.monotonic()
    warm_up(lambda: time.sleep(next(lengths)), limit_ns=30e6)
    assert time.monotonic() - began < 5.0


def test_no_warm_up_is_one_call():
    call = Sleeper(0.001)
    calls, typical_ns = warm_up(call, limit_ns=0)
    assert calls == call.calls == 1
    assert typical_ns >= 1e6


def test_blocks_hold_the_least_count_for_slow_calls():
    job = Job(Sleeper(0.004))
    job.warm_up(limit_ns=10e6, calls_min=5, block_ns_min=1e6)
    assert (job.batch, job.count) == (1, 5)
    assert len(job.block()) == 5


def test_blocks_last_the_least_time_for_quick_calls():
    job = Job(lambda: None)
    job.warm_up(limit_ns=10e6, calls_min=5, block_ns_min=5e6)
    assert job.batch > 1
    assert job.count > 5


def test_warm_up_tells_how_many_calls_it_took():
    call = Sleeper(0.001)
    job = Job(call)
    job.warm_up(limit_ns=20e6, calls_min=1, block_ns_min=0)
    assert job.warmup_calls == call.calls


def test_neighbouring_blocks_share_a_reading_of_the_reference():
    log = []
    jobs = {place: Job(Sleeper(log=log, name=place)) for place in (0, 1)}
    blocks = list(run_round(jobs, [0, 1], Reference(Sleeper(log=log, name="reference")), OPEN, NO_METER, budget_s=10.0))
    reading = ["reference"] * (timing.REFERENCE_CALLS + 1)
    assert log == [*reading, 0, 0, *reading, 1, 1, *reading]
    assert blocks[0]["after_ns"] == blocks[1]["before_ns"]
    assert [block["job"] for block in blocks] == [0, 1]


def test_a_slow_device_reads_the_reference_by_fewer_calls():
    call = Sleeper(timing.REFERENCE_NS / 1e9)
    assert Reference(call).ns() >= timing.REFERENCE_NS
    assert call.calls == timing.REFERENCE_CALLS_MIN + 1


def test_a_round_keeps_the_order_it_is_given():
    jobs = {place: Job(Sleeper()) for place in range(4)}
    blocks = run_round(jobs, [3, 1, 0], Reference(Sleeper()), OPEN, NO_METER, budget_s=10.0)
    assert [block["job"] for block in blocks] == [3, 1, 0]


def test_a_job_that_fails_in_a_round_is_told_and_the_others_go_on():
    jobs = {0: Job(Sleeper()), 1: Job(Sleeper(fail_at=2)), 2: Job(Sleeper())}
    blocks = list(run_round(jobs, [0, 1, 2], Reference(Sleeper()), OPEN, NO_METER, budget_s=10.0))
    assert blocks[1] == {"job": 1, "error": "returned status 5"}
    assert "ns" in blocks[0]
    assert "ns" in blocks[2]


def test_no_block_starts_after_the_budget():
    jobs = {0: Job(Sleeper(0.02)), 1: Job(Sleeper(0.02))}
    blocks = run_round(jobs, [0, 1], Reference(Sleeper()), OPEN, NO_METER, budget_s=0.01)
    assert [block["job"] for block in blocks] == [0]
