"""Test functions as pruning problems without anything cheap: every objective takes a true evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import moocore
import numpy as np
import numpy.typing as npt
from pymoo.problems import get_problem

from hwprune.search.problem import SearchProblem
from hwprune.search.space import SearchSpace
from hwprune.search.synthetic import WidthPlan, width_plan

FloatArray = npt.NDArray[np.float64]

#: Values that a variable can take.
LEVELS = 1000
#: Variables and objectives: DTLZ2 as in docs/methods.md's check of HAMP's selection, the others as they were published,
#: WFG4 with as many variables as DTLZ2.
SIZES = {"dtlz2": (12, 3), "dtlz7": (22, 3), "wfg4": (12, 3), "zdt1": (30, 2)}


@dataclass(frozen=True)
class Target:
    """A problem and what there is to find.

    Attributes:
        problem: as a search sees it.
        ref_point: ``(n_obj,)`` reference of the hypervolume.
        hypervolume: of the best front that is known.
    """

    problem: SearchProblem
    ref_point: FloatArray
    hypervolume: float


def target(name: str) -> Target:
    """A test function; the reference point lies a tenth of the front's range beyond its worst values."""
    n_var, n_obj = SIZES[name]
    function = get_problem(name, n_var=n_var, **({} if name == "zdt1" else {"n_obj": n_obj}))
    low, high = np.broadcast_to(function.xl, n_var), np.broadcast_to(function.xu, n_var)
    front = FRONTS[name]()
    worst, best = front.max(axis=0), front.min(axis=0)
    ref_point = worst + 0.1 * (worst - best)
    space = SearchSpace.of([LEVELS] * n_var, round_to=1, pruning_ratio_max=1 - 1 / LEVELS)

    def values(plan: WidthPlan) -> dict[str, float]:
        share = space.encode(np.array([plan.widths]))[0] / space.upper
        F = function.evaluate((low + share * (high - low))[None])[0]
        return {f"f{index + 1}": float(value) for index, value in enumerate(F)}

    problem = SearchProblem(
        space=space,
        objectives=tuple(f"f{index + 1}" for index in range(n_obj)),
        costs=lambda widths: {},
        plan=width_plan,
        accuracy=lambda plan: 0.0,
        exact=values,
        ref_point=tuple(ref_point.tolist()),
    )
    return Target(problem, ref_point, float(moocore.hypervolume(front, ref=ref_point)))


def _zdt1() -> FloatArray:
    first = np.linspace(0, 1, 2001)
    return np.column_stack([first, 1 - np.sqrt(first)])


def _sphere() -> FloatArray:
    """The part of the unit sphere that is positive, some 2,000 points."""
    angles = np.linspace(0, np.pi / 2, 46)
    first, second = (angle.ravel() for angle in np.meshgrid(angles, angles))
    return np.column_stack([np.cos(first) * np.cos(second), np.cos(first) * np.sin(second), np.sin(first)])


def _wfg4() -> FloatArray:
    return _sphere() * [2, 4, 6]


def _dtlz7() -> FloatArray:
    axis = np.linspace(0, 1, 121)
    plane = np.column_stack([values.ravel() for values in np.meshgrid(axis, axis)])
    last = 2 * (3 - (plane / 2 * (1 + np.sin(3 * np.pi * plane))).sum(axis=1))
    points = np.column_stack([plane, last])
    return np.asarray(points[moocore.is_nondominated(points)])


FRONTS: dict[str, Callable[[], FloatArray]] = {"dtlz2": _sphere, "dtlz7": _dtlz7, "wfg4": _wfg4, "zdt1": _zdt1}
