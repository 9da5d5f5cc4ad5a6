"""What a search measures corrects its latency model, and shows when the device is another one by now."""

import numpy as np
import pytest

from hwprune.experiments.calibration import Calibrator
from hwprune.experiments.models import open_model
from latency_models.features import macs, widths
from latency_models.kernel_table import KernelTable
from latency_models.network_model import LatencyModel


@pytest.fixture(scope="module")
def bench():
    return open_model("resnet_cifar,depth=8", input_shape=(3, 8, 8))


def random_widths(bench, n, seed):
    sizes = bench.groups.sizes
    return np.random.default_rng(seed).integers(1, sizes + 1, (n, len(sizes)))


def kernel_ms(shape):
    return 1e-3 + 2e-8 * float(macs(shape.template, *widths([shape]))[0])


def measured(bench, rows, factor=1.0, seed=0):
    """Networks as the device takes them, a thousandth of noise included."""
    shapes, noise = bench.arithmetic(rows), np.random.default_rng(seed).standard_normal(len(rows))
    return [
        (shapes.row(index), factor * sum(map(kernel_ms, shapes.row(index))) * float(np.exp(0.001 * z)))
        for index, z in enumerate(noise)
    ]


@pytest.fixture(scope="module")
def model(bench):
    layers = {shape for row, _ in measured(bench, random_widths(bench, 30, 0)) for shape in row}
    return LatencyModel.fit(
        KernelTable({shape: kernel_ms(shape) for shape in layers}), measured(bench, random_widths(bench, 12, 1))
    )


def tell(calibrator, bench, factor):
    """Ten networks of a search, measured on a device that takes ``factor`` times as long."""
    rows = random_widths(bench, 10, 5)
    for number, (row, (_, latency_ms)) in enumerate(zip(rows, measured(bench, rows, factor), strict=True)):
        network = {"plan_key": str(number), "widths": row.tolist(), "latency_ms": latency_ms}
        calibrator.apply({"networks": [network]})


def test_measured_networks_enter_the_model_and_are_no_drift(bench, model):
    calibrator = Calibrator(None, bench, model)
    tell(calibrator, bench, 1.0)
    assert len(calibrator.model.networks) == len(model.networks) + 10
    assert not calibrator.has_drifted


def test_a_device_that_became_slower_is_noticed_and_followed(bench, model):
    calibrator = Calibrator(None, bench, model)
    tell(calibrator, bench, 1.3)
    assert calibrator.has_drifted
    shapes = bench.arithmetic(random_widths(bench, 5, 9))
    assert (calibrator.model.predict(shapes)[0] > model.predict(shapes)[0]).all()


def test_a_failed_measurement_teaches_nothing(bench, model):
    calibrator = Calibrator(None, bench, model)
    calibrator.apply({"networks": [{"plan_key": "k", "widths": bench.groups.sizes.tolist(), "latency_ms": None}]})
    assert calibrator.model is model
