"""Latency of whole networks on one device: measured kernels, a regressor where there are none, and a calibration."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sklearn

from latency_models.calibration import (
    TEMPLATE_STDS,
    TERMS,
    TRANSFER_STDS,
    Calibration,
    NetworkTerms,
    amounts,
    concatenate,
    fit_calibration,
)
from latency_models.errors import ModelFileError
from latency_models.evaluation import MeasuredNetwork, held_out_error
from latency_models.features import (
    FEATURES_VERSION,
    FloatArray,
    activation_bytes,
    rows_by_template,
    weight_bytes,
    widths,
)
from latency_models.footprint import fit_fetch_cost
from latency_models.kernel_model import KernelModel
from latency_models.kernel_regressor import choose_regressor
from latency_models.kernel_table import KernelTable
from latency_models.shapes import IntArray, LayerShape, NetworkShapes
from latency_models.stairs import finest

#: Raise it when equal rows give another prediction; a saved model of another version is refitted all the same, and
#: its card says which version wrote it.
MODEL_VERSION = 4

#: 1: kernels, networks and recipe as plain rows. 2: kernels know the footprint of the network that they were timed in.
#: 3: the recipe knows what averaging took from the networks' latencies.
_SCHEMA_VERSION = 3

#: What fetching costs less in small networks than in usual ones leaves this share of a layer's time in any case.
_LEAST_SHARE = 0.25

#: Relative standard deviation of a device's level from one occasion to the next (seen: 0.1 to 0.9 % for all networks
#: of a family at once, an hour or a minute apart, with the reference kernel at one level). One profile cannot tell it.
_OCCASION_STD = 0.003

#: Candidates predicted at a time: arrays of candidates x layers stay in a core's own cache.
_CHUNK = 1 << 11


@dataclass(frozen=True)
class Recipe:
    """How a model is fitted on its rows.

    Attributes:
        regressor: file name of the regressor.
        lanes: float32 numbers of a vector register of the device.
        seed: of all that is random.
        source: device whose kernels these are, put to this one's scale; "" for its own.
        averaged_std: relative standard deviation that the networks' latencies lost by being averages of measurements
            made at different times; a single measurement has it again.
    """

    regressor: str = "forest"
    lanes: int = 16
    seed: int = 0
    source: str = ""
    averaged_std: float = 0.0


class LatencyModel:
    """Latency of any network of known layer shapes on one device; made by :meth:`fit` or :meth:`from_json`.

    Attributes:
        recipe: how it was fitted.
        table: measured kernels.
        networks: networks measured whole that the calibration was fitted on.
        kernels: model of single kernels.
        calibration: from the sum of kernels to the network.
    """

    def __init__(self, recipe: Recipe, kernels: KernelModel, networks: Sequence[MeasuredNetwork]) -> None:
        self.recipe = recipe
        self.kernels = kernels
        self.table = kernels.table
        self.networks = tuple((tuple(shapes), float(latency_ms)) for shapes, latency_ms in networks)
        self.written_by: dict[str, Any] | None = None
        self.calibration = self._calibrate()

    @classmethod
    def fit(
        cls,
        table: KernelTable,
        networks: Sequence[MeasuredNetwork] = (),
        regressor: str = "forest",
        lanes: int = 16,
        seed: int = 0,
        source: str = "",
        averaged_std: float = 0.0,
    ) -> LatencyModel:
        """Fit on measured kernels and a few networks measured whole.

        Args:
            table: measured kernels, at least one; better dozens a template.
            networks: layers and latency in ms of each network; 5 to 10 do, without any the spread stays wide.
            regressor: for kernels of templates that were hardly measured; ``auto`` chooses by grouped cross-validation.
            lanes: float32 numbers of a vector register of the device.
            seed: of all that is random.
            source: device whose kernels these are, put to this one's scale; "" for its own.
            averaged_std: relative standard deviation that the latencies of ``networks`` lost by being averages.

        Raises:
            KernelTableError: the table is empty.
            UnknownRegressorError: no regressor has this name.
        """
        # The recipe keeps the choice: choosing takes many fits, and a saved model is refitted on the same rows.
        name = regressor
        if regressor == "auto" and table:
            name, _ = choose_regressor(fit_fetch_cost(table, lanes).restated(table), lanes, seed)
        return cls(Recipe(name, lanes, seed, source, averaged_std), KernelModel(table, name, lanes, seed), networks)

    def recalibrate(self, networks: Sequence[MeasuredNetwork]) -> LatencyModel:
        """The same kernels, calibrated on ``networks`` in place of those so far; takes milliseconds."""
        return LatencyModel(self.recipe, self.kernels, networks)

    def predict(self, shapes: NetworkShapes) -> tuple[FloatArray, FloatArray]:
        """Mean in ms of every candidate, and standard deviation of a measurement of it, two ``(n,)`` arrays."""
        means, stds = [np.empty(0)], [np.empty(0)]
        for start in range(0, len(shapes), _CHUNK):
            part = slice(start, start + _CHUNK)
            mean_ms, std_ms = self.calibration.predict(
                self._terms(shapes.templates, shapes.in_channels[part], shapes.out_channels[part])
            )
            means.append(mean_ms)
            stds.append(np.hypot(std_ms, np.hypot(_OCCASION_STD, self.recipe.averaged_std) * mean_ms))
        return np.concatenate(means), np.concatenate(stds)

    def predict_networks(self, networks: Sequence[tuple[LayerShape, ...]]) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation in ms of networks of any families, two ``(n,)`` arrays."""
        mean_ms, std_ms = np.empty(len(networks)), np.empty(len(networks))
        for rows, shapes in _families(networks):
            mean_ms[rows], std_ms[rows] = self.predict(shapes)
        return mean_ms, std_ms

    def interval_factor(self, level: float = 0.9) -> float:
        """Half-width of the intervals that hold a share ``level`` of networks, in standard deviations of a prediction.

        Conformal: from the residuals of networks left out of the calibration.
        """
        return self.calibration.interval_factor(level)

    def kernel_doubt(self, shapes: NetworkShapes) -> FloatArray:
        """Standard deviation of the sum of each candidate's kernels, as a share of it, ``(n,)``."""
        terms = self._terms(shapes.templates, shapes.in_channels, shapes.out_channels)
        return np.asarray(terms.kernel_std_ms / terms.sum_ms, dtype=np.float64)

    def predict_kernels(
        self, shapes: Sequence[LayerShape], footprint_bytes: float = 0.0
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation in ms of single kernels, two ``(n,)`` arrays.

        Args:
            shapes: the kernels.
            footprint_bytes: weights of the network that they run in; 0 for kernels called again and again.
        """
        mean_ms, std_ms = np.empty(len(shapes)), np.empty(len(shapes))
        for template, rows in rows_by_template(shapes).items():
            at = widths([shapes[row] for row in rows])
            mean, std_ms[rows] = self.kernels.predict(template, *at)
            excess = self.kernels.fetch.excess_ms(template, *at, footprint_bytes)
            mean_ms[rows] = np.maximum(mean + excess, _LEAST_SHARE * mean)
        return mean_ms, std_ms

    def notes(self, templates: Sequence[LayerShape]) -> list[str]:
        """What a user should know before trusting predictions for a network of these layers."""
        strange = [t for t in dict.fromkeys(template.template for template in templates) if t not in self._profiled]
        notes = [f"{describe(template)} was never measured here: predicted by a regressor" for template in strange]
        if self.recipe.source:
            notes.append(f"no kernel was measured here: they are those of {self.recipe.source}, put to scale")
        if not self.networks:
            notes.append("no network was measured whole: sums of kernels are not calibrated")
        return notes

    def channel_steps(self) -> dict[LayerShape, tuple[int, int]]:
        """Step of the staircase over input and output channels of every template measured well enough to tell.

        Where it has steps of two sizes, the smaller one.
        """
        surfaces = {template: self.kernels.surface(template) for template in sorted(self._profiled)}
        return {template: (finest(surface.in_step), finest(surface.out_step)) for template, surface in surfaces.items()}

    @functools.cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """Held-out errors by what was left out.

        ``networks``: whole networks, left out of the calibration; ``new_templates``: kernels, left out by template.
        """
        return {
            "networks": held_out_error(self.recalibrate, self.networks, seed=self.recipe.seed),
            "new_templates": self.kernels.regressor.scores,
        }

    def card(self) -> dict[str, Any]:
        """What the model is, made of what, how good: plain data for JSON."""
        calibration = self.calibration
        return {
            **self._versions(),
            "recipe": asdict(self.recipe),
            "regressor": self.kernels.regressor_name,
            "data_digest": self.data_digest,
            "kernels": len(self.table),
            "templates": len(self._profiled),
            "networks": len(self.networks),
            "calibration": {
                **dict(zip(TERMS, calibration.coefficients[: len(TERMS)].tolist(), strict=True)),
                "noise": calibration.noise,
                "spread_scale": calibration.spread_scale,
            },
            "scores": self.scores,
            "written_by": self.written_by,
        }

    @property
    def data_digest(self) -> str:
        """SHA-256 of the measured rows, as hexadecimal digits."""
        return _digest(self._rows())

    def to_json(self) -> str:
        """Measured rows and recipe; :meth:`from_json` refits them."""
        rows = self._rows()
        document = {**self._versions(), "recipe": asdict(self.recipe), "data_digest": _digest(rows), **rows}
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str) -> LatencyModel:
        """Refit a saved model on its rows, whichever version wrote it.

        Raises:
            ModelFileError: the text is not a saved model.
            ModelFileError: it was written by a newer schema.
            ModelFileError: its rows were changed.
        """
        try:
            data = json.loads(text)
            schema = data["schema_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelFileError(f"not a saved latency model ({error!r}): profile the device again") from error
        if schema > _SCHEMA_VERSION:
            raise ModelFileError(f"saved by schema {schema}, newer than {_SCHEMA_VERSION}: update this program")
        try:
            if _digest({name: data[name] for name in ("kernels", "measured_networks")}) != data["data_digest"]:
                raise ModelFileError("the rows do not have the digest they were saved with: profile the device again")
            table = KernelTable.from_dict(data["kernels"])
            model = cls.fit(table, _networks_from_dict(data["measured_networks"]), **data["recipe"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ModelFileError(f"damaged latency model ({error!r}): profile the device again") from error
        model.written_by = {name: data.get(name) for name in model._versions()}
        return model

    @property
    def _profiled(self) -> set[LayerShape]:
        return {shape.template for shape in self.table}

    def _calibrate(self) -> Calibration:
        if not self.networks:
            return fit_calibration(None, np.empty(0))
        terms, order = self.terms([shapes for shapes, _ in self.networks])
        latency_ms = np.array([latency_ms for _, latency_ms in self.networks])
        return fit_calibration(terms, latency_ms[order], TRANSFER_STDS if self.recipe.source else TEMPLATE_STDS)

    def terms(self, networks: Sequence[tuple[LayerShape, ...]]) -> tuple[NetworkTerms, IntArray]:
        """What the latency of networks is linear in, family by family, and the row numbers they came from."""
        order, parts = [], []
        for rows, shapes in _families(networks):
            parts.append(self._terms(shapes.templates, shapes.in_channels, shapes.out_channels))
            order.append(rows)
        return concatenate(parts), np.concatenate(order)

    def _terms(self, layers: tuple[LayerShape, ...], in_channels: IntArray, out_channels: IntArray) -> NetworkTerms:
        columns = _columns(layers)
        n = len(in_channels)
        by_template_ms, variance = np.empty((n, len(columns))), np.zeros(n)
        weights, activations = np.empty(in_channels.shape), np.zeros(n)
        for index, (template, layer) in enumerate(columns.items()):
            widths_in, widths_out = in_channels[:, layer], out_channels[:, layer]
            mean_ms, std_ms = self.kernels.look_up(template, widths_in, widths_out)
            by_template_ms[:, index] = mean_ms.sum(axis=1, dtype=np.float64)
            # One template's errors go the same way (it is one surface); those of different templates do not.
            variance += std_ms.sum(axis=1, dtype=np.float64) ** 2
            weights[:, layer] = weight_bytes(template, widths_in, widths_out)
            activations += activation_bytes(template, widths_in, widths_out).sum(axis=1)
        price_ms = self.kernels.fetch.price_ms(weights.sum(axis=1))
        for index, (template, layer) in enumerate(columns.items()):
            fetched = self.kernels.fetch.exposure(template) * weights[:, layer].sum(axis=1)
            usual_ms = by_template_ms[:, index]
            by_template_ms[:, index] = np.maximum(usual_ms + fetched * price_ms, _LEAST_SHARE * usual_ms)
        other = amounts(len(layers), weights, activations)
        return NetworkTerms(tuple(columns), by_template_ms, np.sqrt(variance), other)

    def _rows(self) -> dict[str, Any]:
        return {"kernels": self.table.as_dict(), "measured_networks": _networks_as_dict(self.networks)}

    @staticmethod
    def _versions() -> dict[str, Any]:
        return {
            "schema_version": _SCHEMA_VERSION,
            "model_version": MODEL_VERSION,
            "features_version": FEATURES_VERSION,
            "scikit_learn": sklearn.__version__,
            "numpy": np.__version__,
        }


@functools.lru_cache(maxsize=64)
def _columns(layers: tuple[LayerShape, ...]) -> dict[LayerShape, IntArray]:
    """Layers of every template; a search asks for those of the same network thousands of times."""
    return rows_by_template(layers)


def _families(networks: Sequence[tuple[LayerShape, ...]]) -> list[tuple[IntArray, NetworkShapes]]:
    """Networks of equal templates as arrays, with the row numbers they came from."""
    rows: dict[tuple[LayerShape, ...], list[int]] = {}
    for row, shapes in enumerate(networks):
        rows.setdefault(tuple(shape.template for shape in shapes), []).append(row)
    families = []
    for templates, members in rows.items():
        pairs = [widths(networks[row]) for row in members]
        family = NetworkShapes(templates, np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs]))
        families.append((np.array(members, dtype=np.int64), family))
    return families


def _networks_as_dict(networks: Sequence[MeasuredNetwork]) -> dict[str, Any]:
    """Templates once, then each network as rows of template number and widths."""
    templates = list(dict.fromkeys(shape.template for shapes, _ in networks for shape in shapes))
    number = {template: index for index, template in enumerate(templates)}
    rows = [
        {"layers": [[number[s.template], s.in_channels, s.out_channels] for s in shapes], "latency_ms": latency_ms}
        for shapes, latency_ms in networks
    ]
    return {"templates": [template.as_dict() for template in templates], "rows": rows}


def _networks_from_dict(data: Mapping[str, Any]) -> list[MeasuredNetwork]:
    templates = [LayerShape.from_dict(template) for template in data["templates"]]
    return [
        (tuple(templates[t].with_channels(c_in, c_out) for t, c_in, c_out in row["layers"]), row["latency_ms"])
        for row in data["rows"]
    ]


def _digest(rows: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def describe(template: LayerShape) -> str:
    """A layer without its widths, as people say it."""
    kernel = "x".join(map(str, template.kernel))
    return f"{template.op} {kernel} at {template.height}x{template.width}"
