"""Features of widths for regressors that find out themselves what matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hwprune.objectives.macs import layer_macs
from hwprune.search.operators import latin_hypercube
from hwprune.search.problem import SearchProblem

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class WidthFeatures:
    """Features of widths (step 6a): what is kept, how it aligns with the device's step, what it costs layer by layer.

    Kept widths, ``ceil(width / step)``, ``width mod step``, multiply-adds and channel products of every layer, and all
    multiply-adds together, which trees cannot sum themselves. Columns that say the same as an earlier one for every
    candidate are dropped: where only one side of each layer is pruned, most of them do.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        space = problem.space
        genomes = latin_hypercube(64, space.n_var, np.random.default_rng(0))
        columns = self._all(space.decode(space.upper * genomes))
        centred = columns - columns.mean(axis=0)
        norms = np.linalg.norm(centred, axis=0)
        varying = norms > 1e-9 * (1 + np.abs(columns).max(axis=0))
        directions = centred / np.where(varying, norms, 1.0)
        alike = np.abs(directions.T @ directions) > 1 - 1e-9
        self._kept = np.flatnonzero(varying & ~np.triu(alike, 1).any(axis=0))

    def __call__(self, widths: IntArray) -> FloatArray:
        """``(n, n_features)`` features of ``(n, G)`` widths."""
        return self._all(widths)[:, self._kept]

    def _all(self, widths: IntArray) -> FloatArray:
        step = self._problem.channel_step
        columns: list[npt.NDArray[Any]] = [widths, -(-widths // step), widths % step]
        if self._problem.shapes is not None:
            shapes = self._problem.shapes(widths)
            macs = layer_macs(shapes)
            columns += [macs.sum(axis=1, keepdims=True), macs, shapes.in_channels * shapes.out_channels]
        return np.hstack(columns).astype(np.float64)
