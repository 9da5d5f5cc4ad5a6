import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agents.agent.pipes import Inbox


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    ends = {"reading": reading, "writing": writing}
    yield ends
    for descriptor in ends.values():
        os.close(descriptor)


@given(st.lists(st.binary(max_size=8).filter(lambda line: b"\n" not in line), max_size=6), st.integers(1, 7))
def test_lines_come_whole_however_they_are_cut(lines, size):
    reading, writing = os.pipe()
    data = b"".join(line + b"\n" for line in lines)
    inbox = Inbox(reading)
    found = []
    for start in range(0, len(data), size):
        os.write(writing, data[start : start + size])
        try:
            while True:
                found.append(inbox.line(0.0))
        except TimeoutError:
            continue
    assert found == lines
    os.close(reading)
    os.close(writing)


def test_a_line_and_the_bytes_behind_it_are_told_apart(pipe):
    os.write(pipe["writing"], b"head\n12\n45tail\n")
    inbox = Inbox(pipe["reading"])
    assert inbox.line(1.0) == b"head"
    assert inbox.exactly(5, 1.0) == b"12\n45"
    assert inbox.line(1.0) == b"tail"
    assert inbox.exactly(0, 0.0) == b""


def test_what_came_before_a_timeout_is_kept(pipe):
    inbox = Inbox(pipe["reading"])
    os.write(pipe["writing"], b"half")
    with pytest.raises(TimeoutError):
        inbox.line(0.01)
    os.write(pipe["writing"], b" and half\n")
    assert inbox.line(1.0) == b"half and half"


def test_the_end_of_the_pipe_is_told(pipe):
    inbox = Inbox(pipe["reading"])
    os.write(pipe["writing"], b"cut of")
    os.close(pipe.pop("writing"))
    with pytest.raises(EOFError):
        inbox.line(1.0)
    with pytest.raises(EOFError):
        inbox.exactly(20, 1.0)
