import itertools
import time

import pytest
from test_agent_timing import NO_METER, OPEN, Sleeper

from device_agents.agent import load as module
from device_agents.agent.load import Flush, Gap, Load, flush_bytes
from device_agents.agent.timing import CallFailed, Job, Reference, run_round


class Noting(Sleeper):
    """A call that notes when it began, in seconds."""

    def __init__(self, seconds=0.0):
        super().__init__(seconds)
        self.began = []

    def __call__(self):
        self.began.append(time.perf_counter())
        return super().__call__()

    @property
    def gaps_s(self):
        return [later - earlier for earlier, later in itertools.pairwise(self.began)]


def test_calls_at_a_pace_begin_a_tick_apart():
    call = Noting(0.001)
    job = Job(call, load=Load(rate_hz=50.0))
    job.warm_up(limit_ns=5e6, calls_min=6, block_ns_min=0.0)
    call.began.clear()
    values = job.block()
    assert len(values) == job.count == 6
    assert job.batch == 1
    assert min(values) >= 1_000_000
    assert len(call.began) == 7  # the first is not timed
    # Late ones catch up, so only the mean is sure on a busy machine.
    assert sum(call.gaps_s) / len(call.gaps_s) == pytest.approx(0.02, rel=0.5)


def test_a_pace_is_found_before_the_first_block():
    call = Noting()
    job = Job(call, load=Load(rate_hz=40.0))
    job.warm_up(limit_ns=0.0, calls_min=1, block_ns_min=0.0)
    assert job.warmup_calls == call.calls == 41
    assert call.began[-1] - call.began[1] >= 0.9


def test_a_call_that_takes_longer_than_a_tick_is_refused_with_both_times():
    job = Job(Sleeper(0.02), load=Load(rate_hz=100.0))
    with pytest.raises(CallFailed, match=r"takes \d.* ms, longer than the 10 ms from one to the next at 100 Hz"):
        job.warm_up(limit_ns=0.0, calls_min=1, block_ns_min=0.0)


def test_who_is_late_by_more_than_a_tick_does_not_hurry_after():
    gap = Gap(Load(rate_hz=100.0))
    gap()
    time.sleep(0.05)
    gap()
    began = time.perf_counter()
    gap()
    assert time.perf_counter() - began > 0.005


def test_a_steady_load_calls_without_being_timed_before_each_block():
    call = Sleeper(0.001)
    job = Job(call, load=Load(busy_ns=50e6))
    job.warm_up(limit_ns=2e6, calls_min=3, block_ns_min=0.0)
    before = call.calls
    assert job.keep_busy()
    assert 5 <= call.calls - before <= 60
    assert len(job.block()) == 3
    assert not Job(call).keep_busy()


def test_the_reference_is_read_between_the_untimed_calls_and_the_block():
    log = []
    jobs = {0: Job(Sleeper(0.001, log=log, name="call"), load=Load(busy_ns=5e6))}
    (block,) = run_round(jobs, [0], Reference(Sleeper(log=log, name="reference")), OPEN, NO_METER, budget_s=10.0)
    first = log.index("reference")
    assert first >= 1
    assert set(log[:first]) == {"call"}
    assert log[first:].count("call") == 1 + len(block["ns"])


def test_short_calls_are_timed_one_by_one_where_there_are_gaps():
    spaced = Job(lambda: None, load=Load(rate_hz=1000.0))
    packed = Job(lambda: None)
    for job in (spaced, packed):
        job.warm_up(limit_ns=1e6, calls_min=3, block_ns_min=0.0)
    assert (spaced.batch, packed.batch > 1) == (1, True)


def test_caches_are_emptied_before_each_call_and_never_timed(monkeypatch):
    log = []
    monkeypatch.setattr(module, "Flush", lambda: lambda: log.append("flush"))
    job = Job(Sleeper(log=log, name="call"), load=Load(cold=True))
    job.warm_up(limit_ns=0.0, calls_min=2, block_ns_min=0.0)
    log.clear()
    job.block()
    assert log == ["flush", "call"] * 3


def test_twice_the_largest_cache_is_read(tmp_path):
    for index, size in enumerate(("48K", "2048K", "nonsense", "4M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}/size").write_text(f"{size}\n")
    assert flush_bytes(str(tmp_path / "index*/size")) == 8 << 20
    assert flush_bytes(str(tmp_path / "none/size")) == module.FLUSH_BYTES
    Flush(str(tmp_path / "index*/size"))()


def test_a_job_that_cannot_keep_its_pace_leaves_the_others_alone():
    jobs = {0: Job(Sleeper(0.001), load=Load(rate_hz=200.0)), 1: Job(Sleeper())}
    blocks = list(run_round(jobs, [0, 1], Reference(Sleeper()), OPEN, NO_METER, budget_s=10.0))
    assert [len(block["ns"]) for block in blocks] == [1, 1]
