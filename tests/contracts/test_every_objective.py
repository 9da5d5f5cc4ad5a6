"""What every objective keeps to, found by its file."""

import numpy as np
import pytest

from hwprune import objectives, plugins
from hwprune.objectives import Candidates, Sources
from latency_models.shapes import LayerShape, NetworkShapes

NAMES = plugins.names("hwprune.objectives")
every_objective = pytest.mark.parametrize("name", NAMES)


def shapes(widths: np.ndarray) -> NetworkShapes:
    return NetworkShapes((LayerShape("dense", 0, 0, 1, 1),), widths[:, :1], widths[:, 1:])


SOURCES = Sources(
    dense_widths=np.array([8, 16]),
    shapes=shapes,
    parameters=lambda widths: widths.prod(axis=1),
    latency_ms=lambda shapes: (shapes.out_channels[:, 0] / 10, np.zeros(len(shapes))),
    planned_memory_bytes=lambda widths: widths.sum(axis=1),
    energy_mj=lambda widths: widths.sum(axis=1) / 7,
)


@every_objective
def test_objective_is_named_after_its_file_and_described(name: str) -> None:
    objective = objectives.load(name)
    assert objective.name == name
    assert objective.description
    assert not objective.unit or objective.unit.lower() in objective.column


@every_objective
def test_values_are_one_finite_float_a_candidate_and_shrink_with_the_network(name: str) -> None:
    widths = np.array([[8, 16], [4, 8], [1, 1]])
    values = objectives.load(name).evaluate(Candidates(widths, SOURCES, metrics=np.array([0.5, 0.6, 0.7])))
    assert values.shape == (3,)
    assert values.dtype == np.float64
    assert (np.diff(values) < 0).all()


def test_columns_differ() -> None:
    columns = [objectives.load(name).column for name in NAMES]
    assert len(set(columns)) == len(columns)
