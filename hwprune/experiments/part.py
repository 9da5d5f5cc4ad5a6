"""One part of work that is done side by side, in its own process: it tells its course and its end over a connection."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hwprune.experiments.progress import Console, Steps

#: The work of one part: its name, and the console to tell how it goes. It is pickled, and so is its result.
Work = Callable[[str, Console], Any]


def serve(connection: Connection, name: str, work: Work, explain: Callable[[BaseException], Any]) -> None:
    """Do the work of a part, and tell what came of it.

    Args:
        connection: to who waits for it.
        name: of the part.
        work: what to do.
        explain: turns what it raises into plain data.
    """
    os.dup2(2, 1)  # standard output is for data, and the data are told by the command
    warnings.simplefilter("ignore")  # third parties' are for those who run one device with --verbose
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    teller = Teller(connection)
    logger = logging.getLogger("hwprune")
    logger.addHandler(_Relay(teller))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        outcome: tuple[Any, ...] = ("done", work(name, teller))
    except BaseException as error:
        outcome = ("failed", explain(error), traceback.format_exc())
    teller.tell(*outcome)


def _end_with_parent(connection: Connection) -> None:
    """End this process when nobody is left to hear of it; its device is let go by that."""
    with contextlib.suppress(OSError, EOFError):
        connection.poll(None)
    os._exit(1)


@dataclass
class Teller:
    """The console of a part: what it is told goes to the command's own.

    Attributes:
        connection: to the command.
    """

    connection: Connection
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _begun: int = field(init=False, default=0)
    _resumable: Path | None = field(init=False, default=None)

    def tell(self, *message: Any) -> None:
        """Send one message; from any thread."""
        with self._lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def info(self, message: str) -> None:
        """Say how it goes."""
        self.tell("info", message)

    def warn(self, message: str) -> None:
        """Say what the user should know."""
        self.tell("warn", message)

    @property
    def resumable(self) -> Path | None:
        """Folder of the run that an interruption leaves."""
        return self._resumable

    @resumable.setter
    def resumable(self, folder: Path | None) -> None:
        self._resumable = folder
        self.tell("resumable", folder)

    @contextlib.contextmanager
    def progress(self, total: float | None, description: str) -> Iterator[Steps]:
        """Show the progress of ``total`` steps."""
        self._begun += 1
        steps = _Steps(self, self._begun)
        self.tell("begin", steps.number, total, description)
        yield steps
        self.tell("finish", steps.number)

    @contextlib.contextmanager
    def side_by_side(self, names: Sequence[str]) -> Iterator[Mapping[str, Console]]:
        """Parts of a part have its own line in common."""
        yield dict.fromkeys(names, self)


@dataclass(frozen=True)
class _Steps:
    """Progress that is told."""

    teller: Teller
    number: int

    def advance(self, steps: float = 1, note: str = "") -> None:
        """``steps`` more are done."""
        self.teller.tell("advance", self.number, steps, note)

    def show(self, lines: Sequence[str]) -> None:
        """A part has one line, whose note says it shorter."""


class _Relay(logging.Handler):
    """Sends log records as messages."""

    def __init__(self, teller: Teller) -> None:
        super().__init__()
        self._teller = teller

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one record."""
        say = self._teller.warn if record.levelno >= logging.WARNING else self._teller.info
        say(record.getMessage())
