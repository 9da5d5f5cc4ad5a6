"""The agent: answers one host's requests until its input ends, a deadline passes, or it is told to go.

Started as ``python3 -I agent-xxx.pyz``; it works in the folder in which that file lies and nowhere else. No clock but
the monotonic one is asked for anything, so that a board may set its time whenever it likes.
"""

from __future__ import annotations

import base64
import functools
import importlib
import os
import pkgutil
import queue
import sys
import threading
import time
from typing import IO, Any

from device_agents import protocol
from device_agents.agent import children, host_state, platforms
from device_agents.agent.children import ChildFailed
from device_agents.agent.folder import Folder, LibraryMissing, LibraryRefused, Taken
from device_agents.agent.governor import Governor
from device_agents.agent.libraries import Libraries
from device_agents.agent.pipes import Inbox, LineTooLong
from device_agents.agent.rounds import Measuring, Settings

#: An agent that was never greeted waits no longer.
GREETING_S = 60.0

#: Requests that wait while one is worked on; a host that keeps to the protocol sends one at a time.
WAITING_MAX = 2

#: What can be asked before hello, and without the lock.
UNLOCKED = ("hello", "bye")


class Refusal(Exception):  # noqa: N818
    """What the host asked for cannot be had; ``kind`` is one of the protocol's."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Agent:
    """The verbs, one method each, and what they share.

    Args:
        bundle: the shipped file; the libraries lie beside it.
        modules: where its modules are imported from.
        channel: where replies go.

    Attributes:
        deadline: monotonic time at which the agent ends itself.
    """

    def __init__(self, bundle: str, modules: str, channel: IO[bytes]) -> None:
        self.deadline = time.monotonic() + GREETING_S
        self._idle_s = GREETING_S
        self._channel = channel
        self._writing = threading.Lock()
        self._request_id: int | None = None
        self._told = 0.0
        self._modules = modules
        self._folder = Folder(os.path.dirname(bundle), bundle)
        self._libraries = Libraries(self._folder, modules)
        self._governor: Governor | None = None
        self._is_leaving = False
        self._root = host_state.system_root()

    def send(self, message: dict[str, Any]) -> None:
        """Send one line; from any thread.

        Raises:
            ValueError: it is no JSON, or too long.
        """
        line = protocol.encode(message)
        if len(line) > protocol.LINE_BYTES_MAX:
            raise ValueError(f"the answer has {len(line)} bytes, more than {protocol.LINE_BYTES_MAX}: ask for less")
        with self._writing:
            protocol.write_all(self._channel, line)

    def refuse(self, why: str, request_id: int | None = None) -> None:
        """Answer a line that is not worked on; from any thread."""
        self.send({"id": request_id, "error": {"kind": "refused", "message": why}})

    def beat(self) -> None:
        """Give a sign of life while a request is being worked on."""
        request_id = self._request_id
        if request_id is not None:
            self.send({"id": request_id, "event": "alive"})

    def serve(self, line: bytes) -> None:
        """Answer one line."""
        request_id = None
        try:
            message = protocol.decode(line)
            if "id" in message:
                request_id = protocol.checked(protocol.request_id, message["id"], "id")
            request = protocol.check_request(message)
        except protocol.BadRequest as error:
            return self.refuse(str(error), request_id)
        self.deadline = time.monotonic() + request.deadline_s
        self._request_id = request.id
        reply = self._reply(request)
        self._request_id = None
        self.deadline = time.monotonic() + self._idle_s
        try:
            self.send(dict(reply, id=request.id))
        except ValueError as error:
            self.refuse(str(error), request.id)
        if self._is_leaving:
            leave()

    def _reply(self, request: protocol.Request) -> dict[str, Any]:
        try:
            if self._governor is None and request.verb not in UNLOCKED:
                raise Refusal("refused", f"{request.verb}: say hello first")
            return {"result": getattr(self, "do_" + request.verb)(**request.arguments)}
        except protocol.BadRequest as error:
            kind, message = "refused", str(error)
        except Refusal as error:
            kind, message = error.kind, str(error)
        except LibraryMissing as error:
            kind, message = "missing", str(error)
        except LibraryRefused as error:
            kind, message = "load_failed", str(error)
        except Exception as error:
            # A fault of the agent's own ends this request and not the others; the host shows it.
            sys.excepthook(type(error), error, error.__traceback__)  # importing traceback would slow every start
            kind, message = "internal", repr(error)
        return {"error": {"kind": kind, "message": message}}

    def do_hello(self, version: int, idle_s: float, folder_bytes_max: int, who: str) -> dict[str, Any]:
        """Agree on the protocol, keep every other host out of this folder, and have the clocks stand high."""
        if version != protocol.PROTOCOL_VERSION:
            text = "the agent speaks version {} of the protocol, the host {}"
            raise Refusal("mismatch", text.format(protocol.PROTOCOL_VERSION, version))
        if self._governor is not None:
            raise Refusal("refused", "hello was said before")
        try:
            lock = self._folder.lock(who)
        except Taken as holder:
            raise Refusal("busy", f"the device is used by {holder}: wait until that has ended, or end it") from None
        except OSError as error:
            text = "no lock in {} ({}): choose a folder on a disk of the device's own"
            raise Refusal("refused", text.format(self._folder.path, error.strerror)) from error
        self._governor = Governor(self._root, self._modules, lock)
        self._idle_s = idle_s
        self._folder.bytes_max = folder_bytes_max
        self._folder.make_room(())
        warning = self._governor.raise_clocks()
        return {
            "version": protocol.PROTOCOL_VERSION,
            "libraries": self._folder.held(),
            "warnings": [warning] if warning else [],
        }

    @functools.cached_property
    def _platforms(self) -> dict[str, Any]:
        """Modules of the types that this device is of, the processor's first."""
        names = sorted(module.name for module in pkgutil.iter_modules(platforms.__path__))
        modules = {name: importlib.import_module(platforms.__name__ + "." + name) for name in names}
        present = [name for name in names if modules[name].present(self._root)]
        return {name: modules[name] for name in sorted(present, key=lambda name: name not in ("arm", "cpu"))}

    def do_describe(self) -> dict[str, Any]:
        """What this device is, by the modules of its types."""
        facts = host_state.merge(module.describe(self._root) for module in self._platforms.values())
        return dict(facts, platform=next(iter(self._platforms)), platforms=sorted(self._platforms))

    def do_state(self) -> dict[str, Any]:
        """What this device is doing just now."""
        facts = host_state.merge(module.state(self._root) for module in self._platforms.values())
        return dict(facts, clock_s=time.monotonic(), disk_free_bytes=self._folder.free_bytes())

    def do_load(self, library: str, cores: Any, self_test: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
        """Open a library in a process of its own and test it."""
        if self_test is not None:
            self_test = dict(self_test, input=unpack(self_test["input"]), expected=unpack(self_test["expected"]))
        return self._libraries.load(library, cores, self_test, timeout_s)

    def do_measure(self, jobs: Any, **settings: Any) -> dict[str, Any]:
        """Time the jobs in interleaved rounds; see :mod:`device_agents.agent.rounds`."""
        processes = {job["handle"]: self._child(job["handle"]) for job in jobs}
        return {"results": Measuring(jobs, processes, Settings(**settings), self._progress, self._look).run()}

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

    def do_clean(self) -> dict[str, Any]:
        """Remove every file of the agent's that is not in use."""
        freed_bytes = self._folder.clean(self._libraries.used)
        return {"freed_bytes": freed_bytes, "libraries": self._folder.held()}

    def do_bye(self) -> dict[str, Any]:
        """End, once this is answered."""
        self._is_leaving = True
        return {}

    def _child(self, handle: int) -> children.Child:
        if handle not in self._libraries.loaded:
            raise Refusal("refused", f"there is no handle {handle}: it was never given or is unloaded")
        return self._libraries.loaded[handle]

    def _look(self) -> dict[str, Any]:
        """What can be read of the device in an instant, while it is at work."""
        facts = host_state.gather(host_state.QUICK_READERS, self._root)
        del facts["missing"]
        return facts

    def _progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told > 0.25 or done == total:
            self._told = now
            self.send({"id": self._request_id, "event": "progress", "done": done, "total": total})


def unpack(text: str) -> bytes:
    """Bytes from their form on the wire.

    Raises:
        BadRequest: the text is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise protocol.BadRequest(f"not base64: {error}") from error


def leave() -> None:
    """End the agent and its processes, from any thread."""
    children.end_all()
    os._exit(0)


def watch(agent: Agent) -> None:
    """End the agent at its deadline, whatever its other threads are held by."""
    while True:
        left_s = agent.deadline - time.monotonic()
        if left_s <= 0:
            leave()
        time.sleep(min(protocol.HEARTBEAT_S, left_s))


def listen(agent: Agent, requests: queue.Queue[bytes]) -> None:
    """Pass on lines as they come, and end the agent when the host is gone, however hard it works just then."""
    inbox = Inbox(0)
    try:
        while time.monotonic() - inbox.heard < protocol.HOST_SILENCE_S:
            try:
                line = inbox.line(protocol.HEARTBEAT_S)
                if line != protocol.HOST_ALIVE:
                    requests.put_nowait(line)
            except TimeoutError:
                agent.beat()
            except LineTooLong as error:
                agent.refuse(str(error))
            except queue.Full:
                agent.refuse("it came before earlier requests were answered: send one at a time")
    except (EOFError, OSError):
        pass
    leave()


def main(bundle: str, modules: str) -> None:
    """Serve the host on standard input and output.

    Args:
        bundle: path of the shipped file.
        modules: where its modules are imported from.
    """
    agent = Agent(bundle, modules, protocol.take_over_stdout())
    requests: queue.Queue[bytes] = queue.Queue(WAITING_MAX)
    threading.Thread(target=watch, args=(agent,), daemon=True).start()
    threading.Thread(target=listen, args=(agent, requests), daemon=True).start()
    try:
        while True:
            agent.serve(requests.get())
    except OSError:  # the host is gone
        leave()
