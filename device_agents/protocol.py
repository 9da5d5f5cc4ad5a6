"""The wire between host and agent: JSON objects, one a line, on the agent's standard input and output.

    request   {"id": 7, "verb": "load", "deadline_s": 30.0, "arguments": {...}}
    event     {"id": 7, "event": "progress", "done": 12, "total": 40}       any number of them
    reply     {"id": 7, "result": {...}}  or  {"id": 7, "error": {"kind": "load_failed", "message": "..."}}

The verbs are fixed and their arguments typed: no code and no shell text passes. A library is named by the SHA-256 of
its bytes; nothing on the wire is a path. Shipped to the device: standard library only, syntax of Python 3.8.
"""

from __future__ import annotations

import json
import os
from typing import IO, Any, Callable

#: Raise it when a message changes its form or its meaning.
#: 1: first version.
#: 2: a job without an index may have numbers: the widths of a resident network.
PROTOCOL_VERSION = 2

#: Seconds between an agent's signs of life while it works.
HEARTBEAT_S = 2.0

#: Kinds of errors in replies.
ERROR_KINDS = ("busy", "internal", "load_failed", "mismatch", "refused", "run_failed")

Check = Callable[[Any], Any]


class BadRequest(ValueError):  # noqa: N818
    """A line or an argument that is not what the protocol asks for."""


def encode(message: dict[str, Any]) -> bytes:
    """One line, newline included."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Inverse of :func:`encode`.

    Raises:
        BadRequest: the line is no JSON object.
    """
    try:
        message = json.loads(line.decode())
    except ValueError as error:
        raise BadRequest(f"not a line of JSON: {line[:80]!r} ({error})") from error
    if not isinstance(message, dict):
        raise BadRequest(f"not a JSON object: {line[:80]!r}")
    return message


def write_all(stream: IO[bytes], data: bytes) -> None:
    """Write all of ``data`` to an unbuffered stream, which may take it in parts."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]


def take_over_stdout() -> IO[bytes]:
    """The wire's end on this process's standard output, which from now on leads to standard error.

    Native code prints to descriptor 1 whatever ``sys.stdout`` is, so the descriptor itself is moved away.
    """
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return channel


def check_name(name: str) -> str:
    """``name`` if it is a bare file name that stays inside its folder.

    Raises:
        BadRequest: it is empty, hidden, or holds a separator.
    """
    if not name or name.startswith(".") or any(mark in name for mark in "/\\\0"):
        raise BadRequest(f"{name!r} is not a bare file name")
    return name


def check_request(message: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a request, each of its verb's type.

    Raises:
        BadRequest: the verb is unknown, or an argument is missing, unknown or of another type.
    """
    verb, arguments = message.get("verb"), message.get("arguments")
    if verb not in ARGUMENTS:
        raise BadRequest("unknown verb {!r}: known are {}".format(verb, ", ".join(sorted(ARGUMENTS))))
    if not isinstance(arguments, dict) or set(arguments) != set(ARGUMENTS[verb]):
        raise BadRequest("{} takes the arguments {}".format(verb, ", ".join(sorted(ARGUMENTS[verb])) or "none"))
    return {name: _checked(check, arguments[name], verb + "." + name) for name, check in ARGUMENTS[verb].items()}


def _checked(check: Check, value: Any, where: str) -> Any:
    try:
        return check(value)
    except BadRequest as error:
        raise BadRequest(f"{where}: {error}") from error


def number(low: float, high: float) -> Check:
    """Check for a number in [low, high]."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise BadRequest(f"expected a number from {low} to {high}, got {value!r}")
        return value

    return check


def integer(low: int, high: int) -> Check:
    """Check for an integer in [low, high]."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise BadRequest(f"expected an integer from {low} to {high}, got {value!r}")
        return value

    return check


def text(value: Any) -> str:
    """Check for a text."""
    if not isinstance(value, str):
        raise BadRequest(f"expected a text, got {value!r}")
    return value


def digest(value: Any) -> str:
    """Check for a SHA-256 in hexadecimal."""
    if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise BadRequest(f"expected a SHA-256 in hexadecimal, got {value!r}")
    return value


def list_of(check: Check) -> Check:
    """Check for a list whose items pass ``check``."""

    def check_list(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise BadRequest(f"expected a list, got {value!r}")
        return [_checked(check, item, f"item {place}") for place, item in enumerate(value)]

    return check_list


def optional(check: Check) -> Check:
    """Check for None or what passes ``check``."""
    return lambda value: None if value is None else check(value)


def record(fields: dict[str, Check]) -> Check:
    """Check for an object with exactly these fields."""

    def check_record(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or set(value) != set(fields):
            raise BadRequest("expected an object of {}, got {!r}".format(", ".join(sorted(fields)), value))
        return {name: _checked(check, value[name], name) for name, check in fields.items()}

    return check_record


_handle = integer(1, 2**31 - 1)
_seconds = number(0.001, 86400.0)
_int32 = integer(-(2**31), 2**31 - 1)
_job = record({"handle": _handle, "index": optional(_int32), "numbers": list_of(_int32)})
_self_test = record({"input": text, "expected": text, "rtol": number(0.0, 1.0)})

#: Every verb with the type of each of its arguments; all of them must be given.
ARGUMENTS: dict[str, dict[str, Check]] = {
    "hello": {"version": integer(0, 2**31 - 1), "idle_s": _seconds},
    "describe": {},
    "state": {},
    "load": {
        "library": digest,
        "cores": list_of(integer(0, 4095)),
        "self_test": optional(_self_test),
        "timeout_s": _seconds,
    },
    "measure": {
        "jobs": list_of(_job),
        "blocks": integer(1, 10000),
        "calls_min": integer(1, 1000000),
        "block_ms_min": number(0.0, 60000.0),
        "warmup_ms_max": number(0.0, 60000.0),
        "max_s": _seconds,
        "timeout_s": _seconds,
    },
    "run": {"handle": _handle, "input": text, "timeout_s": _seconds},
    "unload": {"handle": _handle},
    "bye": {},
}
