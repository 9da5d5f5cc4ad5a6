"""Latency of any kernel of one device.

A template with enough measured kernels has a surface of its own; with a few, the device's roofline moved to them; with
none, the regressor of all kernels.
"""

from __future__ import annotations

import functools
import re

import numpy as np

from latency_models.errors import KernelTableError
from latency_models.features import FloatArray, mixes_channels, widths
from latency_models.footprint import fit_fetch_cost
from latency_models.kernel_regressor import UNKNOWN_ERROR, KernelRegressor
from latency_models.kernel_table import KernelTable
from latency_models.regressors import check_name
from latency_models.roofline import fit_roofline
from latency_models.shapes import IntArray, LayerShape
from latency_models.stairs import FEW_LANES_MIN, Stair, Step, out_step
from latency_models.surface import Surface, fit_surface

#: Rows from which a template carries a mean of its own (four coefficients and something to judge them by).
_OWN_MEAN_ROWS = 6
#: Largest lookup grid in cells; larger templates are predicted pair by pair.
_GRID_CELLS = 1 << 22


class KernelModel:
    """Kernels of one device; predictions are of kernels in networks of one footprint, unless told otherwise.

    Args:
        table: measured kernels.
        regressor: file name of the regressor for templates without a surface of their own.
        lanes: float32 numbers of a vector register.
        seed: of the regressor.

    Attributes:
        fetch: what other footprints cost.
        restated: the measured kernels as a network of one footprint has them.

    Raises:
        KernelTableError: the table is empty.
        UnknownRegressorError: no regressor has this name.
    """

    def __init__(self, table: KernelTable, regressor: str, lanes: int, seed: int = 0) -> None:
        if not table:
            raise KernelTableError("no measured kernels to fit on: profile the device first")
        check_name(regressor)
        self.table = table
        self.lanes = lanes
        self.regressor_name = regressor
        self._seed = seed
        self.fetch = fit_fetch_cost(table, lanes)
        self.restated = self.fetch.restated(table)
        self._roofline = fit_roofline(self.restated, lanes)
        self._rows = self.restated.by_template()
        self._surfaces: dict[LayerShape, Surface] = {}
        self._grids: dict[LayerShape, _Grid] = {}

    @functools.cached_property
    def regressor(self) -> KernelRegressor:
        """The regressor, fitted when first needed: a well profiled network never asks for it."""
        return KernelRegressor(self.restated, self.regressor_name, self.lanes, self._seed)

    def measured_rows(self, template: LayerShape) -> int:
        """How many kernels of ``template`` were measured."""
        return len(self._rows.get(template, ()))

    def surface(self, template: LayerShape) -> Surface:
        """Fitted surface of a measured template."""
        if template not in self._surfaces:
            self._surfaces[template] = self._fit_surface(template)
        return self._surfaces[template]

    def predict(
        self, template: LayerShape, in_channels: IntArray, out_channels: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation in ms at each pair of widths, two ``(n,)`` arrays."""
        if template in self._rows:
            return self.surface(template).predict(in_channels, out_channels)
        log_mean, log_std = self.regressor.predict_log(template, in_channels, out_channels)
        mean_ms = np.exp(log_mean)
        return mean_ms, mean_ms * log_std

    def look_up(
        self, template: LayerShape, in_channels: IntArray, out_channels: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """As :meth:`predict`, for arrays of any one shape and a great many candidates: every pair is computed once."""
        if template not in self._grids:
            self._grids[template] = _Grid()
        grid = self._grids[template]
        rows, columns = int(in_channels.max(initial=0)) + 1, int(out_channels.max(initial=0)) + 1
        if max(rows, grid.rows) * max(columns, grid.columns) > _GRID_CELLS:
            pairs, place = np.unique(np.stack([in_channels.ravel(), out_channels.ravel()]), axis=1, return_inverse=True)
            mean_ms, std_ms = self.predict(template, pairs[0], pairs[1])
            return mean_ms[place].reshape(in_channels.shape), std_ms[place].reshape(in_channels.shape)
        grid.grow(rows, columns)
        cells = in_channels * grid.columns + out_channels
        mean = grid.mean_ms[cells]
        if np.isnan(mean).any():
            missing = np.unique(cells[np.isnan(mean)])
            pair = missing // grid.columns, missing % grid.columns
            grid.mean_ms[missing], grid.std_ms[missing] = self.predict(template, *pair)
            mean = grid.mean_ms[cells]
        return mean, grid.std_ms[cells]

    def _fit_surface(self, template: LayerShape) -> Surface:
        rows = self._rows[template]
        points = np.stack(widths(rows.shapes), axis=1)
        steps = candidate_steps(template, self.lanes)
        if len(rows) >= _OWN_MEAN_ROWS:
            return fit_surface(points, rows.latency_ms, rows.spread_ms, steps)
        return fit_surface(
            points,
            rows.latency_ms,
            rows.spread_ms,
            steps[:1],
            mean=functools.partial(self._roofline.predict_log, template),
            prior_std=UNKNOWN_ERROR,
        )


def candidate_steps(template: LayerShape, lanes: int) -> list[tuple[Step, Step]]:
    """Pairs of input and output steps that the template's kernel may have, the expected pair first.

    A blocked layout computes whole blocks of output channels, or fewer where these are few, and loops over exact input
    channels.
    """
    blocks = [int(digits) for digits in re.findall(r"\d+", template.layout)]
    block = blocks[0] if blocks else lanes
    few = Stair.of(block)
    expected: tuple[Step, Step] = (1, 1)
    if blocks:
        expected = (1 if mixes_channels(template) else block, few if out_step(template, block) == few else block)
    steps = sorted({1, lanes, block})
    others: list[tuple[Step, Step]] = [(i, o) for i in steps for o in steps]
    if mixes_channels(template) and block >= FEW_LANES_MIN:
        others.append((1, few))
    return [expected, *(pair for pair in others if pair != expected)]


class _Grid:
    """Predictions of one template by pair of widths, NaN where not asked for yet; rows are input channels."""

    def __init__(self) -> None:
        self.rows = self.columns = 0
        self.mean_ms: FloatArray = np.empty(0)
        self.std_ms: FloatArray = np.empty(0)

    def grow(self, rows: int, columns: int) -> None:
        """Make room for these widths, keeping what is known."""
        if rows <= self.rows and columns <= self.columns:
            return
        rows, columns = max(rows, self.rows), max(columns, self.columns)
        self.mean_ms = self._grown(self.mean_ms, rows, columns)
        self.std_ms = self._grown(self.std_ms, rows, columns)
        self.rows, self.columns = rows, columns

    def _grown(self, old: FloatArray, rows: int, columns: int) -> FloatArray:
        new = np.full((rows, columns), np.nan)
        new[: self.rows, : self.columns] = old.reshape(self.rows, self.columns)
        return new.ravel()
