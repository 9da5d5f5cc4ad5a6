"""One loaded library in a process of its own: what crashes here harms nothing else, and its peak memory is its own.

It reads requests from its agent, one JSON line each, bytes behind the line where ``payload_bytes`` says so, and answers
in the same form on what was its standard output. It ends when its input ends or its agent dies.

Its imports are few: they are part of every load.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import resource
import signal
import sys
import time
from io import BufferedReader
from typing import IO, Any, Sequence, cast

from device_agents import protocol
from device_agents.agent import energy, host_state, timing
from device_agents.agent.engine_library import Library, LibraryError, open_library
from device_agents.agent.load import Load

PR_SET_PDEATHSIG = 1

#: Calls after loading, before the peak memory is read: the first touches what later ones use.
SETTLING_CALLS = 3

#: Values whose fastest tells what a foreign call costs by itself.
OVERHEAD_VALUES = 20


class Runner:
    """The requests of an agent, one method each."""

    def __init__(self, channel: IO[bytes]) -> None:
        self._channel = channel
        self._library: Library | None = None
        self._jobs: dict[int, timing.Job] = {}
        self._gate = timing.Gate(0, 0)
        self._meter: energy.Meter | None = None

    def answer(self, message: dict[str, Any], payload: bytes = b"") -> None:
        """Send one line, and ``payload`` behind it."""
        if payload:
            message = dict(message, payload_bytes=len(payload))
        protocol.write_all(self._channel, protocol.encode(message) + payload)

    @property
    def library(self) -> Library:
        """The opened library."""
        if self._library is None:
            raise LibraryError("no library is open")
        return self._library

    @property
    def meter(self) -> energy.Meter:
        """What tells the energy of this library's device."""
        if self._meter is None:
            self._meter = self.library.meter(host_state.system_root())
        return self._meter

    def peak(self, request: dict[str, Any]) -> None:
        """Tell the peak memory so far."""
        self.answer({"peak_bytes": peak_memory_bytes()})

    def open(self, request: dict[str, Any]) -> None:
        """Pin this process to ``cores``, open the library at ``path``, and touch what it will use."""
        if request["cores"]:
            pin(request["cores"])
        start = time.perf_counter()
        self._library = open_library(request["path"])
        open_ms = (time.perf_counter() - start) * 1e3
        self._library.time_calls(self._library.reference, SETTLING_CALLS, 1)
        self.answer({"description": self._library.description, "open_ms": open_ms, **self._memory()})

    def run(self, request: dict[str, Any]) -> None:
        """Run the network ``calls`` times, on the payload if there is one; answer with its output."""
        library = self.library
        if not library.is_network:
            raise LibraryError("a pack of kernels has no network to run")
        size = request.get("payload_bytes", 0)
        if size == len(library.input.view):
            read_into(library.input.view)
        elif size:
            sys.stdin.buffer.read(size)
            raise LibraryError(f"the input has {size} bytes, the network takes {len(library.input.view)}")
        library.upload()
        elapsed_ns = library.time_calls(library.network(), request["calls"], 1)
        library.download()
        self.answer({"first_ms": elapsed_ns[0] / 1e6, **self._memory()}, bytes(library.output.view))

    def warm(self, request: dict[str, Any]) -> None:
        """Take over the ``jobs`` and warm each up; answer with a line for each, then ``done``."""
        self._jobs = {}
        keep_on = functools.partial(os.sched_setaffinity, 0)
        self._gate = timing.Gate(request["level_ns"], request["patience"], cores=request["spare_cores"], pin=keep_on)
        deadline = time.monotonic() + request["budget_s"]
        overhead_ns: dict[int, float] = {}
        wanted_load = request["load"]
        load = Load(wanted_load["rate_hz"], wanted_load["busy_ms"] * 1e6, wanted_load["cold"])
        for place, wanted in request["jobs"]:
            try:
                if time.monotonic() > deadline:
                    raise timing.CallFailed("the time limit ran out before its warm-up")
                job = timing.Job(self._call(wanted), self.library.time_calls, load)
                job.warm_up(request["limit_ns"], request["calls_min"], request["block_ns_min"])
            except (LibraryError, timing.CallFailed) as error:
                self.answer({"job": place, "error": str(error)})
                continue
            self._jobs[place] = job
            if job.batch not in overhead_ns:
                empty = timing.time_calls(self.library.nothing(), OVERHEAD_VALUES, job.batch)
                overhead_ns[job.batch] = min(empty) / job.batch
            self.answer(
                {
                    "job": place,
                    "warmup_calls": job.warmup_calls,
                    "overhead_ns": overhead_ns[job.batch],
                    "energy_missing": self.meter.missing,
                }
            )
        self.answer({"done": True})

    def round(self, request: dict[str, Any]) -> None:
        """One block of every job in ``order``; answer with a line for each, then ``done``."""
        reference = timing.Reference(self.library.reference, self.library.time_calls)
        order, budget_s = request["order"], request["budget_s"]
        for block in timing.run_round(self._jobs, order, reference, self._gate, self.meter, budget_s):
            self.answer(block)
        self.answer({"done": True})

    def _memory(self) -> dict[str, int | None]:
        return {"peak_bytes": peak_memory_bytes(), "device_bytes": self.library.device_bytes()}

    def _call(self, wanted: dict[str, Any]) -> timing.Call:
        if self.library.is_network != (wanted["index"] is None):
            raise LibraryError("a kernel is timed by its index, a network without one")
        if self.library.is_network:
            return self.library.network(wanted["numbers"])
        return self.library.kernel(wanted["index"], wanted["numbers"])


def pin(cores: Sequence[int]) -> None:
    """Keep this process on ``cores``.

    Raises:
        LibraryError: none of them can be used.
    """
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        usable = sorted(os.sched_getaffinity(0))
        raise LibraryError(f"cannot be pinned to cores {list(cores)}: {usable} can be used") from error


def read_into(view: memoryview) -> None:
    """Fill ``view`` from standard input, without a copy that would count as the network's memory."""
    source = cast(BufferedReader, sys.stdin.buffer)
    while view:
        count = source.readinto(view)
        if not count:
            sys.exit(0)
        view = view[count:]


def peak_memory_bytes(root: str = "/") -> int | None:
    """Peak resident memory of this process; None where the system does not tell.

    Not ``ru_maxrss``: a child inherits that from the process it was started by.
    """
    try:
        with open(os.path.join(root, "proc/self/status")) as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def end_with_agent() -> None:
    """Have the system end this process when its agent dies, even in the middle of a call that never returns."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:  # elsewhere than on Linux, the end of its input ends it between two calls
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def be_expendable() -> None:
    """Where memory runs out, have the system take this process and not the agent; leave no core file behind."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("900")
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def main() -> None:
    """Answer requests until the input ends."""
    runner = Runner(protocol.take_over_stdout())
    end_with_agent()
    be_expendable()
    gc.disable()  # a collection inside a block would be taken for latency
    requests = {"peak": runner.peak, "open": runner.open, "run": runner.run, "warm": runner.warm, "round": runner.round}
    for line in iter(sys.stdin.buffer.readline, b""):
        request = protocol.decode(line)
        try:
            requests[request["do"]](request)
        except (LibraryError, timing.CallFailed) as error:
            runner.answer({"error": str(error)})
