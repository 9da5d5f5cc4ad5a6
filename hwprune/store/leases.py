"""Who has which device: one row a device, kept by heartbeats and taken over when these end.

No clocks are compared: a lease lives as long as its count of heartbeats grows before the eyes of who waits for it. So
hosts that share a store agree, whatever their clocks say and however these jump.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from hwprune.store.database import translated
from hwprune.store.tables import leases as table


@dataclass(frozen=True)
class Lease:
    """One holding of a device.

    Attributes:
        device: its name.
        token: tells this holding from all others.
        holder: who has it, for people.
        process: who has it, for programs on the same system; "" where that does not tell.
        since_s: seconds since 1970 by the holder's clock, for people.
        heartbeat: grows by one each time that the holder renews it.
    """

    device: str
    token: str
    holder: str
    process: str
    since_s: float
    heartbeat: int = 0


class Leases:
    """The leases of one store; each method is one statement, so that of two who want a device one gets it.

    Args:
        url: of the store, for error messages.
        engine: its database.
    """

    def __init__(self, url: sa.URL, engine: sa.Engine) -> None:
        self._url = url
        self._engine = engine

    def find(self, device: str) -> Lease | None:
        """The lease of a device, dead or alive; None while it is free.

        Raises:
            StoreError: the store cannot be read.
        """
        with translated(self._url), self._engine.connect() as connection:
            row = connection.execute(sa.select(table).where(table.c.device == device)).one_or_none()
        return None if row is None else Lease(**row._mapping)

    def take(self, wanted: Lease, instead_of: Lease | None = None) -> bool:
        """Enter a lease; False where another one was quicker.

        Args:
            wanted: the new lease.
            instead_of: the dead lease that it takes the place of; it must not have been renewed since it was found.

        Raises:
            StoreError: the store cannot be written.
        """
        if instead_of is None:
            statement: sa.Insert | sa.Update = sa.insert(table)
        else:
            statement = sa.update(table).where(
                table.c.device == instead_of.device,
                table.c.token == instead_of.token,
                table.c.heartbeat == instead_of.heartbeat,
            )
        return self._change(statement.values(**vars(wanted)))

    def renew(self, lease: Lease) -> bool:
        """Give a heartbeat; False where the lease is no longer held.

        Raises:
            StoreError: the store cannot be written.
        """
        grown = {"heartbeat": table.c.heartbeat + 1}
        return self._change(sa.update(table).where(table.c.token == lease.token).values(grown))

    def release(self, lease: Lease) -> None:
        """Give the device back, if it is still held.

        Raises:
            StoreError: the store cannot be written.
        """
        self._change(sa.delete(table).where(table.c.token == lease.token))

    def _change(self, statement: sa.Insert | sa.Update | sa.Delete) -> bool:
        """Whether the statement changed a row."""
        with translated(self._url):
            try:
                with self._engine.begin() as connection:
                    return connection.execute(statement).rowcount == 1
            except sa.exc.IntegrityError:
                return False  # the device has a row already
