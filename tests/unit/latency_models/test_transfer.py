"""A new device from ten networks and the devices that are known."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_device import LANES, kernel_ms, measured_networks, measured_table, network_ms, resnet_networks

from latency_models.errors import KernelTableError
from latency_models.evaluation import scores
from latency_models.features import macs, widths
from latency_models.network_model import LatencyModel
from latency_models.sampling import plan_profile, ranges_of
from latency_models.transfer import as_on, on_lanes, transfer


def elsewhere_ms(layers):
    """Another device: three times slower, large maps another third, and its calls cost more."""
    times = (kernel_ms(layer) * (4.0 if layer.height >= 32 else 3.0) for layer in layers)
    return 1.1 * sum(times) + 0.004 + 1e-3 * len(layers)


@pytest.fixture(scope="module")
def known():
    table = measured_table(plan_profile(ranges_of(resnet_networks(100)), 150))
    return LatencyModel.fit(table, measured_networks(resnet_networks(10, seed=1)))


@pytest.fixture(scope="module")
def networks():
    shapes, noise = resnet_networks(10, seed=2), np.random.default_rng(0).standard_normal(10)
    rows = [shapes.row(index) for index in range(10)]
    return [(row, elsewhere_ms(row) * float(np.exp(0.004 * z))) for row, z in zip(rows, noise, strict=True)]


def test_ten_networks_make_a_model_of_another_device(known, networks):
    shapes = resnet_networks(100, seed=7)
    rows = [shapes.row(index) for index in range(100)]
    actual_ms = [elsewhere_ms(row) for row in rows]
    moved = transfer({"known": known}, networks, LANES)
    mean_ms, std_ms = moved.predict_networks(rows)
    ours = scores(actual_ms, mean_ms, moved.interval_factor(0.9) * std_ms)
    assert ours["within_10"] == 100
    assert ours["spearman"] >= 0.98
    assert ours["coverage_90"] >= 80
    work = np.array([sum(macs(s.template, *widths([s]))[0] for s in row) for row in rows])
    assert ours["mape"] < scores(actual_ms, work * np.mean(actual_ms) / np.mean(work))["mape"] / 3


def test_the_device_that_is_most_alike_is_taken_and_named(known, networks):
    odd = LatencyModel.fit(
        measured_table([shape for shape in known.table.shapes if shape.op == "conv2d"][:6], noise=0.3)
    )
    moved = transfer({"alike": known, "odd": odd}, networks, LANES)
    assert moved.recipe.source == "alike"
    assert "those of alike" in moved.notes([])[0]


def test_a_transferred_model_is_kept_as_any_other(known, networks):
    moved = transfer({"known": known}, networks, LANES)
    again = LatencyModel.from_json(moved.to_json())
    rows = [row for row, _ in networks]
    np.testing.assert_allclose(again.predict_networks(rows), moved.predict_networks(rows))


def with_lanes(layer, lanes):
    return replace(layer, layout=f"nchw{lanes}c")


def test_stairs_of_other_vectors_are_told_from_the_tops_of_the_known_ones(known):
    """A device with vectors of a quarter: its stairs are narrower, its blocks whole ones of the same kernels."""
    narrow = resnet_networks(40, seed=9)
    rows = [tuple(with_lanes(layer, 4) for layer in narrow.row(index)) for index in range(40)]

    def narrow_ms(row):
        return sum(2 * kernel_ms(layer, lanes=4) for layer in row)

    moved = transfer({"known": known}, [(row, narrow_ms(row)) for row in rows[:10]], 4)
    actual_ms = [narrow_ms(row) for row in rows[10:]]
    ours = scores(actual_ms, moved.predict_networks(rows[10:])[0])
    assert ours["spearman"] >= 0.98
    assert ours["mape"] < 3


def test_kernels_move_to_the_tops_of_their_stairs(known):
    table = as_on(known, 8)
    steps = {template: known.kernels.surface(template).out_step for template in known.table.by_template()}
    for shape in table:
        assert shape.layout == "nchw8c"
        assert shape.out_channels % steps[with_lanes(shape.template, LANES)] == 0


def test_few_channels_are_known_of_devices_that_keep_them_in_blocks(known):
    (template, *_) = known.table.by_template()
    few = replace(template, layout="nchw16c-few16c")
    table = as_on(known, 16, [few])
    assert {shape.template for shape in table if shape.template.height == few.height} >= {few}
    assert on_lanes(few, 4).layout == "nchw4c"
    assert on_lanes(replace(few, layout="few16c-nchw16c"), 8).layout == "nchw8c"
    assert on_lanes(replace(few, layout="nchw-few16c"), 8).layout == "nchw-nchw8c"


def test_nothing_known_is_nothing_to_transfer(known, networks):
    for sources, measured in (({}, networks), ({"known": known}, [])):
        with pytest.raises(KernelTableError, match="nothing to transfer"):
            transfer(sources, measured, LANES)


def test_the_same_device_is_its_own_best_source(known):
    shapes = resnet_networks(30, seed=5)
    rows = [shapes.row(index) for index in range(30)]
    moved = transfer({"known": known}, measured_networks(resnet_networks(10, seed=3)), LANES)
    assert scores([network_ms(row) for row in rows], moved.predict_networks(rows)[0])["mape"] < 1.5
