"""Which kernels a profile has enough of."""

from hwprune.experiments.profiler import ENOUGH_OF_TEMPLATE, known_enough
from latency_models.kernel_table import KernelTime
from latency_models.shapes import LayerShape

CONV = LayerShape("conv2d", 0, 0, 8, 8, (3, 3), padding=(1, 1))
POOL = LayerShape("max_pool", 0, 0, 8, 8, (2, 2), (2, 2))


def rows(template, ms, count):
    return [(template.with_channels(16, width), KernelTime(ms)) for width in range(1, count + 1)]


def test_layers_that_hardly_take_time_are_known_by_a_few_kernels():
    convs = rows(CONV, 0.5, 2 * ENOUGH_OF_TEMPLATE)
    assert known_enough([*convs, *rows(POOL, 1e-4, ENOUGH_OF_TEMPLATE)]) == {POOL}
    assert not known_enough([*convs, *rows(POOL, 1e-4, ENOUGH_OF_TEMPLATE - 1)])


def test_layers_that_take_time_are_never_known_well_enough():
    assert not known_enough([*rows(CONV, 0.5, 100), *rows(POOL, 0.1, 100)])
    assert not known_enough([])
