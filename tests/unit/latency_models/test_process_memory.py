"""The most memory of a process from what its network plans."""

import numpy as np
import pytest

from latency_models.errors import KernelTableError
from latency_models.process_memory import fit_process_memory

MIB = 1 << 20


def test_the_runner_and_the_share_that_is_touched_are_found():
    generator = np.random.default_rng(0)
    planned = generator.uniform(0.2, 60, 12) * MIB
    peak = 14 * MIB + 0.9 * planned + generator.normal(0, 0.05 * MIB, 12)
    model = fit_process_memory(planned, peak)
    assert model.base_bytes == pytest.approx(14 * MIB, rel=0.02)
    assert model.share == pytest.approx(0.9, abs=0.01)
    assert abs(model.predict(30 * MIB) - (14 + 27) * MIB) < model.half_width_bytes


def test_one_process_tells_the_runner_and_all_planned_bytes_are_assumed():
    model = fit_process_memory([2 * MIB], [16 * MIB])
    assert model.share == 1.0
    assert model.predict([1 * MIB, 2 * MIB]).tolist() == [15 * MIB, 16 * MIB]


def test_processes_of_one_size_say_nothing_of_the_share():
    model = fit_process_memory([2 * MIB] * 5, [16 * MIB] * 5)
    assert model.share == pytest.approx(1.0)


def test_without_processes_there_is_no_model():
    with pytest.raises(KernelTableError, match="measure a network"):
        fit_process_memory([], [])
