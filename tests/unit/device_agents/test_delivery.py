"""The program that a board's Python is given, run here as it runs there."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from device_agents import delivery
from device_agents.ssh_command import DELIVERY, STARTER

DATA = bytes(range(256)) * 1000


def deliver(folder, sent=DATA, announced=DATA):
    """Answers of the program to a file that is announced and to what is then sent."""
    words = [str(folder), "file.so", len(announced), hashlib.sha256(announced).hexdigest(), "put"]
    line = json.dumps([DELIVERY, words]).encode() + b"\n"
    command = [sys.executable, "-I", "-S", "-c", STARTER]
    ended = subprocess.run(command, input=line + sent, capture_output=True, timeout=30, check=True)
    assert ended.stderr == b""
    return [json.loads(line.removeprefix(delivery.MARK)) for line in ended.stdout.splitlines()]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_in_a_folder_that_is_made(tmp_path):
    answers = deliver(tmp_path / "a/b")
    assert answers[0] == {"has": False}
    assert answers[-2:] == [{"got": len(DATA)}, {"done": True}]
    assert (tmp_path / "a/b/file.so").read_bytes() == DATA
    assert names(tmp_path / "a/b") == ["file.so"]


def test_a_file_that_is_there_is_not_asked_for(tmp_path):
    deliver(tmp_path)
    assert deliver(tmp_path, b"") == [{"has": True}, {"done": True}]


def test_an_empty_file_arrives(tmp_path):
    deliver(tmp_path, b"", b"")
    assert (tmp_path / "file.so").read_bytes() == b""


def test_a_file_that_changed_on_its_way_is_not_kept(tmp_path):
    (tmp_path / "file.so").write_bytes(b"the one before")
    assert deliver(tmp_path, bytes(len(DATA)))[-1] == {"error": "what arrived is not what was sent"}
    assert (tmp_path / "file.so").read_bytes() == b"the one before"
    assert names(tmp_path) == ["file.so"]


def test_a_sender_that_hangs_up_leaves_nothing(tmp_path):
    assert deliver(tmp_path, DATA[:1000])[-1] == {"error": "the sender hung up"}
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    assert deliver(tmp_path / "file/agent") == [{"error": "Not a directory"}]


def test_what_follows_a_file_is_left_to_the_agent(tmp_path):
    """The agent that takes the program's place reads on where the file ended."""
    agent = b"import sys; print('agent', sys.stdin.read(), sys.flags.isolated, sys.flags.no_site)"
    line = json.dumps([DELIVERY, [str(tmp_path), "agent.py", len(agent), hashlib.sha256(agent).hexdigest(), "start"]])
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", STARTER],
        input=line.encode() + b"\n" + agent + b"its own input",
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == b"agent its own input 1 1"


def test_the_program_is_of_python_3_6():
    import ast

    ast.parse(Path(delivery.__file__).read_text(), feature_version=(3, 6))


@pytest.mark.parametrize("mark", ["'", '"', "\n", "!", "`", "$"])
def test_the_starter_holds_no_mark_that_any_shell_reads(mark):
    assert mark not in STARTER
