"""The client against agents that misbehave in ways the real one does not: functions at the end of two pipes."""

import os
import threading
import time

import pytest

from device_agents import protocol
from device_agents.client import ERRORS, AgentClient, SelfTest, TimingRequest
from device_agents.errors import AgentError, AgentLost, AgentTimeout, ProtocolMismatch


class ScriptedTransport:
    """An agent that greets, then answers with what ``script(request)`` yields: bytes to send, None to fall silent."""

    def __init__(self, script, version=protocol.PROTOCOL_VERSION, reads=True):
        self.script, self.version, self.reads = script, version, reads
        self.closed = threading.Event()
        self.put_names = []

    def start(self):
        self.from_agent, to_host = os.pipe()
        from_host, self.to_agent = os.pipe()
        self.thread = threading.Thread(target=self._serve, args=(os.fdopen(from_host, "rb"), os.fdopen(to_host, "wb")))
        self.thread.start()
        return os.fdopen(self.from_agent, "rb"), os.fdopen(self.to_agent, "wb")

    def _serve(self, reader, writer):
        with reader, writer:
            hello = {"version": self.version, "libraries": ["a" * 64], "warnings": []}
            request = protocol.decode(reader.readline())
            writer.write(protocol.encode({"id": request["id"], "result": hello}))
            writer.flush()
            if not self.reads:
                self.closed.wait(20)
                return
            for line in reader:
                for part in self.script(protocol.decode(line)):
                    if part is None:
                        self.closed.wait(20)
                        return
                    writer.write(part)
                    writer.flush()
                if not line.endswith(b"\n") or self.closed.is_set():
                    return

    def put(self, name, path):
        self.put_names.append(name)

    def close(self):
        self.closed.set()
        self.thread.join(5)
        return "last words"


def reply(request, result):
    return protocol.encode({"id": request["id"], "result": result})


def test_a_silent_agent_times_out_and_the_connection_is_over():
    client = AgentClient(ScriptedTransport(lambda request: [None]), silence_s=0.2)
    began = time.monotonic()
    with pytest.raises(AgentTimeout, match=r"state: the agent is silent for 0.2 s.*\nlast words"):
        client.state()
    assert time.monotonic() - began < 10
    with pytest.raises(AgentTimeout):
        client.state()
    client.close()


def test_signs_of_life_do_not_stretch_the_deadline():
    def script(request):
        for _ in range(50):
            yield protocol.encode({"id": request["id"], "event": "alive"})
            time.sleep(0.02)

    client = AgentClient(ScriptedTransport(script), silence_s=5.0, margin_s=0.3)
    with pytest.raises(AgentTimeout, match="late with its reply"):
        client.state()


def test_an_agent_that_does_not_read_cannot_hold_a_large_request():
    client = AgentClient(ScriptedTransport(None, reads=False), silence_s=0.3)
    with pytest.raises(AgentTimeout):
        client.load("a" * 64, self_test=SelfTest(bytes(4 << 20), bytes(4)))


@pytest.mark.parametrize("last", [b"", b'{"id": 2, "resu', b"garbage\n", b"[]\n"])
def test_an_agent_that_ends_or_babbles_in_mid_reply_is_lost(last):
    def script(request):
        yield last
        raise EOFError

    transport = ScriptedTransport(script)
    transport._serve = lambda reader, writer, serve=transport._serve: _quietly(serve, reader, writer)
    client = AgentClient(transport)
    with pytest.raises(AgentLost, match="connect again\nlast words"):
        client.state()
    with pytest.raises(AgentLost):
        client.run(1, b"")


def _quietly(serve, reader, writer):
    with pytest.raises(EOFError):
        serve(reader, writer)


def test_another_version_of_the_protocol_is_a_mismatch():
    transport = ScriptedTransport(None, version=protocol.PROTOCOL_VERSION + 1)
    with pytest.raises(ProtocolMismatch, match="start the agent of this version"):
        AgentClient(transport)
    assert transport.closed.is_set()


@pytest.mark.parametrize("kind", [*protocol.ERROR_KINDS, "one of tomorrow"])
def test_every_error_of_the_agent_is_raised_as_its_kind(kind):
    def script(request):
        yield protocol.encode({"id": request["id"], "error": {"kind": kind, "message": "the reason"}})

    with AgentClient(ScriptedTransport(script)) as client:
        with pytest.raises(AgentError, match="state: the reason") as raised:
            client.state()
        assert type(raised.value) is ERRORS.get(kind, AgentError)


def test_replies_to_other_requests_and_signs_of_life_are_passed_over():
    def script(request):
        yield protocol.encode({"id": request["id"] - 1, "result": {"stale": True}})
        yield protocol.encode({"id": request["id"], "event": "alive"})
        yield reply(request, {"fresh": True})

    with AgentClient(ScriptedTransport(script)) as client:
        assert client.state() == {"fresh": True}


def test_progress_reaches_the_caller():
    def script(request):
        if request["verb"] == "measure":
            for done in (1, 2):
                yield protocol.encode({"id": request["id"], "event": "progress", "done": done, "total": 2})
        yield reply(request, {"results": []})

    seen = []
    with AgentClient(ScriptedTransport(script)) as client:
        client.measure([], on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_values_are_the_mean_of_their_batch_in_milliseconds():
    block = {
        "ns": [40_000, 60_000],
        "batch": 4,
        "before_ns": 20_000,
        "after_ns": 30_000,
        "energy_uj": None,
        "state": None,
    }
    raw = {"blocks": [block], "warmup_calls": 7, "overhead_ns": 500.0, "energy_missing": "no meter", "error": None}
    with AgentClient(ScriptedTransport(lambda request: [reply(request, {"results": [raw]})])) as client:
        (result,) = client.measure([TimingRequest(1, 0, (16,))])
    assert result.blocks[0].values_ms == (0.01, 0.015)
    assert (result.blocks[0].reference_before_ms, result.blocks[0].reference_after_ms) == (0.02, 0.03)
    assert (result.warmup_calls, result.overhead_ms, result.error) == (7, 0.0005, None)
    assert (result.energy_mj, result.energy_missing) == (None, "no meter")


def test_a_library_that_is_on_the_device_is_not_put_again(tmp_path):
    transport = ScriptedTransport(lambda request: [reply(request, {})])
    with AgentClient(transport) as client:
        client.put(tmp_path, "a" * 64)
        client.put(tmp_path, "b" * 64)
        client.put(tmp_path, "b" * 64)
    assert transport.put_names == [f"{'b' * 64}.so"]


def test_after_closing_nothing_can_be_called():
    client = AgentClient(ScriptedTransport(lambda request: [reply(request, {})]))
    client.close()
    client.close()
    with pytest.raises(AgentLost, match="is closed"):
        client.state()
