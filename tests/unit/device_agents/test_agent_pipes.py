import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agents.agent.pipes import Inbox, LineTooLong


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


def test_a_line_that_is_too_long_is_told_once_and_passed_over(pipe):
    inbox = Inbox(pipe["reading"], line_bytes_max=10)
    os.write(pipe["writing"], b"0123456789\n" + b"x" * 11)
    assert inbox.line(1.0) == b"0123456789"
    with pytest.raises(LineTooLong, match="more than 10 bytes"):
        inbox.line(1.0)
    for _ in range(3):
        os.write(pipe["writing"], b"x" * 1000)
        with pytest.raises(TimeoutError):
            inbox.line(0.01)
    os.write(pipe["writing"], b"end\nnext\n" + b"y" * 20 + b"\nlast\n")
    assert inbox.line(1.0) == b"next"
    with pytest.raises(LineTooLong):
        inbox.line(1.0)
    assert inbox.line(1.0) == b"last"


def test_a_line_without_end_neither_fills_the_memory_nor_holds_its_reader(pipe):
    inbox = Inbox(pipe["reading"], line_bytes_max=1 << 16)
    over = threading.Event()

    def pour():
        while not over.is_set():
            os.write(pipe["writing"], b"z" * 4096)

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        with pytest.raises(LineTooLong):
            inbox.line(5.0)
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="did not end in time"):
            inbox.line(0.3)
        assert time.monotonic() - began < 3.0
        assert len(inbox._buffer) <= 1 << 18
    finally:
        over.set()
        os.set_blocking(pipe["reading"], False)
        while thread.is_alive():  # may wait for room in the pipe
            try:
                os.read(pipe["reading"], 1 << 16)
            except BlockingIOError:
                thread.join(0.01)


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=8), st.integers(1, 9))
def test_lines_of_every_length_are_taken_or_told(lines, size):
    reading, writing = os.pipe()
    data = b"".join(line + b"\n" for line in lines)
    inbox, found = Inbox(reading, line_bytes_max=10), []
    for start in range(0, len(data), size):
        os.write(writing, data[start : start + size])
        while True:
            try:
                found.append(inbox.line(0.0))
            except LineTooLong:
                found.append(None)
            except TimeoutError:
                break
    assert found == [line if len(line) <= 10 else None for line in lines]
    os.close(reading)
    os.close(writing)
