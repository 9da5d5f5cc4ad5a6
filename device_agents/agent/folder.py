"""The agent's folder on the device: libraries, the shipped file, and the lock that keeps every other host out.

Whatever bears another name than these is not the agent's and is never touched, so that a folder that was chosen badly
loses nothing. No link is followed, and no clock is asked: a board may have lost the time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import time
from typing import Collection

SUFFIX = ".so"
LOCK = "agent.lock"

#: Names of libraries and shipped files, and of their parts on the way here.
LIBRARY = re.compile(r"([0-9a-f]{64})\.so")
LIBRARY_PART = re.compile(r"[0-9a-f]{64}\.so\..*part")
SHIPPED = re.compile(r"agent-[0-9a-f]{12}\..*(pyz|part)")

#: An earlier agent of the same folder may still be on its way out.
LOCK_WAIT_S = 2.0

#: Between the times of use that are written to files.
STEP_NS = 1_000_000_000


class LibraryRefused(Exception):  # noqa: N818
    """A library that cannot be loaded; the text says why."""


class LibraryMissing(LibraryRefused):
    """A library whose file is not here, or not whole."""


class Taken(Exception):  # noqa: N818
    """Another agent holds the folder; the text says for whom."""


class Folder:
    """Files that the agent may open and remove.

    Args:
        path: the folder.
        bundle: the shipped file that runs, which is kept with its bytecode.

    Attributes:
        bytes_max: libraries beyond this are dropped, those unused for the longest first.
    """

    def __init__(self, path: str, bundle: str) -> None:
        self.path = path
        self.bytes_max = 1 << 30
        self._version = os.path.basename(bundle)[: -len("pyz")]
        self._checked: dict[str, int] = {}

    def lock(self, who: str) -> int:
        """Keep every other agent out until this process ends, however it ends; parts that nobody sends are removed.

        Args:
            who: told to those who come later.

        Returns:
            The lock's descriptor: closing it, or ending all processes that have it, frees the lock.

        Raises:
            Taken: another agent is in.
            OSError: this file system has no locks.
        """
        # Not inherited by children, and no link to a file of somebody else is written to.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(os.path.join(self.path, LOCK), flags, 0o644)
        give_up = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    holder = os.pread(descriptor, 1000, 0).decode("ascii", "replace").strip()
                    os.close(descriptor)
                    raise Taken(holder or "another host") from None
                time.sleep(0.05)
        with contextlib.suppress(OSError):  # a full disk must not keep out the one who can clean it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, who.encode("ascii", "backslashreplace") + b"\n", 0)
        for name in self._names(LIBRARY_PART):
            self._remove(name)
        return descriptor

    def held(self) -> list[str]:
        """Digests of all libraries."""
        return [name[: -len(SUFFIX)] for name in self._names(LIBRARY)]

    def free_bytes(self) -> int:
        """What still fits on the disk."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def open_path(self, library: str) -> str:
        """Path of a library whose bytes have its digest; notes that it is used.

        Raises:
            LibraryMissing: the file is missing or torn.
            LibraryRefused: it is no plain file.
        """
        path = os.path.join(self.path, library + SUFFIX)
        try:
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode):
                raise LibraryRefused("its file is a link or no file at all: remove it from the device")
            if self._checked.get(library) != status.st_mtime_ns:
                if file_digest(path) != library:
                    os.unlink(path)
                    raise LibraryMissing("its file was torn and is removed: put it again")
                self._checked[library] = status.st_mtime_ns
        except OSError as error:
            raise LibraryMissing(f"its file is not on the device ({error.strerror}): put it first") from error
        self._note_use(path, status.st_mtime_ns)
        return path

    def make_room(self, used: Collection[str]) -> list[str]:
        """Drop libraries until the folder has at most :attr:`bytes_max`, but none that is used.

        Returns:
            Digests of those that were dropped.
        """
        sizes = {name: self._status(name) for name in self._names(LIBRARY, LIBRARY_PART, SHIPPED)}
        surplus = sum(status.st_size for status in sizes.values()) - self.bytes_max
        dropped = []
        for name in sorted(self.held(), key=lambda name: sizes[name + SUFFIX].st_atime_ns):
            if surplus <= 0:
                break
            if name not in used:
                surplus -= self._remove(name + SUFFIX)
                dropped.append(name)
        return dropped

    def clean(self, used: Collection[str]) -> int:
        """Remove every file of the agent's but the running one, its lock, and the libraries that are used.

        Returns:
            Bytes that were freed.
        """
        kept = {name + SUFFIX for name in used}
        kept.update(name for name in self._names(SHIPPED) if name.startswith(self._version) and name.endswith("pyz"))
        return sum(self._remove(name) for name in self._names(LIBRARY, LIBRARY_PART, SHIPPED) if name not in kept)

    def _names(self, *patterns: re.Pattern[str]) -> list[str]:
        return sorted(name for name in os.listdir(self.path) if any(pattern.fullmatch(name) for pattern in patterns))

    def _status(self, name: str) -> os.stat_result:
        return os.lstat(os.path.join(self.path, name))

    def _remove(self, name: str) -> int:
        """Remove a file or a link; the bytes that this frees, 0 where it cannot be removed."""
        try:
            size = self._status(name).st_size
            os.unlink(os.path.join(self.path, name))
        except OSError:
            return 0
        return size

    def _note_use(self, path: str, changed_ns: int) -> None:
        """Make this the library that was used last, on file systems that note no reading too."""
        last_ns = max(self._status(name + SUFFIX).st_atime_ns for name in self.held())
        with contextlib.suppress(OSError):
            os.utime(path, ns=(last_ns + STEP_NS, changed_ns))


def file_digest(path: str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; a link is not followed."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
