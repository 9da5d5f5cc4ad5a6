"""What candidates score: a property of the network alone, so that every search on any device shares it."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hwprune.records import digest
from hwprune.store.database import translated
from hwprune.store.tables import accuracies as table
from hwprune.store.tables import accuracy_protocols

#: Keys that one query asks for; databases limit the number of parameters.
_KEYS_A_QUERY = 500


@dataclass(frozen=True)
class Accuracy:
    """A candidate's metric under one protocol.

    Attributes:
        plan_key: digest of what it keeps.
        widths: kept channels of every group.
        metric: the task's metric on the validation split.
        images: images that it was taken on where the candidate was given up early; None for the whole split.
    """

    plan_key: str
    widths: tuple[int, ...]
    metric: float
    images: int | None = None


class Accuracies:
    """The accuracies of one store, by protocol: all that a metric depends on beside the plan.

    Args:
        url: of the store, for error messages.
        engine: its database.
    """

    def __init__(self, url: sa.URL, engine: sa.Engine) -> None:
        self._url = url
        self._engine = engine

    def find(self, facts: Mapping[str, Any], plan_keys: Sequence[str]) -> dict[str, Accuracy]:
        """What is known of some plans, by their key; of several accuracies the one on most images.

        Raises:
            StoreError: the store cannot be read.
        """
        protocol = digest(facts)
        rows: list[sa.Row[Any]] = []
        with translated(self._url), self._engine.connect() as connection:
            for start in range(0, len(plan_keys), _KEYS_A_QUERY):
                keys = plan_keys[start : start + _KEYS_A_QUERY]
                query = sa.select(table).where(table.c.protocol == protocol, table.c.plan_key.in_(keys))
                rows += connection.execute(query).all()
        return {found.plan_key: found for found in _by_images(rows)}

    def all(self, facts: Mapping[str, Any]) -> list[Accuracy]:
        """Everything that is known under a protocol, each plan once, in the order in which it was found out.

        Raises:
            StoreError: the store cannot be read.
        """
        query = sa.select(table).where(table.c.protocol == digest(facts)).order_by(table.c.id)
        with translated(self._url), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        best = {found.plan_key: found for found in _by_images(rows)}
        return [best[key] for key in dict.fromkeys(row.plan_key for row in rows)]

    def add(self, facts: Mapping[str, Any], found: Iterable[Accuracy]) -> None:
        """Append accuracies, all or none of them.

        Raises:
            StoreError: they cannot be written.
        """
        protocol, now_s = digest(facts), datetime.datetime.now(datetime.UTC).timestamp()
        rows = [
            {**vars(each), "widths": list(each.widths), "protocol": protocol, "found_at_s": now_s} for each in found
        ]
        if not rows:
            return
        with translated(self._url):
            self._enter(protocol, facts)
            with self._engine.begin() as connection:
                connection.execute(sa.insert(table), rows)

    def _enter(self, protocol: str, facts: Mapping[str, Any]) -> None:
        """Say what a protocol's digest stands for, once."""
        known = sa.select(accuracy_protocols.c.digest).where(accuracy_protocols.c.digest == protocol)
        with self._engine.connect() as connection:
            if connection.execute(known).first() is not None:
                return
        with contextlib.suppress(sa.exc.IntegrityError), self._engine.begin() as connection:  # another was quicker
            connection.execute(sa.insert(accuracy_protocols), {"digest": protocol, "facts": dict(facts)})


def _by_images(rows: Iterable[sa.Row[Any]]) -> list[Accuracy]:
    """Accuracies by rising number of images, those on the whole split last."""
    found = [Accuracy(row.plan_key, tuple(row.widths), row.metric, row.images) for row in rows]
    return sorted(found, key=lambda each: (each.images is None, each.images or 0))
