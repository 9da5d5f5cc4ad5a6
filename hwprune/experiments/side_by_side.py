"""Work for several devices side by side, each in a process of its own: what befalls one costs its own part alone.

Processes and not threads: a crash or a full memory ends one part and not all, torch's random numbers and thread counts
are those of a single command (so that a device's result is the same in company), and an interruption reaches native
code. They are forked from one server that has imported what all of them need, which makes them cheap: 30 of them share
its memory. What they may share beyond that lies in the store and in the home folder, where others find it, too.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from hwprune.errors import HwpruneError
from hwprune.experiments.part import Work, serve
from hwprune.experiments.progress import Console, Steps

#: Imported once, for all parts.
PRELOADED = ("hwprune.experiments.profile", "hwprune.experiments.run")

#: Parts that are worked on at the same time; more wait for their turn.
AT_ONCE = 32

#: What an interrupted part may take to let go of its device.
GRACE_S = 5.0

Failure = TypeVar("Failure")

#: Turns what a part raised into plain data.
Explain = Callable[[BaseException], Failure]


class PartCrashed(HwpruneError):  # noqa: N818  -- it tells what happened
    """A part whose process ended without a word."""


@dataclass(frozen=True)
class Part(Generic[Failure]):
    """What became of one part.

    Attributes:
        name: its name.
        result: what its work returned; None where it failed.
        failure: why it failed; None where it did not.
        resumable: folder of the run that it leaves to be gone on with.
        seconds: wall time.
    """

    name: str
    result: Any | None
    failure: Failure | None
    resumable: Path | None
    seconds: float


def run_side_by_side(
    names: Sequence[str],
    work: Work,
    *,
    explain: Explain[Failure],
    console: Console,
    alone: Collection[str] = (),
    at_once: int = AT_ONCE,
) -> list[Part[Failure]]:
    """Do the work of every part; the failure of one is data and stops no other.

    Args:
        names: of the parts, each once.
        work: a function of a module, or a ``functools.partial`` of one.
        explain: the same.
        console: shows a line a part.
        alone: names whose work waits until all the others are done, and each other.
        at_once: parts that are worked on at the same time.

    Returns:
        What became of them, in the order of their names.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    waiting = deque(name for name in names if name not in alone)
    last = deque(name for name in names if name in alone)
    done: dict[str, Part[Failure]] = {}
    running: list[_Worker[Failure]] = []
    with console.side_by_side(names) as consoles, _ending(running, console):
        while waiting or last or running:
            while len(running) < at_once and (waiting or (last and not running)):
                name = (waiting or last).popleft()
                running.append(_Worker(context, name, work, explain, consoles[name]))
            for worker in _told(running):
                part = worker.attend()
                if part is not None:
                    done[part.name] = part
                    running.remove(worker)
    return [done[name] for name in names]


@contextlib.contextmanager
def _ending(running: Sequence[_Worker[Failure]], console: Console) -> Iterator[None]:
    """End what still runs when the context is left early: a moment for itself, then at once."""
    try:
        yield
    finally:
        for worker in running:
            worker.interrupt()
        give_up = time.monotonic() + GRACE_S
        for worker in running:
            worker.end(give_up)
            if worker.resumable is not None:
                console.warn(f"{worker.name} is resumed with: hwprune search --resume {worker.resumable}")


def _told(running: Sequence[_Worker[Failure]]) -> list[_Worker[Failure]]:
    """Workers that have said something, or have ended."""
    ready = set(wait([each for worker in running for each in worker.signs]))
    return [worker for worker in running if ready.intersection(worker.signs)]


class _Worker(Generic[Failure]):
    """The process of one part, seen from outside."""

    def __init__(
        self,
        context: multiprocessing.context.ForkServerContext,
        name: str,
        work: Work,
        explain: Explain[Failure],
        console: Console,
    ) -> None:
        self.name = name
        self.resumable: Path | None = None
        self._explain = explain
        self._console = console
        self._started = time.monotonic()
        self._progress: dict[int, tuple[contextlib.ExitStack, Steps]] = {}
        self._connection, theirs = context.Pipe()
        self._process: ForkServerProcess = context.Process(
            target=serve, args=(theirs, name, work, explain), name=f"hwprune {name}"
        )
        self._process.start()
        theirs.close()

    @property
    def signs(self) -> tuple[Connection, int]:
        """What becomes ready when there is something to attend to."""
        return self._connection, self._process.sentinel

    def attend(self) -> Part[Failure] | None:
        """Take one message; the part, if that was its last."""
        try:
            if not self._connection.poll():
                # The process has ended: what it said before has been heard.
                return self._ended()
            kind, *details = self._connection.recv()
        except (EOFError, OSError):
            return self._ended()
        if kind == "done":
            return self._part(details[0], None)
        if kind == "failed":
            failure, trace = details
            logging.getLogger(__name__).debug("%s: %s", self.name, trace)
            return self._part(None, failure)
        getattr(self, f"_on_{kind}")(*details)
        return None

    def interrupt(self) -> None:
        """Ask it to end, as Ctrl-C does."""
        if self._process.pid is not None and self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGINT)

    def end(self, give_up: float) -> None:
        """See that it has ended: by itself until ``give_up``, by a monotonic clock, then by force."""
        self._process.join(max(0.0, give_up - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._close()

    def _on_info(self, message: str) -> None:
        self._console.info(message)

    def _on_warn(self, message: str) -> None:
        self._console.warn(message)

    def _on_resumable(self, folder: Path | None) -> None:
        self.resumable = folder

    def _on_begin(self, number: int, total: float | None, description: str) -> None:
        shown = contextlib.ExitStack()
        self._progress[number] = shown, shown.enter_context(self._console.progress(total, description))

    def _on_advance(self, number: int, steps: float, note: str) -> None:
        self._progress[number][1].advance(steps, note)

    def _on_finish(self, number: int) -> None:
        self._progress.pop(number)[0].close()

    def _ended(self) -> Part[Failure]:
        self._process.join()
        code = self._process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return self._part(
            None,
            self._explain(PartCrashed(f"the process that worked on {self.name} {how}: is there memory enough?")),
        )

    def _part(self, result: Any, failure: Failure | None) -> Part[Failure]:
        self._process.join(GRACE_S)
        self.end(time.monotonic())
        return Part(self.name, result, failure, self.resumable, time.monotonic() - self._started)

    def _close(self) -> None:
        for shown, _ in self._progress.values():
            shown.pop_all()  # work that was broken off has no last line
        self._progress.clear()
        self._connection.close()
