"""The store: measurements are appended, found again under equal conditions, and never changed."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from hwprune.records import PROTOCOL_VERSION, Conditions, Measurement, digest
from hwprune.store.accuracies import Accuracies
from hwprune.store.artifacts import DEFAULT_CAP_BYTES, ArtifactStore
from hwprune.store.database import BUSY_TIMEOUT_S, location_of, open_database, translated
from hwprune.store.leases import Leases
from hwprune.store.tables import measurements as table
from latency_models.shapes import LayerShape

#: Grades that are served from the store; a C is kept as evidence, and measured again when it is asked for.
SERVED = ("A", "B")

#: Measurements that are asked what they know of a device.
NEWEST = 64


def shape_key(shape: LayerShape) -> str:
    """Key of a kernel's measurement: digest of its layer shape."""
    return digest(shape.as_dict())


class Store:
    """Measurements in SQL and compiled libraries in a folder; a context manager.

    Attributes:
        artifacts: compiled libraries by SHA-256.
        leases: who has which device.
        accuracies: what candidates score, on any device.
    """

    def __init__(self, url: sa.URL, engine: sa.Engine, artifacts: ArtifactStore) -> None:
        self._url = url
        self._engine = engine
        self.artifacts = artifacts
        self.leases = Leases(url, engine)
        self.accuracies = Accuracies(url, engine)

    @classmethod
    def open(
        cls,
        url_or_path: str | Path,
        artifacts_folder: Path,
        *,
        cap_bytes: int = DEFAULT_CAP_BYTES,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> Self:
        """The store at a file's path or a database URL; made if absent, migrated if older.

        Args:
            url_or_path: ``store.db``, ``sqlite:///store.db`` or ``postgresql://host/name``.
            artifacts_folder: where compiled libraries lie.
            cap_bytes: how much of them :meth:`ArtifactStore.gc` leaves.
            busy_timeout_s: how long a writer waits for another process.

        Raises:
            StoreError: it is no store, is damaged, is of a newer hwprune, or cannot be reached or written.
        """
        url = location_of(url_or_path)
        return cls(url, open_database(url, busy_timeout_s), ArtifactStore(artifacts_folder, cap_bytes))

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_measurement(self, measurement: Measurement) -> None:
        """Append a measurement of a whole network.

        Raises:
            StoreError: it cannot be written.
        """
        self._insert([_row(measurement, None)])

    def add_kernel_measurements(self, rows: Iterable[tuple[LayerShape, Measurement]]) -> None:
        """Append measurements of kernels, all or none of them.

        Raises:
            StoreError: they cannot be written.
        """
        self._insert([_row(measurement, shape) for shape, measurement in rows])

    def find_measurement(self, key: str, conditions: Conditions, max_age_s: float | None = None) -> Measurement | None:
        """The newest measurement of grade A or B that was made under equal conditions.

        Args:
            key: what was measured.
            conditions: what the numbers depend on; all of it must be equal.
            max_age_s: older ones are not served.
        """
        query = self._served(max_age_s).where(table.c.key == key, table.c.conditions_digest == conditions.digest)
        rows = self._select(query.order_by(table.c.measured_at_s.desc(), table.c.id.desc()).limit(1))
        return Measurement.from_dict(rows[0].payload) if rows else None

    def measurements(self, *, key: str | None = None, device: str | None = None) -> list[Measurement]:
        """Every measurement of whole networks, failures and untrusted ones too, oldest first.

        Args:
            key: only of this artifact.
            device: only from this device.
        """
        query = sa.select(table).where(table.c.layer_shape.is_(None))
        if key is not None:
            query = query.where(table.c.key == key)
        if device is not None:
            query = query.where(table.c.device == device)
        return [Measurement.from_dict(row.payload) for row in self._select(query.order_by(table.c.id))]

    def kernel_measurements(
        self,
        fingerprint: str,
        schedule_version: str,
        *,
        device: str | None = None,
        threads: int | None = None,
        max_age_s: float | None = None,
    ) -> list[tuple[LayerShape, Measurement]]:
        """The newest measurement of grade A or B of every kernel, by this version of the protocol.

        Args:
            fingerprint: the device's.
            schedule_version: the kernels'.
            device: only those of the board of this name; others of its model have the same fingerprint.
            threads: only those run by so many threads.
            max_age_s: older ones are not served.
        """
        query = self._served(max_age_s).where(
            table.c.layer_shape.is_not(None),
            table.c.fingerprint == fingerprint,
            table.c.schedule_version == schedule_version,
            table.c.protocol_version == PROTOCOL_VERSION,
        )
        if device is not None:
            query = query.where(table.c.device == device)
        if threads is not None:
            query = query.where(table.c.threads == threads)
        newest = {row.key: row for row in self._select(query.order_by(table.c.measured_at_s, table.c.id))}
        return [(LayerShape.from_dict(row.layer_shape), Measurement.from_dict(row.payload)) for row in newest.values()]

    def reference_ms(self, device: str, fingerprint: str, schedule_version: str) -> float | None:
        """Reference level that the device's newest trusted numbers are given at; None if there are none."""
        query = self._served(None).where(
            table.c.device == device,
            table.c.fingerprint == fingerprint,
            table.c.schedule_version == schedule_version,
        )
        rows = self._select(query.order_by(table.c.measured_at_s.desc(), table.c.id.desc()).limit(1))
        return Measurement.from_dict(rows[0].payload).device_reference_ms if rows else None

    def memory_ms(self, device: str, fingerprint: str, schedule_version: str) -> float | None:
        """Fastest pass over the device's memory that its newest measurements know of; None if there are none."""
        query = self._served(None).where(
            table.c.device == device,
            table.c.fingerprint == fingerprint,
            table.c.schedule_version == schedule_version,
            table.c.layer_shape.is_(None),
        )
        rows = self._select(query.order_by(table.c.measured_at_s.desc(), table.c.id.desc()).limit(NEWEST))
        readings = [Measurement.from_dict(row.payload).memory for row in rows]
        return min((reading.fastest_ms for reading in readings if reading is not None), default=None)

    @staticmethod
    def _served(max_age_s: float | None) -> sa.Select[Any]:
        query = sa.select(table).where(table.c.trust.in_(SERVED), table.c.error.is_(None))
        if max_age_s is None:
            return query
        now_s = datetime.datetime.now(datetime.UTC).timestamp()
        return query.where(table.c.measured_at_s >= now_s - max_age_s)

    def _select(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with translated(self._url), self._engine.connect() as connection:
            return connection.execute(query).all()

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        if rows:
            with translated(self._url), self._engine.begin() as connection:
                connection.execute(sa.insert(table), rows)


def _row(measurement: Measurement, shape: LayerShape | None) -> dict[str, Any]:
    conditions, latency_ms = measurement.conditions, measurement.latency_ms
    return {
        "key": measurement.key,
        "conditions_digest": conditions.digest,
        "device": conditions.device,
        "fingerprint": conditions.fingerprint,
        "threads": conditions.threads,
        "schedule_version": conditions.schedule_version,
        "protocol_version": conditions.protocol_version,
        "trust": measurement.trust,
        "latency_ms": latency_ms if math.isfinite(latency_ms) else None,
        "measured_at_s": datetime.datetime.fromisoformat(measurement.measured_at).timestamp(),
        "error": measurement.error,
        "layer_shape": shape.as_dict() if shape else None,
        "payload": measurement.as_dict(),
    }
