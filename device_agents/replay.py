"""Recordings of devices: what was measured on one, as lines of JSON that answer in its place (docs/replay.md).

    {"format": "hwprune recording", "version": 1, "device": {...}, "recorded_at": "...", ...}
    {"kind": "kernel", "shape": {...}, "measurement": {...}}
    {"kind": "network", "measurement": {...}}
    {"kind": "model", "name": "...", "content": "..."}

The first line says what the file is. The others come in any order; kinds that a reader does not know are passed over.
The file may be compressed by gzip, whatever its name.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from device_agents.errors import RecordingError
from device_agents.registry import Device

FORMAT = "hwprune recording"

#: Raise it when a line changes its form or its meaning.
#: 1: first version.
VERSION = 1

#: How a recorded device is named on the command line, before the file.
PREFIX = "replay:"

#: What the name of a recorded device begins with, so that nobody takes it for the device itself.
NAME_PREFIX = "replay-"

GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Recording:
    """What a file holds.

    Attributes:
        header: the first line: the device's entry, when and by which version it was recorded.
        lines: the others.
    """

    header: dict[str, Any]
    lines: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, path: Path) -> Recording:
        """The recording in a file.

        Raises:
            RecordingError: the file cannot be read, is no recording, is damaged, or of a newer version.
        """
        try:
            content = path.read_bytes()
            if content.startswith(GZIP_MAGIC):
                content = gzip.decompress(content)
            header, *lines = [json.loads(line) for line in content.decode().splitlines()]
            if header["format"] != FORMAT:
                raise RecordingError(f"{path} is no recording: make one with 'hwprune device record NAME FILE'")
            version = header["version"]
        except OSError as error:
            raise RecordingError(f"{path} cannot be read ({error.strerror or error}): name a recording") from error
        except (EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RecordingError(
                f"{path} is no recording, or a damaged one ({reason}): make one with 'hwprune device record NAME FILE'"
            ) from error
        if version != VERSION:
            raise RecordingError(
                f"{path} has version {version} of the format, this program reads {VERSION}: record anew"
            )
        return cls(header, tuple(lines))

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Lines of one kind, in their order."""
        return [line for line in self.lines if line.get("kind") == kind]

    def device(self, path: Path) -> Device:
        """The recorded device's entry, as a device that is answered for by the file.

        Args:
            path: of the file.

        Raises:
            RecordingError: the entry cannot be used.
        """
        try:
            fields = dict(self.header["device"])
            name = f"{NAME_PREFIX}{fields.pop('name').removeprefix(NAME_PREFIX)}"
            return Device(**{**fields, "name": name, "transport": "replay", "recording": str(path.absolute())})
        except (KeyError, TypeError, AttributeError, pydantic.ValidationError) as error:
            reason = " ".join(str(error).split())
            raise RecordingError(f"{path} describes no device ({reason}): record it anew") from error


def write(path: Path, device: Device, header: dict[str, Any], lines: Iterable[dict[str, Any]]) -> None:
    """Write a recording, whole or not at all; compressed where the file's name ends with ``.gz``.

    Args:
        path: of the file.
        device: what was recorded; the way to it is left out.
        header: what the first line says besides.
        lines: what was measured.

    Raises:
        RecordingError: the file cannot be written.
    """
    entry = device.model_dump(mode="json", exclude={"ssh", "transport", "recording"})
    first = {"format": FORMAT, "version": VERSION, "device": entry, **header}
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in (first, *lines))
    # Without a time in it, equal recordings are equal files.
    content = gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RecordingError(f"{path} cannot be written ({error.strerror or error}): name another file") from error
