"""Whose turn it is on a device: one job at a time, held by a lease in the store that ends when its holder dies."""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from device_agents.errors import DeviceBusy
from hwprune.errors import StoreError
from hwprune.measurement import holder
from hwprune.store import Lease, Leases

_log = logging.getLogger(__name__)

#: A holder renews its lease this often.
HEARTBEAT_S = 5.0
#: A lease that was not renewed for so long is dead; on the system of its holder that is known at once.
EXPIRES_S = 30.0

_POLL_S = 0.2


class Hold:
    """A device that is kept to this process, renewed by a thread while the context lasts.

    Args:
        leases: where it is entered.
        lease: what was entered.
    """

    def __init__(self, leases: Leases, lease: Lease) -> None:
        self._leases = leases
        self._lease = lease
        self._is_lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease of {lease.device}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that nobody has taken the device over; who stands still for too long counts as dead.

        Raises:
            DeviceBusy: another job has it, or had it.
        """
        if self._is_lost:
            found = self._leases.find(self._lease.device)
            raise DeviceBusy(
                f"device {self._lease.device!r} was given to {_shown(found)}, because this process stood still for "
                f"more than {EXPIRES_S:.0f} s: start it again when that job has ended"
            )

    def end(self) -> None:
        """Give the device back."""
        self._ended.set()
        self._thread.join()
        try:
            self._leases.release(self._lease)
        except StoreError as error:
            _log.warning("the lease of %s is left to expire: %s", self._lease.device, error)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            # A store that cannot be written for a moment is tried again: nobody else can take the lease there either.
            with contextlib.suppress(StoreError):
                if not self._leases.renew(self._lease):
                    self._is_lost = True
                    return


@contextlib.contextmanager
def lease(
    leases: Leases, device: str, *, wait_s: float = 0.0, say: Callable[[str], None] = _log.warning
) -> Iterator[Hold]:
    """Keep ``device`` to this process while the context lasts.

    Args:
        leases: of the store that all who use the device share.
        device: the device's name.
        wait_s: how long to wait for another holder to end.
        say: told once who holds the device when there is something to wait for.

    Raises:
        DeviceBusy: another job held it all the time.
        StoreError: the store cannot be read or written.
    """
    hold = Hold(leases, _take(leases, device, wait_s, say))
    try:
        yield hold
    finally:
        hold.end()


def _take(leases: Leases, device: str, wait_s: float, say: Callable[[str], None]) -> Lease:
    """Enter a lease as soon as the device is free or its holder dead."""
    now_s = datetime.datetime.now(datetime.UTC).timestamp()
    wanted = Lease(device, uuid.uuid4().hex, holder.described(), holder.identity(), now_s)
    give_up = time.monotonic() + wait_s
    seen, seen_at, said = None, time.monotonic(), False
    while True:
        found = leases.find(device)
        if found != seen:
            seen, seen_at = found, time.monotonic()
        is_dead = found is not None and (holder.is_gone(found.process) or time.monotonic() - seen_at > EXPIRES_S)
        if found is None or is_dead:
            if leases.take(wanted, instead_of=found):
                return wanted
            continue  # another one was quicker
        if time.monotonic() >= give_up:
            raise DeviceBusy(f"device {device!r} is used by {_shown(found)}: wait until that job has ended, or end it")
        if not said:
            say(f"device {device!r} is used by {_shown(found)}: waiting for up to {wait_s:.0f} s")
            said = True
        time.sleep(_POLL_S)


def _shown(found: Lease | None) -> str:
    if found is None:
        return "another process"
    since = datetime.datetime.fromtimestamp(found.since_s, datetime.UTC).isoformat(timespec="seconds")
    return f"{found.holder} since {since}"
