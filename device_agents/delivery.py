"""What runs on a board before the agent: takes a file, then starts the agent in its place.

Its text and its words come to the board's Python over standard input, so no shell reads either:

    [TEXT, [FOLDER, NAME, SIZE, SHA256, "put" or "start"]]

It answers with lines that begin with a mark, since a user's start-up files may print as well:

    hwprune {"has": false}         the file is not there: SIZE bytes of standard input are
    hwprune {"got": 65536}         so many bytes have come
    hwprune {"done": true}         it is in place; after ``start``, the next line is the agent's
    hwprune {"unfit": "..."}       this board cannot run the agent
    hwprune {"error": "..."}       the file could not be put in its place

Standard library only, in the syntax of Python 3.6, so that an old one can say that it is too old.
"""

import glob
import hashlib
import json
import os
import sys
import time

MARK = b"hwprune "
CHUNK_BYTES = 1 << 16
PYTHON_MIN = (3, 8)

#: Parts of files that came no further are removed when they are older.
STALE_S = 3600.0


def say(**facts: object) -> None:
    """Tell the host."""
    os.write(1, MARK + json.dumps(facts).encode() + b"\n")


def digest_of(path: str) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def receive(path: str, size: int, sha256: str) -> None:
    """Read a file from standard input into ``path``, whole or not at all."""
    part, digest, got = f"{path}.{os.getpid()}.part", hashlib.sha256(), 0
    try:
        with open(part, "wb", 0) as file:
            while got < size:
                chunk = os.read(0, min(CHUNK_BYTES, size - got))
                if not chunk:
                    raise OSError("the sender hung up")
                digest.update(chunk)
                while chunk:
                    chunk = chunk[file.write(chunk) :]
                got = file.tell()
                say(got=got)
        if digest.hexdigest() != sha256:
            raise OSError("what arrived is not what was sent")
        os.rename(part, path)
    finally:
        if os.path.exists(part):
            os.unlink(part)


def unfit(folder: str) -> str:
    """Why this board cannot run the agent; nothing if it can."""
    if sys.version_info < PYTHON_MIN:
        return f"Python {sys.version_info[0]}.{sys.version_info[1]} is too old, 3.8 or newer is needed"
    try:
        import ctypes  # noqa: F401  -- a package of its own on some systems
    except ImportError:
        return "its Python has no ctypes: install the whole of python3, not its minimal package"
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        return f"{folder} is mounted noexec, so libraries cannot be loaded from there: choose another folder"
    return ""


def sweep(folder: str) -> None:
    """Remove what earlier transfers left behind when the board lost its power."""
    for part in glob.glob(os.path.join(glob.escape(folder), "*.part")):
        try:
            if time.time() - os.stat(part).st_mtime > STALE_S:
                os.unlink(part)
        except OSError:
            pass


def main(folder: str, name: str, size: int, sha256: str, then: str) -> None:
    """Deliver one file; ``then`` is ``"put"`` to end, ``"start"`` to become the agent."""
    folder = os.path.join(os.path.expanduser("~"), folder)
    path = os.path.join(folder, name)
    try:
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o700)
        reason = unfit(folder) if then == "start" else ""
        if reason:
            return say(unfit=reason)
        sweep(folder)
        has = os.path.exists(path) and digest_of(path) == sha256
        say(has=has)
        if not has:
            receive(path, size, sha256)
        say(done=True)
    except OSError as error:
        return say(error=error.strerror or str(error))
    if then == "start":
        os.execv(sys.executable, [sys.executable, "-I", "-S", path])


if "words" in globals():  # on the board
    main(*globals()["words"])
