"""Where calls run: here, in processes on this machine, or on a Dask cluster; all are ``concurrent.futures`` executors.

Whatever evaluates, compiles or trains takes an executor. What calls need beside their arguments (weights, images) lies
in the files of a parcel, which reach every worker once and are mapped into its memory, not copied into it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from hwprune.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")

#: A call whose process is killed so often is given up: it may be what kills it.
ATTEMPTS = 3


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


class Processes(Team):
    """Processes on this machine, each with its own share of the cores.

    A process that dies (the system's out-of-memory killer takes the largest one) takes its pool with it: another pool
    takes its place, and what had not ended is run again.
    """

    def __init__(self, size: int, threads: int) -> None:
        self.size = size
        self._threads = threads
        self._lock = threading.Lock()
        self._closed = False
        self._pool = self._open()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See :meth:`concurrent.futures.Executor.submit`; ``RuntimeError`` where its process dies every time."""
        outer: Future[T] = Future()
        self._start(outer, lambda pool: pool.submit(fn, *args, **kwargs), ATTEMPTS)
        return outer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes."""
        with self._lock:
            self._closed = True
            pool = self._pool
        pool.shutdown(wait, cancel_futures=cancel_futures)

    def _open(self) -> ProcessPoolExecutor:
        # Not forked: threads of torch and of its compilers do not survive a fork.
        return ProcessPoolExecutor(
            self.size, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(self._threads,)
        )

    def _start(self, outer: Future[T], begin: Callable[[ProcessPoolExecutor], Future[T]], attempts: int) -> None:
        with self._lock:
            pool = self._pool
        try:
            inner = begin(pool)
        except BrokenProcessPool:
            self._replace(pool)
            with self._lock:
                pool = self._pool
            inner = begin(pool)

        def ended(inner: Future[T]) -> None:
            if inner.cancelled():
                outer.cancel()
                return
            error = inner.exception()
            if not isinstance(error, BrokenProcessPool):
                _settle(outer, inner)
            elif attempts > 1 and not self._closed and not outer.cancelled():
                self._replace(pool)
                self._start(outer, begin, attempts - 1)
            else:
                _fail(outer, RuntimeError(f"its process was killed {ATTEMPTS} times"))

        inner.add_done_callback(ended)
        outer.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        """Put a new pool in the place of a broken one, unless another call's end has."""
        with self._lock:
            if self._pool is broken and not self._closed:
                self._pool = self._open()


class Cluster(Team):
    """A Dask cluster; calls of a worker that is lost are run by the others.

    Args:
        address: of the scheduler, ``tcp://host:port``.
        threads: of torch for each call.

    Raises:
        ConfigError: distributed is not installed, or no scheduler answers.
    """

    def __init__(self, address: str, threads: int) -> None:
        try:
            import distributed
        except ImportError as error:
            raise ConfigError(f"--scheduler needs distributed ({error}): pip install 'hwprune[dask]'") from error
        try:
            self._client = distributed.Client(address, timeout="20s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {address!r} ({error}): start 'dask scheduler' there, or correct it"
            ) from error
        self._threads = threads
        self._sent: set[str] = set()
        self._executor = self._client.get_executor(pure=False)

    @property
    def size(self) -> int:  # type: ignore[override]
        """Threads of all workers, at this moment."""
        return max(1, sum(self._client.nthreads().values()))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See :meth:`concurrent.futures.Executor.submit`; ``RuntimeError`` where its worker dies every time."""
        from distributed.scheduler import KilledWorker

        outer: Future[T] = Future()
        inner: Future[T] = self._executor.submit(fn, *args, **kwargs)

        def ended(inner: Future[T]) -> None:
            if inner.cancelled():
                outer.cancel()
            elif isinstance(inner.exception(), KilledWorker):
                _fail(outer, RuntimeError(str(inner.exception())))
            else:
                _settle(outer, inner)

        inner.add_done_callback(ended)
        outer.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)
        return outer

    def send(self, parcel: Parcel) -> None:
        """Have a parcel at hand on every worker, those that come later too.

        Raises:
            ConfigError: a worker cannot take it.
        """
        if parcel.key in self._sent:
            return
        from hwprune.dask_parcel import ParcelPlugin

        try:
            self._client.register_plugin(ParcelPlugin(parcel, self._threads), name=parcel.key)
        except Exception as error:  # whatever a worker raises comes back as it is
            raise ConfigError(
                f"a Dask worker cannot take weights and images ({type(error).__name__}: {error}): "
                "install the same hwprune on every worker, and free some disk there"
            ) from error
        self._sent.add(parcel.key)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take leave of the cluster, which goes on."""
        self._executor.shutdown(wait and not cancel_futures)
        with contextlib.suppress(Exception):  # a cluster that is gone needs no farewell
            for key in self._sent:
                self._client.unregister_worker_plugin(key)
        self._client.close()


def threads_for(workers: int, wanted: int) -> int:
    """Threads of each of ``workers`` processes, ``wanted`` of them or as many as the cores allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(wanted, cores // workers))


@contextlib.contextmanager
def open_team(workers: int = 1, scheduler: str | None = None, threads: int = 1) -> Iterator[Team]:
    """An executor, closed at the end of the context.

    Args:
        workers: processes on this machine; 1 runs everything in this one.
        scheduler: address of a Dask scheduler, in the place of processes on this machine.
        threads: of torch for each call, as far as the cores allow.

    Raises:
        ConfigError: the cluster cannot be used.
    """
    team: Team
    if scheduler is not None:
        team = Cluster(scheduler, threads)
    elif workers > 1:
        team = Processes(workers, threads_for(workers, threads))
    else:
        team = Alone()
    try:
        yield team
    finally:
        team.shutdown(cancel_futures=True)


def size_of(executor: Executor) -> int:
    """Calls that an executor runs at once, as far as it tells."""
    return executor.size if isinstance(executor, Team) else os.cpu_count() or 1


def _settle(outer: Future[T], inner: Future[T]) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled in this moment
        error = inner.exception()
        if error is None:
            outer.set_result(inner.result())
        else:
            outer.set_exception(error)


def _fail(outer: Future[Any], error: Exception) -> None:
    with contextlib.suppress(InvalidStateError):
        outer.set_exception(error)


def _begin(threads: int) -> None:
    """First thing in a process of ours: its threads, and an end when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends its processes itself
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def receive(key: str, files: dict[str, bytes], folder: str | None) -> Path:
    """Lay the files of a parcel from another machine into a folder of their own."""
    path = Path(tempfile.mkdtemp(prefix="hwprune-", dir=folder))
    for name, content in files.items():
        (path / name).write_bytes(content)
    _received[key] = path
    return path


def drop(key: str) -> None:
    """Remove the files of a received parcel."""
    path = _received.pop(key, None)
    if path is not None:
        shutil.rmtree(path, ignore_errors=True)


__all__ = ["Alone", "Cluster", "Parcel", "Processes", "Team", "open_team", "size_of", "threads_for"]
