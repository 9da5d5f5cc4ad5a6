"""What an agent may answer: every message is checked before anything is done with it, as the agent checks requests.

A board may be broken, or not ours: no answer of whatever form may harm the host or be taken for a number.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from device_agents import protocol
from device_agents.protocol import BadRequest, Check, checked, integer, list_of, number, optional, record, text

_count = integer(0, 2**53)
_ns = number(0.0, 1e18)
_positive_ns = integer(1, 10**18)
_message = text(1 << 20)


def mapping(value: Any) -> dict[str, Any]:
    """An object of any fields."""
    if not isinstance(value, dict):
        raise BadRequest(f"expected an object, got a {type(value).__name__}")
    return value


_block = record(
    {
        "ns": list_of(_positive_ns, 1 << 22),
        "batch": integer(1, 2**53),
        "before_ns": _positive_ns,
        "after_ns": _positive_ns,
        "energy_uj": optional(_count),
        "state": optional(mapping),
    }
)
_result = record(
    {
        "blocks": list_of(_block, 10000),
        "warmup_calls": _count,
        "overhead_ns": _ns,
        "energy_missing": _message,
        "error": optional(_message),
    }
)


def base64_bytes(value: Any) -> bytes:
    """The bytes of a text in base64."""
    try:
        return base64.b64decode(text(protocol.LINE_BYTES_MAX)(value), validate=True)
    except ValueError as error:
        raise BadRequest(f"not base64: {error}") from error


def facts(value: Any) -> dict[str, Any]:
    """Facts by name, and the reasons for those that are unknown."""
    found = mapping(value)
    for name, reason in checked(mapping, found.get("missing", {}), "missing").items():
        checked(_message, reason, f"missing.{name}")
        if found.get(name) is not None:
            raise BadRequest(f"{name} is known and missing")
    return found


def description(value: Any) -> dict[str, Any]:
    """What a device is."""
    found = facts(value)
    checked(text(100), found.get("platform"), "platform")
    checked(list_of(text(100), 100), found.get("platforms"), "platforms")
    checked(optional(list_of(integer(0, 4095), 4096)), found.get("usable_cores"), "usable_cores")
    return found


_version = integer(0, 2**31 - 1)
_greeting = record(
    {"version": _version, "libraries": list_of(protocol.digest, 1 << 20), "warnings": list_of(_message, 100)}
)


def greeting(value: Any) -> dict[str, Any]:
    """The answer to hello; of another version of the protocol, only which."""
    version = checked(_version, mapping(value).get("version"), "version")
    if version != protocol.PROTOCOL_VERSION:
        return {"version": version}
    greeted: dict[str, Any] = _greeting(value)
    return greeted


#: Every verb's check for its result.
RESULTS: dict[str, Check] = {
    "hello": greeting,
    "describe": description,
    "state": facts,
    "load": record(
        {
            "handle": integer(1, 2**31 - 1),
            "description": mapping,
            "load_ms": _ns,
            "process_peak_bytes": optional(_count),
            "process_delta_bytes": optional(integer(-(2**53), 2**53)),
            "device_bytes": optional(_count),
            "dropped": list_of(protocol.digest, 1 << 20),
        }
    ),
    "measure": record({"results": list_of(_result, 65536)}),
    "run": record({"output": base64_bytes}),
    "unload": record({}),
    "clean": record({"freed_bytes": _count, "libraries": list_of(protocol.digest, 1 << 20)}),
    "bye": record({}),
}

_error = record({"kind": text(100), "message": _message})
_progress = record({"id": protocol.request_id, "event": text(20), "done": _count, "total": _count})
_alive = record({"id": protocol.request_id, "event": text(20)})


def progress(message: dict[str, Any]) -> tuple[int, int] | None:
    """Done and total of a sign of progress, None for a mere sign of life.

    Raises:
        BadRequest: it is neither.
    """
    if message.get("event") == "progress":
        told = _progress(message)
        return told["done"], told["total"]
    if message.get("event") == "alive":
        _alive(message)
        return None
    raise BadRequest("an event that is none of alive, progress")


def outcome(verb: str, message: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, str] | None]:
    """Result and error of a reply, one of which is None.

    Raises:
        BadRequest: it is no reply to ``verb``.
    """
    fields = set(message) - {"id"}
    if fields == {"error"}:
        return None, checked(_error, message["error"], "error")
    if fields != {"result"}:
        raise BadRequest("expected a result or an error")
    check: Callable[[Any], dict[str, Any]] = RESULTS[verb]
    return checked(check, message["result"], verb), None
