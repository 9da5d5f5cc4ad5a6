import sys

import pytest

from device_agents import protocol
from device_agents.errors import AgentLost
from device_agents.protocol import BadRequest
from device_agents.transport import LoopbackTransport


def test_a_file_arrives_whole_and_alone(tmp_path):
    (tmp_path / "source").write_bytes(b"library")
    work = tmp_path / "work"
    work.mkdir()
    transport = LoopbackTransport(work)
    transport.put("x.so", tmp_path / "source")
    transport.put("x.so", tmp_path / "source")
    assert [(path.name, path.read_bytes()) for path in work.iterdir()] == [("x.so", b"library")]


@pytest.mark.parametrize("name", ["../x.so", "/x.so", "a/x.so", ""])
def test_a_file_cannot_be_put_outside_the_folder(tmp_path, name):
    with pytest.raises(BadRequest):
        LoopbackTransport(tmp_path).put(name, tmp_path)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(AgentLost, match=r"x.so cannot be written"):
        LoopbackTransport(tmp_path).put("x.so", tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_that_is_not_there_is_told(tmp_path):
    with pytest.raises(AgentLost, match="the agent cannot be started"):
        LoopbackTransport(tmp_path, python="/no/such/python").start()


def test_closing_gives_the_last_lines_of_standard_error(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "a warning of the system" >&2\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    transport = LoopbackTransport(tmp_path / "agent", python=str(python))
    reader, writer = transport.start()
    with reader, writer:
        writer.write(b"nonsense\n" + protocol.encode({"id": 1, "verb": "state", "deadline_s": 9, "arguments": {}}))
        writer.flush()
        assert [protocol.decode(reader.readline())["id"] for _ in range(2)] == [None, 1]
        writer.close()
        assert reader.read() == b""
    assert transport.close() == "a warning of the system"


def test_an_agent_that_does_not_end_by_itself_is_ended(tmp_path):
    transport = LoopbackTransport(tmp_path)
    reader, writer = transport.start()
    with reader, writer:
        transport.close()
        assert reader.read() == b""


def test_closing_before_the_start_is_nothing(tmp_path):
    assert LoopbackTransport(tmp_path).close() == ""
