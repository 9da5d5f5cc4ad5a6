"""Ways to an agent: start it and speak with it, bring files to it, end it."""

from __future__ import annotations

import collections
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from device_agents import bundle, protocol
from device_agents.errors import AgentLost

#: Lines of an agent's standard error that are kept for error messages.
KEPT_LINES = 20


class Transport(Protocol):
    """One agent on one device."""

    def start(self) -> tuple[BinaryIO, BinaryIO]:
        """Start the agent.

        Returns:
            What it writes, and what it reads.

        Raises:
            AgentError: it cannot be started.
        """
        ...

    def put(self, name: str, path: Path) -> None:
        """Bring the file at ``path`` into the agent's folder as ``name``, whole or not at all.

        Raises:
            AgentError: it cannot be written there.
        """
        ...

    def close(self) -> str:
        """End the agent; the last lines it wrote to its standard error."""
        ...


class LoopbackTransport:
    """An agent on this computer, in a process of its own, from the same file that boards get.

    Args:
        work_folder: the agent's folder; made if absent.
        python: the interpreter to run it with.
    """

    def __init__(self, work_folder: Path, python: str = sys.executable) -> None:
        self._folder = work_folder
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self._last_lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._listener: threading.Thread | None = None

    def start(self) -> tuple[BinaryIO, BinaryIO]:
        """Start the agent; see :meth:`Transport.start`."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            command = [self._python, "-I", "-S", str(bundle.build(self._folder).resolve())]
            # A session of its own: Ctrl-C is for the host, which then ends the agent in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise AgentLost(f"the agent cannot be started in {self._folder}: {error}") from error
        self._listener = threading.Thread(target=self._keep_last_lines, daemon=True)
        self._listener.start()
        return cast(BinaryIO, self._process.stdout), cast(BinaryIO, self._process.stdin)

    def put(self, name: str, path: Path) -> None:
        """Link or copy a file into the agent's folder; see :meth:`Transport.put`."""
        target = self._folder / protocol.check_name(name)
        part = target.with_name(f"{name}.{os.getpid()}.part")
        try:
            try:
                part.hardlink_to(path)
            except OSError:  # another file system
                shutil.copyfile(path, part)
            part.replace(target)
        except OSError as error:
            raise AgentLost(f"{name} cannot be written to {self._folder}: {error}") from error
        finally:
            part.unlink(missing_ok=True)  # a link to the same file is not moved by replacing

    def close(self) -> str:
        """End the agent; see :meth:`Transport.close`."""
        if self._process is not None and self._listener is not None:
            try:
                self._process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                self._process.kill()  # its children are ended by the system
                self._process.wait()
            self._listener.join(timeout=1.0)
            self._process = None
        return "\n".join(self._last_lines)

    def _keep_last_lines(self) -> None:
        assert self._process is not None
        errors = cast(BinaryIO, self._process.stderr)
        with errors:
            for line in errors:
                self._last_lines.append(line.decode(errors="replace").rstrip())
