"""Compiled libraries in one folder, each named by the SHA-256 of its bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from hwprune.errors import StoreError

#: What ``gc`` leaves: some thousands of networks.
DEFAULT_CAP_BYTES = 2 * 1024**3

_NAME = re.compile(r"[0-9a-f]{64}\.so")
_DRAFT_AGE_S = 3600.0


@dataclass(frozen=True)
class Collected:
    """What a collection removed (or, on a dry run, would remove) and left.

    Attributes:
        removed: SHA-256 of the libraries that went, the longest unused first.
        removed_bytes: their size.
        left_bytes: size of what stays.
    """

    removed: tuple[str, ...]
    removed_bytes: int
    left_bytes: int


class ArtifactStore:
    """A folder of ``<sha256>.so``; what was used last stays longest.

    Args:
        folder: made on first use.
        cap_bytes: how much :meth:`gc` leaves.
    """

    def __init__(self, folder: Path, cap_bytes: int = DEFAULT_CAP_BYTES) -> None:
        self.folder = Path(folder)
        self.cap_bytes = cap_bytes

    def add(self, path: Path) -> Path:
        """Copy a library in, unless it is there already; returns where it lies.

        Raises:
            StoreError: it cannot be read or copied.
        """
        with _translated(self.folder):
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            known = self.find(sha256)
            if known is not None:
                return known
            self.folder.mkdir(parents=True, exist_ok=True)
            target = self._path(sha256)
            # Written beside and renamed: a crash or a full disk never leaves a half library under a good name.
            descriptor, draft = tempfile.mkstemp(suffix=".part", dir=self.folder)
            try:
                with os.fdopen(descriptor, "wb") as stream, path.open("rb") as source:
                    shutil.copyfileobj(source, stream)
                shutil.copymode(path, draft)
                os.replace(draft, target)
            except BaseException:
                Path(draft).unlink(missing_ok=True)
                raise
            return target

    def find(self, sha256: str) -> Path | None:
        """Where a library lies, if it is here; this counts as a use."""
        path = self._path(sha256)
        with contextlib.suppress(OSError):  # a read-only folder still serves
            os.utime(path)
        return path if path.is_file() else None

    def total_bytes(self) -> int:
        """Size of all libraries."""
        return sum(size for _, size, _ in self._entries())

    def gc(self, keep: Container[str] = (), *, cap_bytes: int | None = None, dry_run: bool = False) -> Collected:
        """Remove the longest unused libraries until the rest is within the cap.

        Args:
            keep: SHA-256 of libraries that stay whatever their age.
            cap_bytes: another cap than the folder's.
            dry_run: remove nothing, only say what would go.

        Raises:
            StoreError: the folder cannot be read or written.
        """
        cap = self.cap_bytes if cap_bytes is None else cap_bytes
        left_bytes, removed, removed_bytes = self.total_bytes(), [], 0
        with _translated(self.folder):
            for _, size, path in sorted(self._entries()):
                if left_bytes <= cap:
                    break
                if path.stem in keep:
                    continue
                if not dry_run:
                    path.unlink(missing_ok=True)
                removed.append(path.stem)
                removed_bytes += size
                left_bytes -= size
            if not dry_run:
                self._sweep_drafts()
        return Collected(tuple(removed), removed_bytes, left_bytes)

    def _path(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.so"

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Last use, size and path of every library; other files in the folder are not ours."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if _NAME.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # another process collects too
                    status = path.stat()
                    yield status.st_mtime, status.st_size, path

    def _sweep_drafts(self) -> None:
        """Remove what copies that were killed left behind."""
        for path in self.folder.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _DRAFT_AGE_S:
                    path.unlink()


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"artifacts in {folder} failed ({error.strerror}: {error.filename or folder}): "
            "free space or make the folder writable"
        ) from error
