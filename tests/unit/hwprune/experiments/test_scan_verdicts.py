"""What a scan makes of its numbers, and how it shows them."""

import dataclasses

import pytest

from hwprune.experiments.scan import judge, picture_path
from hwprune.records import Conditions, Measurement
from hwprune.reports.scan import LAYERS, draw_scan, group_table, layer_table, width_table
from hwprune.scanned import GroupCurve, LayerTime, ScanReport, WidthRow


def measurement(latency_ms, trust="A"):
    conditions = Conditions("here", "f", "tvm", "float32", (1, 3, 32, 32), 1, "s")
    return Measurement("key", conditions, values_ms=(((latency_ms,) * 5,) * 5,), trust=trust)


def rows(*latencies_ms):
    shares = (1.0, 0.75, 0.5, 0.25)
    return tuple(
        WidthRow(share, ms, ms, ms, share**2, True, 1024, None) for share, ms in zip(shares, latencies_ms, strict=True)
    )


OWN = LayerTime("conv2d 3x3 at 32x32, 16 -> 16", 0.8, 0.8, 2_000_000, False)
FOREIGN = LayerTime("fallback:cos at 32x32, 16 -> 16", 0.2, 0.2, 0, True)


def test_a_network_that_narrows_well_is_worth_it():
    worth_it, verdict = judge(measurement(1.0), (OWN,), rows(1.0, 0.7, 0.4, 0.2))
    assert worth_it
    assert verdict.startswith("worth it: half of the channels take 40% of the time")
    assert "5.0 times faster" in verdict


def test_a_network_that_narrows_for_nothing_is_not():
    worth_it, verdict = judge(measurement(1.0), (OWN,), rows(1.0, 0.95, 0.9, 0.85))
    assert not worth_it
    assert verdict.startswith("not worth it: half of the channels take 90%")


def test_time_in_foreign_operators_is_not_pruned_away():
    foreign = dataclasses.replace(FOREIGN, share=0.6)
    worth_it, verdict = judge(measurement(1.0), (OWN, foreign), rows(1.0, 0.7, 0.4, 0.2))
    assert not worth_it
    assert "60% of the time is in operators without a schedule of ours" in verdict


def test_a_network_without_groups_is_not():
    assert judge(measurement(1.0), (OWN,), ()) == (
        False,
        "not worth it: nothing of this network can be pruned as it stands",
    )


def test_untrusted_numbers_say_so():
    assert "measure again" in judge(measurement(1.0, "C"), (OWN,), rows(1.0, 0.7, 0.4, 0.2))[1]


@pytest.fixture
def report():
    layers = (*(dataclasses.replace(OWN, latency_ms=0.1 * n, share=0.05) for n in range(1, LAYERS + 3)), FOREIGN)
    group = GroupCurve("conv1", 16, 4, 0.25, (4, 8, 16), (0.6, 0.75, 1.0))
    return ScanReport(
        "my.nets:build,width=2", "here", 1.0, 0.99, 1.01, "A", "", (FOREIGN.layer,), layers, (group,),
        rows(1.0, 0.7, 0.4, 0.2), 1.2, (), True, "worth it: yes", 3.0,
    )  # fmt: skip


def test_the_tables_hold_what_takes_longest_and_count_the_rest(report):
    table = layer_table(report)
    assert len(table) == LAYERS + 1
    assert table[0]["ms"] == pytest.approx(0.1 * (LAYERS + 2))
    assert table[-1]["layer"] == "3 other layers"
    assert table[-1]["kernel"] == "fallback"
    assert sum(row["ms"] for row in table) == pytest.approx(sum(layer.latency_ms for layer in report.layers))
    assert group_table(report)[0]["half saves %"] == 25
    assert [row["channels"] for row in width_table(report)] == ["100%", "75%", "50%", "25%"]


def test_the_picture_is_a_png_whatever_the_model_is_called(report, tmp_path):
    path = picture_path(tmp_path, report)
    draw_scan(report, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.name == "scan-here-my.nets-build-width-2.png"
    draw_scan(dataclasses.replace(report, groups=(), widths=()), path)
