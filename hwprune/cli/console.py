"""What a running command tells people: messages and progress on standard error, quiet where nobody reads."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwprune.units import format_duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from hwprune.experiments.progress import Steps

#: Without a terminal, one progress line in this time and one at the end.
LINE_INTERVAL_S = 10.0
#: Lines that the pace of work is taken from.
PACE_LINES = 30

_logger = logging.getLogger("hwprune")


class Console:
    """Messages and progress of one command, as experiments want them.

    Attributes:
        resumable: folder of the run that an interruption leaves to ``hwprune search --resume``, if any.
    """

    def __init__(self, quiet: bool = False, terminal: bool | None = None) -> None:
        self.quiet = quiet
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self.resumable: Path | None = None

    def info(self, message: str) -> None:
        """Say how it goes."""
        _logger.info(message)

    def warn(self, message: str) -> None:
        """Say what the user should know."""
        _logger.warning(message)

    @contextlib.contextmanager
    def progress(self, total: float | None, description: str) -> Iterator[Steps]:
        """Show the progress of ``total`` steps (None where nobody knows) while the context is open."""
        if self.quiet:
            yield _Silence()
        elif not self.terminal:
            lines = _Lines(total, description)
            yield lines
            lines.finish()
        else:
            with _bar() as progress:
                yield _Bar(progress, progress.add_task(description, total=total, note=""))

    @contextlib.contextmanager
    def side_by_side(self, names: Sequence[str]) -> Iterator[Mapping[str, Console]]:
        """Consoles of parts that are worked on at the same time; on a terminal each has a line that stays."""
        if self.quiet or not self.terminal:
            yield {name: _PartConsole(name, self) for name in names}
        else:
            with _bar() as progress:
                yield {name: _PartConsole(name, self, progress) for name in names}


class _PartConsole(Console):
    """Messages and progress of one part."""

    def __init__(self, name: str, whole: Console, progress: Progress | None = None) -> None:
        super().__init__(whole.quiet, terminal=False)
        self._name = name
        self._progress = progress
        self._task = progress.add_task(f"{name}: waits", total=None, note="") if progress else None

    def info(self, message: str) -> None:
        super().info(f"{self._name}: {message}")

    def warn(self, message: str) -> None:
        super().warn(f"{self._name}: {message}")

    @contextlib.contextmanager
    def progress(self, total: float | None, description: str) -> Iterator[Steps]:
        description = f"{self._name}: {description}"
        if self._progress is None or self._task is None:
            with super().progress(total, description) as steps:
                yield steps
        else:
            self._progress.reset(self._task, total=total, description=description, note="")
            yield _Bar(self._progress, self._task)


class _Silence:
    def advance(self, steps: float = 1, note: str = "") -> None:
        """Nobody wants to know."""

    def show(self, lines: Sequence[str]) -> None:
        """Nobody looks."""


class _Lines:
    """A line now and then, for logs of batch jobs."""

    def __init__(self, total: float | None, description: str) -> None:
        self._total, self._description = total, description
        self._done, self._note = 0.0, ""
        self._started = self._told = time.monotonic()
        self._pace = deque([(self._started, 0.0)], PACE_LINES)

    def advance(self, steps: float = 1, note: str = "") -> None:
        self._done += steps
        self._note = note or self._note
        if time.monotonic() - self._told >= LINE_INTERVAL_S:
            self._tell()

    def show(self, lines: Sequence[str]) -> None:
        """A log has no place for what changes: the note of the next line says it shorter."""

    def finish(self) -> None:
        """The last line: how far it came and how long it took."""
        took = format_duration(time.monotonic() - self._started)
        _logger.info("%s: %s in %s%s", self._description, self._count(), took, self._suffix())

    def _tell(self) -> None:
        self._told = time.monotonic()
        left = ""
        since, before = self._pace[0]
        if self._total and self._done > before:
            seconds = (self._told - since) * (self._total - self._done) / (self._done - before)
            left = f", {format_duration(max(seconds, 0))} left"
        if before == 0:
            self._pace.clear()  # what was done before an interruption is counted at once, and says nothing of the pace
        self._pace.append((self._told, self._done))
        _logger.info("%s: %s%s%s", self._description, self._count(), left, self._suffix())

    def _count(self) -> str:
        return f"{self._done:g}" if self._total is None else f"{self._done:g}/{self._total:g}"

    def _suffix(self) -> str:
        return f" ({self._note})" if self._note else ""


class _Bar:
    """A line of a live progress display."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: float = 1, note: str = "") -> None:
        self._progress.advance(self._task, steps)
        if note:
            self._progress.update(self._task, note=note)

    def show(self, lines: Sequence[str]) -> None:
        self._progress.update(self._task, lines=tuple(lines))


def _bar() -> Progress:
    from rich.console import Console as Terminal
    from rich.console import RenderableType
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Live(Progress):
        """Progress with the lines that its tasks show below."""

        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            for task in self.tasks:
                yield from (Text("  " + line) for line in task.fields.get("lines", ()))

    return Live(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Terminal(stderr=True),
        transient=True,
    )


def configure_logging(verbosity: int, log_file: Path | None) -> None:
    """Route the package's log: messages to standard error, everything to ``log_file``.

    Args:
        verbosity: -1 for warnings only, 0 for the course of things, 1 and more for details.
        log_file: file that times, levels and details are appended to.
    """
    close_logging()
    _logger.setLevel(logging.DEBUG)
    _logger.propagate = False
    stderr = _StandardError()
    stderr.setLevel({-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG))
    stderr.setFormatter(_Plain())
    _logger.addHandler(stderr)
    if log_file is not None:
        file = logging.FileHandler(log_file, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        _logger.addHandler(file)


def close_logging() -> None:
    """Undo :func:`configure_logging`."""
    for handler in tuple(_logger.handlers):
        _logger.removeHandler(handler)
        handler.close()


class _StandardError(logging.Handler):
    """Writes to whatever ``sys.stderr`` is now: a live progress display puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


class _Plain(logging.Formatter):
    """The message alone; what is not plain information says so."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno == logging.INFO else f"{record.levelname.lower()}: {text}"
