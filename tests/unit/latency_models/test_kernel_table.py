import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_models.errors import KernelTableError
from latency_models.kernel_table import KernelTable, KernelTime
from latency_models.shapes import LayerShape

CONV = LayerShape("conv2d", 16, 16, 8, 8, (3, 3), padding=(1, 1))
POOL = LayerShape("max_pool", 16, 16, 8, 8, (2, 2), (2, 2))


def test_the_newer_measurement_of_a_shape_holds():
    merged = KernelTable({CONV: 1.0, POOL: 2.0}).merge(KernelTable({CONV: KernelTime(3.0, 0.1)}))
    assert merged[CONV] == KernelTime(3.0, 0.1)
    assert merged[POOL].latency_ms == 2.0
    assert len(merged) == 2


def test_arrays_follow_the_sorted_shapes():
    table = KernelTable({POOL: 2.0, CONV: KernelTime(1.0, 0.5)})
    assert table.shapes == (CONV, POOL)
    np.testing.assert_array_equal(table.latency_ms, [1.0, 2.0])
    np.testing.assert_array_equal(table.spread_ms, [0.5, 0.0])


def test_templates_gather_the_kernels_that_differ_in_widths_alone():
    wide = CONV.with_channels(32, 64)
    parts = KernelTable({CONV: 1.0, wide: 2.0, POOL: 3.0}).by_template()
    assert set(parts) == {CONV.template, POOL.template}
    assert parts[CONV.template].shapes == (CONV, wide)


@pytest.mark.parametrize("latency_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_latency_is_refused(latency_ms):
    with pytest.raises(KernelTableError, match="leave failed measurements out"):
        KernelTable({CONV: latency_ms})


@pytest.mark.parametrize("spread_ms", [-0.1, float("nan")])
def test_an_impossible_spread_is_refused(spread_ms):
    with pytest.raises(KernelTableError, match="use 0 where it is not known"):
        KernelTable({CONV: KernelTime(1.0, spread_ms)})


@pytest.mark.parametrize("footprint_bytes", [-1.0, float("inf")])
def test_an_impossible_footprint_is_refused(footprint_bytes):
    with pytest.raises(KernelTableError, match="use 0 where it ran alone"):
        KernelTable({CONV: KernelTime(1.0, 0.1, footprint_bytes)})


shapes = st.builds(
    lambda template, c_in, c_out: template.with_channels(c_in, c_out),
    st.sampled_from([CONV, POOL]),
    st.integers(1, 64),
    st.integers(1, 64),
)
times = st.builds(KernelTime, st.floats(1e-4, 1e3), st.floats(0, 1), st.floats(0, 1e9))


@given(st.dictionaries(shapes, times, max_size=12))
def test_a_table_survives_json_and_its_digest_ignores_the_order(rows):
    table = KernelTable(rows)
    back = KernelTable.from_dict(json.loads(json.dumps(table.as_dict())))
    assert dict(back) == rows
    assert back.digest == KernelTable(dict(reversed(rows.items()))).digest


def test_rows_of_former_versions_have_no_footprint():
    data = KernelTable({CONV: KernelTime(1.0, 0.1, 5e6)}).as_dict()
    data["rows"] = [row[:-1] for row in data["rows"]]
    assert KernelTable.from_dict(data)[CONV] == KernelTime(1.0, 0.1)


def test_another_number_gives_another_digest():
    assert KernelTable({CONV: 1.0}).digest != KernelTable({CONV: 1.5}).digest


def test_a_kernel_measured_several_times_is_their_mean_weighed_by_spread():
    rows = [(CONV, KernelTime(1.0, 0.1)), (POOL, KernelTime(2.0, 0.0)), (CONV, KernelTime(2.0, 0.2))]
    table = KernelTable.averaged(rows)
    assert table[CONV].latency_ms == pytest.approx((1.0 * 4 + 2.0) / 5)
    assert table[CONV].spread_ms > 0.2, "they disagree by far more than each one's spread"
    assert table[POOL] == KernelTime(2.0, 0.0)


def test_measurements_that_agree_are_surer_together():
    table = KernelTable.averaged([(CONV, KernelTime(1.0, 0.1))] * 4)
    assert table[CONV].latency_ms == pytest.approx(1.0)
    assert table[CONV].spread_ms == pytest.approx(0.05)
