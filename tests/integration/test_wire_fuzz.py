"""Both ends of the wire against whatever can come over it: 10,000 messages, no hang, no crash, no state change."""

from __future__ import annotations

import array
import base64
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from watching import agent_of, compile_library, processes, wait_for

from device_agents import protocol
from device_agents.agent.pipes import Inbox
from device_agents.client import AgentClient, SelfTest, TimingRequest
from device_agents.errors import AgentError, AgentLost, AgentTimeout
from device_agents.transport import LoopbackTransport

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
AGENT_MESSAGES, CLIENT_MESSAGES = 6000, 4000

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

REQUESTS = [
    {"hello": {"version": protocol.PROTOCOL_VERSION, "idle_s": 60.0, "folder_bytes_max": 0, "who": "fuzz"}},
    {"describe": {}},
    {"state": {}},
    {"load": {"library": "0" * 64, "cores": [0], "self_test": None, "timeout_s": 2.0}},
    {
        "load": {
            "library": "0" * 64,
            "cores": [],
            "self_test": {"input": "", "expected": "", "rtol": 0.1},
            "timeout_s": 2.0,
        }
    },
    {
        "measure": {
            "jobs": [{"handle": 1, "index": None, "numbers": [3]}],
            "blocks": 1,
            "steady_blocks": 0,
            "calls_min": 1,
            "block_ms_min": 1.0,
            "warmup_ms_max": 1.0,
            "max_s": 1.0,
            "timeout_s": 1.0,
        }
    },
    {"run": {"handle": 1, "input": "AAAA", "timeout_s": 1.0}},
    {"unload": {"handle": 1}},
    {"clean": {}},
    {"bye": {}},
]


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


def framed(arguments):
    ((verb, given),) = arguments.items()
    return {"id": 7, "verb": verb, "deadline_s": 5.0, "arguments": given}


GARBAGE = st.binary(max_size=60).map(lambda data: data.replace(b"\n", b" "))
LINES = st.one_of(
    GARBAGE,
    ANYTHING.map(as_line),
    spoiled(st.sampled_from(REQUESTS).map(framed)),
    spoiled(st.sampled_from(REQUESTS).map(framed)),
)


def is_proper(line):
    """Whether an agent would do what the line asks."""
    if line == protocol.HOST_ALIVE:
        return True
    try:
        protocol.check_request(protocol.decode(line))
    except protocol.BadRequest:
        return False
    return True


class Talk:
    """A conversation with the real agent, byte by byte."""

    def __init__(self, folder: Path) -> None:
        self.transport = LoopbackTransport(folder)
        self.reader, self.writer = self.transport.start()
        self.inbox = Inbox(self.reader.fileno())

    def send(self, data: bytes) -> None:
        self.writer.write(data)
        self.writer.flush()

    def hear(self):
        while True:
            message = protocol.decode(self.inbox.line(20.0))
            if "event" not in message:
                return message

    def ask(self, verb, **arguments):
        self.send(protocol.encode({**framed({verb: arguments}), "deadline_s": 30.0}))
        return self.hear()["result"]

    def close(self) -> None:
        self.reader.close()
        with contextlib.suppress(OSError):
            self.writer.close()
        self.transport.close()


@pytest.fixture
def talk(tmp_path):
    """A conversation in which a library is loaded as handle 1."""
    talk = Talk(tmp_path / "agent")
    talk.ask("hello", version=protocol.PROTOCOL_VERSION, idle_s=120.0, folder_bytes_max=1 << 30, who="fuzz")
    path, digest = compile_library(tmp_path)
    talk.transport.put(f"{digest}.so", path)
    assert talk.ask("load", library=digest, cores=[], self_test=None, timeout_s=10.0)["handle"] == 1
    yield talk
    talk.close()
    wait_for(lambda: not processes(tmp_path))


def seen(tmp_path):
    """All that a message could change: files and their contents, and processes."""
    files = {path.name: path.read_bytes() for path in (tmp_path / "agent").iterdir()}
    return files, set(processes(tmp_path))


def resident_bytes(number):
    (line,) = [line for line in Path(f"/proc/{number}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def still_works(talk):
    output = talk.ask("run", handle=1, input=base64.b64encode(INPUT).decode(), timeout_s=5.0)["output"]
    return base64.b64decode(output) == INPUT


@pytest.mark.timeout(120)
def test_the_agent_answers_each_line_with_one_refusal_and_changes_nothing(talk, tmp_path):
    before = seen(tmp_path)
    sent = 0

    @settings(FUZZ, max_examples=500)
    @given(st.lists(LINES, min_size=10, max_size=20))
    def converse(lines):
        nonlocal sent
        for line in lines:
            if is_proper(line):
                continue
            talk.send(line + b"\n")
            reply = talk.hear()
            assert set(reply) == {"id", "error"}, (line, reply)
            assert reply["error"]["kind"] == "refused", (line, reply)
            assert len(reply["error"]["message"]) < 1000
            sent += 1

    converse()
    assert sent >= AGENT_MESSAGES
    assert seen(tmp_path) == before
    assert still_works(talk)
    assert resident_bytes(agent_of(tmp_path)) < 100 << 20


@pytest.mark.timeout(120)
def test_deep_nesting_is_refused(talk, tmp_path):
    @settings(FUZZ, max_examples=60)
    @given(nested())
    def converse(line):
        talk.send(line + b"\n")
        assert talk.hear()["error"]["kind"] == "refused"

    before = seen(tmp_path)
    converse()
    assert seen(tmp_path) == before
    assert still_works(talk)


@pytest.mark.timeout(120)
def test_half_lines_and_many_at_once_are_answered_each(talk, tmp_path):
    before = seen(tmp_path)

    @settings(FUZZ, max_examples=60)
    @given(st.lists(LINES, min_size=1, max_size=20), st.integers(1, 60))
    def converse(lines, size):
        lines = [line for line in lines if not is_proper(line)]
        data = b"".join(line + b"\n" for line in lines)
        for start in range(0, len(data), size):
            talk.send(data[start : start + size])
        for _ in lines:
            assert "error" in talk.hear()

    converse()
    assert seen(tmp_path) == before
    assert still_works(talk)


@pytest.mark.timeout(60)
def test_a_line_without_end_does_not_eat_the_memory_of_the_board(talk, tmp_path):
    for _ in range(3 * (protocol.LINE_BYTES_MAX >> 20)):
        talk.send(b"[" * (1 << 20))
    talk.send(b"\n")
    assert talk.hear()["error"] == {
        "kind": "refused",
        "message": f"a line of more than {protocol.LINE_BYTES_MAX} bytes",
    }
    assert still_works(talk)
    assert resident_bytes(agent_of(tmp_path)) < 2 * protocol.LINE_BYTES_MAX


@pytest.mark.timeout(60)
@pytest.mark.parametrize("last_words", [b"", b'{"id": 1, "verb": "sta', b"\xff" * 1000, b"[" * 100_000])
def test_an_agent_whose_host_ends_in_mid_line_ends_too(tmp_path, last_words):
    talk = Talk(tmp_path / "agent")
    talk.send(last_words)
    talk.writer.close()
    wait_for(lambda: not processes(tmp_path), 10)
    talk.close()


def test_nothing_but_hello_is_taken_before_hello(tmp_path):
    talk = Talk(tmp_path / "agent")
    for arguments in REQUESTS[1:-1]:
        talk.send(protocol.encode(framed(arguments)))
        assert "say hello first" in talk.hear()["error"]["message"]
    talk.close()


# The other end: agents that answer whatever they like.

#: Answers what its argument holds: for each request a list of texts in base64, with @ID@ where the id belongs; then it
#: ends, or falls silent.
HOSTILE = """
import base64, json, os, sys, time
plan, stays = json.loads(sys.argv[1])
out = sys.stdout.buffer
try:
    for answers in plan:
        line = sys.stdin.buffer.readline()
        number = json.loads(line)["id"] if line else 0
        for answer in answers:
            out.write(base64.b64decode(answer).replace(b"@ID@", str(number).encode()))
        out.flush()
    if stays:
        time.sleep(30)
except OSError:
    pass
os._exit(0)
"""


class HostileTransport:
    """A process that is no agent of ours."""

    def __init__(self, *command):
        self.command = command

    def start(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self.process.stdout, self.process.stdin

    def put(self, name, path):
        raise AgentLost("a hostile agent takes no files")

    def close(self):
        self.process.kill()
        self.process.wait()
        return ""


def hostile(plan, stays):
    encoded = [[base64.b64encode(answer).decode() for answer in answers] for answers in plan]
    return HostileTransport(sys.executable, "-I", "-S", "-c", HOSTILE, json.dumps([encoded, stays]))


BLOCK = {"ns": [4000, 5000], "batch": 2, "before_ns": 10, "after_ns": 11, "energy_uj": 5}
TIMING = {"blocks": [BLOCK], "warmup_calls": 1, "overhead_ns": 1.0, "energy_missing": "", "error": None}
GREETING = {"version": protocol.PROTOCOL_VERSION, "libraries": ["a" * 64], "warnings": []}
LOADED = {
    "handle": 1,
    "description": {"kind": "network"},
    "load_ms": 1.0,
    "process_peak_bytes": None,
    "process_delta_bytes": None,
    "device_bytes": None,
    "dropped": [],
}


def told(done, total):
    """What a progress bar does with numbers."""
    return done / total if total else 0.0


#: Calls, each with a proper answer.
CALLS = [
    (lambda client: client.state(), {"governor": None, "missing": {"governor": "none"}}),
    (lambda client: client.describe(), {"platform": "cpu", "platforms": ["cpu"], "usable_cores": [0], "missing": {}}),
    (lambda client: client.load("a" * 64, self_test=SelfTest(INPUT, INPUT), timeout_s=0.1), LOADED),
    (
        lambda client: client.measure([TimingRequest(1)], max_s=0.1, timeout_s=0.1, on_progress=told),
        {"results": [TIMING]},
    ),
    (lambda client: client.run(1, INPUT, timeout_s=0.1), {"output": base64.b64encode(INPUT).decode()}),
    (lambda client: client.unload(1), {}),
    (lambda client: client.clean(), {"freed_bytes": 1, "libraries": []}),
]


def addressed(line):
    """The id as the number that it is."""
    return line.replace(b'"@ID@"', b"@ID@") + b"\n"


#: Lines that a client passes over, because they answer nothing that it asked.
STRAY = st.sampled_from(
    [
        {},
        {"id": None, "error": {"kind": "refused", "message": "?"}},
        {"id": -1, "event": "alive"},
        {"id": "1", "result": GREETING},
        {"id": [1], "event": {"a": 1}},
        {"result": {}, "error": {}},
    ]
) | st.builds(lambda number, what: {"id": number, "result": what}, st.sampled_from([0, -7, 10**15, 0.5]), FINITE)
OTHERS = st.sampled_from(
    [
        {"id": "@ID@", "error": {"kind": "run_failed", "message": "why"}},
        {"id": "@ID@", "error": {"kind": "no such kind", "message": ""}},
        {"id": "@ID@", "event": "alive"},
        {"id": "@ID@", "event": "progress", "done": 1, "total": 2},
    ]
)


def answers_to(result):
    """What follows a request: lines of no meaning, then one that is proper, spoiled, or anything."""
    proper = st.just({"id": "@ID@", "result": result})
    last = st.one_of(
        proper.map(as_line).map(addressed),
        proper.map(as_line).map(addressed),
        spoiled(proper).map(addressed),
        spoiled(proper).map(addressed),
        spoiled(OTHERS).map(addressed),
        OTHERS.map(as_line).map(addressed),
        GARBAGE.map(lambda data: data + b"\n"),
        GARBAGE,
        nested().map(lambda data: data[:3000] + b"\n"),
    )
    return st.builds(
        lambda strays, answer: [*strays, answer],
        st.lists(STRAY.map(as_line).map(addressed), min_size=20, max_size=50),
        last,
    )


@st.composite
def meetings(draw):
    """Calls in some order, and what an agent answers to hello and to each."""
    calls = draw(st.permutations(CALLS))
    greeting = (
        draw(answers_to(GREETING))
        if draw(st.integers(0, 3)) == 0
        else [addressed(as_line({"id": "@ID@", "result": GREETING}))]
    )
    return [call for call, _ in calls], [greeting, *(draw(answers_to(result)) for _, result in calls)]


def harmless(call, *arguments, longest_s=4.0):
    """Call; whatever comes is a result or an AgentError, within the time; the error, None for a result."""
    began, failure = time.monotonic(), None
    try:
        call(*arguments)
    except AgentError as error:
        failure = error
    assert time.monotonic() - began < longest_s
    return failure


@pytest.mark.timeout(200)
def test_the_client_makes_a_result_or_an_agent_error_of_whatever_comes():
    sent, results = [], []

    @settings(FUZZ, max_examples=110)
    @given(meetings(), st.integers(0, 9))
    def converse(meeting, stays):
        calls, answers = meeting

        def talk():
            sent.append(len(answers[0]))
            with AgentClient(hostile(answers, stays == 0), silence_s=0.12, margin_s=0.4) as client:
                for call, answer in zip(calls, answers[1:], strict=True):
                    sent.append(len(answer))
                    results.append(harmless(call, client))
                    if isinstance(results[-1], (AgentLost, AgentTimeout)):
                        break

        harmless(talk, longest_s=12.0)

    converse()
    assert sum(sent) >= CLIENT_MESSAGES
    assert results.count(None) >= 20  # some conversations went on


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("while True: out(b'x' * 65536)", AgentLost),
        ("while True: out(b'[' * 65536)", AgentLost),
        ("while True: out(b'{}\\n' * 999)", AgentTimeout),
        ('while True: out(b\'{"id":9,"event":"alive"}\\n\' * 999)', AgentTimeout),
        ('while True: out(b\'{"id":1,"event":"alive"}\\n\' * 999)', AgentTimeout),
        ('while True: out(b\'{"id":1,"event":"progress","done":1,"total":2}\\n\'); time.sleep(0.01)', AgentTimeout),
        ("while True: out(b'x'); time.sleep(0.01)", AgentTimeout),
        ("time.sleep(60)", AgentTimeout),
        ("os.close(1); time.sleep(60)", AgentLost),
        ("os.close(0); time.sleep(60)", AgentTimeout),
        ("", AgentLost),
        ("out(b'Welcome to the board!\\n')", AgentLost),
        ("os.kill(os.getpid(), 9)", AgentLost),
    ],
)
def test_a_client_is_not_held_by_an_agent_that_talks_without_end_or_says_nothing(code, error):
    began = time.monotonic()
    prelude = "import os, time\nout = lambda data: os.write(1, data)\n"
    with pytest.raises(error):
        AgentClient(HostileTransport(sys.executable, "-I", "-S", "-c", prelude + code), silence_s=0.6, margin_s=1.5)
    assert time.monotonic() - began < 10
