"""The client against agents that answer whatever they like: 4,000 messages, no hang, no crash."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_lines import FINITE, FUZZ, GARBAGE, INPUT, as_line, nested, spoiled

from device_agents import protocol
from device_agents.client import AgentClient, SelfTest, TimingRequest
from device_agents.errors import AgentError, AgentLost, AgentTimeout

pytestmark = pytest.mark.boards  # what comes over the wire from elsewhere

MESSAGES = 4000

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


BLOCK = {"ns": [4000, 5000], "batch": 2, "before_ns": 10, "after_ns": 11, "energy_uj": 5, "state": None}
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
    assert sum(sent) >= MESSAGES
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
