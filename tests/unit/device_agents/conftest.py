from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def build_library(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Function that compiles plain_library.c with the given macros, once each; the file is named by its digest."""
    folder = tmp_path_factory.mktemp("libraries")
    source = Path(__file__).with_name("plain_library.c")
    built: dict[tuple[str, ...], Path] = {}

    def build(*macros: str) -> Path:
        if macros not in built:
            part = folder / "part.so"
            flags = [f"-D{macro}" for macro in macros]
            subprocess.run(["cc", "-O1", "-shared", "-fPIC", *flags, str(source), "-o", str(part)], check=True)
            digest = hashlib.sha256(part.read_bytes()).hexdigest()
            built[macros] = part.rename(folder / f"{digest}.so")
        return built[macros]

    return build
