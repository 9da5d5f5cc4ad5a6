"""How a parcel reaches the workers of a Dask cluster: a plug-in, which new workers get, too."""

from __future__ import annotations

from distributed import Worker, WorkerPlugin

from hwprune import executors
from hwprune.executors import Parcel


class ParcelPlugin(WorkerPlugin):  # type: ignore[misc]
    """Lays the files of a parcel into the worker's own folder.

    Args:
        parcel: what is sent.
        threads: of torch for each call.
    """

    def __init__(self, parcel: Parcel, threads: int) -> None:
        self.key = parcel.key
        self.threads = threads
        self.files = {path.name: path.read_bytes() for path in parcel.folder.iterdir()}

    def setup(self, worker: Worker) -> None:
        """Called by each worker, once."""
        import torch

        torch.set_num_threads(self.threads)
        executors.receive(self.key, self.files, worker.local_directory)
        self.files = {}

    def teardown(self, worker: Worker) -> None:
        """Called when the search or the worker ends."""
        executors.drop(self.key)
