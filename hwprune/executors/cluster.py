"""A Dask cluster; the only importer of ``distributed``, which the extra ``dask`` installs."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from concurrent.futures import Future

import torch
from distributed import Client, Worker, WorkerPlugin
from distributed.scheduler import KilledWorker

from hwprune.errors import ConfigError, RunError
from hwprune.executors import team
from hwprune.executors.team import P, Parcel, T, Team, fail, settle

#: How long a scheduler may take to answer.
CONNECT_S = 20.0


class Cluster(Team):
    """A Dask cluster; calls of a worker that is lost are run by the others.

    Args:
        address: of the scheduler, ``tcp://host:port``.
        threads: of torch for each call.

    Raises:
        ConfigError: no scheduler answers.
    """

    def __init__(self, address: str, threads: int) -> None:
        try:
            self._client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {address!r} ({error}): start 'dask scheduler' there, or correct it"
            ) from error
        self._threads = threads
        self._sent: dict[str, str] = {}
        self._executor = self._client.get_executor(pure=False)

    @property
    def size(self) -> int:  # type: ignore[override]
        """Threads of all workers, at this moment."""
        return max(1, sum(int(threads) for threads in self._client.nthreads().values()))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See :meth:`concurrent.futures.Executor.submit`.

        The future fails by ``RuntimeError`` where its worker dies every time, by ``RunError`` where the scheduler does.
        """
        outer: Future[T] = Future()
        inner: Future[T] = self._executor.submit(_run, self._threads, fn, *args, **kwargs)

        def ended(inner: Future[T]) -> None:
            if inner.cancelled():  # by us, then this changes nothing, or because the scheduler has forgotten it
                fail(outer, RunError("the Dask scheduler was lost: start it again, then --resume the run"))
            elif isinstance(inner.exception(), KilledWorker):
                fail(outer, RuntimeError(str(inner.exception())))
            else:
                settle(outer, inner)

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
        name = f"hwprune-{uuid.uuid4().hex}"
        try:
            self._client.register_plugin(ParcelPlugin(parcel), name=name)
        except Exception as error:  # whatever a worker raises comes back as it is
            raise ConfigError(
                f"a Dask worker cannot take weights and images ({type(error).__name__}: {error}): "
                "install the same hwprune on every worker, and free some disk there"
            ) from error
        self._sent[parcel.key] = name

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take leave of the cluster, which goes on."""
        self._executor.shutdown(wait and not cancel_futures)
        with contextlib.suppress(Exception):  # a cluster that is gone needs no farewell
            for name in self._sent.values():
                self._client.unregister_worker_plugin(name)
        self._client.close()


class ParcelPlugin(WorkerPlugin):  # type: ignore[misc]
    """Lays the files of a parcel into the worker's own folder.

    Args:
        parcel: what is sent.
    """

    def __init__(self, parcel: Parcel) -> None:
        self.key = parcel.key
        self.files = {path.name: path.read_bytes() for path in parcel.folder.iterdir()}

    def setup(self, worker: Worker) -> None:
        """Called by each worker, once."""
        team.receive(self.key, self.files, worker.local_directory)
        self.files = {}

    def teardown(self, worker: Worker) -> None:
        """Called when the search or the worker ends."""
        team.drop(self.key)


def _run(threads: int, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function on a worker; how many threads torch takes is a setting of each of the worker's own threads."""
    torch.set_num_threads(threads)
    return fn(*args, **kwargs)
