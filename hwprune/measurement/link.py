"""The way to a device that may break: the agent is started again, and what it was asked for is asked anew."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

from device_agents.client import AgentClient
from device_agents.errors import AgentLost, AgentTimeout, DeviceBusy, Unreachable

_log = logging.getLogger(__name__)

#: Work that a device is lost by so often, and comes back from each time, will not be done by asking again.
LOSSES_MAX = 3

#: How a lost device shows.
LOST = (AgentLost, AgentTimeout, Unreachable)

#: How often a device that is busy for somebody else is asked again.
BUSY_POLL_S = 2.0

Result = TypeVar("Result")


class LostByWork(AgentLost):
    """A device that comes back, and is lost again each time that it does the same work."""


class Link:
    """One device's agent, the present one; a context manager that ends it.

    Args:
        connect: starts an agent.
        waits_s: pauses before each new attempt to start one after a loss; none for no attempt.
        say: told what was lost, what is waited for, and that it is back.
    """

    def __init__(
        self,
        connect: Callable[[], AgentClient],
        *,
        waits_s: Sequence[float] = (),
        say: Callable[[str], None] = _log.warning,
    ) -> None:
        self._connect = connect
        self._waits_s = tuple(waits_s)
        self._say = say
        self._client: AgentClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def client(self, busy_wait_s: float = 0.0) -> AgentClient:
        """The agent; it is started if there is none.

        Args:
            busy_wait_s: how long to wait for a device that works for somebody else, who shares no store with us.

        Raises:
            DeviceBusy: it did so all the time.
            DeviceError: the agent cannot be started.
        """
        give_up = time.monotonic() + busy_wait_s
        said = False
        while self._client is None:
            try:
                self._client = self._connect()
            except DeviceBusy as error:
                if time.monotonic() >= give_up:
                    raise
                if not said:
                    self._say(f"{_first_line(error)}: waiting for up to {busy_wait_s:.0f} s")
                    said = True
                time.sleep(BUSY_POLL_S)
        return self._client

    def do(self, work: Callable[[AgentClient], Result]) -> Result:
        """Result of ``work``, which is begun anew with a new agent when the device is lost.

        Raises:
            LostByWork: the device comes back each time, and is lost again by this work.
            AgentLost: the device stays away.
            DeviceError: it can no longer be used for another reason, such as a changed host key.
        """
        losses, waits_s = 0, iter(self._waits_s)
        client = self._reached(waits_s)
        while True:
            try:
                return work(client)
            except LOST as error:
                self.close()
                losses += 1
                if losses == LOSSES_MAX:
                    raise LostByWork(f"lost {losses} times by the same work ({_first_line(error)})") from error
                self._say(f"the device is lost ({_first_line(error)}): connecting again")
            client = self._reached(waits_s)
            self._say("the device is back")

    def close(self) -> None:
        """End the agent."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _reached(self, waits_s: Iterator[float]) -> AgentClient:
        """The agent; where the device was lost, as soon as it is back."""
        while True:
            try:
                return self.client()
            except (*LOST, DeviceBusy) as error:  # busy: the agent that was lost may not have noticed yet
                wait_s = next(waits_s, None)
                if wait_s is None:
                    raise AgentLost(
                        f"the device stays away, {sum(self._waits_s):.0f} s after it was lost ({_first_line(error)}): "
                        "what was measured is kept; see what is wrong with 'hwprune device check', then go on"
                    ) from error
            time.sleep(wait_s)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
