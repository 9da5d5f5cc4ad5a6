"""Has the clocks stand at their highest while an agent works, where it may, and as they were when it has ended.

A guard, a small process of its own, holds the old settings and waits for the end of a pipe that the agent alone holds
open: so they come back however the agent ends. After a power cut the system sets them anew by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

from device_agents.agent.host_state import Absent, read_all, read_text

WANTED = "performance"
FILES = "sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
START = "import sys; sys.path.insert(0, sys.argv[1]); from device_agents.agent import governor; governor.guard()"


class Governor:
    """The settings of all policies (clusters or cores).

    Args:
        root: where ``sys`` lies.
        modules: where the shipped modules lie.
        lock: descriptor of the lock, which the guard holds until all is as it was; the next agent waits for that.

    Attributes:
        guard: the process that puts them back; None where nothing was changed.
    """

    def __init__(self, root: str, modules: str, lock: int) -> None:
        self._root = root
        self._modules = modules
        self._lock = lock
        self.guard: subprocess.Popen[bytes] | None = None

    def raise_clocks(self) -> str:
        """Set every policy to ``performance``; what stands against it, "" if nothing does or there is no governor."""
        try:
            found = read_all(self._root, FILES)
        except Absent:
            return ""  # a machine without governors: the clock is the host's affair
        others = {os.path.join(self._root, path): old for path, old in found.items() if old != WANTED}
        if not others:
            return ""
        names = "+".join(sorted(set(others.values())))
        lacking = [path for path in others if not os.access(path, os.W_OK) or not self._offers(path)]
        if lacking:
            return (
                f"the governor is {names} and this user may not set it to {WANTED}, so numbers are less steady: "
                f"run 'cpupower frequency-set -g {WANTED}' there as root"
            )
        self._start_guard(others)
        failed = [path for path in others if not write(path, WANTED)]
        return f"the governor is {names} and the system refuses {WANTED}" if failed else ""

    def _offers(self, path: str) -> bool:
        folder = os.path.relpath(os.path.dirname(path), self._root)
        try:
            return WANTED in read_text(self._root, folder + "/scaling_available_governors").split()
        except Absent:
            return True

    def _start_guard(self, old: dict[str, str]) -> None:
        command = [sys.executable, "-I", "-S", "-c", START, self._modules]
        self.guard = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # what ends the agent's session does not end the guard too
            pass_fds=[self._lock],
        )
        assert self.guard.stdin is not None
        assert self.guard.stdout is not None
        self.guard.stdin.write(json.dumps(old).encode() + b"\n")
        self.guard.stdin.flush()
        self.guard.stdout.readline()  # it is on guard: now the settings may be changed


def guard() -> None:
    """Take settings from standard input, say so, wait for its end, and put them back."""
    line = sys.stdin.buffer.readline()
    old = json.loads(line) if line.endswith(b"\n") else {}

    def put_back(*_: object) -> None:
        for path, text in old.items():
            write(path, text)
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, put_back)
    with contextlib.suppress(OSError):
        sys.stdout.buffer.write(b"on guard\n")
        sys.stdout.buffer.flush()
    sys.stdin.buffer.read()
    put_back()


def write(path: str, text: str) -> bool:
    """Write a file of the system; whether it took the text."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    except OSError:
        return False
    try:
        return os.write(descriptor, text.encode()) == len(text)
    except OSError:
        return False
    finally:
        os.close(descriptor)
