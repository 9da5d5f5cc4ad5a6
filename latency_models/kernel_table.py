"""Measured kernels of one device."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from latency_models.errors import KernelTableError
from latency_models.features import FloatArray, rows_by_template
from latency_models.shapes import IntArray, LayerShape


@dataclass(frozen=True)
class KernelTime:
    """One measured kernel.

    Attributes:
        latency_ms: the estimate, more than 0.
        spread_ms: standard error of the estimate; 0 where it is not known.
        footprint_bytes: weights that were read between two calls: of the network that it was timed in. 0 where it was
            timed alone, by its own.
    """

    latency_ms: float
    spread_ms: float = 0.0
    footprint_bytes: float = 0.0


class KernelTable(Mapping[LayerShape, KernelTime]):
    """Measured kernels of one device, one row a shape; never changes, growing makes a new table.

    Args:
        rows: measured kernels, as :class:`KernelTime` or as plain milliseconds.

    Raises:
        KernelTableError: a latency is not a finite number above 0.
        KernelTableError: a spread or a footprint is not a finite number from 0.
    """

    def __init__(self, rows: Mapping[LayerShape, KernelTime | float] | None = None) -> None:
        times = {
            shape: time if isinstance(time, KernelTime) else KernelTime(float(time))
            for shape, time in (rows or {}).items()
        }
        for shape, time in times.items():
            if not (math.isfinite(time.latency_ms) and time.latency_ms > 0):
                raise KernelTableError(f"latency of {shape} is {time.latency_ms} ms: leave failed measurements out")
            if not (math.isfinite(time.spread_ms) and time.spread_ms >= 0):
                raise KernelTableError(f"spread of {shape} is {time.spread_ms} ms: use 0 where it is not known")
            if not (math.isfinite(time.footprint_bytes) and time.footprint_bytes >= 0):
                raise KernelTableError(
                    f"footprint of {shape} is {time.footprint_bytes} bytes: use 0 where it ran alone"
                )
        # Sorted, so that neither the digest nor a fitted model depends on the order of measuring.
        self._times = {shape: times[shape] for shape in sorted(times)}

    def __getitem__(self, shape: LayerShape) -> KernelTime:
        return self._times[shape]

    def __iter__(self) -> Iterator[LayerShape]:
        return iter(self._times)

    def __len__(self) -> int:
        return len(self._times)

    @property
    def shapes(self) -> tuple[LayerShape, ...]:
        """Measured shapes, sorted."""
        return tuple(self._times)

    @property
    def latency_ms(self) -> FloatArray:
        """Latencies in the order of :attr:`shapes`, ``(n,)``."""
        return np.array([time.latency_ms for time in self._times.values()], dtype=np.float64)

    @property
    def spread_ms(self) -> FloatArray:
        """Standard errors in the order of :attr:`shapes`, ``(n,)``."""
        return np.array([time.spread_ms for time in self._times.values()], dtype=np.float64)

    @property
    def footprint_bytes(self) -> FloatArray:
        """Footprints in the order of :attr:`shapes`, ``(n,)``."""
        return np.array([time.footprint_bytes for time in self._times.values()], dtype=np.float64)

    def by_template(self) -> dict[LayerShape, KernelTable]:
        """The table split by template: kernels that differ in their widths alone."""
        shapes = self.shapes
        return {
            template: self.subset(shapes[row] for row in rows) for template, rows in rows_by_template(shapes).items()
        }

    def subset(self, shapes: Iterable[LayerShape]) -> KernelTable:
        """The rows of ``shapes`` alone."""
        return KernelTable({shape: self._times[shape] for shape in shapes})

    def take(self, rows: IntArray) -> KernelTable:
        """The rows of these numbers in :attr:`shapes`."""
        shapes = self.shapes
        return self.subset(shapes[row] for row in rows)

    def merge(self, newer: Mapping[LayerShape, KernelTime]) -> KernelTable:
        """Both tables in one; where both measured a shape, ``newer`` holds."""
        return KernelTable({**self._times, **newer})

    def scaled(self, factor: float) -> KernelTable:
        """The kernels of a device on which all of them take ``factor`` times as long."""
        return KernelTable(
            {
                shape: KernelTime(factor * time.latency_ms, factor * time.spread_ms, time.footprint_bytes)
                for shape, time in self.items()
            }
        )

    @classmethod
    def averaged(cls, rows: Iterable[tuple[LayerShape, KernelTime]]) -> KernelTable:
        """One row a shape from many measurements of it; those with a small spread count for more.

        What they disagree about stays in the spread; the footprint is theirs in the middle.
        """
        found: dict[LayerShape, list[KernelTime]] = {}
        for shape, time in rows:
            found.setdefault(shape, []).append(time)
        return cls({shape: _average(times) for shape, times in found.items()})

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: templates once, then one row a kernel."""
        templates = list(rows_by_template(self.shapes))
        number = {template: index for index, template in enumerate(templates)}
        rows = [
            [
                *(number[shape.template], shape.in_channels, shape.out_channels),
                *(time.latency_ms, time.spread_ms, time.footprint_bytes),
            ]
            for shape, time in self._times.items()
        ]
        return {"templates": [template.as_dict() for template in templates], "rows": rows}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> KernelTable:
        """Inverse of :meth:`as_dict`; rows of former versions have no footprint."""
        templates = [LayerShape.from_dict(template) for template in data["templates"]]
        return cls(
            {
                templates[number].with_channels(c_in, c_out): KernelTime(*time)
                for number, c_in, c_out, *time in data["rows"]
            }
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the rows, as hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def _average(times: list[KernelTime]) -> KernelTime:
    latency_ms = np.array([time.latency_ms for time in times])
    spread_ms = np.array([time.spread_ms for time in times])
    footprint_bytes = float(np.mean([time.footprint_bytes for time in times]))
    if len(times) == 1 or not spread_ms.all():
        return KernelTime(float(latency_ms.mean()), float(spread_ms.max()), footprint_bytes)
    weights = spread_ms**-2 / np.sum(spread_ms**-2)
    mean_ms = float(weights @ latency_ms)
    between_ms2 = float(weights @ (latency_ms - mean_ms) ** 2) / (len(times) - 1)
    return KernelTime(mean_ms, float(np.sqrt(1 / np.sum(spread_ms**-2) + between_ms2)), footprint_bytes)
