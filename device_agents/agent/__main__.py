"""The agent: answers one host's requests until its input ends, a deadline passes, or it is told to go.

Started as ``python3 -I agent-xxx.pyz``; it works in the folder in which that file lies and nowhere else.
"""

from __future__ import annotations

import base64
import fcntl
import importlib
import os
import pkgutil
import queue
import sys
import threading
import time
import traceback
from typing import IO, Any

from device_agents import protocol
from device_agents.agent import children, host_state, platforms
from device_agents.agent.children import ChildFailed
from device_agents.agent.libraries import Libraries, LibraryRefused
from device_agents.agent.pipes import Inbox
from device_agents.agent.rounds import Measuring, Settings

#: An agent that was never greeted waits no longer.
GREETING_S = 60.0

#: An earlier agent of the same folder may still be on its way out.
LOCK_WAIT_S = 2.0


class Refusal(Exception):  # noqa: N818
    """What the host asked for cannot be had; ``kind`` is one of the protocol's."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Agent:
    """The verbs, one method each, and what they share.

    Args:
        folder: where the libraries lie.
        bundle: where the shipped modules lie.
        channel: where replies go.

    Attributes:
        deadline: monotonic time at which the agent ends itself.
    """

    def __init__(self, folder: str, bundle: str, channel: IO[bytes]) -> None:
        self.deadline = time.monotonic() + GREETING_S
        self._idle_s = GREETING_S
        self._channel = channel
        self._writing = threading.Lock()
        self._request_id: int | None = None
        self._told = 0.0
        self._libraries = Libraries(folder, bundle)
        self._folder = folder

    def send(self, message: dict[str, Any]) -> None:
        """Send one line; from any thread."""
        with self._writing:
            protocol.write_all(self._channel, protocol.encode(message))

    def beat(self) -> None:
        """Give a sign of life while a request is being worked on."""
        request_id = self._request_id
        if request_id is not None:
            self.send({"id": request_id, "event": "alive"})

    def serve(self, line: bytes) -> None:
        """Answer one request; only a line that is no request at all is without an answer."""
        try:
            request = protocol.decode(line)
            self._request_id = int(request["id"])
            self.deadline = time.monotonic() + float(request["deadline_s"])
        except (KeyError, TypeError, ValueError) as error:
            print(f"not a request: {error!r}", file=sys.stderr)
            return
        reply = self._reply(request)
        reply_id, self._request_id = self._request_id, None
        self.deadline = time.monotonic() + self._idle_s
        self.send(dict(reply, id=reply_id))

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            arguments = protocol.check_request(request)
            return {"result": getattr(self, "do_" + request["verb"])(**arguments)}
        except protocol.BadRequest as error:
            kind, message = "refused", str(error)
        except Refusal as error:
            kind, message = error.kind, str(error)
        except LibraryRefused as error:
            kind, message = "load_failed", str(error)
        except Exception as error:
            # A fault of the agent's own ends this request and not the others; the host shows it.
            traceback.print_exc()
            kind, message = "internal", repr(error)
        return {"error": {"kind": kind, "message": message}}

    def do_hello(self, version: int, idle_s: float) -> dict[str, Any]:
        """Agree on the protocol, and keep every other host out of this folder."""
        if version != protocol.PROTOCOL_VERSION:
            text = "the agent speaks version {} of the protocol, the host {}"
            raise Refusal("mismatch", text.format(protocol.PROTOCOL_VERSION, version))
        self._lock()
        self._idle_s = idle_s
        return {"version": protocol.PROTOCOL_VERSION, "libraries": self._libraries.held()}

    def do_describe(self) -> dict[str, Any]:
        """What this device is, by the module of its type; ``platforms`` names every type that is present."""
        modules = {name: importlib.import_module(platforms.__name__ + "." + name) for name in platform_names()}
        present = [name for name, module in modules.items() if module.present("/")]
        processor = "arm" if "arm" in present else "cpu"
        description: dict[str, Any] = modules[processor].describe("/")
        for name in present:
            description.update(modules[name].describe("/"))
        return dict(description, platform=processor, platforms=present)

    def do_state(self) -> dict[str, Any]:
        """What this device is doing just now."""
        return host_state.read_state()

    def do_load(self, library: str, cores: Any, self_test: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
        """Open a library in a process of its own and test it."""
        if self_test is not None:
            self_test = dict(self_test, input=unpack(self_test["input"]), expected=unpack(self_test["expected"]))
        return self._libraries.load(library, cores, self_test, timeout_s)

    def do_measure(self, jobs: Any, **settings: Any) -> dict[str, Any]:
        """Time the jobs in interleaved rounds; see :mod:`device_agents.agent.rounds`."""
        processes = {job["handle"]: self._child(job["handle"]) for job in jobs}
        return {"results": Measuring(jobs, processes, Settings(**settings), self._progress).run()}

    def do_run(self, handle: int, input: str, timeout_s: float) -> dict[str, Any]:
        """One inference on the given input."""
        request = {"do": "run", "calls": 1}
        try:
            _, output = self._child(handle).ask(request, timeout_s, unpack(input))
        except ChildFailed as failure:
            raise Refusal("run_failed", str(failure)) from failure
        return {"output": base64.b64encode(output).decode()}

    def do_unload(self, handle: int) -> dict[str, Any]:
        """End a library's process."""
        self._child(handle)
        self._libraries.unload(handle)
        return {}

    def do_bye(self) -> dict[str, Any]:
        """End, once this is answered."""
        self._idle_s = 0.0
        return {}

    def _child(self, handle: int) -> children.Child:
        if handle not in self._libraries.loaded:
            raise Refusal("refused", f"there is no handle {handle}: it was never given or is unloaded")
        return self._libraries.loaded[handle]

    def _progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told > 0.25 or done == total:
            self._told = now
            self.send({"id": self._request_id, "event": "progress", "done": done, "total": total})

    def _lock(self) -> None:
        # Held until the process ends, however it ends.
        self._lock_file = open(os.path.join(self._folder, "agent.lock"), "a")  # noqa: SIM115
        give_up = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                return fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > give_up:
                    raise Refusal("busy", f"another agent works in {self._folder}") from None
                time.sleep(0.05)


def platform_names() -> Any:
    """Names of the device types, by their files."""
    return sorted(module.name for module in pkgutil.iter_modules(platforms.__path__))


def unpack(text: str) -> bytes:
    """Bytes from their form on the wire.

    Raises:
        BadRequest: the text is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise protocol.BadRequest(f"not base64: {error}") from error


def listen(agent: Agent, requests: queue.Queue[bytes]) -> None:
    """Pass on lines as they come, watch the deadline, and end the process when either is over.

    It runs beside the thread that works, so that a host that is gone ends the hardest work at once.
    """
    inbox = Inbox(0)
    try:
        while time.monotonic() < agent.deadline:
            wait_s = min(protocol.HEARTBEAT_S, agent.deadline - time.monotonic())
            try:
                requests.put(inbox.line(max(0.0, wait_s)))
            except TimeoutError:
                agent.beat()
    except (EOFError, OSError):
        pass  # the host is gone
    finally:
        children.end_all()
        os._exit(0)


def main(bundle: str) -> None:
    """Serve the host on standard input and output.

    Args:
        bundle: path of the shipped file.
    """
    folder = os.path.dirname(os.path.abspath(bundle))
    agent = Agent(folder, os.path.abspath(bundle), protocol.take_over_stdout())
    requests: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=listen, args=(agent, requests), daemon=True).start()
    while True:
        agent.serve(requests.get())
