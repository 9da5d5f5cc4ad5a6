"""The agent against whatever can come over the wire: 6,000 messages, no hang, no crash, no state change."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from watching import agent_of, compile_library, processes, wait_for
from wire_lines import ANYTHING, FUZZ, GARBAGE, INPUT, as_line, nested, spoiled

from device_agents import protocol
from device_agents.agent.pipes import Inbox
from device_agents.transport import LoopbackTransport

pytestmark = pytest.mark.boards  # what comes over the wire from elsewhere

MESSAGES = 6000

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
            "level_ns": 0.0,
            "patience": 0.0,
            "spare_cores": [],
            "calls_min": 1,
            "block_ms_min": 1.0,
            "warmup_ms_max": 1.0,
            "max_s": 1.0,
            "timeout_s": 1.0,
            "load": {"rate_hz": 1000.0, "busy_ms": 1.0, "cold": False},
        }
    },
    {"run": {"handle": 1, "input": "AAAA", "timeout_s": 1.0}},
    {"unload": {"handle": 1}},
    {"clean": {}},
    {"bye": {}},
]


def framed(arguments):
    ((verb, given),) = arguments.items()
    return {"id": 7, "verb": verb, "deadline_s": 5.0, "arguments": given}


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
    assert sent >= MESSAGES
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
