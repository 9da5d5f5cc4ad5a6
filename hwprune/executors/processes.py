"""Processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from hwprune.executors.team import P, T, Team, fail, settle

#: A call whose process is killed so often is given up: it may be what kills it.
ATTEMPTS = 3


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
                settle(outer, inner)
            elif attempts > 1 and not self._closed and not outer.cancelled():
                self._replace(pool)
                self._start(outer, begin, attempts - 1)
            else:
                fail(outer, RuntimeError(f"its process was killed {ATTEMPTS} times"))

        inner.add_done_callback(ended)
        outer.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        """Put a new pool in the place of a broken one, which ends by itself, unless another call's end has."""
        with self._lock:
            if self._pool is broken and not self._closed:
                self._pool = self._open()


class Forked(Team):
    """Copies of this process, made for one :meth:`map` and gone with it: nothing is imported again in them.

    For libraries that take longer to import than their work takes, and that keep no threads.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The call's future, done."""
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            return pool.submit(fn, *args, **kwargs)

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """See :meth:`concurrent.futures.Executor.map`."""
        with ProcessPoolExecutor(self.size, multiprocessing.get_context("fork")) as pool:
            yield from pool.map(fn, *iterables, timeout=timeout, chunksize=chunksize)


def threads_for(workers: int, wanted: int) -> int:
    """Threads of each of ``workers`` processes, ``wanted`` of them or as many as the cores allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(wanted, cores // workers))


def _begin(threads: int) -> None:
    """First thing in a process of ours: its threads, and an end when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends its processes itself
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    if torch := sys.modules.get("torch"):  # imported with the main module: it has read the environment already
        torch.set_num_threads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
