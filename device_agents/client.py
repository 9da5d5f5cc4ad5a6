"""The host's end of the wire: one agent, its verbs as methods, and a time limit on everything.

Two threads of the client's own read and write, so that no agent, however stuck, can hold the caller longer than a
call's deadline. After an ``AgentLost`` or ``AgentTimeout`` the connection is over. Whatever an agent answers, and
however much, the caller gets a checked result or an ``AgentError``.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import getpass
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from device_agents import protocol, replies
from device_agents.errors import (
    AgentError,
    AgentLost,
    AgentTimeout,
    DeviceBusy,
    LibraryMissing,
    LoadFailed,
    ProtocolMismatch,
    RequestRefused,
    RunFailed,
)
from device_agents.results import Block, Load, Loaded, SelfTest, TimingRequest, TimingResult, timing_result
from device_agents.transport import Transport

__all__ = ["NO_LOAD", "AgentClient", "Block", "Load", "Loaded", "SelfTest", "TimingRequest", "TimingResult"]

ERRORS: dict[str, type[AgentError]] = {
    "busy": DeviceBusy,
    "internal": AgentError,
    "load_failed": LoadFailed,
    "mismatch": ProtocolMismatch,
    "missing": LibraryMissing,
    "refused": RequestRefused,
    "run_failed": RunFailed,
}

#: Called with the blocks that are done and their total.
Progress = Callable[[int, int], None]

#: Calls that follow each other without a pause.
NO_LOAD = Load()

#: An agent's folder may hold so much, unless the host says otherwise.
FOLDER_BYTES_MAX = 1 << 30

#: An agent without a sign of life for so long counts as stuck, and a call may take so much longer than it says.
SILENCE_S, MARGIN_S = 20.0, 20.0

#: Messages that may wait to be looked at; an agent that sends more has to wait itself.
WAITING_MAX = 1000


class AgentClient:
    """A conversation with one agent, begun and ended as a context manager.

    Calls from several threads take turns.

    Args:
        transport: the way to the agent.
        holder: who is named to others that want the device meanwhile; this process if None.
        folder_bytes_max: libraries beyond this are dropped from the agent's folder, those unused for the longest first.
        idle_s: the agent ends itself when it hears nothing for so long.
        silence_s: an agent without a sign of life for so long counts as stuck; None for :data:`SILENCE_S`.
        margin_s: what a call may take beyond the time that its own arguments allow; None for :data:`MARGIN_S`.

    Attributes:
        warnings: what the agent says against measuring on this device.

    Raises:
        AgentError: the agent cannot be started, is busy for another host, or speaks another protocol.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        holder: str | None = None,
        folder_bytes_max: int = FOLDER_BYTES_MAX,
        idle_s: float = 3600.0,
        silence_s: float | None = None,
        margin_s: float | None = None,
    ) -> None:
        self._transport = transport
        self._silence_s = SILENCE_S if silence_s is None else silence_s
        self._margin_s = MARGIN_S if margin_s is None else margin_s
        self._turn = threading.Lock()
        self._next_id = 0
        self._failure: AgentError | None = None
        self._closed = False
        self._received: queue.Queue[dict[str, Any] | AgentError] = queue.Queue(WAITING_MAX)
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        reader, writer = transport.start()
        self._threads = [
            threading.Thread(target=self._read, args=(reader,), daemon=True),
            threading.Thread(target=self._write, args=(writer,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        try:
            hello = self._call(
                "hello",
                self._margin_s,
                version=protocol.PROTOCOL_VERSION,
                idle_s=float(idle_s),
                folder_bytes_max=folder_bytes_max,
                who=holder_name() if holder is None else holder[: protocol.NAME_CHARACTERS_MAX],
            )
            if hello["version"] != protocol.PROTOCOL_VERSION:
                raise ProtocolMismatch(
                    f"the agent speaks version {hello['version']} of the protocol, the host "
                    f"{protocol.PROTOCOL_VERSION}: start the agent of this version"
                )
        except BaseException:
            self._end()
            raise
        self.warnings: tuple[str, ...] = tuple(hello["warnings"])
        self._on_device: set[str] = set(hello["libraries"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def describe(self) -> dict[str, Any]:
        """What the device is; None where unknown, with the reason under ``missing``."""
        return self._call("describe", self._margin_s)

    def state(self) -> dict[str, Any]:
        """What the device is doing just now; None where unknown, with the reason under ``missing``."""
        return self._call("state", self._margin_s)

    def put(self, path: Path, sha256: str) -> None:
        """Bring a library to the device, unless it is there; where that fails, once more after making room.

        Raises:
            AgentError: it cannot be written there.
        """
        if sha256 in self._on_device:
            return
        name = f"{protocol.digest(sha256)}.so"
        try:
            self._transport.put(name, path)
        except AgentTimeout:
            raise
        except AgentError:
            if not self._has_made_room():
                raise
            self._transport.put(name, path)
        self._on_device.add(sha256)

    def clean(self) -> int:
        """Remove the agent's files that are not in use from its folder.

        Returns:
            Bytes that were freed.
        """
        answer = self._call("clean", self._margin_s)
        self._on_device = set(answer["libraries"])
        return int(answer["freed_bytes"])

    def _has_made_room(self) -> bool:
        with contextlib.suppress(AgentError):
            return self.clean() > 0
        return False

    def load(
        self, sha256: str, *, cores: Sequence[int] = (), self_test: SelfTest | None = None, timeout_s: float = 30.0
    ) -> Loaded:
        """Open a library in a fresh process and test it.

        Args:
            sha256: its digest.
            cores: where to pin the process; anywhere if empty.
            self_test: what it must compute.
            timeout_s: longest silence of the process.

        Raises:
            LibraryMissing: its file is not there or was torn: put it again.
            LoadFailed: it cannot be opened, crashes, hangs, or computes something else.
            AgentLost: the agent ended.
            AgentTimeout: the agent is stuck.
        """
        test = self_test and {
            "input": pack(self_test.input_bytes),
            "expected": pack(self_test.expected_bytes),
            "rtol": self_test.rtol,
        }
        deadline_s = 4 * timeout_s + self._margin_s
        try:
            answer = self._call(
                "load",
                deadline_s,
                library=sha256,
                cores=[int(core) for core in cores],
                self_test=test,
                timeout_s=float(timeout_s),
            )
        except LibraryMissing:
            self._on_device.discard(sha256)
            raise
        self._on_device.difference_update(answer.pop("dropped"))
        return Loaded(**answer)

    def measure(
        self,
        requests: Sequence[TimingRequest],
        *,
        blocks: int = 10,
        steady_blocks: int = 0,
        level_ms: float | None = None,
        patience: float = 0.0,
        spare_cores: Sequence[int] = (),
        calls_min: int = 5,
        block_ms_min: float = 10.0,
        warmup_ms_max: float = 300.0,
        max_s: float = 60.0,
        timeout_s: float = 30.0,
        load: Load = NO_LOAD,
        on_progress: Progress | None = None,
    ) -> list[TimingResult]:
        """Time all requests in interleaved rounds: one block of each, then the next block of each.

        Args:
            requests: what to time; a library's failure in one of them is data in its result.
            blocks: most blocks of each.
            steady_blocks: one has enough after so many with the reference kernel at one level, at ``level_ms`` if that
                is given, else in a row; 0 for never.
            level_ms: what the reference kernel takes while nothing slows the device; None to look for that first.
            patience: how long blocks are held back until the device is at that level, as a multiple of the time that
                they take; 0 to time them as it comes.
            spare_cores: cores to look for that level at, by turns; () to stay.
            calls_min: least number of values in a block.
            block_ms_min: least length of a block.
            warmup_ms_max: longest warm-up of each.
            max_s: no block starts later.
            timeout_s: a library that is silent for longer is ended.
            load: what the device is put through meanwhile.
            on_progress: told now and then how far it is.

        Returns:
            One result for each request, in their order.

        Raises:
            RequestRefused: a handle was never given or is unloaded.
            AgentLost: the agent ended.
            AgentTimeout: the agent is stuck.
        """
        jobs = [
            # int(): widths often come as numpy's integers, which JSON does not take
            {
                "handle": request.handle,
                "index": None if request.index is None else int(request.index),
                "numbers": [int(number) for number in request.numbers],
            }
            for request in requests
        ]
        answer = self._call(
            "measure",
            max_s + 4 * timeout_s + self._margin_s,
            on_progress,
            jobs=jobs,
            blocks=blocks,
            steady_blocks=steady_blocks,
            level_ns=1e6 * (level_ms or 0.0),
            patience=float(patience),
            spare_cores=list(spare_cores),
            calls_min=calls_min,
            block_ms_min=float(block_ms_min),
            warmup_ms_max=float(warmup_ms_max),
            max_s=float(max_s),
            timeout_s=float(timeout_s),
            load=asdict(load),
        )
        if len(answer["results"]) != len(jobs):
            raise self._fail(AgentLost(f"measure: {len(answer['results'])} results for {len(jobs)} requests"))
        return [timing_result(result) for result in answer["results"]]

    def run(self, handle: int, input_bytes: bytes, *, timeout_s: float = 30.0) -> bytes:
        """Output of one inference, as bytes of float32.

        Raises:
            RunFailed: the input has another size, or the library crashed, hung or reported an error.
        """
        answer = self._call(
            "run", timeout_s + self._margin_s, handle=handle, input=pack(input_bytes), timeout_s=float(timeout_s)
        )
        output: bytes = answer["output"]
        return output

    def unload(self, handle: int) -> None:
        """End a library's process."""
        self._call("unload", self._margin_s, handle=handle)

    def close(self) -> None:
        """End the agent and its processes; after that nothing can be called."""
        if not self._closed and self._failure is None:
            with contextlib.suppress(AgentError):
                self._call("bye", 2.0)
        self._end()

    def _call(
        self, verb: str, deadline_s: float, on_progress: Progress | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """One request and its reply."""
        with self._turn:
            if self._closed:
                raise self._failure or AgentLost("the connection to the agent is closed")
            self._next_id += 1
            request = {"id": self._next_id, "verb": verb, "deadline_s": deadline_s, "arguments": arguments}
            self._outgoing.put(_line(verb, request))
            try:
                result, error = self._wait(verb, time.monotonic() + deadline_s, on_progress)
            except AgentError as failure:
                raise self._fail(failure) from failure.__cause__
        if error is not None:
            raise ERRORS.get(error["kind"], AgentError)(f"{verb}: {error['message']}")
        assert result is not None
        return result

    def _wait(
        self, verb: str, deadline: float, on_progress: Progress | None
    ) -> tuple[dict[str, Any] | None, dict[str, str] | None]:
        """Result and error of the reply to the last request, one of which is None."""
        heard = time.monotonic()
        while True:
            is_last_chance = deadline <= heard + self._silence_s
            patience_s = min(heard + self._silence_s, deadline) - time.monotonic()
            try:
                if patience_s <= 0:
                    raise queue.Empty
                message = self._received.get(timeout=patience_s)
            except queue.Empty:
                what = "late with its reply" if is_last_chance else f"silent for {self._silence_s:g} s"
                raise AgentTimeout(f"{verb}: the agent is {what}; the connection is closed") from None
            if isinstance(message, AgentError):
                raise type(message)(f"{verb}: {message}")
            if message.get("id") != self._next_id:
                continue  # what crossed the reply before
            heard = time.monotonic()
            try:
                if "event" not in message:
                    return replies.outcome(verb, message)
                told = replies.progress(message)
            except protocol.BadRequest as error:
                raise AgentLost(f"{verb}: the agent answers what it may not ({error}); connect again") from error
            if told is not None and on_progress is not None:
                on_progress(*told)

    def _fail(self, error: AgentError) -> AgentError:
        """End a broken connection; the error with the last words of the agent."""
        last_words = self._end()
        self._failure = type(error)(f"{error}\n{last_words}".strip())
        return self._failure

    def _end(self) -> str:
        self._closed = True
        self._outgoing.put(None)
        last_words = self._transport.close()
        for thread in self._threads:
            thread.join(timeout=1.0)
        return last_words

    def _read(self, reader: BinaryIO) -> None:
        """Pass on what the agent writes, line by line, and how it ended."""
        end = AgentLost("the agent ended or the way to it broke; connect again")
        try:
            with reader:
                while line := reader.readline(protocol.LINE_BYTES_MAX + 1):
                    if len(line) > protocol.LINE_BYTES_MAX:
                        end = AgentLost(f"the agent sent a line of more than {protocol.LINE_BYTES_MAX} bytes")
                        break
                    self._pass_on(protocol.decode(line))
        except protocol.BadRequest as error:
            end = AgentLost(f"the agent sent garbage ({error}); connect again")
        except (OSError, ValueError):
            pass  # closed while it was being read
        self._pass_on(end)

    def _pass_on(self, message: dict[str, Any] | AgentError) -> None:
        while not self._closed:
            with contextlib.suppress(queue.Full):
                return self._received.put(message, timeout=0.2)

    def _write(self, writer: BinaryIO) -> None:
        """Send what is to go out; closing is what tells the agent to end."""
        with contextlib.suppress(OSError, ValueError), writer:
            while (line := self._next_line()) is not None:
                writer.write(line)
                writer.flush()

    def _next_line(self) -> bytes | None:
        """What is to go out next, a sign of life where there is nothing; None at the end."""
        try:
            return self._outgoing.get(timeout=protocol.HOST_BEAT_S)
        except queue.Empty:
            return protocol.HOST_ALIVE + b"\n"


def holder_name() -> str:
    """This process in words, for others that want the device meanwhile."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in containers
        user = str(os.getuid())
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return f"{user}@{socket.gethostname()} (process {os.getpid()}, since {since})"[: protocol.NAME_CHARACTERS_MAX]


def _line(verb: str, request: dict[str, Any]) -> bytes:
    """A request on the wire.

    Raises:
        RequestRefused: it is longer than the wire takes, or holds what is no number.
    """
    try:
        line = protocol.encode(request)
    except ValueError as error:
        raise RequestRefused(f"{verb}: {error}") from error
    if len(line) > protocol.LINE_BYTES_MAX:
        raise RequestRefused(
            f"{verb}: a request of {len(line)} bytes is longer than the wire takes ({protocol.LINE_BYTES_MAX}): "
            "use a smaller batch"
        )
    return line


def pack(data: bytes) -> str:
    """Bytes in their form on the wire."""
    return base64.b64encode(data).decode()
