"""Agents watched from outside: what runs from their folder, and libraries with a fault of the test's choice."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

#: A network of the plain C ABI that returns its ten inputs; FAULT happens in every call after the first AFTER ones.
SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

GLOBALS

static int calls;
static volatile float sink;

const char *library_description(void) {
    return "{\"abi\":1,\"kind\":\"network\",\"inputs\":[[1,10]],\"outputs\":[[1,10]],"
           "\"input_bytes\":40,\"output_bytes\":40}";
}

void reference_run(void) {
    for (int i = 0; i < 5000; i++) sink = sink * 0.5f + (float)i;
}

int network_run(const float *input, float *output) {
    reference_run();
    memcpy(output, input, 40);
    if (++calls > AFTER) { FAULT; }
    return 0;
}
"""


def compile_library(folder: Path, fault: str = "", after: int = 0, globals: str = "") -> tuple[Path, str]:
    """Path and digest of a library with a fault, as a statement of C."""
    text = SOURCE.replace("GLOBALS", globals).replace("AFTER", str(after)).replace("FAULT", fault)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    command = ["cc", "-O1", "-w", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=text.encode(), check=True)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def processes(folder: Path) -> dict[int, str]:
    """Command lines by process number, of those that run from ``folder`` and have not ended."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(folder) in command and state != "Z":
            found[int(entry.name)] = command
    return found


def agent_of(folder: Path) -> int:
    """Process number of the one agent that runs from ``folder``."""
    (agent,) = [number for number, command in processes(folder).items() if "import" not in command]
    return agent


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return when ``condition`` holds; it must within so many seconds."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)
