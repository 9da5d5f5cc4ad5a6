"""The shipped agent as one file that any Python from 3.8 runs: ``agent-<digest>.pyz``.

The digest is over the sources and the file is not compressed, so the same sources give the same bytes everywhere.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).parent

#: What Python runs when it is given the file.
START = PACKAGE / "start.py"

EARLIEST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def sources() -> dict[str, bytes]:
    """What is shipped: source text by name in the file, sorted, with the line ends of Unix."""
    modules = [PACKAGE / "__init__.py", PACKAGE / "protocol.py", *(PACKAGE / "agent").rglob("*.py")]
    files = {"__main__.py": START, **{file.relative_to(PACKAGE.parent).as_posix(): file for file in modules}}
    return {name: files[name].read_bytes().replace(b"\r\n", b"\n") for name in sorted(files)}


def digest() -> str:
    """SHA-256 over the names and bytes of the sources, in hexadecimal."""
    total = hashlib.sha256()
    for name, text in sources().items():
        total.update(f"{name}\0{len(text)}\0".encode() + text)
    return total.hexdigest()


def name() -> str:
    """The file's name, which changes with its contents."""
    return f"agent-{digest()[:12]}.pyz"


def contents() -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, text in sources().items():
            entry = zipfile.ZipInfo(path, EARLIEST_ZIP_DATE)
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text)
    return buffer.getvalue()


def build(folder: Path) -> Path:
    """Write the file into ``folder``, unless it is there already."""
    path = folder / name()
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(contents())
        part.replace(path)
    return path
