"""What an experiment tells the people who wait for it; ``hwprune.cli.console`` shows it on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Steps(Protocol):
    """A piece of work whose progress is shown."""

    def advance(self, steps: float = 1, note: str = "") -> None:
        """``steps`` more are done; ``note`` says how it stands."""

    def show(self, lines: Sequence[str]) -> None:
        """Lines that stand below the progress while it is shown live, in place of those before."""


class Console(Protocol):
    """Messages and progress.

    Attributes:
        resumable: folder of the run that an interruption leaves to ``hwprune search --resume``.
    """

    resumable: Path | None

    def info(self, message: str) -> None:
        """Say how it goes."""

    def warn(self, message: str) -> None:
        """Say what the user should know."""

    def progress(self, total: float | None, description: str) -> contextlib.AbstractContextManager[Steps]:
        """Show the progress of ``total`` steps while the context is open."""

    def side_by_side(self, names: Sequence[str]) -> contextlib.AbstractContextManager[Mapping[str, Console]]:
        """Consoles of parts that are worked on at the same time: each has a name and one line for its progress."""


class Silent:
    """A console for programs: says nothing."""

    resumable: Path | None = None

    def info(self, message: str) -> None:
        """Nobody wants to know."""

    def warn(self, message: str) -> None:
        """Nobody wants to know."""

    @contextlib.contextmanager
    def progress(self, total: float | None, description: str) -> Iterator[Steps]:
        """Steps that show nothing."""
        yield self

    @contextlib.contextmanager
    def side_by_side(self, names: Sequence[str]) -> Iterator[Mapping[str, Console]]:
        """Consoles that say nothing."""
        yield dict.fromkeys(names, self)

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Nobody wants to know."""

    def show(self, lines: Sequence[str]) -> None:
        """Nobody looks."""
