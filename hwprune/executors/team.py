"""What an executor is here, and how files reach the processes that it runs calls in."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, InvalidStateError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Parcel:
    """Files that calls read wherever they run.

    Attributes:
        key: digest of their content.
        folder: where they lie on the machine that sent them.
    """

    key: str
    folder: Path

    def open(self) -> Path:
        """The folder on this machine."""
        return _received.get(self.key, self.folder)


#: Folders of the parcels that came from another machine.
_received: dict[str, Path] = {}

#: How many searches have sent each of them.
_receipts: Counter[str] = Counter()


class Team(Executor):
    """An executor that says how many calls it runs at once, and takes parcels.

    Attributes:
        size: calls that run at once.
    """

    size = 1

    def send(self, parcel: Parcel) -> None:
        """Have a parcel at hand on every machine; once it is, this does nothing."""


class Alone(Team):
    """Runs every call in this process when it is submitted."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The call's future, done."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def size_of(executor: Executor) -> int:
    """Calls that an executor runs at once, as far as it tells."""
    return executor.size if isinstance(executor, Team) else os.cpu_count() or 1


def settle(outer: Future[T], inner: Future[T]) -> None:
    """Give one future the outcome of another, which is done."""
    with contextlib.suppress(InvalidStateError):  # cancelled in this moment
        error = inner.exception()
        if error is None:
            outer.set_result(inner.result())
        else:
            outer.set_exception(error)


def fail(outer: Future[Any], error: Exception) -> None:
    """Give a future an exception, unless it was cancelled."""
    with contextlib.suppress(InvalidStateError):
        outer.set_exception(error)


def receive(key: str, files: Mapping[str, bytes], folder: str | None) -> None:
    """Lay the files of a parcel from another machine into a folder of their own, unless they are there."""
    _receipts[key] += 1
    if key not in _received:
        path = Path(tempfile.mkdtemp(prefix="hwprune-", dir=folder))
        for name, content in files.items():
            (path / name).write_bytes(content)
        _received[key] = path


def drop(key: str) -> None:
    """Remove the files of a received parcel when nobody who sent it needs them any longer."""
    _receipts[key] -= 1
    if _receipts[key] == 0:
        shutil.rmtree(_received.pop(key), ignore_errors=True)
