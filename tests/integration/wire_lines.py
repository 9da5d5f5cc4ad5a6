"""Lines for either end of the wire, most of them with something wrong in their data or in their bytes."""

from __future__ import annotations

import array
import json

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

#: Of a network, ten numbers.
INPUT = array.array("f", range(10)).tobytes()

#: Each example is a list of messages; the two tests of 10,000 messages count theirs.
#: A failure is shown as it was found: looking for a smaller one would take minutes.
FUZZ = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([2**31, -(2**63), 10**30, 10**4000, 1e308, float("nan"), float("inf"), -0.0, 0.5])
    | st.text(max_size=8)
    | st.sampled_from(["../../etc/passwd", "/etc/passwd", "; rm -rf /", "$(id)", "a" * 64, "\ud800", "x" * 5000])
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
#: The same without what no reader takes.
FINITE = st.dictionaries(st.text(max_size=6), st.integers(-(2**63), 2**63) | st.text(max_size=8), max_size=3)
DEEP = st.sampled_from([b"[", b'{"a":', b'[{"":'])


def places(value, way=()):
    """Every way into nested data."""
    yield way
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*way, key))


def replaced(value, way, new):
    """The same data with something else at the end of ``way``."""
    if not way:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[way[0]] = replaced(copy[way[0]], way[1:], new)
    return copy


@st.composite
def spoiled(draw, messages):
    """One of the messages as a line, with something wrong in its data or in its bytes."""
    message = draw(messages)
    for _ in range(draw(st.integers(1, 2))):
        message = replaced(message, draw(st.sampled_from(list(places(message)))), draw(ANYTHING))
        if draw(st.booleans()) and isinstance(message, dict):
            message = {**message, draw(st.text(max_size=4)): draw(ANYTHING)}
    line = as_line(message)
    how = draw(st.integers(0, 5))
    cut = draw(st.integers(0, len(line)))
    if how == 0:
        line = line[:cut]
    elif how == 1:
        line = line[:cut] + draw(st.binary(max_size=4)) + line[cut:]
    elif how == 2 and message and isinstance(message, dict):
        key = json.dumps(next(iter(message))).encode()
        line = line[:-1] + b"," + key + b":0}"
    return line.replace(b"\n", b" ")


def as_line(message):
    return json.dumps(message).encode()


@st.composite
def nested(draw):
    opening = draw(DEEP) * draw(st.sampled_from([50, 2000, 100_000]))
    return draw(st.sampled_from([b"", b'{"id":1,"verb":'])) + opening


GARBAGE = st.binary(max_size=60).map(lambda data: data.replace(b"\n", b" "))
