"""Where calls run: here, in processes on this machine, or on a Dask cluster; all are ``concurrent.futures`` executors.

Whatever evaluates, compiles or trains takes an executor. What calls need beside their arguments (weights, images) lies
in the files of a parcel, which reach every worker once and are mapped into its memory, not copied into it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hwprune.errors import ConfigError
from hwprune.executors.processes import Forked, Processes, threads_for
from hwprune.executors.team import Alone, Parcel, Team, size_of

__all__ = ["Alone", "Forked", "Parcel", "Processes", "Team", "open_team", "size_of", "threads_for"]


@contextlib.contextmanager
def open_team(workers: int = 1, scheduler: str | None = None, threads: int = 1) -> Iterator[Team]:
    """An executor, closed at the end of the context.

    Args:
        workers: processes on this machine; 1 runs everything in this one.
        scheduler: address of a Dask scheduler (``tcp://host:port``), in the place of processes on this machine.
        threads: of torch for each call, as far as the cores allow.

    Raises:
        ConfigError: distributed is not installed, or the cluster cannot be used.
    """
    team: Team
    if scheduler is not None:
        team = _cluster(scheduler, threads)
    elif workers > 1:
        team = Processes(workers, threads_for(workers, threads))
    else:
        team = Alone()
    try:
        yield team
    finally:
        team.shutdown(cancel_futures=True)


def _cluster(address: str, threads: int) -> Team:
    try:
        from hwprune.executors.cluster import Cluster
    except ImportError as error:
        raise ConfigError(f"--scheduler needs distributed ({error}): pip install 'hwprune[dask]'") from error
    return Cluster(address, threads)
