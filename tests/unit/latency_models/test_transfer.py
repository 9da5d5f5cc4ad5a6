"""A new device from ten networks and the devices that are known."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_device import kernel_ms, measured_networks, measured_table, network_ms, resnet_networks

from latency_models.errors import KernelTableError
from latency_models.evaluation import scores
from latency_models.features import macs, widths
from latency_models.network_model import LatencyModel
from latency_models.sampling import plan_profile, ranges_of
from latency_models.transfer import transfer


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
    moved = transfer({"known": known}, networks)
    mean_ms, std_ms = moved.predict_networks(rows)
    ours = scores(actual_ms, mean_ms, moved.interval_factor(0.9) * std_ms)
    assert ours["within_10"] == 100
    assert ours["spearman"] >= 0.98
    assert ours["coverage_90"] >= 80
    work = np.array([sum(macs(s.template, *widths([s]))[0] for s in row) for row in rows])
    assert ours["mape"] < scores(actual_ms, work * np.mean(actual_ms) / np.mean(work))["mape"] / 3


def test_the_device_that_is_most_alike_is_taken(known, networks):
    odd = LatencyModel.fit(
        measured_table([shape for shape in known.table.shapes if shape.op == "conv2d"][:6], noise=0.3)
    )
    assert transfer({"alike": known, "odd": odd}, networks).source == "alike"


def test_blocks_of_other_vectors_are_no_other_layers(known, networks):
    narrow = [(tuple(replace(layer, layout="nchw8c") for layer in row), ms) for row, ms in networks]
    ours, theirs = transfer({"known": known}, networks), transfer({"known": known}, narrow)
    rows = [row for row, _ in networks]
    np.testing.assert_allclose(theirs.predict_networks(rows)[0], ours.predict_networks(rows)[0])


def test_nothing_known_is_nothing_to_transfer(known, networks):
    for sources, measured in (({}, networks), ({"known": known}, [])):
        with pytest.raises(KernelTableError, match="nothing to transfer"):
            transfer(sources, measured)


def test_the_same_device_is_its_own_best_source(known):
    shapes = resnet_networks(30, seed=5)
    rows = [shapes.row(index) for index in range(30)]
    moved = transfer({"known": known}, measured_networks(resnet_networks(10, seed=3)))
    assert scores([network_ms(row) for row in rows], moved.predict_networks(rows)[0])["mape"] < 1.5
