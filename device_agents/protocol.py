"""The wire between host and agent: JSON objects, one a line, on the agent's standard input and output.

    request   {"id": 7, "verb": "load", "deadline_s": 30.0, "arguments": {...}}
    event     {"id": 7, "event": "progress", "done": 12, "total": 40}       any number of them
    reply     {"id": 7, "result": {...}}  or  {"id": 7, "error": {"kind": "load_failed", "message": "..."}}

Every line that an agent gets is answered by one reply, whose ``id`` is null where the line told none; only
:data:`HOST_ALIVE`, a host's sign of life, is not. The verbs are fixed and their arguments typed: no code and no shell
text passes. A library is named by the SHA-256 of its bytes; nothing on the wire is a path. Neither end believes the
other: docs/agent.md lists what each refuses. Shipped to the device: standard library only, syntax of Python 3.8.
"""

from __future__ import annotations

import json
import os
import reprlib
from typing import IO, Any, Callable, NamedTuple

#: Raise it when a message changes its form or its meaning.
#: 1: first version.
#: 2: a job without an index may have numbers: the widths of a resident network.
#: 3: hello names the host and limits the folder; clean; energy of blocks; every line is answered.
#: 4: a library that has to be put again is missing, not a failure; jobs of a measurement may end when they are steady.
#: 5: measure takes a load: a pace, untimed calls before each block, cold caches; blocks tell the device's state.
PROTOCOL_VERSION = 6

#: Seconds between an agent's signs of life while it works.
HEARTBEAT_S = 2.0

#: A host's sign of life, how often it comes while nothing else does, and the silence after which a host is gone: a link
#: may be cut without a word, and the agent must not hold the device to the end of a long deadline.
HOST_ALIVE = b'{"event":"alive"}'
HOST_BEAT_S = 5.0
HOST_SILENCE_S = 30.0

#: Longest line, newline included: the self-test of an input of 12 million bytes of float32 and an output as large.
LINE_BYTES_MAX = 32 << 20

#: Longest text of digits that is taken for an integer: reading one takes time with the square of its length.
DIGITS_MAX = 20

#: Kinds of errors in replies.
ERROR_KINDS = ("busy", "internal", "load_failed", "mismatch", "missing", "refused", "run_failed")

Check = Callable[[Any], Any]


class BadRequest(ValueError):  # noqa: N818
    """A line or an argument that is not what the protocol asks for."""


def encode(message: dict[str, Any]) -> bytes:
    """One line, newline included.

    Raises:
        ValueError: it holds a number that JSON does not have.
    """
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Inverse of :func:`encode`.

    Raises:
        BadRequest: the line is no JSON object, or one that could be read in several ways or harm its reader.
    """
    try:
        message = _decoder.decode(line.decode())
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"not a line of JSON: {line[:80]!r} ({error})") from error
    if not isinstance(message, dict):
        raise BadRequest(f"not a JSON object: {line[:80]!r}")
    return message


def _short_integer(digits: str) -> int:
    if len(digits) > DIGITS_MAX:
        raise BadRequest(f"a number of {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise BadRequest(f"{name} is no number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRequest("a key stands twice")
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_int=_short_integer, parse_constant=_no_constant)


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


class Request(NamedTuple):
    """What a host asks for.

    Attributes:
        id: repeated in the reply.
        verb: one of :data:`ARGUMENTS`.
        deadline_s: an agent that is not done by then ends itself.
        arguments: by name, each of its verb's type.
    """

    id: int
    verb: str
    deadline_s: float
    arguments: dict[str, Any]


def check_request(message: dict[str, Any]) -> Request:
    """A message as a request.

    Raises:
        BadRequest: the verb is unknown, or an argument is missing, unknown or of another type.
    """
    if set(message) != {"id", "verb", "deadline_s", "arguments"}:
        raise BadRequest("expected an object of id, verb, deadline_s, arguments, got " + reprlib.repr(message))
    verb, arguments = message["verb"], message["arguments"]
    if not isinstance(verb, str) or verb not in ARGUMENTS:
        raise BadRequest("unknown verb {}: known are {}".format(reprlib.repr(verb), ", ".join(sorted(ARGUMENTS))))
    if not isinstance(arguments, dict) or set(arguments) != set(ARGUMENTS[verb]):
        raise BadRequest("{} takes the arguments {}".format(verb, ", ".join(sorted(ARGUMENTS[verb])) or "none"))
    return Request(
        checked(request_id, message["id"], "id"),
        verb,
        checked(number(0.001, DEADLINE_S_MAX), message["deadline_s"], "deadline_s"),
        {name: checked(check, arguments[name], verb + "." + name) for name, check in ARGUMENTS[verb].items()},
    )


def checked(check: Check, value: Any, where: str) -> Any:
    """``value`` if it passes ``check``.

    Raises:
        BadRequest: it does not; the text begins with ``where``.
    """
    try:
        return check(value)
    except BadRequest as error:
        raise BadRequest(f"{where}: {error}") from error


def number(low: float, high: float) -> Check:
    """Check for a number in [low, high]."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise BadRequest(f"expected a number from {low} to {high}, got {reprlib.repr(value)}")
        return value

    return check


def integer(low: int, high: int) -> Check:
    """Check for an integer in [low, high]."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise BadRequest(f"expected an integer from {low} to {high}, got {reprlib.repr(value)}")
        return value

    return check


def text(characters_max: int) -> Check:
    """Check for a text of at most so many characters."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or len(value) > characters_max:
            raise BadRequest(f"expected a text of at most {characters_max} characters, got {reprlib.repr(value)}")
        return value

    return check


def flag(value: Any) -> bool:
    """Check for true or false."""
    if not isinstance(value, bool):
        raise BadRequest(f"expected true or false, got {reprlib.repr(value)}")
    return value


def digest(value: Any) -> str:
    """Check for a SHA-256 in hexadecimal."""
    if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise BadRequest(f"expected a SHA-256 in hexadecimal, got {reprlib.repr(value)}")
    return value


def list_of(check: Check, count_max: int) -> Check:
    """Check for a list of at most ``count_max`` items that pass ``check``."""

    def check_list(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > count_max:
            raise BadRequest(f"expected a list of at most {count_max} items, got {reprlib.repr(value)}")
        return [checked(check, item, f"item {place}") for place, item in enumerate(value)]

    return check_list


def optional(check: Check) -> Check:
    """Check for None or what passes ``check``."""
    return lambda value: None if value is None else check(value)


def record(fields: dict[str, Check]) -> Check:
    """Check for an object with exactly these fields."""

    def check_record(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or set(value) != set(fields):
            raise BadRequest("expected an object of {}, got {}".format(", ".join(sorted(fields)), reprlib.repr(value)))
        return {name: checked(check, value[name], name) for name, check in fields.items()}

    return check_record


#: A day, which is the longest measurement, and what surrounds it.
DEADLINE_S_MAX = 200000.0

#: Characters of a host's name in a refusal to another one.
NAME_CHARACTERS_MAX = 200

request_id = integer(0, 2**53)
_handle = integer(1, 2**31 - 1)
_seconds = number(0.001, 86400.0)
_patience = number(0.001, 7200.0)
_int32 = integer(-(2**31), 2**31 - 1)
_bytes_text = text(LINE_BYTES_MAX)
_job = record({"handle": _handle, "index": optional(_int32), "numbers": list_of(_int32, 65536)})
_load = record({"rate_hz": optional(number(0.01, 10000.0)), "busy_ms": number(0.0, 60000.0), "cold": flag})
_self_test = record({"input": _bytes_text, "expected": _bytes_text, "rtol": number(0.0, 1.0)})

#: Every verb with the type of each of its arguments; all of them must be given.
ARGUMENTS: dict[str, dict[str, Check]] = {
    "hello": {
        "version": integer(0, 2**31 - 1),
        "idle_s": _seconds,
        "folder_bytes_max": integer(0, 2**53),
        "who": text(NAME_CHARACTERS_MAX),
    },
    "describe": {},
    "state": {},
    "load": {
        "library": digest,
        "cores": list_of(integer(0, 4095), 4096),
        "self_test": optional(_self_test),
        "timeout_s": _patience,
    },
    "measure": {
        "jobs": list_of(_job, 65536),
        "blocks": integer(1, 10000),
        "steady_blocks": integer(0, 10000),
        "level_ns": number(0.0, 1e12),
        "patience": number(0.0, 100.0),
        "spare_cores": list_of(integer(0, 4095), 4096),
        "calls_min": integer(1, 1000000),
        "block_ms_min": number(0.0, 60000.0),
        "warmup_ms_max": number(0.0, 60000.0),
        "max_s": _seconds,
        "timeout_s": _patience,
        "load": _load,
    },
    "run": {"handle": _handle, "input": _bytes_text, "timeout_s": _patience},
    "unload": {"handle": _handle},
    "clean": {},
    "bye": {},
}
