import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agents import protocol
from device_agents.client import ERRORS
from device_agents.protocol import BadRequest

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
LOAD = {"library": "0" * 64, "cores": [1], "self_test": None, "timeout_s": 3.0}
MEASURE = {
    "jobs": [{"handle": 1, "index": 0, "numbers": [16]}],
    "blocks": 3,
    "steady_blocks": 0,
    "level_ns": 0.0,
    "patience": 0.0,
    "spare_cores": [],
    "calls_min": 5,
    "block_ms_min": 10.0,
    "warmup_ms_max": 300.0,
    "max_s": 60.0,
    "timeout_s": 3.0,
    "load": {"rate_hz": None, "busy_ms": 0.0, "cold": False},
}


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_a_message_is_one_line_and_comes_back_equal(message):
    line = protocol.encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert protocol.decode(line) == message


@pytest.mark.parametrize("line", [b"", b"\n", b"[1]\n", b"3\n", b"{]\n", b"\xff\n", b'{"a": 1} x\n'])
def test_a_line_that_is_no_object_is_refused(line):
    with pytest.raises(BadRequest):
        protocol.decode(line)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/etc/passwd", "..\\x", "a\0b"])
def test_a_name_that_could_leave_the_folder_is_refused(name):
    with pytest.raises(BadRequest, match="bare file name"):
        protocol.check_name(name)


def test_a_bare_name_is_taken():
    assert protocol.check_name("abc.so") == "abc.so"


def test_the_verbs_are_those_of_the_design():
    assert list(protocol.ARGUMENTS) == [
        "hello",
        "describe",
        "state",
        "load",
        "measure",
        "run",
        "unload",
        "clean",
        "bye",
    ]


def framed(verb, arguments):
    return {"id": 7, "verb": verb, "deadline_s": 3.0, "arguments": arguments}


@pytest.mark.parametrize(
    "change",
    [
        {"id": -1},
        {"id": 1.5},
        {"id": True},
        {"id": 2**60},
        {"deadline_s": 0},
        {"deadline_s": float("inf")},
        {"deadline_s": "3"},
        {"verb": ["load"]},
        {"verb": None},
        {"arguments": []},
        {"arguments": None},
        {"more": 1},
    ],
)
def test_a_frame_of_another_form_is_refused(change):
    with pytest.raises(BadRequest):
        protocol.check_request({**framed("bye", {}), **change})


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"a":NaN}', "NaN is no number"),
        (b'{"a":-Infinity}', "-Infinity is no number"),
        (b'{"a":1,"a":2}', "a key stands twice"),
        (b'{"a":{"b":1,"c":2,"b":1}}', "a key stands twice"),
        (b'{"a":' + b"9" * 5000 + b"}", "a number of 5000 digits"),
        (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "recursion"),
        (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "recursion"),
    ],
)
def test_what_could_be_read_in_several_ways_or_harm_is_refused(line, complaint):
    with pytest.raises(BadRequest, match=complaint) as refusal:
        protocol.decode(line)
    assert len(str(refusal.value)) < 500


def test_a_number_that_json_does_not_have_is_not_sent():
    with pytest.raises(ValueError, match="not JSON compliant"):
        protocol.encode({"a": float("nan")})


def test_a_refusal_is_short_however_long_what_it_refuses_is():
    for huge in ("x" * 10_000_000, list(range(1_000_000)), {str(number): number for number in range(100_000)}):
        for change in ({"verb": huge}, {"arguments": huge}, {"id": huge}, {"deadline_s": huge}):
            with pytest.raises(BadRequest) as refusal:
                protocol.check_request({**framed("bye", {}), **change})
            assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(("verb", "arguments"), [("load", LOAD), ("measure", MEASURE), ("bye", {})])
def test_a_complete_request_is_taken_as_it_is(verb, arguments):
    request = protocol.check_request(framed(verb, arguments))
    assert (request.id, request.verb, request.deadline_s, request.arguments) == (7, verb, 3.0, arguments)


@pytest.mark.parametrize(
    ("verb", "change", "complaint"),
    [
        ("exec", {}, "unknown verb 'exec': known are bye"),
        ("load", {"library": "../../bin/sh"}, "load.library: expected a SHA-256"),
        ("load", {"library": "A" * 64}, "load.library: expected a SHA-256"),
        ("load", {"cores": "0"}, "load.cores: expected a list"),
        ("load", {"cores": [0, -1]}, "load.cores: item 1: expected an integer from 0"),
        ("load", {"cores": [True]}, "load.cores: item 0: expected an integer"),
        ("load", {"timeout_s": 0}, "load.timeout_s: expected a number"),
        ("load", {"timeout_s": float("nan")}, "load.timeout_s: expected a number"),
        ("load", {"shell": "rm"}, "load takes the arguments"),
        ("load", {"self_test": {"input": "", "expected": ""}}, "load.self_test: expected an object of expected, input"),
        ("load", {"self_test": {"input": 1, "expected": "", "rtol": 0.1}}, "load.self_test: input: expected a text"),
        ("measure", {"blocks": 2.5}, "measure.blocks: expected an integer"),
        ("measure", {"load": {"rate_hz": 0, "busy_ms": 0, "cold": False}}, "measure.load: rate_hz: expected a number"),
        ("measure", {"load": {"rate_hz": None, "busy_ms": 0, "cold": 1}}, "measure.load: cold: expected true or false"),
        ("measure", {"jobs": [{"handle": 1}]}, "measure.jobs: item 0: expected an object"),
    ],
)
def test_a_wrong_request_is_refused_with_the_argument_named(verb, change, complaint):
    known = {"load": LOAD, "measure": MEASURE}.get(verb, {})
    with pytest.raises(BadRequest) as refusal:
        protocol.check_request(framed(verb, {**known, **change}))
    assert str(refusal.value).startswith(complaint)


def test_a_missing_argument_is_refused():
    with pytest.raises(BadRequest, match="load takes the arguments cores, library, self_test, timeout_s"):
        protocol.check_request(framed("load", {"library": "0" * 64}))


def test_every_kind_of_error_of_the_wire_has_its_exception():
    assert set(protocol.ERROR_KINDS) == set(ERRORS)


def test_prints_past_python_do_not_reach_the_wire():
    code = (
        "import os, sys\n"
        "from device_agents import protocol\n"
        "channel = protocol.take_over_stdout()\n"
        "os.write(1, b'native')\n"
        "print('python', flush=True)\n"
        "protocol.write_all(channel, b'reply')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"reply"
    assert done.stderr == b"nativepython\n"
