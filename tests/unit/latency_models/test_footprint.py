"""Kernels timed inside networks, whose weights stay in a cache or do not."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_device import kernel_ms, vgg_networks

from latency_models.evaluation import mape
from latency_models.features import weight_bytes, widths
from latency_models.footprint import cold_shares, fit_fetch_cost, footprint_bytes
from latency_models.kernel_table import KernelTable, KernelTime
from latency_models.network_model import LatencyModel

MIB = 1 << 20
#: The invented device: a cache of 4 MiB, behind which a byte costs so much.
CACHE, PRICE_MS = 4 * MIB, 1e-7


def layer_ms(shape, total):
    weights = weight_bytes(shape.template, *widths([shape]))[0]
    exposure = 0.5 if shape.height >= 16 else 1.0
    return kernel_ms(shape) + exposure * PRICE_MS * weights * max(0.0, 1 - CACHE / total)


def network_ms(layers):
    total = footprint_bytes(layers)
    return sum(layer_ms(layer, total) for layer in layers)


def timed_inside(shapes, noise=0.005):
    """Rows as a profile has them: each kernel with the footprint of the network that it was timed in."""
    generator, rows = np.random.default_rng(0), []
    for index in range(len(shapes)):
        layers = shapes.row(index)
        total = footprint_bytes(layers)
        times = [layer_ms(layer, total) * float(np.exp(noise * generator.standard_normal())) for layer in layers]
        rows += [(layer, KernelTime(ms, noise * ms, total)) for layer, ms in zip(layers, times, strict=True)]
    return KernelTable.averaged(rows)


@pytest.fixture(scope="module")
def table():
    return timed_inside(vgg_networks(24))


def test_a_cache_keeps_the_share_that_fits():
    shares = cold_shares([MIB / 2, 4 * MIB, 64 * MIB])
    np.testing.assert_allclose(shares[:, 4], [0.0, 0.0, 1 - 4 / 64])
    assert (np.diff(shares, axis=0) >= 0).all()


def test_the_footprint_of_a_network_is_all_of_its_weights():
    layers = vgg_networks(1).row(0)
    assert footprint_bytes(layers) == pytest.approx(4 * (14_710_464 + 5120), rel=0.001)


def test_the_price_of_fetching_is_found(table):
    fetch = fit_fetch_cost(table, 16)
    small, large = fetch.price_ms([2 * MIB, 48 * MIB])
    assert large - small == pytest.approx(PRICE_MS * (1 - 4 / 48), rel=0.25)


def test_networks_of_any_footprint_are_predicted_and_without_footprints_are_not(table):
    shapes = vgg_networks(150, seed=7)
    rows = [shapes.row(index) for index in range(150)]
    actual_ms = [network_ms(layers) for layers in rows]
    blind = LatencyModel.fit(KernelTable({shape: replace(time, footprint_bytes=0.0) for shape, time in table.items()}))
    error = mape(actual_ms, LatencyModel.fit(table).predict_networks(rows)[0])
    assert error < 2.5
    assert error < 0.7 * mape(actual_ms, blind.predict_networks(rows)[0])


def test_kernels_are_told_for_the_network_that_they_run_in(table):
    model = LatencyModel.fit(table)
    (layer,) = (shape for shape in vgg_networks(1).row(0)[-2:-1])
    alone, inside = (model.predict_kernels([layer], total)[0][0] for total in (16 * MIB, 56 * MIB))
    assert inside - alone == pytest.approx(layer_ms(layer, 56 * MIB) - layer_ms(layer, 16 * MIB), rel=0.4)


def test_kernels_of_one_footprint_are_left_as_they_are():
    rows = {shape: KernelTime(kernel_ms(shape), 0.0, 3 * MIB) for shape in vgg_networks(20).row(3)}
    table = KernelTable(rows)
    np.testing.assert_array_equal(fit_fetch_cost(table, 16).restated(table).latency_ms, table.latency_ms)
